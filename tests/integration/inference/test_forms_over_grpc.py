"""Forms of answers over gRPC, from the request to a real model and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from penstock.inference.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    form_pb2,
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    tokenization_service_pb2,
    tokenization_service_pb2_grpc,
)

from tests.contract.engines import tiny_llama
from tests.integration.inference.processes import Service, reason_of, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MODEL = "gibberish"
SCHEMA = (
    '{"type": "object", "properties": {"z": {"type": "integer", "minimum": 0, "maximum": 9}, "a": {"type": "boolean"}}, '
    '"required": ["z", "a"], "additionalProperties": false}'
)
GREEDY = generation_pb2.Sampling(temperature=0)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("forms")
    tiny_llama.build(folder / "models", MODEL, tools=True)
    process = Service(folder)
    yield process
    assert process.stop() == 0


@pytest.fixture
async def channel(forms: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(forms.address) as opened:
        yield opened


async def test_a_schema_is_kept_and_so_is_its_order(channel: grpc.aio.Channel) -> None:
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    output = form_pb2.Output(json_schema=SCHEMA)
    request = generation_service_pb2.GenerateRequest(model=MODEL, prompt="?", output=output, sampling=GREEDY, max_tokens=200)
    response = await stub.Generate(request)
    document = json.loads(response.text)
    assert list(document) == ["z", "a"]
    assert isinstance(document["a"], bool)
    assert response.finish_reason == generation_pb2.FINISH_REASON_STOP


async def test_a_tool_call_streams_and_is_answered(channel: grpc.aio.Channel) -> None:
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    tools = [form_pb2.Tool(name="set_gate", parameters=SCHEMA)]
    choice = form_pb2.ToolChoice(use=form_pb2.TOOL_USE_REQUIRED, tool="set_gate", single=True)
    asked = generation_service_pb2.StreamGenerateRequest(
        model=MODEL, prompt="?", tools=tools, tool_choice=choice, sampling=GREEDY, max_tokens=300
    )
    events = [event async for event in stub.StreamGenerate(asked)]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert kinds.count("finished") == 1
    assert events[-1].finished.finish_reason == generation_pb2.FINISH_REASON_TOOL_CALLS
    pieces = [event.tool_call for event in events if event.WhichOneof("event") == "tool_call"]
    assert pieces[0].name == "set_gate"
    call = form_pb2.ToolCall(id=pieces[0].id, name="set_gate", arguments="".join(piece.arguments for piece in pieces))
    assert set(json.loads(call.arguments)) == {"z", "a"}
    messages = [
        generation_pb2.Message(role=generation_pb2.ROLE_USER, parts=[generation_pb2.Part(text="?")]),
        generation_pb2.Message(role=generation_pb2.ROLE_ASSISTANT, parts=[generation_pb2.Part(tool_call=call)]),
        generation_pb2.Message(
            role=generation_pb2.ROLE_TOOL,
            parts=[generation_pb2.Part(tool_result=form_pb2.ToolResult(id=call.id, text="done"))],
        ),
    ]
    none = form_pb2.ToolChoice(use=form_pb2.TOOL_USE_NONE)
    answer = await stub.Generate(
        generation_service_pb2.GenerateRequest(
            model=MODEL, messages=messages, tools=tools, tool_choice=none, sampling=GREEDY, max_tokens=4
        )
    )
    assert answer.text
    assert not answer.tool_calls


async def test_a_cached_tool_call_is_whole_and_another_form_is_another_answer(channel: grpc.aio.Channel) -> None:
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    request = generation_service_pb2.GenerateRequest(
        model=MODEL,
        prompt="Again?",
        tools=[form_pb2.Tool(name="set_gate", parameters=SCHEMA)],
        tool_choice=form_pb2.ToolChoice(use=form_pb2.TOOL_USE_REQUIRED, single=True),
        sampling=GREEDY,
        max_tokens=300,
    )
    first, again = await stub.Generate(request), await stub.Generate(request)
    assert first.tool_calls[0].arguments
    assert list(again.tool_calls) == list(first.tool_calls)
    assert again.cached
    request.tool_choice.use = form_pb2.TOOL_USE_NONE
    assert not (await stub.Generate(request)).tool_calls


async def test_several_answers_and_their_probabilities(channel: grpc.aio.Channel) -> None:
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    sampling = generation_pb2.Sampling(temperature=1.5, seed=5)
    request = generation_service_pb2.GenerateRequest(
        model=MODEL, prompt="?", alternatives=3, top_logprobs=1, sampling=sampling, max_tokens=4
    )
    response = await stub.Generate(request)
    assert len(response.alternatives) == 3
    assert response.alternatives[0].text == response.text
    for answer in response.alternatives:
        assert answer.finish_reason == generation_pb2.FINISH_REASON_LENGTH
        assert "".join(token.token for token in answer.logprobs) == answer.text
        assert all(len(token.top) == 1 for token in answer.logprobs)


async def test_what_a_model_lacks_is_refused_and_one_that_can_is_named(channel: grpc.aio.Channel) -> None:
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    request = generation_service_pb2.GenerateRequest(model="extractive", prompt="?", output=form_pb2.Output(regex="a+"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(status_of(caught.value)) == "MODEL_CAPABILITY_MISSING"
    assert MODEL in (caught.value.details() or "")


async def test_capabilities_are_listed(channel: grpc.aio.Channel) -> None:
    listed = await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(model_service_pb2.ListModelsRequest())
    (model,) = (one for one in listed.models if one.model == MODEL)
    wanted = {model_pb2.CAPABILITY_TOOLS, model_pb2.CAPABILITY_JSON_SCHEMA, model_pb2.CAPABILITY_REGEX}
    assert wanted <= set(model.capabilities)


async def test_tokens_are_counted(channel: grpc.aio.Channel) -> None:
    stub = tokenization_service_pb2_grpc.TokenizationServiceStub(channel)
    counted = await stub.Tokenize(tokenization_service_pb2.TokenizeRequest(model=MODEL, text=" water" * 7))
    assert (counted.count, len(counted.tokens), counted.model) == (7, 7, MODEL)
    assert counted.source == generation_pb2.USAGE_SOURCE_COUNTED
    guessed = await stub.Tokenize(tokenization_service_pb2.TokenizeRequest(model="extractive", text="water"))
    assert guessed.source == generation_pb2.USAGE_SOURCE_ESTIMATED
    assert not guessed.tokens


async def test_minilm_gives_no_shorter_vectors(channel: grpc.aio.Channel) -> None:
    stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
    whole = await stub.Embed(embedding_service_pb2.EmbedRequest(model="all-minilm-l6-v2", inputs=["a"], dimensions=384))
    assert whole.dimensions == 384
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(embedding_service_pb2.EmbedRequest(model="all-minilm-l6-v2", inputs=["a"], dimensions=128))
    assert reason_of(status_of(caught.value)) == "MODEL_CAPABILITY_MISSING"
