"""The client of many streams, the stand-in engine's manners, and what is made of them."""

from __future__ import annotations

import os
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from benchmarks.gateway_latency import drive, mock_engine
from benchmarks.soak import fitted, soak
from benchmarks.throughput import Bench, Door, leaving, paced

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with mock_engine() as engine:
        url = f"http://{engine}/v1/chat/completions"
        yield Door("engine alone", url, url, False, "[DONE]")


def test_all_streams_come_whole_in_their_period(door: Door) -> None:
    figures = paced(door, 20, 1.2)
    assert (figures["whole"], figures["errors"], figures["tokens"]) == (20, 0, 20 * 60)
    assert 15 < figures["gap_p50_ms"] < 40
    assert figures["gap_p50_ms"] <= figures["gap_p99_ms"] <= figures["gap_p100_ms"]


def test_the_engine_notices_each_client_that_leaves(door: Door) -> None:
    bench = Bench(door, door, door, door.unary.split("/")[2], os.getpid(), {})
    found = leaving(bench, door, 20)
    assert found["noticed"] == 20
    assert 0 <= found["p50"] <= found["p99"] < 1000


def test_a_stream_that_breaks_off_is_an_error(door: Door) -> None:
    elsewhere = Door("nowhere", door.unary, door.unary.replace("/chat/", "/other/"), False, "[DONE]")
    figures = paced(elsewhere, 2, 0.1)
    assert (figures["whole"], figures["errors"]) == (0, 2)
    assert "404" in str(figures["error"])


@pytest.mark.parametrize("write", ["write=1", "write=7", ""])
def test_bursts_hold_all_their_tokens(door: Door, write: str) -> None:
    figures = drive(door.way(f"tokens=30 {write}", stream=True), 2, 0.3)
    assert figures["errors"] == 0
    assert figures["tokens_per_s"] == pytest.approx(figures["rate"] * 30, rel=0.01)


def test_an_engine_that_works_takes_as_long_for_a_body_as_for_a_stream(door: Door) -> None:
    for stream in (False, True):
        figures = drive(door.way("tokens=4 period_ms=20", stream=stream), 1, 0.5)
        assert 99 <= figures["latency_p50_ms"] < 500


def test_memory_is_watched_for_as_long_as_the_load_lasts(door: Door) -> None:
    began = time.monotonic()
    found = soak([door.way("tokens=20", stream=False), door.way("tokens=20", stream=True)], 1.0, [os.getpid()])
    assert time.monotonic() - began >= 1.0
    assert found[os.getpid()].last > 1


def test_wrong_answers_spoil_a_soak(door: Door) -> None:
    wrong = Door("wrong", door.unary.replace("/chat/", "/other/"), door.unary, False, "")
    with pytest.raises(RuntimeError, match="404"):
        soak([wrong.way("tokens=20", stream=False)], 0.2, [os.getpid()])


def test_the_slope_is_that_of_all_but_the_first_third() -> None:
    line = fitted([(at, 100 + at * 10 if at < 10 else 200 + at * 0.5) for at in range(30)])
    assert line.last == 214.5
    assert line.slope == pytest.approx(30)


def test_the_engine_tells_of_nobody_who_stayed(door: Door) -> None:
    with urllib.request.urlopen(f"http://{door.unary.split('/')[2]}/gone", timeout=5) as answer:
        before = answer.read()
    drive(door.way("tokens=2 period_ms=5 stream_id=999", stream=True), 1, 0.2)
    with urllib.request.urlopen(f"http://{door.unary.split('/')[2]}/gone", timeout=5) as answer:
        assert b'"999"' not in answer.read() + before
