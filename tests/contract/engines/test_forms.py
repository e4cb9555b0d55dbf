"""What a model says it can, it does: texts held to a form, tool calls, probabilities, answers side by side."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.answers import Gathering
from services.inference.engine import Capability, Delta, End, FinishReason, Message, Role, Sampling
from services.inference.engines.ollama import OllamaEngine
from services.inference.engines.openai import OpenAIEngine
from services.inference.form import Form, Image, JsonSchema, OneOf, Regex, Tool, ToolUse
from tests.contract.engines.conftest import HERE
from tests.contract.engines.fixture_ollama import CHAT, written_ollama
from tests.contract.engines.fixture_openai import llamacpp_server
from tests.contract.engines.fixture_vllm import open_writer
from tests.contract.engines.scripted import scripted_server
from tests.contract.engines.subject import Subject
from tests.contract.engines.test_engine_contract import idle_after

if TYPE_CHECKING:
    from pathlib import Path

    from services.inference.answers import Answer
    from tests.contract.engines.scripted import Exchange

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["city", "n"],
        "additionalProperties": False,
    }
)
TOOLS = (Tool("get_flow", "Tells the flow in a city's penstock.", SCHEMA), Tool("close_gate", "Closes the gate."))


async def able(subject: Subject, capability: Capability) -> None:
    """Skips where the model does not say that it can."""
    models = {model.name: model for model in await subject.engine.models()}
    name = subject.caller if capability is Capability.TOOLS else subject.model
    if not name or capability not in models[name].capabilities:
        pytest.skip(f"it does not claim {capability.name}")


async def answered(subject: Subject, **settings: Any) -> tuple[tuple[Answer, ...], End, list[Delta]]:
    gathering, deltas, end = Gathering(), [], None
    generation = subject.generation("Where?", passages=(), **{"max_tokens": 120, **settings})
    async for event in subject.engine.generate(generation):
        if isinstance(event, End):
            end = event
        else:
            gathering.add(event)
            deltas.append(event)
    assert end is not None
    return gathering.answers(generation.form.alternatives), end, deltas


async def test_a_text_is_json_of_the_schema(subject: Subject) -> None:
    await able(subject, Capability.JSON_SCHEMA)
    (answer,), end, _ = await answered(subject, form=Form(output=JsonSchema(SCHEMA)))
    if end.finish_reason is FinishReason.LENGTH:
        # vLLM lets blanks stand between any two tokens, and random weights may write nothing else.
        assert subject.engine.name == "vllm"
        assert answer.text.startswith("{")
        return
    document = json.loads(answer.text)
    assert list(document) == ["city", "n"]
    assert isinstance(document["city"], str)
    assert 0 <= document["n"] <= 99


async def test_a_text_is_any_json_object(subject: Subject) -> None:
    await able(subject, Capability.JSON_SCHEMA)
    if subject.engine.name == "anthropic":
        with pytest.raises(Failure) as caught:
            await answered(subject, form=Form(output=JsonSchema("{}")))
        assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
        return
    (answer,), end, _ = await answered(subject, form=Form(output=JsonSchema("{}")))
    assert answer.text.lstrip().startswith("{")
    if end.finish_reason is FinishReason.STOP:
        assert isinstance(json.loads(answer.text), dict)


async def test_a_text_matches_the_expression(subject: Subject) -> None:
    await able(subject, Capability.REGEX)
    (answer,), end, _ = await answered(subject, form=Form(output=Regex(r"[a-c]{3}/[0-9]{2}")))
    assert end.finish_reason is FinishReason.STOP
    assert len(answer.text) == 6
    assert set(answer.text[:3]) <= set("abc")
    assert answer.text[3] == "/"
    assert answer.text[4:].isdigit()


async def test_a_text_is_one_of_several(subject: Subject) -> None:
    await able(subject, Capability.CHOICE)
    texts = ('say "yes"', "нет", "in the end")
    (answer,), end, _ = await answered(subject, form=Form(output=OneOf(texts)))
    assert end.finish_reason is FinishReason.STOP
    assert answer.text in texts


async def test_probabilities_stand_beside_their_tokens(subject: Subject) -> None:
    await able(subject, Capability.LOGPROBS)
    (answer,), end, _ = await answered(subject, form=Form(top_logprobs=3), max_tokens=6)
    assert end.usage.output_tokens == 6
    assert len(answer.logprobs) == 6
    assert "".join(token.token for token in answer.logprobs) == answer.text
    for token in answer.logprobs:
        assert token.logprob <= 0
        assert len(token.top) == 3
        assert [one.logprob for one in token.top] == sorted((one.logprob for one in token.top), reverse=True)
        assert token.top[0].token == token.token  # it was greedy
        assert sum(math.exp(one.logprob) for one in token.top) <= 1.001


async def test_only_the_chosen_tokens_probability_can_be_asked_for(subject: Subject) -> None:
    await able(subject, Capability.LOGPROBS)
    (answer,), _, _ = await answered(subject, form=Form(top_logprobs=0), max_tokens=3)
    assert len(answer.logprobs) == 3


async def test_nothing_is_told_of_probabilities_unasked(subject: Subject) -> None:
    await able(subject, Capability.LOGPROBS)
    (answer,), _, _ = await answered(subject, max_tokens=3)
    assert answer.logprobs == ()


async def test_answers_side_by_side_are_told_apart(subject: Subject) -> None:
    await able(subject, Capability.ALTERNATIVES)
    sampling = Sampling(temperature=1.0 if subject.engine.name == "anthropic" else 1.5, seed=5)
    answers, end, deltas = await answered(subject, form=Form(alternatives=3), sampling=sampling, max_tokens=12)
    assert len(end.finish_reasons) == 3
    assert {delta.alternative for delta in deltas} == {0, 1, 2}
    assert all(answer.text for answer in answers)
    if subject.engine.name not in {"ollama", "anthropic"}:  # written servers draw nothing
        assert len({answer.text for answer in answers}) > 1, "each has drawn its own"
    assert end.usage.output_tokens is not None
    assert 12 < end.usage.output_tokens <= 36


async def test_closing_stops_all_answers_side_by_side(subject: Subject) -> None:
    await able(subject, Capability.ALTERNATIVES)
    assert subject.busy is not None
    # vLLM refuses to give the greedy answer several times.
    settings = {"passages": (), "form": Form(alternatives=3), "sampling": Sampling(temperature=1.0)}
    asked = subject.generation("Where?", **settings, max_tokens=subject.long)
    async with aclosing(subject.engine.generate(asked)) as events:
        assert isinstance(await anext(events), Delta)
        for _ in range(100):  # vLLM tells it some steps late
            if await subject.busy():
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the engine never said that it works")
    assert await idle_after(subject) < subject.notices


async def test_the_same_seed_gives_the_same_text(subject: Subject) -> None:
    if not subject.model or subject.engine.name in {"ollama", "anthropic", "extractive"}:
        pytest.skip("it has no seed, or no chance")
    texts = [
        (await answered(subject, sampling=Sampling(temperature=1.5, seed=seed), max_tokens=12))[0][0].text for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


async def calls_of(subject: Subject, **form: Any) -> tuple[Answer, End, list[Delta]]:
    settings = {"model": subject.caller, "form": Form(tools=TOOLS, single_call=True, **form), "max_tokens": 200}
    (answer,), end, deltas = await answered(subject, **settings)
    return answer, end, deltas


async def test_a_tool_is_called_with_arguments_of_its_schema(subject: Subject) -> None:
    await able(subject, Capability.TOOLS)
    answer, end, deltas = await calls_of(subject)
    assert end.finish_reason is FinishReason.TOOL_CALLS
    (call,) = answer.tool_calls
    assert call.id
    assert call.name in {tool.name for tool in TOOLS}
    assert isinstance(json.loads(call.arguments), dict)
    assert any(delta.tool_calls for delta in deltas)


async def test_the_tool_that_is_named_is_called(subject: Subject) -> None:
    await able(subject, Capability.TOOLS)
    if subject.engine.name == "ollama":
        with pytest.raises(Failure) as caught:
            await calls_of(subject, tool_use=ToolUse.REQUIRED, tool_name="get_flow")
        assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
        return
    answer, end, _ = await calls_of(subject, tool_use=ToolUse.REQUIRED, tool_name="get_flow")
    assert end.finish_reason is FinishReason.TOOL_CALLS
    assert [call.name for call in answer.tool_calls] == ["get_flow"]
    arguments = json.loads(answer.tool_calls[0].arguments)
    assert set(arguments) <= {"city", "n"}


async def test_what_a_tool_gave_is_read(subject: Subject) -> None:
    await able(subject, Capability.TOOLS)
    answer, _, _ = await calls_of(subject)
    talk = (
        Message(Role.USER, "Where?"),
        Message(Role.ASSISTANT, "", answer.tool_calls),
        Message(Role.TOOL, "12 m3/s", tool_call=answer.tool_calls[0].id),
    )
    settings = {"model": subject.caller, "messages": talk, "form": Form(tools=TOOLS, tool_use=ToolUse.NONE), "max_tokens": 5}
    (answer,), end, _ = await answered(subject, **settings)
    assert answer.text
    assert answer.tool_calls == ()
    assert end.finish_reason in {FinishReason.LENGTH, FinishReason.STOP}


async def test_images_are_shown(subject: Subject) -> None:
    """Written servers tell the size of what they were shown; a model that really sees is in no registry here."""
    if not subject.viewer:
        pytest.skip("it reads no images")
    models = {model.name: model for model in await subject.engine.models()}
    assert Capability.IMAGES in models[subject.viewer].capabilities
    shown = Message(Role.USER, "What is it?", images=(Image(b"12345", "image/png"), Image(b"123", "image/png")))
    (answer,), _, _ = await answered(subject, model=subject.viewer, messages=(shown,))
    assert answer.text == "5 3"


async def test_only_providers_outside_are_given_addresses_of_images(subject: Subject) -> None:
    if not subject.model or subject.engine.name in {"llamacpp", "extractive"}:
        pytest.skip("it reads no images")
    shown = Message(Role.USER, "What is it?", images=(Image(url="https://example.org/a.png"),))
    if subject.engine.name == "anthropic":
        (answer,), _, _ = await answered(subject, messages=(shown,))
        assert answer.text == "https://example.org/a.png"
        return
    with pytest.raises(Failure) as caught:
        await answered(subject, messages=(shown,))
    assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
    assert caught.value.metadata["capability"] == "IMAGES"


async def test_a_schema_that_no_grammar_can_hold_is_refused(subject: Subject) -> None:
    await able(subject, Capability.JSON_SCHEMA)
    if subject.engine.name in {"ollama", "anthropic"}:
        pytest.skip("a written server reads no schema")
    with pytest.raises(Failure) as caught:
        await answered(subject, form=Form(output=JsonSchema('{"type": "nonsense"}')))
    assert caught.value.reason is Reason.INVALID_FIELD


@pytest.mark.parametrize(("version", "tells"), [("0.12.11", True), ("0.13.0-rc1", True), ("0.12.9", False), ("", False)])
async def test_an_older_ollama_tells_no_probabilities_and_says_so(version: str, tells: bool) -> None:
    async with written_ollama() as (written, address):
        written.version = version
        engine = OllamaEngine(address)
        try:
            models = {model.name: model for model in await engine.models()}
        finally:
            await engine.close()
    assert (Capability.LOGPROBS in models[CHAT].capabilities) is tells


@pytest.mark.parametrize(
    "form",
    [
        Form(output=JsonSchema(json.dumps({"enum": ["x" * 100] * 200}))),
        Form(output=JsonSchema('{"type": "string", "minLength": 1000000}')),
        Form(output=JsonSchema('{"$ref": "http://127.0.0.1:9/elsewhere"}')),
        Form(tools=(Tool("one", "", json.dumps({"type": "object", "description": "x" * 20_000})),)),
        Form(alternatives=16),
    ],
)
async def test_llamacpp_refuses_what_would_take_it_too_long(subject: Subject, form: Form) -> None:
    if subject.engine.name != "llamacpp":
        pytest.skip("others have their own limits")
    with pytest.raises(Failure) as caught:
        await answered(subject, model=subject.caller, form=form)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.metadata["field"] in {"output", "tools", "alternatives"}
    (answer,), _, _ = await answered(subject, max_tokens=3)
    assert answer.text, "it works as before"


async def test_llamacpps_own_server_calls_tools(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "engines"
    async with llamacpp_server(folder, tools=True) as address:
        engine = OpenAIEngine(address)
        try:
            (model,) = await engine.models()
            assert Capability.TOOLS in model.capabilities
            answer, end, _ = await calls_of(
                Subject(engine, "tiny", caller="tiny"), tool_use=ToolUse.REQUIRED, tool_name="get_flow"
            )
        finally:
            await engine.close()
    assert end.finish_reason is FinishReason.TOOL_CALLS
    assert set(json.loads(answer.tool_calls[0].arguments)) == {"city", "n"}


async def test_a_template_without_a_place_for_tools_is_told(subject: Subject) -> None:
    models = {model.name: model for model in await subject.engine.models()}
    if subject.model != "tiny" or subject.engine.name == "vllm":
        pytest.skip("no template of ours")
    assert Capability.TOOLS not in models["tiny"].capabilities


@pytest.mark.skipif("vllm" not in HERE, reason="make test-vllm runs this")
async def test_vllm_calls_the_tool_that_is_named(vllm_writer: str) -> None:
    async with open_writer(vllm_writer) as subject:
        caller = replace(subject, caller=subject.model)
        assert subject.absent is not None
        await subject.absent.close()
        answer, end, _ = await calls_of(caller, tool_use=ToolUse.REQUIRED, tool_name="get_flow")
    # Blanks may stand between any two tokens, and random weights may write nothing else.
    assert end.finish_reason in {FinishReason.TOOL_CALLS, FinishReason.LENGTH}
    assert [call.name for call in answer.tool_calls] == ["get_flow"]
    assert answer.tool_calls[0].arguments.startswith("{")


async def test_a_server_that_was_not_started_for_tools_says_so() -> None:
    async def script(exchange: Exchange) -> None:
        told = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        if exchange.head.startswith("GET"):
            await exchange.answer(200, {"data": [{"id": "m", "owned_by": "vllm"}]})
        else:
            await exchange.answer(400, {"error": {"message": told, "type": "BadRequestError", "code": 400}})

    async with scripted_server() as (server, address):
        server.script = script
        engine = OpenAIEngine(address)
        try:
            with pytest.raises(Failure) as caught:
                await calls_of(Subject(engine, "m", caller="m"))
        finally:
            await engine.close()
    assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
    assert caught.value.metadata == {"model": "m", "capability": "TOOLS"}
