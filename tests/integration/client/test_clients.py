"""Both clients of the wheel, held to the same cases."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import penstock
import pytest
from penstock.connection import repeatable
from penstock.experiments.v1 import experiment_pb2, outcome_pb2
from penstock.inference.v1 import generation_pb2, generation_service_pb2, model_pb2, policy_pb2, routing_service_pb2
from penstock.retrieval.v1 import document_pb2, search_pb2

from tests.integration.client.conftest import Face, new_client, rich_status
from tests.support.ports import free_port

if TYPE_CHECKING:
    from tests.integration.client.conftest import Backend

Stream = generation_service_pb2.StreamGenerateResponse
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def started() -> Stream:
    return Stream(started=generation_service_pb2.GenerationStarted(model="m"))


def delta(text: str) -> Stream:
    return Stream(delta=generation_service_pb2.GenerationDelta(text=text))


def finished(**fields: Any) -> Stream:
    return Stream(finished=generation_service_pb2.GenerationFinished(**fields))


async def test_generate_sends_what_it_is_given(face: Face, backend: Backend) -> None:
    response = await face.call(
        "generate", "hello", model="m", max_tokens=5, temperature=0.0, stop=["x"], user="u", passages=["p"]
    )
    assert response.text == "echo: hello"
    request = backend.requests[0]
    assert (request.prompt, request.model, request.max_tokens, list(request.stop)) == ("hello", "m", 5, ["x"])
    assert request.sampling.HasField("temperature")
    assert not request.sampling.HasField("top_p")
    assert request.passages[0].text == "p"
    assert backend.metadata[0]["authorization"] == "Bearer k-1"
    assert len(backend.metadata[0]["x-request-id"]) == 36
    assert backend.metadata[0]["user-agent"].startswith("penstock-python/")


async def test_messages_may_be_dictionaries(face: Face, backend: Backend) -> None:
    system = generation_pb2.Message(role=generation_pb2.ROLE_SYSTEM, parts=[generation_pb2.Part(text="be brief")])
    await face.call("generate", messages=[system, {"role": "user", "content": "hi"}])
    request = backend.requests[0]
    assert not request.HasField("prompt")
    assert [message.role for message in request.messages] == [generation_pb2.ROLE_SYSTEM, generation_pb2.ROLE_USER]
    for wrong in ({"role": "nobody", "content": "hi"}, {"role": "user", "text": "hi"}, {"role": "user"}):
        with pytest.raises(ValueError, match=r"role|enum|ROLE"):
            await face.call("generate", messages=[wrong])


async def test_simple_calls(face: Face, backend: Backend) -> None:
    assert [len(one.values) for one in (await face.call("embed", ["a", "bc"])).embeddings] == [2, 2]
    assert len((await face.call("embed", "one text")).embeddings) == 1
    assert [model.model for model in await face.call("models")] == ["a", "b"]
    assert (await face.call("answer", "why", "docs", mode="dense", top_k=3)).text == "about why [1]"
    request = backend.requests[-1]
    assert (list(request.collections), request.mode, request.top_k) == (["docs"], search_pb2.SEARCH_MODE_DENSE, 3)
    created = await face.call("create_collection", "docs", description="d")
    assert (created.collection, created.description) == ("docs", "d")
    assert len(backend.requests[-1].request_id) == 36
    assert (await face.call("get_collection", "docs")).collection == "docs"
    assert await face.call("delete_collection", "docs") is None
    assert (await face.call("get_document", "docs", "d1")).text == "t"
    assert await face.call("delete_document", "docs", "d1") is None


async def test_the_policy_and_priorities(face: Face, backend: Backend) -> None:
    read = await face.call("policy")
    policy = policy_pb2.Policy(aliases=[policy_pb2.Alias(alias="a", choices=[policy_pb2.WeightedModel(model="m")])])
    updated = await face.call("update_policy", policy, revision=read.revision)
    assert (updated.policy, updated.revision) == (policy, "r2")
    assert backend.requests[-1].revision == "r1"
    await face.call("generate", "hi", priority="bulk")
    assert backend.requests[-1].priority == generation_pb2.PRIORITY_BULK
    await face.call("generate", "hi", cache="bypass")
    assert backend.requests[-1].cache == generation_pb2.CACHE_MODE_BYPASS


async def test_feedback_and_what_it_has_taught(face: Face, backend: Backend) -> None:
    assert await face.call("record_feedback", "r1", 0.0)
    assert (backend.requests[-1].request_id, backend.requests[-1].reward) == ("r1", 0)
    assert backend.requests[-1].HasField("reward")
    assert backend.requests[-1].source == routing_service_pb2.FEEDBACK_SOURCE_USER
    await face.call("record_feedback", "r1", 1.0, is_persons=False)
    assert backend.requests[-1].source == routing_service_pb2.FEEDBACK_SOURCE_EVALUATOR
    assert [one.alias for one in await face.call("routing", "auto")] == ["auto"]
    assert (await face.call("calibrate_routing", "auto")).fit == "f"


async def test_lists_go_through_all_pages(face: Face, backend: Backend) -> None:
    found = await face.collect(face.client.list_collections(page_size=2))
    assert [one.collection for one in found] == ["c0", "c1", "c2", "c3", "c4"]
    assert [request.page_size for request in backend.requests] == [2, 2, 2]
    assert [one.experiment for one in await face.collect(face.client.list_experiments())] == ["e1"]


async def test_documents_are_texts_dictionaries_or_messages(face: Face, backend: Backend) -> None:
    documents = [
        "plain text",
        {"document": "d1", "text": "t", "metadata": {"year": 2026, "tags": ["a", "b"], "draft": False}},
        {"document": "d2", "data": b"%PDF", "media_type": "application/pdf"},
        document_pb2.DocumentInput(document="d3", text="t"),
    ]
    kept = await face.call("add_documents", "docs", documents)
    assert [one.document for one in kept] == ["made", "d1", "d2", "d3"]
    sent = backend.requests[0].documents
    assert sent[0].text == "plain text"
    assert dict(sent[1].metadata)["year"] == 2026
    assert list(sent[1].metadata["tags"]) == ["a", "b"]
    assert sent[2].data == b"%PDF"
    with pytest.raises(ValueError, match="txt"):
        await face.call("add_documents", "docs", [{"txt": "typo"}])


async def test_experiments_from_plain_values(face: Face, backend: Backend) -> None:
    variants = [{"variant": "a", "weight": 0.5}, {"variant": "b", "weight": 0.5, "temperature": 0.0, "prompt": "p", "top_k": 2}]
    metrics = ["clicks", {"metric": "seconds", "direction": "decrease"}, experiment_pb2.Metric(metric="m")]
    created = await face.call(
        "create_experiment", "e1", unit="conversation", variants=variants, metrics=metrics, request_types=["answer"]
    )
    assert created.unit == experiment_pb2.UNIT_CONVERSATION
    assert created.variants[1].sampling.HasField("temperature")
    assert [metric.direction for metric in created.metrics] == [0, experiment_pb2.DIRECTION_DECREASE, 0]
    assert list(created.request_types) == [experiment_pb2.REQUEST_TYPE_ANSWER]
    assert backend.requests[0].request_id
    for name in ("start_experiment", "stop_experiment", "get_experiment"):
        assert (await face.call(name, "e1")).experiment == "e1"
    at = datetime(2026, 1, 2, tzinfo=UTC)
    await face.call(
        "record_outcomes",
        [
            {"outcome": "o1", "assignment": "k", "metric": "clicks", "value": 1, "event_time": at},
            outcome_pb2.Outcome(assignment="k", metric="clicks"),
        ],
    )
    first, second = backend.requests[-1].outcomes
    assert first.event_time.ToDatetime(UTC) == at
    assert len(second.outcome) == 36
    with pytest.raises(ValueError, match="time zone"):
        await face.call("record_outcomes", [{"assignment": "k", "event_time": at.replace(tzinfo=None)}])


async def test_errors_tell_all_that_the_server_said(face: Face, backend: Backend) -> None:
    backend.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")]
    with pytest.raises(penstock.InvalidArgumentError) as caught:
        await face.call("generate", "x")
    error = caught.value
    assert isinstance(error, penstock.PenstockError)
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "what was wrong")
    assert (error.metadata, error.fields) == ({"model": "x"}, {"top_k": "must be positive"})
    assert (error.request_id, error.retry_after) == ("r-1", 1.5)
    assert str(error) == "INVALID_ARGUMENT (INVALID_FIELD): what was wrong [request r-1]"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, penstock.NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, penstock.AlreadyExistsError),
        (grpc.StatusCode.FAILED_PRECONDITION, penstock.FailedPreconditionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, penstock.ResourceExhaustedError),
        (grpc.StatusCode.ABORTED, penstock.AbortedError),
        (grpc.StatusCode.UNAUTHENTICATED, penstock.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, penstock.PermissionDeniedError),
        (grpc.StatusCode.UNAVAILABLE, penstock.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, penstock.DeadlineExceededError),
        (grpc.StatusCode.CANCELLED, penstock.CallCancelledError),
        (grpc.StatusCode.UNIMPLEMENTED, penstock.UnimplementedError),
        (grpc.StatusCode.INTERNAL, penstock.InternalError),
        (grpc.StatusCode.DATA_LOSS, penstock.PenstockError),
    ],
)
async def test_each_code_has_its_class(
    face: Face, backend: Backend, code: grpc.StatusCode, error: type[penstock.PenstockError]
) -> None:
    backend.failures = [(code, "")]
    with pytest.raises(penstock.PenstockError) as caught:
        await face.call("generate", "x")
    assert type(caught.value) is error
    assert caught.value.code is code
    # Without details there is the plain text, and the id that the client sent.
    assert (caught.value.message, caught.value.reason) == ("plain text", "")
    assert caught.value.request_id == backend.metadata[0]["x-request-id"]


async def test_calls_without_harm_are_repeated_under_the_same_request_id(face: Face, backend: Backend) -> None:
    backend.failures = [(UNAVAILABLE, "DATABASE_UNAVAILABLE")] * 2
    assert (await face.call("get_collection", "docs")).collection == "docs"
    assert len(backend.requests) == 3
    assert len({one["x-request-id"] for one in backend.metadata}) == 1
    backend.failures = [(UNAVAILABLE, "DATABASE_UNAVAILABLE")]
    await face.call("create_collection", "docs")
    assert backend.requests[-1].request_id == backend.requests[-2].request_id
    backend.failures = [(UNAVAILABLE, "DATABASE_UNAVAILABLE")]
    await face.call("record_outcomes", [{"assignment": "k", "metric": "m", "value": 1}])
    assert backend.requests[-1] == backend.requests[-2]


async def test_repeating_ends_with_the_error(face: Face, backend: Backend) -> None:
    backend.failures = [(UNAVAILABLE, "DATABASE_UNAVAILABLE")] * 10
    with pytest.raises(penstock.UnavailableError) as caught:
        await face.call("get_collection", "docs")
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert len(backend.requests) == 4


@pytest.mark.parametrize("name", ["generate", "answer", "stream_generate", "stream_answer", "delete_collection"])
async def test_what_has_an_effect_is_never_begun_twice(face: Face, backend: Backend, name: str) -> None:
    backend.failures = [(UNAVAILABLE, "ENGINE_UNAVAILABLE")]
    arguments = ("x", "docs") if "answer" in name else ("x",)
    call = face.collect(getattr(face.client, name)(*arguments)) if "stream" in name else face.call(name, *arguments)
    with pytest.raises(penstock.UnavailableError):
        await call
    assert len(backend.requests) == 1


def test_the_methods_that_are_repeated() -> None:
    names = {one["method"] for one in repeatable()}
    assert names >= {"Embed", "ListModels", "Search", "CreateCollection", "AddDocuments", "CreateExperiment", "RecordOutcomes"}
    assert not names & {"Generate", "StreamGenerate", "Answer", "StreamAnswer", "DeleteCollection", "DeleteDocument"}


async def test_a_stream_gives_all_events(face: Face, backend: Backend) -> None:
    backend.events = [started(), delta("a"), delta("b"), finished(finish_reason=generation_pb2.FINISH_REASON_STOP)]
    stream = face.client.stream_generate("x")
    assert await face.collect(stream) == backend.events
    assert stream.finished.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert stream.request_id == backend.metadata[0]["x-request-id"]
    assert await face.collect(stream) == []
    assert await face.collect(face.client.stream_generate("x").texts()) == ["a", "b"]
    answer = face.client.stream_answer("tea", ["docs"])
    assert await face.collect(answer.texts()) == ["about ", "tea"]
    assert answer.finished.model == "m"


async def test_models_come_and_go(face: Face, backend: Backend) -> None:
    stream = face.client.load_model("m", device="cpu", keep_alive=90)
    assert [event.WhichOneof("event") for event in await face.collect(stream)] == ["progress", "finished"]
    request = backend.requests[-1]
    assert (request.device, request.keep_alive.seconds, stream.finished.model.model) == (model_pb2.DEVICE_CPU, 90, "m")
    await face.collect(face.client.load_model("m"))
    assert not backend.requests[-1].HasField("keep_alive")
    with pytest.raises(penstock.ResourceExhaustedError):
        await face.collect(face.client.load_model("huge"))
    assert len(await face.collect(face.client.pull_model("m"))) == 1
    assert (await face.call("unload_model", "m", force=True)).freed_bytes == 3_000_000
    assert backend.requests[-1].force
    assert (await face.call("delete_model", "m")).deleted_bytes == 4_000_000


async def test_a_stream_without_its_end_raises(face: Face, backend: Backend) -> None:
    backend.events = [started(), delta("half")]
    stream = face.client.stream_generate("x")
    assert (await face.next(stream)).started.model == "m"
    assert (await face.next(stream)).delta.text == "half"
    with pytest.raises(penstock.StreamIncompleteError):
        await face.next(stream)
    assert stream.finished is None


async def test_a_stream_that_tells_of_an_error_raises_it_after_the_last_event(face: Face, backend: Backend) -> None:
    status = rich_status(grpc.StatusCode.INTERNAL, "GENERATION_FAILED", request_id="")
    backend.events = [delta("half"), finished(finish_reason=generation_pb2.FINISH_REASON_ERROR, error=status)]
    stream = face.client.stream_generate("x")
    assert [await face.next(stream), await face.next(stream)] == backend.events
    with pytest.raises(penstock.InternalError) as caught:
        await face.next(stream)
    assert caught.value.reason == "GENERATION_FAILED"
    assert caught.value.request_id == stream.request_id


async def test_closing_a_stream_cancels_the_call(face: Face, backend: Backend) -> None:
    backend.events, backend.hang = [delta("a")], True
    stream = face.client.stream_generate("x")
    assert (await face.next(stream)).delta.text == "a"
    await face.close(stream)
    await asyncio.wait_for(backend.cancelled.wait(), 2)
    assert await face.collect(stream) == []


async def test_leaving_the_block_cancels_the_call(address: str, backend: Backend) -> None:
    backend.events, backend.hang = [delta("a")], True
    async with penstock.AsyncClient(address) as client:
        async with client.stream_generate("x") as stream:
            await anext(stream)
        await asyncio.wait_for(backend.cancelled.wait(), 2)
        backend.cancelled.clear()
        backend.hang = True

        def read_one() -> None:
            with penstock.Client(address) as client, client.stream_generate("x") as stream:
                next(stream)

        await asyncio.to_thread(read_one)
        await asyncio.wait_for(backend.cancelled.wait(), 2)


async def test_cancelling_the_task_cancels_the_call(address: str, backend: Backend) -> None:
    backend.events, backend.hang = [delta("a")], True
    async with penstock.AsyncClient(address) as client:
        stream = client.stream_generate("x")
        await anext(stream)
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(backend.cancelled.wait(), 2)


async def test_timeouts(face: Face, backend: Backend) -> None:
    await face.call("models")
    await face.call("models", timeout=3)
    await face.call("models", timeout=math.inf)
    default, own, none = backend.deadlines
    assert default is not None
    assert 8 < default < 10.5
    assert own is not None
    assert 2 < own < 3.5
    assert none is None or none > 1e6
    backend.hang = True
    began = time.monotonic()
    with pytest.raises(penstock.DeadlineExceededError):
        await face.call("models", timeout=0.2)
    assert time.monotonic() - began < 2
    with pytest.raises(ValueError, match="timeout is 0"):
        await face.call("models", timeout=0)


async def test_a_server_that_is_not_there(kind: str) -> None:
    face = Face(new_client(kind, f"http://127.0.0.1:{free_port()}"))
    began = time.monotonic()
    for name in ("models", "generate"):
        with pytest.raises(penstock.UnavailableError):
            await face.call(name)
    assert time.monotonic() - began < 10
    await face.close(face.client)


@pytest.mark.parametrize("address", ["", "nowhere", "ftp://x:1", "http://x:1/path", ":80", "http://x:99999"])
def test_a_senseless_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        penstock.Client(address)


def test_addresses() -> None:
    def parse(address: str, **options: Any) -> tuple[str, bool]:
        common = {"api_key": "", "tls": None, "root_certificates": None, "timeout": 1.0}
        connection = penstock.connection.Connection.parse(address, **{**common, **options})
        return connection.target, connection.credentials is not None

    assert parse("localhost:8080") == ("localhost:8080", False)
    assert parse("http://127.0.0.1:8080/") == ("127.0.0.1:8080", False)
    assert parse("https://penstock.example") == ("penstock.example:443", True)
    assert parse("localhost:8443", tls=True) == ("localhost:8443", True)
    assert parse("[::1]:50051") == ("[::1]:50051", False)


def test_the_package_names_what_it_exports() -> None:
    assert penstock.__version__ == "0.1.0"
    assert set(penstock.__all__) <= set(dir(penstock))
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        penstock.nonsense  # noqa: B018 - the access is what is tested
