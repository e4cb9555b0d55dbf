"""Engines that fail, and more requests than there is room for, as a client of the whole suite meets them."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.slow_engine import SlowEngine
    from tests.support.suite import Suite


@pytest.fixture
def client(hurt_suite: Suite) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hurt_suite.url, timeout=30) as client:
        yield client


@pytest.fixture
def policy(client: httpx.Client) -> Iterator[None]:
    """Aliases over models that fail."""
    aliases = [
        {"alias": "sure", "choices": [{"model": "down"}], "fallbacks": ["brief"]},
        {"alias": "wide", "choices": [{"model": "narrow"}], "fallbacks": ["prim", "brief"]},
        {"alias": "torn", "choices": [{"model": "cut"}], "fallbacks": ["brief"]},
    ]
    assert client.put("/v1/policy", json={"policy": {"aliases": aliases}}).status_code == httpx.codes.OK
    yield
    assert client.put("/v1/policy", json={"policy": {}}).status_code == httpx.codes.OK


def generate(client: httpx.Client, model: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    headers = fields.pop("headers", {})
    answer = client.post("/v1/generate", json={"prompt": "x", "model": model, **fields}, headers=headers)
    return answer.status_code, answer.json()


def attempts(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (one["model"], one.get("reason", "").removeprefix("ERROR_REASON_").replace("UNSPECIFIED", ""))
        for one in document["attempts"]
    ]


def reason_of(document: dict[str, Any]) -> str:
    return str(next(detail["reason"] for detail in document["details"] if "reason" in detail))


def test_a_flaky_engine_is_tried_until_it_answers(client: httpx.Client, engine: SlowEngine) -> None:
    before = engine.asked["flaky"]
    status, document = generate(client, "flaky")
    assert status == httpx.codes.OK
    assert document["text"] == "t0 t1 t2 "
    tried = attempts(document)
    assert tried[-1] == ("flaky", "")
    assert tried[:-1] == [("flaky", "ENGINE_UNAVAILABLE")] * (len(tried) - 1)
    assert len(tried) == engine.asked["flaky"] - before > 1
    assert document["usage"]["output_tokens"] == "3"
    assert [one.get("output_tokens", "0") for one in document["attempts"]] == ["0"] * (len(tried) - 1) + ["3"]


def test_an_engine_that_asks_for_a_moment_gets_it(client: httpx.Client) -> None:
    status, document = generate(client, "busy")
    assert (status, attempts(document)) == (httpx.codes.OK, [("busy", "ENGINE_OVERLOADED"), ("busy", "")])


@pytest.mark.usefixtures("policy")
def test_a_chain_goes_on_and_names_who_answered(client: httpx.Client, engine: SlowEngine) -> None:
    status, document = generate(client, "sure")
    assert status == httpx.codes.OK
    assert (document["model"], document["alias"], document["text"]) == ("brief", "sure", "t0 t1 t2 ")
    assert attempts(document)[-1] == ("brief", "")
    assert set(attempts(document)[:-1]) <= {("down", "ENGINE_UNAVAILABLE")}
    # What a model refuses is not asked of it again.
    before = dict(engine.asked)
    status, document = generate(client, "wide")
    assert attempts(document) == [("narrow", "CONTEXT_TOO_LONG"), ("prim", "CONTENT_POLICY"), ("brief", "")]
    assert {name: engine.asked[name] - before.get(name, 0) for name in ("narrow", "prim", "brief")} == {
        "narrow": 1,
        "prim": 1,
        "brief": 1,
    }


@pytest.mark.usefixtures("policy")
def test_what_has_begun_falls_back_no_more(client: httpx.Client, engine: SlowEngine) -> None:
    before = engine.asked["brief"]
    events = stream(client, "torn")
    started, finished = events[0]["started"], events[-1]["finished"]
    assert (started["model"], started["alias"]) == ("cut", "torn")
    assert finished["finish_reason"] == "FINISH_REASON_ERROR"
    assert finished["attempts"][-1]["outcome"] == "ATTEMPT_OUTCOME_BROKEN"
    assert finished["attempts"][-1]["output_tokens"] == "3"
    assert engine.asked["brief"] == before


def test_a_stalled_engine_ends_in_a_typed_error(client: httpx.Client, engine: SlowEngine) -> None:
    began = time.monotonic()
    finished = stream(client, "stalls")[-1]["finished"]
    assert reason_of(finished["error"]) == "GENERATION_FAILED"
    assert 0.9 < time.monotonic() - began < 5
    until(lambda: engine.in_flight == 0)


def test_a_backend_that_stays_down_is_left_alone(client: httpx.Client, engine: SlowEngine) -> None:
    answers = [generate(client, "down") for _ in range(4)]
    assert {status for status, _ in answers} == {httpx.codes.SERVICE_UNAVAILABLE}
    before = engine.asked["down"]
    status, document = generate(client, "down")
    assert (status, reason_of(document)) == (httpx.codes.SERVICE_UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert engine.asked["down"] == before
    assert any("retry_delay" in detail for detail in document["details"])


def test_more_than_there_is_room_for_waits_by_class_and_gives_its_place_up(
    client: httpx.Client, hurt_suite: Suite, engine: SlowEngine
) -> None:
    before = engine.started
    with ExitStack() as stack:
        # Room for four, one of them kept for the interactive: three run.
        for number in range(3):
            stack.enter_context(open_stream(hurt_suite, f"tenant-{number}"))
        until(lambda: engine.started == before + 3)
        body = {"prompt": "x", "model": "brief", "priority": "PRIORITY_BULK"}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/generate", json=body, timeout=0.5)
        status, document = generate(client, "brief", priority="PRIORITY_INTERACTIVE")
        assert status == httpx.codes.OK
        assert "queued" not in document["timings"]
        assert engine.in_flight == 3
    until(lambda: engine.in_flight == 0)
    assert generate(client, "brief", priority="PRIORITY_BULK")[0] == httpx.codes.OK


def test_a_tenant_holds_no_more_than_its_share(client: httpx.Client, hurt_suite: Suite, engine: SlowEngine) -> None:
    before = engine.started
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(open_stream(hurt_suite, "greedy"))
        until(lambda: engine.started == before + 2)
        done = threading.Event()

        def third() -> None:
            generate(client, "brief", headers={"x-penstock-tenant": "greedy"})
            done.set()

        thread = threading.Thread(target=third)
        thread.start()
        assert generate(client, "brief", headers={"x-penstock-tenant": "modest"})[0] == httpx.codes.OK
        assert not done.wait(0.3)
    thread.join(10)
    assert done.is_set()


@contextmanager
def open_stream(suite: Suite, tenant: str) -> Iterator[None]:
    """A stream of the slow model that goes on until the block is left."""
    headers = {"x-penstock-tenant": tenant, "accept": "text/event-stream"}
    with (
        httpx.Client(base_url=suite.url, timeout=30) as client,
        client.stream("POST", "/v1/generate:stream", json={"prompt": "x", "model": "slow"}, headers=headers),
    ):
        yield


def stream(client: httpx.Client, model: str) -> list[dict[str, Any]]:
    headers = {"accept": "text/event-stream"}
    answer = client.post("/v1/generate:stream", json={"prompt": "x", "model": model}, headers=headers)
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
