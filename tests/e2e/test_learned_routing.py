"""An alias that learns from feedback which of its models is good enough, over REST."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.conftest import GIBBERISH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

QUESTION = {
    "model": "careful",
    "prompt": "How long is the penstock?",
    "passages": [{"text": "The penstock of the plant is 412 metres long and of steel."}],
    "max_tokens": 8,
    "cache": "CACHE_MODE_BYPASS",
}


@pytest.fixture
def client(suite: Suite) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=suite.url, timeout=30) as client:
        before = client.get("/v1/policy").json().get("policy", {})
        yield client
        client.put("/v1/policy", json={"policy": before}).raise_for_status()


def route(client: httpx.Client, **routing: Any) -> None:
    choices = [{"model": "extractive", "tier": 2}, {"model": GIBBERISH, "tier": 1}]
    alias = {"alias": "careful", "choices": choices, "routing": {"target": 0.8, "outcomes": 20, **routing}}
    client.put("/v1/policy", json={"policy": {"aliases": [alias]}}).raise_for_status()
    # Where several workers serve, the others follow in a moment.
    deadline = time.monotonic() + 10
    while any(client.post("/v1/generate", json=QUESTION).status_code != httpx.codes.OK for _ in range(4)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(client: httpx.Client) -> dict[str, Any]:
    response = client.post("/v1/generate", json=QUESTION)
    assert response.status_code == httpx.codes.OK, response.text
    answer: dict[str, Any] = response.json()
    return answer


def judge(client: httpx.Client, answer: dict[str, Any], *, openai_id: bool = False) -> dict[str, Any]:
    name = f"chatcmpl-{answer['request_id']}" if openai_id else answer["request_id"]
    given = {"request_id": name, "reward": float(answer["model"] == "extractive")}
    response = client.post("/v1/feedback", json=given)
    assert response.status_code == httpx.codes.OK, response.text
    told: dict[str, Any] = response.json()
    return told


def test_an_alias_learns_from_feedback_which_model_is_good_enough(client: httpx.Client) -> None:
    route(client, strategy="STRATEGY_COMPLEXITY", explore=0.5)
    first = ask(client)["decision"]
    assert first["reason"] in {"ROUTING_REASON_UNCALIBRATED", "ROUTING_REASON_EXPLORED"}
    assert "score" not in first
    assert first["features"]["questions"] == first["features"]["passages"] == 1
    assert [one["propensity"] for one in first["options"]] == [0.75, 0.25]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(client), range(140)))
        assert {answer["model"] for answer in answers} == {"extractive", GIBBERISH}
        list(threads.map(lambda answer: judge(client, answer), answers))
    deadline = time.monotonic() + 10
    while not judge(client, answers[-1], openai_id=True).get("is_known"):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    # It fits by itself too, with time; asking for it takes in what is there now.
    state = client.post("/v1/routing:calibrate", json={"alias": "careful"}).json()["state"]
    models = {one["model"]: one for one in state["models"]}
    assert min(one["outcomes"] for one in models.values()) >= 20
    assert models["extractive"]["good"] > 0.95
    assert models[GIBBERISH].get("good", 0) < 0.05
    assert (models["extractive"]["threshold"], "threshold" in models[GIBBERISH]) == (1, False)
    assert state["best_static"] == "extractive"
    assert client.get("/v1/routing", params={"alias": "careful"}).json()["states"][0]["fit"]

    route(client, strategy="STRATEGY_COMPLEXITY", explore=0)
    # Where several workers serve, the others take the fit over within a second.
    deadline = time.monotonic() + 10
    while (decision := ask(client)["decision"])["reason"] != "ROUTING_REASON_GOOD_ENOUGH":
        assert time.monotonic() < deadline, decision
        time.sleep(0.1)
    assert decision["model"] == "extractive"
    assert 0 <= decision["score"] <= 1
    assert {one["model"]: one["expected"] > 0.8 for one in decision["options"]} == {"extractive": True, GIBBERISH: False}

    route(client, strategy="STRATEGY_FEEDBACK", holdout=0.5)
    decisions = [ask(client)["decision"] for _ in range(16)]
    learned = {"ROUTING_REASON_LEARNED", "ROUTING_REASON_HOLDOUT"}
    decisions = [one for one in decisions if one["reason"] in learned]
    assert {one["reason"] for one in decisions} == learned
    assert {one["model"] for one in decisions if one["reason"] == "ROUTING_REASON_HOLDOUT"} == {"extractive"}
    assert all(one["options"][0]["propensity"] > 0.9 for one in decisions)


def test_a_stream_begins_with_the_decision_and_a_model_named_has_none(client: httpx.Client) -> None:
    route(client, strategy="STRATEGY_FEEDBACK")
    headers = {"accept": "text/event-stream"}
    with client.stream("POST", "/v1/generate:stream", json=QUESTION, headers=headers) as response:
        events = [json.loads(line.removeprefix("data:")) for line in response.iter_lines() if line.startswith("data:")]
    decision = events[0]["started"]["decision"]
    assert decision["model"] == events[0]["started"]["model"]
    assert sum(one["propensity"] for one in decision["options"]) == pytest.approx(1)
    named = client.post("/v1/generate", json={**QUESTION, "model": "extractive"}).json()
    assert "decision" not in named
    auto = client.post("/v1/generate", json={**QUESTION, "model": "auto"}).json()
    assert auto["decision"]["reason"] == "ROUTING_REASON_ENGINE_ORDER"


def test_wrong_feedback_and_unknown_aliases_are_told(client: httpx.Client) -> None:
    for body in ({"request_id": "r"}, {"request_id": "r", "reward": 1.5}, {"reward": 1}, {"request_id": "r", "reward": -0.1}):
        refused = client.post("/v1/feedback", json=body)
        assert refused.status_code == httpx.codes.BAD_REQUEST
        assert "INVALID_FIELD" in refused.text
    assert not client.post("/v1/feedback", json={"request_id": "nobody's", "reward": 0}).json().get("is_known")
    for response in (
        client.post("/v1/routing:calibrate", json={"alias": "nothing"}),
        client.get("/v1/routing", params={"alias": "nothing"}),
    ):
        assert response.status_code == httpx.codes.NOT_FOUND
        assert "ALIAS_NOT_FOUND" in response.text
    incomplete = {"alias": "a", "choices": [{"model": "extractive"}], "routing": {"strategy": "STRATEGY_COMPLEXITY"}}
    refused = client.put("/v1/policy", json={"policy": {"aliases": [incomplete]}})
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert "aliases.a.routing.target" in refused.text
