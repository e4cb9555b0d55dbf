"""Between the contract's messages and the domain of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import answer_pb2, answer_service_pb2, conversation_pb2

from services.chassis.status import to_status
from services.retrieval.answers import Finished, Question, Sources
from services.retrieval.citations import Citation, Text
from services.retrieval.convert import from_mode, to_duration, to_hit, to_mode, to_timestamp
from services.retrieval.generation import FinishReason, Sampling, Usage, UsageSource
from services.retrieval.search_convert import from_options

if TYPE_CHECKING:
    from penstock.assignment import Treatment

    from services.retrieval.answers import AnswerEvent
    from services.retrieval.conversations import Conversation, Turn

_REASONS: Final = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: generation_pb2.FINISH_REASON_CONTENT_FILTER,
    FinishReason.ERROR: generation_pb2.FINISH_REASON_ERROR,
}
_USAGE_SOURCES: Final = {
    UsageSource.REPORTED: generation_pb2.USAGE_SOURCE_REPORTED,
    UsageSource.COUNTED: generation_pb2.USAGE_SOURCE_COUNTED,
    UsageSource.ESTIMATED: generation_pb2.USAGE_SOURCE_ESTIMATED,
}
_SAMPLING: Final = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


def from_question(request: answer_service_pb2.AnswerRequest | answer_service_pb2.StreamAnswerRequest) -> Question:
    """Reads a question."""
    sampling = request.sampling
    chosen: dict[str, Any] = {name: getattr(sampling, name) for name in _SAMPLING if sampling.HasField(name)}
    return Question(
        collections=tuple(request.collections),
        query=request.query,
        top_k=request.top_k if request.HasField("top_k") else None,
        mode=from_mode(request.mode),
        conversation=request.conversation,
        user=request.user,
        model=request.model,
        sampling=Sampling(**chosen),
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        options=from_options(request),
    )


def to_event(event: AnswerEvent, request_id: str) -> answer_service_pb2.StreamAnswerResponse:
    """Writes one event of the stream."""
    match event:
        case Text():
            return answer_service_pb2.StreamAnswerResponse(token=answer_service_pb2.AnswerToken(text=event.text))
        case Citation():
            return answer_service_pb2.StreamAnswerResponse(citation=to_citation(event))
        case Sources():
            return answer_service_pb2.StreamAnswerResponse(sources=_sources(event, request_id))
        case Finished():
            return answer_service_pb2.StreamAnswerResponse(finished=_finished(event, request_id))


def _sources(event: Sources, request_id: str) -> answer_service_pb2.AnswerSources:
    return answer_service_pb2.AnswerSources(
        hits=[to_hit(hit) for hit in event.hits],
        variant=event.treatment.variant if event.treatment else "",
        assignment=to_assignment(event.treatment),
        request_id=request_id,
        mode=to_mode(event.mode),
        mode_note=event.mode_note,
    )


def _finished(event: Finished, request_id: str) -> answer_service_pb2.AnswerFinished:
    return answer_service_pb2.AnswerFinished(
        finish_reason=_REASONS[event.reason],
        usage=to_usage(event.usage),
        model=event.model,
        engine=event.engine,
        variant=event.treatment.variant if event.treatment else "",
        timings=_timings(event),
        conversation=event.conversation,
        error=to_status(event.failure, request_id) if event.failure else None,
    )


def to_answer(sources: Sources, text: str, citations: list[Citation], finished: Finished, request_id: str) -> Any:
    """Writes a whole answer."""
    return answer_service_pb2.AnswerResponse(
        text=text,
        sources=[to_hit(hit) for hit in sources.hits],
        citations=[to_citation(citation) for citation in citations],
        usage=to_usage(finished.usage),
        variant=finished.treatment.variant if finished.treatment else "",
        assignment=to_assignment(finished.treatment),
        finish_reason=_REASONS[finished.reason],
        model=finished.model,
        engine=finished.engine,
        conversation=finished.conversation,
        timings=_timings(finished),
        request_id=request_id,
    )


def to_citation(citation: Citation) -> answer_pb2.Citation:
    """Writes a citation."""
    return answer_pb2.Citation(
        number=citation.number,
        collection=citation.collection,
        document=citation.document,
        chunk=citation.chunk,
        start=citation.start,
        end=citation.end,
        support=citation.support,
    )


def to_usage(usage: Usage | None) -> generation_pb2.Usage | None:
    """Writes what was used up, if anything is known of it."""
    if usage is None:
        return None
    return generation_pb2.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, source=_USAGE_SOURCES[usage.source]
    )


def to_assignment(treatment: Treatment | None) -> assignment_pb2.Assignment | None:
    """Writes the assignment behind a treatment."""
    if treatment is None:
        return None
    return assignment_pb2.Assignment(
        assignment=treatment.assignment, experiment=treatment.experiment, variant=treatment.variant
    )


def to_conversation(conversation: Conversation) -> conversation_pb2.Conversation:
    """Writes a conversation."""
    return conversation_pb2.Conversation(
        conversation=conversation.conversation,
        turns=[_turn(turn) for turn in conversation.turns],
        create_time=to_timestamp(conversation.create_time),
    )


def _turn(turn: Turn) -> conversation_pb2.Turn:
    return conversation_pb2.Turn(
        query=turn.query,
        text=turn.text,
        sources=[to_hit(hit) for hit in turn.sources],
        citations=[to_citation(citation) for citation in turn.citations],
        create_time=to_timestamp(turn.create_time),
        model=turn.model,
        complete=turn.complete,
    )


def _timings(finished: Finished) -> answer_pb2.AnswerTimings:
    first = finished.first_token_seconds
    return answer_pb2.AnswerTimings(
        retrieval=to_duration(finished.retrieval_seconds),
        first_token=None if first is None else to_duration(first),
        total=to_duration(finished.total_seconds),
    )
