"""Grades passages by a language model: penstock's inference service over gRPC."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import grpc.aio
from penstock.inference.v1 import form_pb2, generation_pb2, generation_service_pb2, generation_service_pb2_grpc

from services.chassis.call import current_call, outgoing_metadata
from services.chassis.errors import Failure, Reason
from services.chassis.remote import failure_of
from services.retrieval.reranking import GRADES

if TYPE_CHECKING:
    from collections.abc import Sequence

_INSTRUCTION: Final = (
    "Grade how well a passage answers a question. 0: it has nothing to do with it. 1: it has to do with it, but does not "
    "answer it. 2: it answers it in part, or among much else. 3: it answers it. Say the grade alone."
)
_LIKELIEST: Final = 10
_MOST_TOKENS: Final = 4
_LIMIT_SECONDS: Final = 10.0


class InferenceGrader:
    """See `reranking.Grader`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)

    async def grade(self, model: str, query: str, passage: str) -> float:
        """See `Grader.grade`. A model that tells no likelihoods gives its grade alone."""
        request = generation_service_pb2.GenerateRequest(
            model=model,
            messages=[
                _message(generation_pb2.ROLE_SYSTEM, _INSTRUCTION),
                _message(generation_pb2.ROLE_USER, f"Question: {query}\n\nPassage: {passage}\n\nGrade:"),
            ],
            sampling=generation_pb2.Sampling(temperature=0.0),
            max_tokens=_MOST_TOKENS,
            output=form_pb2.Output(choice=form_pb2.Choice(texts=GRADES)),
            top_logprobs=_LIKELIEST,
        )
        try:
            return grade_of(await self._asked(request))
        except Failure as failure:
            if failure.reason != Reason.MODEL_CAPABILITY_MISSING or failure.metadata.get("capability") != "LOGPROBS":
                raise
        request.ClearField("top_logprobs")
        return grade_of(await self._asked(request))

    async def _asked(self, request: generation_service_pb2.GenerateRequest) -> generation_service_pb2.GenerateResponse:
        try:
            response: generation_service_pb2.GenerateResponse = await self._stub.Generate(
                request, timeout=current_call().remaining(_LIMIT_SECONDS), metadata=outgoing_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        return response


def grade_of(response: generation_service_pb2.GenerateResponse) -> float:
    """The grade in an answer, 0 to 1: the mean by likelihood where that is told, else the one that was said.

    Raises:
        Failure: GENERATION_FAILED for an answer that is no grade.
    """
    first = next((one for one in response.logprobs if one.token.strip()), None)
    likely = _by_grade([first, *first.top]) if first else {}
    whole = sum(likely.values())
    if whole > 0:
        return sum(int(grade) * part for grade, part in likely.items()) / whole / (len(GRADES) - 1)
    said = response.text.strip()
    if said not in GRADES:
        raise Failure(Reason.GENERATION_FAILED, f"the model {response.model} gave {said[:32]!r} where a grade was asked for")
    return int(said) / (len(GRADES) - 1)


def _by_grade(tokens: Sequence[form_pb2.TokenLogprob]) -> dict[str, float]:
    """How likely each grade is, by the tokens that are one; the chosen one may be among the likeliest again."""
    likely: dict[str, float] = {}
    for one in tokens:
        grade = one.token.strip()
        if grade in GRADES:
            likely[grade] = max(likely.get(grade, 0.0), math.exp(one.logprob))
    return likely


def _message(role: generation_pb2.Role.ValueType, text: str) -> generation_pb2.Message:
    return generation_pb2.Message(role=role, parts=[generation_pb2.Part(text=text)])
