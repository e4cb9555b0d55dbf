"""Tools, response formats, probabilities and several choices, asked for by the official OpenAI client of a real model."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.e2e.conftest import GIBBERISH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

    from tests.support.suite import Suite

pytestmark = pytest.mark.skipif("PENSTOCK_URL" in os.environ, reason="the model is made for the suite that is started here")

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_flow", "description": "Tells the flow in a penstock.", "parameters": SCHEMA},
}
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How much water flows at Kirkwall?"}]


@pytest.fixture
def client(suite: Suite) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{suite.url}/openai/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_response_format_holds_even_random_weights(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=GIBBERISH,
        messages=MESSAGES,
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "flow", "strict": True, "schema": SCHEMA}},
    )
    document = json.loads(completion.choices[0].message.content or "")
    assert list(document) == ["city", "n"]
    assert 0 <= document["n"] <= 99
    assert completion.choices[0].finish_reason == "stop"


def test_a_tool_call_and_the_answer_to_it(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_flow"}}
    settings: dict[str, Any] = {"model": GIBBERISH, "tools": [TOOL], "temperature": 0, "max_tokens": 300}
    completion = client.chat.completions.create(messages=MESSAGES, tool_choice=choice, parallel_tool_calls=False, **settings)
    message = completion.choices[0].message
    assert completion.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_flow"
    assert set(json.loads(call.function.arguments)) == {"city", "n"}
    told: list[Any] = [*MESSAGES, message, {"role": "tool", "tool_call_id": call.id, "content": "12 m3/s"}]
    answer = client.chat.completions.create(messages=told, tool_choice="none", **{**settings, "max_tokens": 5})
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_a_streamed_tool_call_comes_in_pieces(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=GIBBERISH,
        messages=MESSAGES,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=300,
        stream=True,
    )
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls or ()]
    assert [piece.index for piece in pieces] == [0] * len(pieces)
    assert pieces[0].id
    assert pieces[0].function is not None
    assert pieces[0].function.name == "get_flow"
    arguments = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert set(json.loads(arguments)) == {"city", "n"}
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]


def test_several_choices_with_probabilities(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": GIBBERISH, "messages": MESSAGES, "temperature": 1, "seed": 7, "max_tokens": 4}
    completion = client.chat.completions.create(n=2, logprobs=True, top_logprobs=2, **settings)
    assert [choice.index for choice in completion.choices] == [0, 1]
    for choice in completion.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    streamed = client.chat.completions.create(n=2, stream=True, **settings)
    texts: dict[int, str] = {}
    for chunk in streamed:
        for piece in chunk.choices:
            texts[piece.index] = texts.get(piece.index, "") + (piece.delta.content or "")
    assert sorted(texts) == [0, 1]
    assert all(texts.values())


def test_what_a_model_cannot_do_is_refused_before_any_work(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="extractive", messages=MESSAGES, response_format={"type": "json_object"})
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "model_not_supported"
    assert GIBBERISH in caught.value.body["message"], "the message names one that can"


def test_the_same_over_rest(suite: Suite) -> None:
    asked = {
        "model": GIBBERISH,
        "prompt": "How much?",
        "tools": [{"name": "get_flow", "parameters": json.dumps(SCHEMA)}],
        "tool_choice": {"use": "TOOL_USE_REQUIRED", "tool": "get_flow", "single": True},
        "sampling": {"temperature": 0},
        "max_tokens": 300,
    }
    answer = httpx.post(f"{suite.url}/v1/generate", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["finish_reason"] == "FINISH_REASON_TOOL_CALLS"
    (call,) = answer.json()["tool_calls"]
    assert set(json.loads(call["arguments"])) == {"city", "n"}
    chosen = {"model": GIBBERISH, "prompt": "?", "output": {"choice": {"texts": ["yes", "no"]}}}
    assert httpx.post(f"{suite.url}/v1/generate", json=chosen, timeout=60).json()["text"] in {"yes", "no"}
    # `extractive` is first choice here, and cannot: `auto` goes on to one that can.
    by_auto = httpx.post(f"{suite.url}/v1/generate", json={**chosen, "model": "auto"}, timeout=60).json()
    assert by_auto["model"] == GIBBERISH
    assert by_auto["text"] in {"yes", "no"}
    refused = httpx.post(f"{suite.url}/v1/generate", json={**chosen, "model": "extractive"}, timeout=60)
    assert refused.status_code == 400
    assert "MODEL_CAPABILITY_MISSING" in refused.text


def test_tokens_are_counted_over_rest(suite: Suite) -> None:
    answer = httpx.post(f"{suite.url}/v1/tokenize", json={"model": GIBBERISH, "text": " water" * 5}, timeout=60)
    assert answer.json()["count"] == 5
    assert len(answer.json()["tokens"]) == 5
    assert answer.json()["source"] == "USAGE_SOURCE_COUNTED"
    assert httpx.post(f"{suite.url}/v1/tokenize", json={"model": GIBBERISH}, timeout=60).status_code == 400
