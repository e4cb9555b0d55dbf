"""The live services over gRPC: retrieval for answers, inference for plain generation."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Final

import grpc.aio
from penstock.assignment import RequestType
from penstock.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from penstock.retrieval.v1 import answer_service_pb2, answer_service_pb2_grpc, search_pb2

from services.chassis.call import Call, enter_call, outgoing_metadata
from services.chassis.errors import Failure, Reason
from services.chassis.remote import failure_of
from services.experiments.optimization.measuring import Reply

if TYPE_CHECKING:
    from penstock.assignment import Settings

    from services.experiments.optimization.measuring import Target
    from services.experiments.optimization.optimizations import Caller, Optimization

_ATTRIBUTE: Final = "optimization"
_FUSIONS: Final = {
    "RRF": search_pb2.Fusion(rrf=search_pb2.RrfFusion()),
    "DBSF": search_pb2.Fusion(dbsf=search_pb2.DbsfFusion()),
    "WEIGHTED": search_pb2.Fusion(weighted=search_pb2.WeightedFusion()),
}


class SuiteTargets:
    """Makes targets out of the channels to retrieval and to inference."""

    def __init__(self, retrieval: grpc.aio.Channel | None, inference: grpc.aio.Channel | None) -> None:
        self._answers = answer_service_pb2_grpc.AnswerServiceStub(retrieval) if retrieval else None
        self._generations = generation_service_pb2_grpc.GenerationServiceStub(inference) if inference else None

    def check(self, request_type: RequestType) -> None:
        """See `Reach.check`."""
        is_answer = request_type is RequestType.ANSWER
        if (self._answers if is_answer else self._generations) is None:
            setting = "RETRIEVAL_ADDRESS" if is_answer else "INFERENCE_ADDRESS"
            raise Failure(
                Reason.OPTIMIZATION_UNSUPPORTED,
                f"the experiments service is not told where to ask; an operator can set {setting}",
                metadata={"setting": setting},
            )

    def of(self, optimization: Optimization) -> Target:
        """The services as this optimization asks them: in its caller's name. Raises Failure(OPTIMIZATION_UNSUPPORTED)."""
        self.check(optimization.design.request_type)
        if optimization.design.request_type is RequestType.ANSWER and self._answers is not None:
            return AnswerTarget(self._answers, optimization)
        assert self._generations is not None  # noqa: S101 - checked above
        return GenerationTarget(self._generations, optimization)


class AnswerTarget:
    """Asks retrieval."""

    def __init__(self, stub: answer_service_pb2_grpc.AnswerServiceAsyncStub, optimization: Optimization) -> None:
        self._stub = stub
        self._design = optimization.design
        self._caller = optimization.caller

    async def ask(self, question: str, settings: Settings) -> Reply:
        """See `Target.ask`."""
        request = answer_service_pb2.AnswerRequest(
            collections=self._design.collections,
            query=question,
            top_k=settings.top_k,
            model=settings.model or "",
            sampling=_sampling(settings),
            max_tokens=settings.max_tokens,
            fusion=_FUSIONS.get(settings.fusion or ""),
            min_relevance=settings.min_relevance,
            reranker=settings.reranker,
            instructions=settings.prompt or "",
            cache=generation_pb2.CACHE_MODE_BYPASS,
            attributes={_ATTRIBUTE: self._design.optimization},
        )
        _enter(self._caller)
        began = time.perf_counter()
        try:
            response = await self._stub.Answer(request, timeout=self._design.call_seconds, metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "retrieval") from error
        return Reply(
            text=response.text,
            documents=tuple(hit.document for hit in response.sources),
            seconds=time.perf_counter() - began,
            experiment=response.assignment.experiment,
        )


class GenerationTarget:
    """Asks inference."""

    def __init__(self, stub: generation_service_pb2_grpc.GenerationServiceAsyncStub, optimization: Optimization) -> None:
        self._stub = stub
        self._design = optimization.design
        self._caller = optimization.caller

    async def ask(self, question: str, settings: Settings) -> Reply:
        """See `Target.ask`."""
        messages = [(generation_pb2.ROLE_SYSTEM, settings.prompt)] if settings.prompt else []
        messages.append((generation_pb2.ROLE_USER, question))
        request = generation_service_pb2.GenerateRequest(
            model=settings.model or "",
            messages=[generation_pb2.Message(role=role, parts=[generation_pb2.Part(text=text)]) for role, text in messages],
            sampling=_sampling(settings),
            max_tokens=settings.max_tokens,
            cache=generation_pb2.CACHE_MODE_BYPASS,
            attributes={_ATTRIBUTE: self._design.optimization},
        )
        _enter(self._caller)
        began = time.perf_counter()
        try:
            response = await self._stub.Generate(request, timeout=self._design.call_seconds, metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        return Reply(response.text, (), time.perf_counter() - began, response.assignment.experiment)


def _sampling(settings: Settings) -> generation_pb2.Sampling | None:
    if settings.temperature is None and settings.top_p is None:
        return None
    return generation_pb2.Sampling(temperature=settings.temperature, top_p=settings.top_p)


def _enter(caller: Caller) -> None:
    """Makes what follows in this task a call of the caller's."""
    enter_call(
        Call(
            method="",
            request_id=uuid.uuid4().hex,
            deadline=None,
            tenant=caller.tenant,
            user=caller.user,
            groups=caller.groups,
            scopes=caller.scopes,
            key=caller.key,
        )
    )
