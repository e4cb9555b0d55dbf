"""A real gRPC server whose answers the tests decide, and both clients for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import penstock
import pytest
import pytest_asyncio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from penstock.experiments.v1 import (
    experiment_pb2,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    outcome_service_pb2,
    outcome_service_pb2_grpc,
    result_pb2,
    result_service_pb2,
    result_service_pb2_grpc,
)
from penstock.inference.v1 import (
    embedding_pb2,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    routing_pb2,
    routing_service_pb2,
    routing_service_pb2_grpc,
)
from penstock.retrieval.v1 import (
    answer_service_pb2,
    answer_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)

Stream = generation_service_pb2.StreamGenerateResponse


def rich_status(
    code: grpc.StatusCode,
    reason: str,
    message: str = "what was wrong",
    request_id: str = "r-1",
    field: str = "top_k",
) -> status_pb2.Status:
    """A status with all the details that penstock sends."""
    status = status_pb2.Status(code=code.value[0], message=message)
    bad = error_details_pb2.BadRequest.FieldViolation(field=field, description="must be positive")
    for detail in (
        error_details_pb2.ErrorInfo(reason=reason, domain="penstock", metadata={"model": "x"}),
        error_details_pb2.BadRequest(field_violations=[bad]),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
        error_details_pb2.RequestInfo(request_id=request_id),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class Backend(
    generation_service_pb2_grpc.GenerationServiceServicer,
    embedding_service_pb2_grpc.EmbeddingServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
    policy_service_pb2_grpc.PolicyServiceServicer,
    routing_service_pb2_grpc.RoutingServiceServicer,
    answer_service_pb2_grpc.AnswerServiceServicer,
    collection_service_pb2_grpc.CollectionServiceServicer,
    document_service_pb2_grpc.DocumentServiceServicer,
    experiment_service_pb2_grpc.ExperimentServiceServicer,
    outcome_service_pb2_grpc.OutcomeServiceServicer,
    result_service_pb2_grpc.ResultServiceServicer,
    search_service_pb2_grpc.SearchServiceServicer,
):
    """Records what it is asked; fails as told, otherwise answers something that shows the request arrived."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.deadlines: list[float | None] = []
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.events: list[Stream] = []
        self.hang = False
        # Calls that pass before the failures begin.
        self.pass_first = 0

    async def _enter(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.asked.set()
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())
        if self.pass_first:
            self.pass_first -= 1
        elif self.failures:
            code, reason = self.failures.pop(0)
            details = (("grpc-status-details-bin", rich_status(code, reason).SerializeToString()),) if reason else ()
            await context.abort(code, "plain text", details)
        if self.hang:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    async def Generate(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return generation_service_pb2.GenerateResponse(text=f"echo: {request.prompt}", model="m")

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[Stream]:
        hang, self.hang = self.hang, False
        await self._enter(request, context)
        for event in self.events:
            yield event
        if hang:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    async def Embed(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        vectors = [embedding_pb2.Embedding(values=[len(text), 0.5]) for text in request.inputs]
        return embedding_service_pb2.EmbedResponse(embeddings=vectors, dimensions=2)

    async def GetPolicy(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return policy_service_pb2.GetPolicyResponse(revision="r1")

    async def UpdatePolicy(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return policy_service_pb2.UpdatePolicyResponse(policy=request.policy, revision="r2")

    async def RecordFeedback(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return routing_service_pb2.RecordFeedbackResponse(is_known=True)

    async def GetRouting(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return routing_service_pb2.GetRoutingResponse(states=[routing_pb2.RoutingState(alias=request.alias)])

    async def CalibrateRouting(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return routing_service_pb2.CalibrateRoutingResponse(state=routing_pb2.RoutingState(alias=request.alias, fit="f"))

    async def ListModels(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return model_service_pb2.ListModelsResponse(models=[model_pb2.Model(model="a"), model_pb2.Model(model="b")])

    async def LoadModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(request, context)
        response = model_service_pb2.LoadModelResponse
        stage = model_pb2.MODEL_STAGE_LOADING
        yield response(progress=model_pb2.ModelProgress(stage=stage, completed_bytes=1, total_bytes=2))
        status = rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY") if request.model == "huge" else None
        yield response(finished=model_service_pb2.LoadFinished(model=model_pb2.Model(model=request.model), error=status))

    async def PullModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(request, context)
        yield model_service_pb2.PullModelResponse(
            finished=model_service_pb2.PullFinished(model=model_pb2.Model(model=request.model))
        )

    async def UnloadModel(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return model_service_pb2.UnloadModelResponse(model=model_pb2.Model(model=request.model), freed_bytes=3_000_000)

    async def DeleteModel(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return model_service_pb2.DeleteModelResponse(deleted_bytes=4_000_000)

    async def Answer(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return answer_service_pb2.AnswerResponse(text=f"about {request.query} [1]")

    async def StreamAnswer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(request, context)
        response = answer_service_pb2.StreamAnswerResponse
        yield response(sources=answer_service_pb2.AnswerSources(variant="v"))
        yield response(token=answer_service_pb2.AnswerToken(text="about "))
        yield response(token=answer_service_pb2.AnswerToken(text=request.query))
        finished = answer_service_pb2.AnswerFinished(finish_reason=generation_pb2.FINISH_REASON_STOP, model="m")
        yield response(finished=finished)

    async def CreateCollection(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return collection_service_pb2.CreateCollectionResponse(collection=request.collection)

    async def GetCollection(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return collection_service_pb2.GetCollectionResponse(collection=collection_pb2.Collection(collection=request.collection))

    async def ListCollections(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        start = int(request.page_token or "0")
        shown = [collection_pb2.Collection(collection=f"c{number}") for number in range(start, min(start + 2, 5))]
        token = str(start + 2) if start + 2 < 5 else ""
        return collection_service_pb2.ListCollectionsResponse(collections=shown, next_page_token=token)

    async def DeleteCollection(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return collection_service_pb2.DeleteCollectionResponse()

    async def AddDocuments(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        for number, one in enumerate(request.documents):
            if one.data.startswith(b"broken"):
                status = rich_status(
                    grpc.StatusCode.INVALID_ARGUMENT, "DOCUMENT_UNREADABLE", "unreadable", field=f"documents[{number}].data"
                )
                details = (("grpc-status-details-bin", status.SerializeToString()),)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unreadable", details)
        kept = [
            document_pb2.Document(document=one.document or "made", collection=request.collection) for one in request.documents
        ]
        return document_service_pb2.AddDocumentsResponse(documents=kept)

    async def GetDocument(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return document_service_pb2.GetDocumentResponse(document=document_pb2.Document(document=request.document, text="t"))

    async def DeleteDocument(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return document_service_pb2.DeleteDocumentResponse()

    async def CreateExperiment(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return experiment_service_pb2.CreateExperimentResponse(experiment=request.experiment)

    async def GetExperiment(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        found = experiment_pb2.Experiment(experiment=request.experiment)
        return experiment_service_pb2.GetExperimentResponse(experiment=found)

    async def ListExperiments(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return experiment_service_pb2.ListExperimentsResponse(experiments=[experiment_pb2.Experiment(experiment="e1")])

    async def StartExperiment(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return experiment_service_pb2.StartExperimentResponse(
            experiment=experiment_pb2.Experiment(experiment=request.experiment)
        )

    async def StopExperiment(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return experiment_service_pb2.StopExperimentResponse(
            experiment=experiment_pb2.Experiment(experiment=request.experiment)
        )

    async def GetResults(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        metrics = [
            result_pb2.MetricResult(metric="helpful", outcomes=3, units=2, mean=0.5),
            result_pb2.MetricResult(metric="slow"),
        ]
        variants = [result_pb2.VariantResult(variant="control", exposed_units=2, exposures=4, metrics=metrics)]
        effect = result_pb2.Effect(difference=-0.25, relative=-0.5, interval=result_pb2.Interval(lower=-0.5, upper=0.1))
        shown = result_pb2.Comparison(
            variant="short",
            metric="helpful",
            effect=effect,
            anytime_interval=result_pb2.Interval(lower=-0.75, upper=0.25),
            decided_by=experiment_pb2.ANALYSIS_METHOD_ALWAYS_VALID,
            verdict=result_pb2.VERDICT_INCONCLUSIVE,
        )
        few = result_pb2.UNCOMPUTABLE_TOO_FEW_UNITS
        missing = result_pb2.Comparison(variant="short", metric="slow", effect_missing=few, verdict_missing=few)
        ratio = result_pb2.SampleRatio(state=result_pb2.SAMPLE_RATIO_STATE_MISMATCH, p_value=0.0001)
        return result_service_pb2.GetResultsResponse(
            experiment=request.experiment,
            variants=variants,
            control="control",
            comparisons=[shown, missing],
            sample_ratio=ratio,
        )

    async def Search(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        hit = search_pb2.Hit(collection="docs", document="d1", text="green\x1b[31m tea", relevance=0.5)
        return search_service_pb2.SearchResponse(hits=[hit])

    async def RecordOutcomes(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return outcome_service_pb2.RecordOutcomesResponse(recorded=len(request.outcomes))


class Face:
    """One of the two clients, called the same way."""

    def __init__(self, client: penstock.Client | penstock.AsyncClient) -> None:
        self.client: Any = client

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method that answers once."""
        method = getattr(self.client, name)
        if isinstance(self.client, penstock.AsyncClient):
            return await method(*arguments, **options)
        return await asyncio.to_thread(method, *arguments, **options)

    async def collect(self, items: Any) -> list[Any]:
        """All that an iterator of the client gives."""
        if isinstance(items, AsyncIterator):
            return [item async for item in items]
        return await asyncio.to_thread(list, items)

    async def next(self, items: Any) -> Any:
        """The next that an iterator of the client gives."""
        if isinstance(items, AsyncIterator):
            return await anext(items)
        return await asyncio.to_thread(next, items)

    async def close(self, closable: Any) -> None:
        """Closes the client or a stream of it."""
        if isinstance(self.client, penstock.AsyncClient):
            await closable.aclose()
        else:
            await asyncio.to_thread(closable.close)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[Backend, str]]:
    """The backend, and where it serves. It shares the test's event loop, so the blocking client runs in threads."""
    backend = Backend()  # type: ignore[abstract]  # it serves what the clients call
    server = grpc.aio.server()
    for register in (
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server,
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server,
        model_service_pb2_grpc.add_ModelServiceServicer_to_server,
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server,
        routing_service_pb2_grpc.add_RoutingServiceServicer_to_server,
        answer_service_pb2_grpc.add_AnswerServiceServicer_to_server,
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server,
        document_service_pb2_grpc.add_DocumentServiceServicer_to_server,
        experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server,
        outcome_service_pb2_grpc.add_OutcomeServiceServicer_to_server,
        result_service_pb2_grpc.add_ResultServiceServicer_to_server,
        search_service_pb2_grpc.add_SearchServiceServicer_to_server,
    ):
        register(backend, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield backend, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
def backend(served: tuple[Backend, str]) -> Backend:
    return served[0]


@pytest.fixture
def address(served: tuple[Backend, str]) -> str:
    return served[1]


def new_client(kind: str, address: str, **options: Any) -> penstock.Client | penstock.AsyncClient:
    """One of the two."""
    return penstock.Client(address, **options) if kind == "blocking" else penstock.AsyncClient(address, **options)


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest_asyncio.fixture
async def face(kind: str, address: str) -> AsyncIterator[Face]:
    face = Face(new_client(kind, address, api_key="k-1", timeout=10))
    yield face
    await face.close(face.client)
