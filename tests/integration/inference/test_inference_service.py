"""The service as a process over gRPC, with llama.cpp's own server behind its `vllm` engine."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import duration_pb2
from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    openai_service_pb2,
    openai_service_pb2_grpc,
)

from tests.integration.inference.processes import LlamaServer, reason_of, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Generate = generation_service_pb2.GenerateRequest
StreamGenerate = generation_service_pb2.StreamGenerateRequest
GREEDY = generation_pb2.Sampling(temperature=0)


@pytest.fixture
def generation(channel: grpc.aio.Channel) -> Any:
    return generation_service_pb2_grpc.GenerationServiceStub(channel)


@pytest.fixture
def openai(channel: grpc.aio.Channel) -> Any:
    return openai_service_pb2_grpc.OpenAIServiceStub(channel)


async def idle(llama: LlamaServer) -> float:
    """Seconds until the engine says that it works on nothing."""
    started = time.monotonic()
    while await asyncio.to_thread(llama.busy):
        assert time.monotonic() - started < 5, "the engine goes on generating for nobody"
    return time.monotonic() - started


async def test_models_of_all_engines_are_listed(channel: grpc.aio.Channel) -> None:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    models = {one.model: one for one in (await stub.ListModels(model_service_pb2.ListModelsRequest())).models}
    assert (models["tiny"].engine, models["tiny"].is_auto) == ("vllm", True)
    assert (models["all-minilm-l6-v2"].engine, models["all-minilm-l6-v2"].is_auto) == ("minilm", True)
    assert list(models["extractive"].capabilities) == [model_pb2.CAPABILITY_EXTRACTION]
    assert not models["extractive"].is_auto


async def test_no_model_has_been_idle_for_ever(channel: grpc.aio.Channel) -> None:
    models: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    request = model_service_pb2.OptimizeMemoryRequest(idle=duration_pb2.Duration(seconds=(1 << 63) - 1, nanos=1))
    assert list((await models.OptimizeMemory(request, timeout=10)).unloaded_models) == []


async def test_a_stream_has_its_events_in_their_order(generation: Any) -> None:
    call = generation.StreamGenerate(
        StreamGenerate(prompt="Hello", max_tokens=40, sampling=GREEDY), metadata=(("x-request-id", "req-7"),)
    )
    events = [event async for event in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-2:] == ["usage", "finished"]
    assert set(kinds[1:-2]) == {"delta"}
    started, finished = events[0].started, events[-1].finished
    assert (started.model, started.engine, started.request_id, started.variant) == ("tiny", "vllm", "req-7", "")
    assert finished.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert finished.usage.output_tokens == 40
    assert finished.usage.source == generation_pb2.USAGE_SOURCE_REPORTED
    assert finished.timings.total.ToTimedelta() >= finished.timings.first_token.ToTimedelta()


async def test_the_unary_call_gives_the_same_text(generation: Any) -> None:
    asked: dict[str, Any] = {"prompt": "Hello", "max_tokens": 20, "sampling": GREEDY}
    events = [event async for event in generation.StreamGenerate(StreamGenerate(**asked))]
    response = await generation.Generate(Generate(**asked))
    assert response.text == "".join(event.delta.text for event in events)
    assert response.text
    assert response.usage.output_tokens == 20


async def test_an_assignment_that_the_caller_made_is_handed_back(generation: Any) -> None:
    assignment = assignment_pb2.Assignment(assignment="key", experiment="e1", variant="b")
    response = await generation.Generate(Generate(prompt="Hello", max_tokens=2, assignment=assignment))
    assert (response.variant, response.assignment) == ("b", assignment)


async def test_extractive_answers_from_passages_with_citations(generation: Any) -> None:
    passages = [
        generation_pb2.Passage(text="A penstock carries water to the turbine."),
        generation_pb2.Passage(text="Cats purr."),
    ]
    response = await generation.Generate(Generate(model="extractive", prompt="What does a penstock carry?", passages=passages))
    assert response.engine == "extractive"
    assert "carries water" in response.text
    assert "[1]" in response.text


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (Generate(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ""),
        (Generate(prompt=""), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "prompt"),
        (Generate(prompt="x" * (1024 * 1024 + 1)), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "prompt"),
        (
            Generate(prompt="x", sampling=generation_pb2.Sampling(top_k=-1)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            "sampling.top_k",
        ),
        (Generate(prompt="x", model="no-such"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no-such"),
        (
            Generate(prompt="x", model="all-minilm-l6-v2"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_CAPABILITY_MISSING",
            "all-minilm-l6-v2",
        ),
        (Generate(prompt="water " * 80_000), grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG", "context"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_code_and_reason(
    generation: Any, request_: Any, code: grpc.StatusCode, reason: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generation.Generate(request_)
    assert caught.value.code() is code
    assert reason_of(status_of(caught.value)) == reason
    assert field in (caught.value.details() or "")


async def test_an_error_before_the_first_content_leaves_the_stream_empty(generation: Any) -> None:
    seen: list[Any] = []
    call = generation.StreamGenerate(StreamGenerate(prompt="x", model="no-such"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(call, seen)
    assert seen == []
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def _drain(call: AsyncIterator[Any], into: list[Any]) -> None:
    async for event in call:
        into.append(event)  # noqa: PERF401 - what came before an error must not be lost


async def test_a_client_that_leaves_stops_the_engine_within_100_ms(generation: Any, llama: LlamaServer) -> None:
    call = generation.StreamGenerate(StreamGenerate(prompt="Hello", max_tokens=12_000))
    async for event in call:
        if event.WhichOneof("event") == "delta":
            break
    assert await asyncio.to_thread(llama.busy) == 1
    call.cancel()
    assert await idle(llama) < 0.1


async def test_a_unary_client_that_leaves_stops_the_engine_too(generation: Any, llama: LlamaServer) -> None:
    call = generation.Generate(Generate(prompt="Hello", max_tokens=12_000))
    started = time.monotonic()
    task = asyncio.ensure_future(call)
    while not await asyncio.to_thread(llama.busy):
        assert time.monotonic() - started < 5
    call.cancel()
    assert await idle(llama) < 0.1
    await asyncio.gather(task, return_exceptions=True)


async def test_embeddings_come_from_the_embedded_model(channel: grpc.aio.Channel) -> None:
    stub: Any = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
    response = await stub.Embed(embedding_service_pb2.EmbedRequest(inputs=["a river", "a pipe"]))
    assert (response.model, response.dimensions, len(response.embeddings)) == ("all-minilm-l6-v2", 384, 2)
    assert sum(value * value for value in response.embeddings[0].values) == pytest.approx(1, abs=1e-3)
    assert response.fingerprint
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(embedding_service_pb2.EmbedRequest(model="extractive", inputs=["a"]))
    assert reason_of(status_of(caught.value)) == "MODEL_CAPABILITY_MISSING"


def chat(**fields: Any) -> Any:
    document = {
        "model": "auto",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 12,
        "temperature": 0,
        **fields,
    }
    return openai_service_pb2.CreateChatCompletionRequest(body=HttpBody(data=json.dumps(document).encode()))


async def test_the_openai_face_streams_events_and_answers_whole(openai: Any) -> None:
    pieces = [
        piece.body async for piece in openai.CreateChatCompletion(chat(stream=True, stream_options={"include_usage": True}))
    ]
    assert [piece.content_type for piece in pieces] == ["text/event-stream", *[""] * (len(pieces) - 1)]
    *events, done, rest = b"".join(piece.data for piece in pieces).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event[6:]) for event in events]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    (whole,) = [piece.body async for piece in openai.CreateChatCompletion(chat())]
    assert whole.content_type == "application/json"
    assert json.loads(whole.data)["choices"][0]["message"]["content"] == text
    assert text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_face_tells_errors_as_openai_does(openai: Any, stream: bool) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(openai.CreateChatCompletion(chat(model="no-such", stream=stream)), [])
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    told = dict(caught.value.trailing_metadata() or ())["x-openai-error"]
    assert json.loads(told)["error"]["code"] == "model_not_found"


async def test_the_openai_face_lists_and_embeds(openai: Any) -> None:
    listed = json.loads((await openai.ListOpenAIModels(openai_service_pb2.ListOpenAIModelsRequest())).body.data)
    assert {"tiny", "extractive", "all-minilm-l6-v2"} <= {one["id"] for one in listed["data"]}
    body = HttpBody(data=b'{"model": "auto", "input": ["a", "b"]}')
    embedded = json.loads((await openai.CreateEmbeddings(openai_service_pb2.CreateEmbeddingsRequest(body=body))).body.data)
    assert [len(one["embedding"]) for one in embedded["data"]] == [384, 384]
