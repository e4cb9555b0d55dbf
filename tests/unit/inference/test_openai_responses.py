from __future__ import annotations

import json
from typing import Any

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.answers import Answer
from services.inference.engine import Delta, FinishReason, Role, Usage, UsageSource
from services.inference.form import JsonSchema, TokenLogprob, ToolCall, ToolCallDelta, ToolUse
from services.inference.generation import Completed, Finished, Started
from services.inference.openai.collections import Cited, Source
from services.inference.openai.response_events import ResponseWriter, response_body
from services.inference.openai.responses import parse_response, response_request_of
from services.inference.progress import Timings

STARTED = Started("m", "llamacpp", None, "r1")
USAGE = Usage(3, 4, UsageSource.REPORTED)
SOURCE = Source(1, "c", "d", "k", "", "text", "", 0, 4, 0.9)
FUNCTION = {"type": "function", "name": "flow", "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}


def request(**members: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **members}).encode()


def events(*written: bytes) -> list[dict[str, Any]]:
    documents = []
    for event in b"".join(written).split(b"\n\n")[:-1]:
        kind, data = event.split(b"\n")
        document = json.loads(data.removeprefix(b"data: "))
        assert kind == b"event: " + document["type"].encode()
        documents.append(document)
    assert [one["sequence_number"] for one in documents] == list(range(len(documents)))
    return documents


def test_a_conversation_with_calls_becomes_a_chat() -> None:
    conversation = [
        {"role": "user", "content": [{"type": "input_text", "text": "flow?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "flow", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "flow", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "7"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "8"}]},
    ]
    asked = parse_response(request(input=conversation, instructions="be brief", tools=[FUNCTION], max_output_tokens=5))
    made = response_request_of(asked, "r1")
    assert [message.role for message in made.messages] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL, Role.TOOL]
    assert [call.id for call in made.messages[2].tool_calls] == ["c1", "c2"]
    assert [(message.tool_call, message.text) for message in made.messages[3:]] == [("c1", "7"), ("c2", "8")]
    assert made.max_tokens == 5
    # The order of a schema's properties is that of the model's answer.
    assert made.form.tools[0].parameters.index('"z"') < made.form.tools[0].parameters.index('"a"')


def test_forms_are_those_of_chat() -> None:
    schema = {"type": "object"}
    asked = parse_response(
        request(
            tools=[FUNCTION],
            tool_choice={"type": "function", "name": "flow"},
            text={"format": {"type": "json_schema", "name": "out", "schema": schema}},
            include=["message.output_text.logprobs"],
            parallel_tool_calls=False,
        )
    )
    form = response_request_of(asked, "r1").form
    assert (form.tool_use, form.tool_name, form.single_call, form.top_logprobs) == (ToolUse.REQUIRED, "flow", True, 0)
    assert form.output == JsonSchema('{"type": "object"}', "out")


@pytest.mark.parametrize(
    ("members", "parameter"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "clown", "content": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_is_wrong_is_named(members: dict[str, Any], parameter: str) -> None:
    with pytest.raises(Failure) as caught:
        response_request_of(parse_response(request(**members)), "r1")
    assert (caught.value.reason, caught.value.metadata["field"]) == (Reason.INVALID_OPENAI_REQUEST, parameter)


def test_text_with_citations_comes_as_typed_events() -> None:
    writer = ResponseWriter(parse_response(request()), STARTED)
    token = TokenLogprob("Water", -0.1, (TokenLogprob("Water", -0.1),))
    told = events(
        writer.first(),
        writer.delta(Delta("Water", logprobs=(token,))),
        writer.delta(Delta(" flows.")),
        writer.cited(Cited(SOURCE, 0, 12)),
        writer.last((FinishReason.STOP,), USAGE),
    )
    assert [one["type"].removeprefix("response.") for one in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert told[4]["logprobs"][0]["token"] == "Water"  # noqa: S105 - a word
    cited = {"type": "file_citation", "file_id": "c/d", "filename": "d", "index": 12}
    assert told[6]["annotation"] == cited
    response = told[-1]["response"]
    (item,) = response["output"]
    assert (item["content"][0]["text"], item["content"][0]["annotations"]) == ("Water flows.", [cited])
    assert response["usage"]["total_tokens"] == 7


def test_calls_of_tools_are_items_after_the_message() -> None:
    writer = ResponseWriter(parse_response(request()), STARTED)
    told = events(
        writer.first(),
        writer.delta(Delta("Let me see.")),
        writer.delta(Delta("", tool_calls=(ToolCallDelta(0, "c1", "flow", '{"a"'),))),
        writer.delta(Delta("", tool_calls=(ToolCallDelta(0, arguments=":1}"), ToolCallDelta(1, "c2", "flow", "{}")))),
        writer.last((FinishReason.TOOL_CALLS,), USAGE),
    )
    added = [(one["output_index"], one["item"]["type"]) for one in told if one["type"] == "response.output_item.added"]
    assert added == [(0, "message"), (1, "function_call"), (2, "function_call")]
    done = [(one["output_index"], one["arguments"]) for one in told if one["type"] == "response.function_call_arguments.done"]
    assert done == [(1, '{"a":1}'), (2, "{}")]
    deltas = [one["delta"] for one in told if one["type"] == "response.function_call_arguments.delta"]
    assert deltas == ['{"a"', ":1}", "{}"]
    output = told[-1]["response"]["output"]
    assert [(item["type"], item.get("call_id")) for item in output] == [
        ("message", None),
        ("function_call", "c1"),
        ("function_call", "c2"),
    ]
    ids = {one["item"]["id"] for one in told if one["type"] == "response.output_item.added"}
    assert ids == {item["id"] for item in output}


@pytest.mark.parametrize(
    ("reason", "why"), [(FinishReason.LENGTH, "max_output_tokens"), (FinishReason.CONTENT_FILTER, "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete(reason: FinishReason, why: str) -> None:
    writer = ResponseWriter(parse_response(request()), STARTED)
    last = events(writer.first(), writer.last((reason,), USAGE))[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": why})
    assert last["response"]["output"][0]["content"][0]["text"] == ""


def test_a_failure_on_the_way_is_the_last_event() -> None:
    writer = ResponseWriter(parse_response(request()), STARTED)
    failure = Failure(Reason.ENGINE_UNAVAILABLE, "the engine went away")
    last = events(writer.first(), writer.delta(Delta("x")), writer.failed(failure))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "engine_unavailable", "message": "the engine went away"}


def test_a_whole_response_has_the_items_of_the_stream() -> None:
    completed = Completed(
        STARTED,
        (Answer("Text.", (ToolCall("c1", "flow", "{}"),)),),
        Finished(FinishReason.STOP, USAGE, Timings(0.1, 0.2)),
    )
    whole = json.loads(
        response_body(parse_response(request(metadata={"a": "b"})), completed, (SOURCE,), (Cited(SOURCE, 0, 5),))
    )
    assert [item["type"] for item in whole["output"]] == ["message", "function_call"]
    assert whole["output"][0]["content"][0]["annotations"][0]["type"] == "file_citation"
    assert (whole["status"], whole["store"], whole["metadata"]) == ("completed", False, {"a": "b"})
    assert whole["penstock"]["sources"][0]["document"] == "d"
