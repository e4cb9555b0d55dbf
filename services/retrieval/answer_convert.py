"""Between the contract's messages and the domain of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import answer_pb2, answer_service_pb2, conversation_pb2

from services.chassis.errors import invalid_field
from services.chassis.status import to_status
from services.retrieval.answering.events import (
    Basis,
    Degradation,
    Finished,
    NothingFound,
    Question,
    Sources,
)
from services.retrieval.citations import Citation, Text
from services.retrieval.convert import from_mode, to_duration, to_hit, to_mode, to_timestamp
from services.retrieval.generation import FinishReason, Sampling, Usage, UsageSource
from services.retrieval.grounding.groundedness import Verdict
from services.retrieval.intent.kinds import Intent
from services.retrieval.search_convert import from_cache_mode, from_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.assignment import Treatment

    from services.retrieval.answering.events import AnswerEvent
    from services.retrieval.conversations import Conversation, Turn
    from services.retrieval.grounding.groundedness import Groundedness, Judged
    from services.retrieval.passages import Hit

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
_BASES: Final = {
    Basis.PASSAGES: answer_pb2.ANSWER_BASIS_PASSAGES,
    Basis.REFUSAL: answer_pb2.ANSWER_BASIS_REFUSAL,
    Basis.MODEL_ALONE: answer_pb2.ANSWER_BASIS_MODEL_ALONE,
    Basis.CONVERSATION: answer_pb2.ANSWER_BASIS_CONVERSATION,
}
_DEGRADATIONS: Final = {
    Degradation.RERANK_SKIPPED: answer_pb2.DEGRADATION_RERANK_SKIPPED,
    Degradation.FEWER_PASSAGES: answer_pb2.DEGRADATION_FEWER_PASSAGES,
    Degradation.NEIGHBORS_SKIPPED: answer_pb2.DEGRADATION_NEIGHBORS_SKIPPED,
    Degradation.GROUNDEDNESS_BY_WORDS: answer_pb2.DEGRADATION_GROUNDEDNESS_BY_WORDS,
}
_INTENTS: Final = {
    Intent.NEW_TOPIC: answer_pb2.INTENT_NEW_TOPIC,
    Intent.FOLLOW_UP: answer_pb2.INTENT_FOLLOW_UP,
    Intent.CLARIFICATION: answer_pb2.INTENT_CLARIFICATION,
    Intent.CONTINUATION: answer_pb2.INTENT_CONTINUATION,
    Intent.CORRECTION: answer_pb2.INTENT_CORRECTION,
    Intent.CHIT_CHAT: answer_pb2.INTENT_CHIT_CHAT,
}
_VERDICTS: Final = {
    Verdict.SUPPORTED: answer_pb2.VERDICT_SUPPORTED,
    Verdict.CONTRADICTED: answer_pb2.VERDICT_CONTRADICTED,
    Verdict.UNSUPPORTED: answer_pb2.VERDICT_UNSUPPORTED,
    Verdict.UNSCORED: answer_pb2.VERDICT_UNSCORED,
}
_VETOES: Final = {
    "number": answer_pb2.VETO_NUMBER,
    "date": answer_pb2.VETO_DATE,
    "name": answer_pb2.VETO_NAME,
    "negation": answer_pb2.VETO_NEGATION,
}
_SAMPLING: Final = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


def from_question(request: answer_service_pb2.AnswerRequest | answer_service_pb2.StreamAnswerRequest) -> Question:
    """Reads a question. Raises INVALID_FIELD."""
    if request.conversation and request.earlier:
        raise invalid_field("earlier", "it is not for a `conversation` that is kept here; send one of them")
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
        nothing_found=(
            NothingFound.WITHOUT_CONTEXT
            if request.nothing_found == answer_pb2.NOTHING_FOUND_POLICY_ANSWER_WITHOUT_CONTEXT
            else NothingFound.REFUSE
        ),
        context_tokens=request.context_tokens if request.HasField("context_tokens") else None,
        cache=from_cache_mode(request.cache),
        attributes=tuple(sorted(request.attributes.items())),
        earlier=tuple((turn.query, turn.text) for turn in request.earlier),
        instructions=request.instructions,
    )


def to_event(event: AnswerEvent, hits: Sequence[Hit], request_id: str) -> answer_service_pb2.StreamAnswerResponse:
    """Writes one event of the stream; `hits` are those of its `Sources`."""
    match event:
        case Text():
            return answer_service_pb2.StreamAnswerResponse(token=answer_service_pb2.AnswerToken(text=event.text))
        case Citation():
            return answer_service_pb2.StreamAnswerResponse(citation=to_citation(event))
        case Sources():
            return answer_service_pb2.StreamAnswerResponse(sources=_sources(event, request_id))
        case Finished():
            return answer_service_pb2.StreamAnswerResponse(finished=_finished(event, hits, request_id))


def _sources(event: Sources, request_id: str) -> answer_service_pb2.AnswerSources:
    return answer_service_pb2.AnswerSources(
        hits=[to_hit(hit) for hit in event.hits],
        variant=_variant(event.treatment),
        assignment=to_assignment(event.treatment),
        request_id=request_id,
        mode=to_mode(event.mode),
        mode_note=event.mode_note,
        basis=_BASES[event.basis],
        degradations=[_DEGRADATIONS[one] for one in event.degradations],
        intent=_intent(event.understanding.intent),
        intent_confidence=event.understanding.confidence,
        rewritten_query=event.understanding.rewritten,
        cached=event.cached,
        assignments=to_assignments(event.treatment),
    )


def _finished(event: Finished, hits: Sequence[Hit], request_id: str) -> answer_service_pb2.AnswerFinished:
    return answer_service_pb2.AnswerFinished(
        finish_reason=_REASONS[event.reason],
        usage=to_usage(event.usage),
        model=event.model,
        engine=event.engine,
        variant=_variant(event.treatment),
        timings=_timings(event),
        conversation=event.conversation,
        error=to_status(event.failure, request_id) if event.failure else None,
        groundedness=to_groundedness(event.groundedness, hits),
        basis=_BASES[event.basis],
        degradations=[_DEGRADATIONS[one] for one in event.degradations],
    )


def to_answer(sources: Sources, text: str, citations: list[Citation], finished: Finished, request_id: str) -> Any:
    """Writes a whole answer."""
    return answer_service_pb2.AnswerResponse(
        text=text,
        sources=[to_hit(hit) for hit in sources.hits],
        citations=[to_citation(citation) for citation in citations],
        usage=to_usage(finished.usage),
        variant=_variant(finished.treatment),
        assignment=to_assignment(finished.treatment),
        finish_reason=_REASONS[finished.reason],
        model=finished.model,
        engine=finished.engine,
        conversation=finished.conversation,
        timings=_timings(finished),
        request_id=request_id,
        groundedness=to_groundedness(finished.groundedness, sources.hits),
        basis=_BASES[finished.basis],
        degradations=[_DEGRADATIONS[one] for one in finished.degradations],
        intent=_intent(sources.understanding.intent),
        intent_confidence=sources.understanding.confidence,
        rewritten_query=sources.understanding.rewritten,
        cached=sources.cached,
        assignments=to_assignments(finished.treatment),
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
        source_start=citation.source_start,
        source_end=citation.source_end,
    )


def to_groundedness(groundedness: Groundedness | None, hits: Sequence[Hit]) -> answer_pb2.Groundedness | None:
    """Writes how far an answer rests on its sources."""
    if groundedness is None:
        return None
    return answer_pb2.Groundedness(
        score=groundedness.score,
        sentences=[_sentence(one, hits) for one in groundedness.sentences],
        by_meaning=any(one.by_meaning for one in groundedness.sentences),
    )


def _sentence(judged: Judged, hits: Sequence[Hit]) -> answer_pb2.SentenceGroundedness:
    offset = hits[judged.source - 1].start if judged.source else 0
    return answer_pb2.SentenceGroundedness(
        start=judged.start,
        end=judged.end,
        verdict=_VERDICTS[judged.verdict],
        score=judged.score,
        vetoes=[_VETOES[one] for one in judged.vetoes],
        number=judged.source,
        source_start=offset + judged.source_start,
        source_end=offset + judged.source_end,
    )


def _intent(intent: Intent | None) -> answer_pb2.Intent.ValueType:
    return answer_pb2.INTENT_UNSPECIFIED if intent is None else _INTENTS[intent]


def to_usage(usage: Usage | None) -> generation_pb2.Usage | None:
    """Writes what was used up, if anything is known of it."""
    if usage is None:
        return None
    return generation_pb2.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, source=_USAGE_SOURCES[usage.source]
    )


def to_assignment(treatment: Treatment | None) -> assignment_pb2.Assignment | None:
    """Writes the assignment behind a treatment; promoted settings have none."""
    if treatment is None or not treatment.assignment:
        return None
    return assignment_pb2.Assignment(
        assignment=treatment.assignment, experiment=treatment.experiment, variant=treatment.variant
    )


def to_assignments(treatment: Treatment | None) -> list[assignment_pb2.Assignment]:
    """Writes the assignments of every layer, that of the treatment itself first."""
    if treatment is None:
        return []
    return [one for each in (treatment, *treatment.also) if (one := to_assignment(each)) is not None]


def _variant(treatment: Treatment | None) -> str:
    return treatment.variant if treatment is not None and treatment.assignment else ""


def to_conversation(conversation: Conversation) -> conversation_pb2.Conversation:
    """Writes a conversation."""
    return conversation_pb2.Conversation(
        conversation=conversation.conversation,
        turns=[_turn(turn) for turn in conversation.turns],
        create_time=to_timestamp(conversation.create_time),
        user=conversation.user,
        expire_time=None if conversation.expire_time is None else to_timestamp(conversation.expire_time),
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
        intent=_intent(Intent(turn.intent) if turn.intent else None),
        intent_confidence=turn.intent_confidence,
        rewritten_query=turn.rewritten_query,
        basis=_BASES[Basis(turn.basis)],
    )


def _timings(finished: Finished) -> answer_pb2.AnswerTimings:
    first = finished.first_token_seconds
    return answer_pb2.AnswerTimings(
        retrieval=to_duration(finished.retrieval_seconds),
        first_token=None if first is None else to_duration(first),
        total=to_duration(finished.total_seconds),
    )
