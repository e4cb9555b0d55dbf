"""Small real servers of a few penstock services, to see what the gateway makes of what they answer."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc.aio
from google.api import httpbody_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from penstock.experiments.v1 import (
    assignment_service_pb2,
    assignment_service_pb2_grpc,
    result_pb2,
    result_service_pb2,
    result_service_pb2_grpc,
)
from penstock.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    openai_service_pb2,
    openai_service_pb2_grpc,
)
from penstock.retrieval.v1 import (
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)

from services.chassis.errors import Failure, Reason
from services.chassis.status import to_status
from services.inference.openai.errors import with_error_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

DESCRIBED = (
    "penstock.inference.v1.GenerationService",
    "penstock.inference.v1.ModelService",
    "penstock.inference.v1.OpenAIService",
    "penstock.retrieval.v1.SearchService",
    "penstock.retrieval.v1.DocumentService",
    "penstock.experiments.v1.ResultService",
)
OPENAI_ERROR = {
    "error": {"message": "no such model: m", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
}


@dataclass
class Seen:
    """What reached the servers."""

    metadata: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event = field(default_factory=threading.Event)
    """While it is set, calls that answer once begin and do not end."""
    sent: int = 0
    """Bytes of the model `flood`."""

    async def wait(self) -> None:
        """Holds the call, if it is to be held."""
        if self.hold.is_set():
            self.started.set()
            while self.hold.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.02)

    def note(self, context: Any, body: Any = None) -> None:
        self.metadata.append({name: value for name, value in context.invocation_metadata() if isinstance(value, str)})
        self.bodies.append(body)


async def fail(context: Any, failure: Failure, request_id: str = "r1", trailers: tuple[tuple[str, str], ...] = ()) -> None:
    status = to_status(failure, request_id)
    details = ("grpc-status-details-bin", status.SerializeToString())
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, (details, *trailers))


class Generation(generation_service_pb2_grpc.GenerationServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def Generate(self, request: Any, context: Any) -> Any:
        self.seen.note(context, request)
        await self.seen.wait()
        if request.model == "missing":
            await fail(context, Failure(Reason.MODEL_NOT_FOUND, "model: no such model", metadata={"model": "missing"}))
        if request.model == "busy":
            busy = Failure(Reason.ENGINE_OVERLOADED, "the engine is busy", retry_after=7)
            await fail(context, busy, trailers=(("retry-after", "7"),))
        return generation_service_pb2.GenerateResponse(
            text=request.prompt.upper(), finish_reason=generation_pb2.FINISH_REASON_STOP
        )

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.seen.note(context, request)
        if request.model == "missing":
            await fail(context, Failure(Reason.MODEL_NOT_FOUND, "model: no such model", metadata={"model": "missing"}))
        response = generation_service_pb2.StreamGenerateResponse
        yield response(started=generation_service_pb2.GenerationStarted(model="m"))
        try:
            for word in request.prompt.split():
                yield response(delta=generation_service_pb2.GenerationDelta(text=word))
                await asyncio.sleep(0.01)
            while request.model == "flood":
                text = "." * 65536
                yield response(delta=generation_service_pb2.GenerationDelta(text=text))
                self.seen.sent += len(text)
            if request.model == "endless":
                self.seen.started.set()
                while True:
                    yield response(delta=generation_service_pb2.GenerationDelta(text="."))
                    await asyncio.sleep(0.02)
        except (asyncio.CancelledError, GeneratorExit):
            self.seen.cancelled.set()
            raise
        yield response(finished=generation_service_pb2.GenerationFinished(finish_reason=generation_pb2.FINISH_REASON_STOP))


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (the signature is gRPC's)
        await self.seen.wait()
        return model_service_pb2.ListModelsResponse()


class OpenAI(openai_service_pb2_grpc.OpenAIServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def CreateChatCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.seen.note(context, request)
        asked = json.loads(request.body.data)
        response = openai_service_pb2.CreateChatCompletionResponse
        if asked["model"] == "m":
            told = (("x-openai-error", json.dumps(OPENAI_ERROR)),)
            await fail(context, Failure(Reason.MODEL_NOT_FOUND, "model: no such model"), trailers=told)
        for name, reason in (("late", Reason.DEADLINE_EXCEEDED), ("large", Reason.REQUEST_TOO_LARGE)):
            if asked["model"] == name:
                raised = with_error_body(Failure(reason, name))
                await fail(context, raised, trailers=tuple(raised.trailers.items()))
        if asked["model"] == "plain":
            await fail(context, Failure(Reason.INVALID_FIELD, 'a "quoted" field'))
        if not asked.get("stream"):
            body = json.dumps({"object": "chat.completion"}).encode()
            yield response(body=httpbody_pb2.HttpBody(content_type="application/json", data=body))
            return
        yield response(body=httpbody_pb2.HttpBody(content_type="text/event-stream", data=b'data: {"n": 1}\n\n'))
        await asyncio.sleep(0.05)
        yield response(body=httpbody_pb2.HttpBody(data=b'data: {"n": 2}\n\ndata: [DONE]\n\n'))

    async def CreateEmbeddings(self, request: Any, context: Any) -> Any:
        self.seen.note(context, request)
        if b"bad" in request.body.data:
            told = (("x-openai-error", json.dumps(OPENAI_ERROR)),)
            await fail(context, Failure(Reason.MODEL_NOT_FOUND, "model: no such model"), trailers=told)
        return openai_service_pb2.CreateEmbeddingsResponse(
            body=httpbody_pb2.HttpBody(content_type="application/json", data=request.body.data)
        )

    async def ListOpenAIModels(self, request: Any, context: Any) -> Any:
        self.seen.note(context, request)
        return openai_service_pb2.ListOpenAIModelsResponse(
            body=httpbody_pb2.HttpBody(content_type="application/json", data=b'{"object": "list", "data": []}')
        )


class Search(search_service_pb2_grpc.SearchServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def Search(self, request: Any, context: Any) -> Any:
        self.seen.note(context, request)
        return search_service_pb2.SearchResponse(hits=[search_pb2.Hit(document="d1", score=0.0)], mode=request.mode)


class Documents(document_service_pb2_grpc.DocumentServiceServicer):
    async def GetDocument(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (the signature is gRPC's)
        document = document_pb2.Document(document=request.document, collection=request.collection)
        return document_service_pb2.GetDocumentResponse(document=document)

    async def AddDocuments(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (the signature is gRPC's)
        added = [document_pb2.Document(document=one.document, collection=request.collection) for one in request.documents]
        return document_service_pb2.AddDocumentsResponse(documents=added)

    async def DeleteDocument(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (the signature is gRPC's)
        return document_service_pb2.DeleteDocumentResponse()


class Assignments(assignment_service_pb2_grpc.AssignmentServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def Assign(self, request: Any, context: Any) -> Any:
        self.seen.note(context, request)
        return assignment_service_pb2.AssignResponse(variant=request.unit_id)

    async def WatchConfiguration(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.seen.note(context, request)
        yield assignment_service_pb2.WatchConfigurationResponse(revision=2**53 + 1)

    async def RecordExposures(self, requests: Any, context: Any) -> Any:
        batches = [len(request.exposures) async for request in requests]
        self.seen.note(context, batches)
        return assignment_service_pb2.RecordExposuresResponse(recorded=sum(batches))


class Results(result_service_pb2_grpc.ResultServiceServicer):
    async def GetResults(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (the signature is gRPC's)
        counts = result_pb2.VariantResult(variant="a")
        return result_service_pb2.GetResultsResponse(experiment=request.experiment, variants=[counts])


async def start(name: str, port: int, seen: Seen) -> tuple[grpc.aio.Server, health_aio.HealthServicer]:
    """Starts one of the three services on the port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 40 << 20)])
    if name == "inference":
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(Generation(seen), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(seen), server)  # type: ignore[abstract] # the rest is UNIMPLEMENTED
        openai_service_pb2_grpc.add_OpenAIServiceServicer_to_server(OpenAI(seen), server)  # type: ignore[abstract] # the rest is UNIMPLEMENTED
    elif name == "retrieval":
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(Search(seen), server)
        document_service_pb2_grpc.add_DocumentServiceServicer_to_server(Documents(), server)  # type: ignore[abstract] # the rest is UNIMPLEMENTED
    else:
        assignment_service_pb2_grpc.add_AssignmentServiceServicer_to_server(Assignments(seen), server)  # type: ignore[abstract] # the rest is UNIMPLEMENTED
        result_service_pb2_grpc.add_ResultServiceServicer_to_server(Results(), server)  # type: ignore[abstract] # the rest is UNIMPLEMENTED
    health = health_aio.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    # As the chassis does: every server can describe every service.
    reflection.enable_server_reflection([*DESCRIBED, "grpc.health.v1.Health", reflection.SERVICE_NAME], server)
    if server.add_insecure_port(f"127.0.0.1:{port}") != port:
        raise OSError(f"port {port} is taken")
    await server.start()
    return server, health


class Backends:
    """The three services, in an event loop of their own, so that tests may block."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ports = ports
        self.seen = Seen()
        self._servers: dict[str, tuple[grpc.aio.Server, health_aio.HealthServicer]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for name in self.ports:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._servers):
            self.stop(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, name: str) -> None:
        self._servers[name] = self._run(start(name, self.ports[name], self.seen))

    def stop(self, name: str, grace: float | None = None, notice: float = 0) -> None:
        """Stops a service: at once, or after it has said for `notice` seconds that it will."""
        self._run(self._stop(name, grace, notice))

    async def _stop(self, name: str, grace: float | None, notice: float) -> None:
        server, health = self._servers.pop(name)
        if notice:
            await health.enter_graceful_shutdown()
            await asyncio.sleep(notice)
        await server.stop(grace)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)
