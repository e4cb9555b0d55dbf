from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.inference.admission import Priority
from services.inference.engine import Message, Role, Sampling
from services.inference.form import Form, Image, JsonSchema, ToolCall, ToolUse
from services.inference.generation import CacheMode
from services.inference.openai.requests import parse_chat, parse_embeddings, request_of

HELLO = [{"role": "user", "content": "Hello"}]
PARAMETERS = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "now", "description": "Tells the time.", "parameters": PARAMETERS}}
CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


SVG, BROKEN = image("data:image/svg;base64,cG5n"), image("data:image/png;base64,!")


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": HELLO, **fields}).encode()


def refused(body: bytes) -> Failure:
    with pytest.raises(Failure) as caught:
        request_of(parse_chat(body), "r1")
    return caught.value


@pytest.mark.parametrize(
    ("tier", "priority"),
    [
        ("priority", Priority.INTERACTIVE),
        ("flex", Priority.BULK),
        ("auto", Priority.DEFAULT),
        ("scale", Priority.DEFAULT),
        (None, Priority.DEFAULT),
    ],
)
def test_a_tier_is_a_class_of_priority(tier: str | None, priority: Priority) -> None:
    assert request_of(parse_chat(chat(service_tier=tier)), "r1").priority is priority


def test_a_whole_request_becomes_the_domains() -> None:
    body = chat(
        model="m",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
            {"role": "assistant", "content": None},
        ],
        temperature=0,
        top_p=0.5,
        top_k=3,
        seed=7,
        presence_penalty=-1,
        frequency_penalty=1,
        max_tokens=5,
        stop="END",
        user="u1",
    )
    request = request_of(parse_chat(body), "r1")
    assert request.messages == (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "Hello"),
        Message(Role.ASSISTANT, ""),
    )
    assert request.sampling == Sampling(0.0, 0.5, 3, 7, -1.0, 1.0)
    assert (request.model, request.max_tokens, request.stop, request.user, request.request_id) == ("m", 5, ("END",), "u1", "r1")


def test_absent_and_null_leave_the_engines_defaults() -> None:
    for body in (chat(), chat(temperature=None, max_tokens=None, stop=None, user=None, stream=None, n=None, tools=None)):
        request = request_of(parse_chat(body), "r1")
        assert (request.sampling, request.max_tokens, request.stop, request.user, request.model) == (
            Sampling(),
            None,
            (),
            "",
            "",
        )


@pytest.mark.parametrize("mode", list(CacheMode))
def test_the_cache_is_left_aside_where_the_request_says_so(mode: CacheMode) -> None:
    assert request_of(parse_chat(chat(cache=mode.value)), "r1").cache is mode
    assert request_of(parse_chat(chat()), "r1").cache is CacheMode.USE
    assert refused(chat(cache="perhaps")).metadata["field"] == "cache"


def test_the_newer_name_of_the_limit_wins() -> None:
    assert request_of(parse_chat(chat(max_tokens=5, max_completion_tokens=6)), "r").max_tokens == 6


def test_what_is_harmless_or_unknown_is_ignored() -> None:
    body = chat(n=1, logprobs=False, tools=[], response_format={"type": "text"}, store=True, metadata={"a": "b"}, made_up=[1])
    assert request_of(parse_chat(body), "r").messages == (Message(Role.USER, "Hello"),)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "user", "content": [image("http://a/b.png")]}]}, "messages[0].content[0].image_url.url"),
        (
            {"messages": [{"role": "user", "content": [image("data:image/svg;base64,cG5n")]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [image("data:image/png;base64,!")]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "system", "content": [image("https://a/b.png")]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "messages[0].content[0].text"),
        ({"messages": [*HELLO, {"role": "user", "content": "x" * (1024 * 1024 + 1)}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "ж" * (1024 * 512 + 1)}]}, "messages[0].content"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"model": "m" * 257}, "model"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice.tool"),
        ({"functions": [{"name": "now"}]}, "functions"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}},
            "response_format.json_schema.schema",
        ),
        ({"messages": [{"role": "tool", "content": "noon"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "c"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
    ],
)
def test_a_wrong_parameter_is_named(fields: dict[str, Any], field: str) -> None:
    failure = refused(chat(**fields))
    assert failure.reason is Reason.INVALID_OPENAI_REQUEST
    assert failure.metadata == {"field": field}
    assert failure.message.startswith(f"{field}: ")


def test_images_are_read() -> None:
    content = [{"type": "text", "text": "What?"}, image("data:image/png;base64,cG5n"), image("https://example.org/a.png")]
    request = request_of(parse_chat(chat(messages=[{"role": "user", "content": content}])), "r")
    images = (Image(b"png", "image/png"), Image(url="https://example.org/a.png"))
    assert request.messages == (Message(Role.USER, "What?", images=images),)


def test_tools_and_what_they_gave_are_read() -> None:
    messages = [*HELLO, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "noon"}]
    choice = {"type": "function", "function": {"name": "now"}}
    body = chat(messages=messages, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    request = request_of(parse_chat(body), "r")
    assert request.messages[1:] == (
        Message(Role.ASSISTANT, "", (ToolCall("c1", "now", "{}"),)),
        Message(Role.TOOL, "noon", tool_call="c1"),
    )
    (tool,) = request.form.tools
    assert (tool.name, tool.description) == ("now", "Tells the time.")
    assert tool.parameters == json.dumps(PARAMETERS), "in the order in which it was written"
    assert request.form == Form((tool,), ToolUse.REQUIRED, "now", single_call=True)


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonSchema("{}")),
        (
            {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": {"b": 1, "a": 2}}},
            JsonSchema('{"b": 1, "a": 2}', "place"),
        ),
    ],
)
def test_a_response_format_is_an_output(given: Any, output: Any) -> None:
    assert request_of(parse_chat(chat(response_format=given)), "r").form.output == output


def test_probabilities_and_several_answers_are_asked_for() -> None:
    form = request_of(parse_chat(chat(n=3, logprobs=True, top_logprobs=2)), "r").form
    assert (form.alternatives, form.top_logprobs) == (3, 2)
    assert request_of(parse_chat(chat(logprobs=True)), "r").form.top_logprobs == 0


def test_missing_messages_are_named() -> None:
    assert refused(b"{}").metadata == {"field": "messages"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b'{"messages": "\xff\xfe"}', b"\x00"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).reason is Reason.INVALID_OPENAI_REQUEST


def test_a_body_of_more_than_8_mib_is_refused_unread() -> None:
    failure = refused(b" " * (8 * 1024 * 1024 + 1))
    assert failure.reason is Reason.REQUEST_TOO_LARGE
    assert failure.metadata == {"limit_bytes": "8388608"}


@given(st.binary(max_size=200) | st.dictionaries(st.text(max_size=10), st.integers() | st.text(max_size=5)).map(json.dumps))
def test_whatever_comes_is_read_or_refused_never_a_defect(body: bytes | str) -> None:
    data = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    try:
        request_of(parse_chat(data), "r")
    except Failure as failure:
        assert failure.reason is Reason.INVALID_OPENAI_REQUEST  # noqa: PT017 - it may well succeed


def test_embeddings_take_one_text_or_many() -> None:
    assert parse_embeddings(b'{"input": "a"}').inputs() == ["a"]
    assert parse_embeddings(b'{"input": ["a", "b"], "model": "m"}').inputs() == ["a", "b"]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1, 2]]}, "input[0]"),
        ({"input": ["a"] * 513}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": ["a", "x" * (1024 * 1024 + 1)]}, "input[1]"),
    ],
)
def test_a_wrong_parameter_of_embeddings_is_named(document: dict[str, Any], field: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_embeddings(json.dumps(document).encode())
    assert caught.value.metadata == {"field": field}


@pytest.mark.parametrize("parameter", ["functions", "unknown"])
def test_a_body_of_great_depth_is_refused(parameter: str) -> None:
    body = chat()[:-1] + b',"%s":' % parameter.encode() + b"[" * 100_000 + b"]" * 100_000 + b"}"
    failure = refused(body)
    assert (failure.reason, failure.message) == (Reason.INVALID_OPENAI_REQUEST, "the body is nested too deep")


def test_metadata_is_what_experiments_target_by() -> None:
    request = request_of(parse_chat(chat(metadata={"lang": "ru", "tenant": "forged"})), "r1")
    assert request.attributes == {"lang": "ru", "tenant": ""}
    with pytest.raises(Failure, match="metadata"):
        parse_chat(chat(metadata={"": "x"}))
