"""The load client and the stand-in engine, each in a process of its own, as the benchmarks use them."""

from __future__ import annotations

import json

import pytest

from benchmarks.gateway_latency import Way, drive, mock_engine

BODY: dict[str, object] = {"model": "mock", "messages": [{"role": "user", "content": "tokens=7"}]}
PACED: dict[str, object] = {"model": "mock", "messages": [{"role": "user", "content": "tokens=5 period_ms=10"}], "stream": True}


def way(engine: str, body: dict[str, object], expect: str) -> Way:
    url = f"http://{engine}/v1/chat/completions"
    return Way("engine", "stream", ("benchmarks.load", url, "--body", json.dumps(body), "--expect", expect))


@pytest.mark.parametrize(("body", "expect"), [(BODY, '"completion_tokens":7'), ({**BODY, "stream": True}, "[DONE]")])
def test_every_answer_is_whole_and_counted(body: dict[str, object], expect: str) -> None:
    with mock_engine() as engine:
        figures = drive(way(engine, body, expect), connections=3, seconds=0.3)
    assert figures["requests"] > 3
    assert figures["tokens_per_s"] == pytest.approx(figures["rate"] * 7, rel=0.01)
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"]


def test_tokens_come_in_their_period() -> None:
    with mock_engine() as engine:
        figures = drive(way(engine, PACED, "[DONE]"), connections=1, seconds=0.5)
    # The fifth token comes 50 ms after the request, and the end a period later.
    assert figures["latency_p50_ms"] >= 59
    assert 9 <= figures["first_token_p50_ms"] < figures["latency_p50_ms"] - 40


def test_wrong_answers_are_errors() -> None:
    with mock_engine() as engine, pytest.raises(RuntimeError, match="errors, first: HTTP"):
        drive(way(engine, BODY, "what no answer holds"), connections=1, seconds=0.1)
