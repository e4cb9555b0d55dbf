"""What a request may ask of the form of its answer, what a model must be able to do for it, and what becomes of the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from penstock.inference.v1 import form_pb2, generation_pb2, generation_service_pb2

from services.chassis.errors import Failure, Reason
from services.inference import convert, form_convert, requirements
from services.inference.answers import Answer, Gathering, held, joined
from services.inference.engine import (
    Capability,
    Delta,
    End,
    FinishReason,
    Generation,
    Message,
    Model,
    Role,
    Usage,
    UsageSource,
)
from services.inference.engines import openai_chat
from services.inference.form import Form, Image, JsonSchema, OneOf, Regex, TokenLogprob, Tool, ToolCall, ToolCallDelta, ToolUse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.inference.engine import Event
    from services.inference.form import Output

USAGE = Usage(1, 2, UsageSource.REPORTED)
SCHEMA = '{"type": "object", "properties": {"z": {}, "a": {}}}'
PNG = generation_pb2.Part(image=generation_pb2.Image(data=b"png", media_type="image/png"))
TOOL = form_pb2.Tool(name="now", description="Tells the time.", parameters=SCHEMA)


def asked(**fields: Any) -> generation_service_pb2.GenerateRequest:
    return generation_service_pb2.GenerateRequest(prompt="Hello", **fields)


def refused(request: generation_service_pb2.GenerateRequest) -> Failure:
    with pytest.raises(Failure) as caught:
        convert.request_of(request, "r1")
    return caught.value


def test_a_plain_request_asks_for_no_form() -> None:
    assert convert.request_of(asked(), "r1").form == Form()


def test_all_of_a_form_is_read() -> None:
    choice = form_pb2.ToolChoice(use=form_pb2.TOOL_USE_REQUIRED, tool="now", single=True)
    request = convert.request_of(asked(tools=[TOOL], tool_choice=choice, top_logprobs=0, alternatives=2, session="s1"), "r1")
    tools = (Tool("now", "Tells the time.", SCHEMA),)
    assert request.form == Form(tools, ToolUse.REQUIRED, "now", single_call=True, top_logprobs=0, alternatives=2)
    assert request.session == "s1"


@pytest.mark.parametrize(
    ("output", "form"),
    [
        (form_pb2.Output(json_schema=SCHEMA), JsonSchema(SCHEMA)),
        (form_pb2.Output(regex="[a-z]+"), Regex("[a-z]+")),
        (form_pb2.Output(choice=form_pb2.Choice(texts=["a", "b"])), OneOf(("a", "b"))),
    ],
)
def test_each_output_is_read(output: form_pb2.Output, form: Output) -> None:
    assert convert.request_of(asked(output=output), "r1").form.output == form


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [form_pb2.Tool(name="now", parameters="[]")]}, "tools[0].parameters"),
        ({"tools": [form_pb2.Tool(name="now", parameters="{")]}, "tools[0].parameters"),
        ({"tool_choice": form_pb2.ToolChoice(use=form_pb2.TOOL_USE_REQUIRED)}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": form_pb2.ToolChoice(tool="now")}, "tool_choice.tool"),
        (
            {"tools": [TOOL], "tool_choice": form_pb2.ToolChoice(use=form_pb2.TOOL_USE_REQUIRED, tool="then")},
            "tool_choice.tool",
        ),
        ({"output": form_pb2.Output(json_schema="true")}, "output.json_schema"),
        ({"output": form_pb2.Output(json_schema="[" * 50_000)}, "output.json_schema"),
        ({"output": form_pb2.Output(regex="(")}, "output.regex"),
        ({"output": form_pb2.Output(regex="(?=a)b")}, "output.regex"),
        ({"output": form_pb2.Output(regex=r"(a)\1")}, "output.regex"),
        ({"output": form_pb2.Output(regex="((a{100}){100}){100}")}, "output.regex"),
        (
            {
                "tools": [TOOL],
                "tool_choice": form_pb2.ToolChoice(use=form_pb2.TOOL_USE_REQUIRED),
                "output": form_pb2.Output(regex="a"),
            },
            "output",
        ),
    ],
)
def test_what_no_engine_could_make_sense_of_is_refused(fields: dict[str, Any], field: str) -> None:
    failure = refused(asked(**fields))
    assert failure.reason is Reason.INVALID_FIELD
    assert failure.metadata == {"field": field}


def test_calls_and_results_are_read_a_message_a_result() -> None:
    call = form_pb2.ToolCall(id="c1", name="now", arguments="{}")
    results = [form_pb2.ToolResult(id="c1", text="noon"), form_pb2.ToolResult(id="c2", text="here")]
    messages = [
        generation_pb2.Message(
            role=generation_pb2.ROLE_ASSISTANT,
            parts=[generation_pb2.Part(text="Let me see."), generation_pb2.Part(tool_call=call)],
        ),
        generation_pb2.Message(
            role=generation_pb2.ROLE_TOOL, parts=[generation_pb2.Part(tool_result=result) for result in results]
        ),
    ]
    assert form_convert.messages_of(messages) == (
        Message(Role.ASSISTANT, "Let me see.", (ToolCall("c1", "now", "{}"),)),
        Message(Role.TOOL, "noon", tool_call="c1"),
        Message(Role.TOOL, "here", tool_call="c2"),
    )


@pytest.mark.parametrize(
    ("role", "part"),
    [
        (generation_pb2.ROLE_USER, generation_pb2.Part(tool_call=form_pb2.ToolCall(id="c1", name="now"))),
        (generation_pb2.ROLE_USER, generation_pb2.Part(tool_result=form_pb2.ToolResult(id="c1"))),
        (generation_pb2.ROLE_TOOL, generation_pb2.Part(text="noon")),
        (generation_pb2.ROLE_ASSISTANT, PNG),
    ],
)
def test_parts_that_do_not_go_with_their_role_are_refused(
    role: generation_pb2.Role.ValueType, part: generation_pb2.Part
) -> None:
    with pytest.raises(Failure) as caught:
        form_convert.messages_of([generation_pb2.Message(role=role, parts=[part])])
    assert caught.value.metadata == {"field": "messages[0].parts[0]"}


def test_images_of_the_user_are_read() -> None:
    by_address = generation_pb2.Part(image=generation_pb2.Image(url="https://example.org/a.png"))
    parts = [PNG, generation_pb2.Part(text="What is it?"), by_address]
    (message,) = form_convert.messages_of([generation_pb2.Message(role=generation_pb2.ROLE_USER, parts=parts)])
    images = (Image(b"png", "image/png"), Image(url="https://example.org/a.png"))
    assert message == Message(Role.USER, "What is it?", images=images)
    assert [image.address() for image in images] == ["data:image/png;base64,cG5n", "https://example.org/a.png"]
    nameless = generation_pb2.Part(image=generation_pb2.Image(data=b"png"))
    with pytest.raises(Failure) as caught:
        form_convert.messages_of([generation_pb2.Message(role=generation_pb2.ROLE_USER, parts=[nameless])])
    assert caught.value.metadata == {"field": "messages[0].parts[0].image.media_type"}


def test_openai_servers_get_images_before_the_text() -> None:
    message = Message(Role.USER, "What is it?", images=(Image(b"png", "image/png"),))
    (written,) = openai_chat.messages(Generation("m", (message,)))
    assert written["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}},
        {"type": "text", "text": "What is it?"},
    ]


def test_a_delta_is_a_message_for_its_text_and_one_for_each_piece_of_a_call() -> None:
    token = TokenLogprob("a", -0.1, (TokenLogprob("a", -0.1),))
    pieces = (ToolCallDelta(0, "c1", "now"), ToolCallDelta(0, arguments="{}"))
    text, begun, more = convert.events_of(Delta("a", 1, 2, pieces, (token,)), "r1")
    assert (text.delta.text, text.delta.alternative, text.delta.logprobs[0].top[0].token) == ("a", 2, "a")
    assert (begun.tool_call.id, begun.tool_call.name, begun.tool_call.alternative) == ("c1", "now", 2)
    assert more.tool_call.arguments == "{}"


def needs(form: Form, *messages: Message) -> Generation:
    return Generation("m", (Message(Role.USER, "Hello"), *messages), form=form)


@pytest.mark.parametrize(
    ("generation", "capability"),
    [
        (needs(Form(tools=(Tool("now"),))), Capability.TOOLS),
        (needs(Form(), Message(Role.TOOL, "noon", tool_call="c1")), Capability.TOOLS),
        (needs(Form(), Message(Role.USER, "", images=(Image(b"x", "image/png"),))), Capability.IMAGES),
        (needs(Form(output=JsonSchema("{}"))), Capability.JSON_SCHEMA),
        (needs(Form(output=Regex("a"))), Capability.REGEX),
        (needs(Form(output=OneOf(("a",)))), Capability.CHOICE),
        (needs(Form(top_logprobs=0)), Capability.LOGPROBS),
        (needs(Form(alternatives=2)), Capability.ALTERNATIVES),
    ],
)
def test_what_a_model_lacks_is_told_with_those_that_can(generation: Generation, capability: Capability) -> None:
    plain = Model("m", "ollama", (Capability.GENERATION,))
    able = Model("better", "vllm", (Capability.GENERATION, capability))
    assert requirements.missing(plain, generation) is capability
    requirements.check(able, generation, ())
    with pytest.raises(Failure) as caught:
        requirements.check(plain, generation, (plain, able))
    assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
    assert caught.value.metadata == {"model": "m", "capability": capability.name}
    assert "better (vllm)" in caught.value.message
    assert "m (ollama)" not in caught.value.message


def test_a_plain_request_needs_nothing() -> None:
    assert requirements.missing(Model("m", "extractive", (Capability.EXTRACTION,)), needs(Form())) is None


def test_answers_are_put_together_each_by_itself() -> None:
    gathering = Gathering()
    gathering.add(Delta("a", alternative=1, tool_calls=(ToolCallDelta(1, "c2", "b", "{"), ToolCallDelta(0, "c1", "a", "{}"))))
    gathering.add(Delta("b", alternative=0, logprobs=(TokenLogprob("b", -1.0),)))
    gathering.add(Delta("c", alternative=1, tool_calls=(ToolCallDelta(1, arguments="}"),)))
    assert gathering.answers(3) == (
        Answer("b", logprobs=(TokenLogprob("b", -1.0),)),
        Answer("ac", (ToolCall("c1", "a", "{}"), ToolCall("c2", "b", "{}"))),
        Answer(""),
    )


def test_deltas_that_wait_are_joined_by_answer_and_nothing_is_lost() -> None:
    piece, token = ToolCallDelta(0, "c1", "now"), TokenLogprob("a", -1.0)
    waiting = [Delta("a", 1), Delta("x", 2, 1), Delta("b", 3, tool_calls=(piece,), logprobs=(token,))]
    assert joined(waiting) == [Delta("ab", 4, 0, (piece,), (token,)), Delta("x", 2, 1)]
    assert joined([]) == []


async def spoken(output: Output | None, reason: FinishReason, *texts: str) -> list[Event]:
    async def events() -> AsyncGenerator[Event, None]:
        for index, text in enumerate(texts):
            yield Delta(text, alternative=index)
        yield End(reason, USAGE, (reason,) * len(texts) if len(texts) > 1 else ())

    generation = needs(Form(output=output, alternatives=len(texts)))
    return [event async for event in held(generation, events())]


@pytest.mark.parametrize(
    ("output", "good", "bad"),
    [
        (JsonSchema(SCHEMA), json.dumps({"a": 1}), '{"a": '),
        (Regex("a+"), "aaa", "aab"),
        (OneOf(("a", "b")), "b", "ab"),
    ],
)
async def test_a_text_of_another_form_never_looks_complete(output: Output, good: str, bad: str) -> None:
    assert len(await spoken(output, FinishReason.STOP, good)) == 2
    assert len(await spoken(output, FinishReason.LENGTH, bad)) == 2, "one that was cut says so by itself"
    assert len(await spoken(None, FinishReason.STOP, bad)) == 2
    for texts in ((bad,), (good, bad)):
        with pytest.raises(Failure) as caught:
            await spoken(output, FinishReason.STOP, *texts)
        assert caught.value.reason is Reason.GENERATION_FAILED


async def test_no_expression_runs_away() -> None:
    assert len(await spoken(Regex("(a*)*"), FinishReason.STOP, "a" * 100_000)) == 2
