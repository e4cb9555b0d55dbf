"""Between the messages of the contract and the types of the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf import duration_pb2
from penstock.errors.v1 import error_reason_pb2
from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import (
    embedding_pb2,
    embedding_service_pb2,
    generation_pb2,
    generation_service_pb2,
    model_pb2,
    tokenization_service_pb2,
)

from services.chassis.call import current_call
from services.chassis.status import to_status
from services.inference.admission import Priority
from services.inference.engine import (
    Capability,
    Delta,
    FinishReason,
    Message,
    ModelState,
    Passage,
    Role,
    Sampling,
    Usage,
    UsageSource,
)
from services.inference.form_convert import delta_events, form_of, logprob, messages_of, tool_call
from services.inference.generation import Assignment, CacheMode, Completed, Embedded, Event, Finished, Request, Started
from services.inference.prompt_convert import reference_message, use_of
from services.inference.resilience import Outcome
from services.inference.routing_convert import decision_message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.inference.models import Listed
    from services.inference.progress import Timings
    from services.inference.resilience import Attempt
    from services.inference.tokenization import Tokenized

GenerationMessage: TypeAlias = generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest

_FINISH_REASONS: Final = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: generation_pb2.FINISH_REASON_CONTENT_FILTER,
    FinishReason.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
}
PRIORITIES: Final = {
    generation_pb2.PRIORITY_UNSPECIFIED: Priority.DEFAULT,
    generation_pb2.PRIORITY_SYSTEM: Priority.SYSTEM,
    generation_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    generation_pb2.PRIORITY_DEFAULT: Priority.DEFAULT,
    generation_pb2.PRIORITY_BULK: Priority.BULK,
}
_CACHE_MODES: Final = {
    generation_pb2.CACHE_MODE_UNSPECIFIED: CacheMode.USE,
    generation_pb2.CACHE_MODE_USE: CacheMode.USE,
    generation_pb2.CACHE_MODE_BYPASS: CacheMode.BYPASS,
    generation_pb2.CACHE_MODE_REFRESH: CacheMode.REFRESH,
    generation_pb2.CACHE_MODE_EXACT: CacheMode.EXACT,
}
_OUTCOMES: Final = {
    Outcome.ANSWERED: generation_pb2.ATTEMPT_OUTCOME_ANSWERED,
    Outcome.FAILED: generation_pb2.ATTEMPT_OUTCOME_FAILED,
    Outcome.BROKEN: generation_pb2.ATTEMPT_OUTCOME_BROKEN,
}
_SOURCES: Final = {
    UsageSource.REPORTED: generation_pb2.USAGE_SOURCE_REPORTED,
    UsageSource.COUNTED: generation_pb2.USAGE_SOURCE_COUNTED,
    UsageSource.ESTIMATED: generation_pb2.USAGE_SOURCE_ESTIMATED,
}
_CAPABILITIES: Final = {
    Capability.GENERATION: model_pb2.CAPABILITY_GENERATION,
    Capability.EMBEDDING: model_pb2.CAPABILITY_EMBEDDING,
    Capability.EXTRACTION: model_pb2.CAPABILITY_EXTRACTION,
    Capability.TOOLS: model_pb2.CAPABILITY_TOOLS,
    Capability.JSON_SCHEMA: model_pb2.CAPABILITY_JSON_SCHEMA,
    Capability.REGEX: model_pb2.CAPABILITY_REGEX,
    Capability.CHOICE: model_pb2.CAPABILITY_CHOICE,
    Capability.LOGPROBS: model_pb2.CAPABILITY_LOGPROBS,
    Capability.ALTERNATIVES: model_pb2.CAPABILITY_ALTERNATIVES,
    Capability.IMAGES: model_pb2.CAPABILITY_IMAGES,
    Capability.DIMENSIONS: model_pb2.CAPABILITY_DIMENSIONS,
}
_STATES: Final = {
    ModelState.UNLOADED: model_pb2.MODEL_STATE_UNLOADED,
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.UNREACHABLE: model_pb2.MODEL_STATE_UNREACHABLE,
    ModelState.LOADING: model_pb2.MODEL_STATE_LOADING,
    ModelState.FAILED: model_pb2.MODEL_STATE_FAILED,
}


def request_of(message: GenerationMessage, request_id: str) -> Request:
    """Reads either form of the request; the validation interceptor has held it to its limits."""
    if message.HasField("prompt"):
        messages: tuple[Message, ...] = (Message(Role.USER, message.prompt),)
    else:
        messages = messages_of(message.messages)
    assignment = None
    if message.HasField("assignment"):
        given = message.assignment
        assignment = Assignment(given.assignment, given.experiment, given.variant)
    return Request(
        request_id=request_id,
        model=message.model,
        messages=messages,
        passages=tuple(Passage(passage.text, passage.title) for passage in message.passages),
        sampling=sampling_of(message.sampling),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        user=message.user,
        conversation=message.conversation,
        assignment=assignment,
        form=form_of(message),
        session=message.session,
        priority=PRIORITIES[message.priority],
        cache=_CACHE_MODES[message.cache],
        prompt=use_of(message.prompt_template) if message.HasField("prompt_template") else None,
        attributes={**message.attributes, "tenant": current_call().tenant},
    )


def sampling_of(message: generation_pb2.Sampling) -> Sampling:
    """Reads how tokens are chosen."""
    return Sampling(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        seed=message.seed if message.HasField("seed") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
    )


def events_of(event: Event, request_id: str) -> Iterable[generation_service_pb2.StreamGenerateResponse]:
    """Writes one event of the stream: as one message, or several where it holds pieces of tool calls."""
    return delta_events(event) if isinstance(event, Delta) else (_event(event, request_id),)


def _event(event: Started | Usage | Finished, request_id: str) -> generation_service_pb2.StreamGenerateResponse:
    respond = generation_service_pb2.StreamGenerateResponse
    if isinstance(event, Usage):
        return respond(usage=_usage(event))
    if isinstance(event, Started):
        return respond(
            started=generation_service_pb2.GenerationStarted(
                model=event.model,
                engine=event.engine,
                variant=event.assignment.variant if event.assignment else "",
                assignment=_assignment(event.assignment),
                assignments=_assignments(event.assignment),
                request_id=event.request_id,
                attempts=map(_attempt, event.attempts),
                cached=event.cached,
                decision=decision_message(event.decision),
                alias=event.alias,
                prompt_version=reference_message(event.prompt),
                similarity=event.similarity,
            )
        )
    return respond(
        finished=generation_service_pb2.GenerationFinished(
            finish_reason=_finish_reason(event),
            usage=_usage(event.usage),
            timings=_timings(event.timings),
            error=to_status(event.failure, request_id) if event.failure else None,
            finish_reasons=[_FINISH_REASONS[reason] for reason in event.finish_reasons],
            attempts=map(_attempt, event.attempts),
        )
    )


def response_of(completed: Completed) -> generation_service_pb2.GenerateResponse:
    """Writes a whole generation."""
    started, finished, first = completed.started, completed.finished, completed.answers[0]
    return generation_service_pb2.GenerateResponse(
        text=first.text,
        finish_reason=_finish_reason(finished),
        usage=_usage(finished.usage),
        model=started.model,
        engine=started.engine,
        variant=started.assignment.variant if started.assignment else "",
        assignment=_assignment(started.assignment),
        assignments=_assignments(started.assignment),
        timings=_timings(finished.timings),
        request_id=started.request_id,
        attempts=map(_attempt, finished.attempts),
        cached=started.cached,
        decision=decision_message(started.decision),
        alias=started.alias,
        prompt_version=reference_message(started.prompt),
        similarity=started.similarity,
        tool_calls=map(tool_call, first.tool_calls),
        logprobs=map(logprob, first.logprobs),
        alternatives=[
            generation_service_pb2.Alternative(
                text=answer.text,
                finish_reason=_FINISH_REASONS[reason],
                tool_calls=map(tool_call, answer.tool_calls),
                logprobs=map(logprob, answer.logprobs),
            )
            for answer, reason in zip(completed.answers, finished.finish_reasons, strict=False)
        ],
    )


def embed_response_of(embedded: Embedded) -> embedding_service_pb2.EmbedResponse:
    """Writes vectors."""
    embeddings = embedded.embeddings
    return embedding_service_pb2.EmbedResponse(
        embeddings=[embedding_pb2.Embedding(values=vector) for vector in embeddings.vectors],
        model=embedded.model.name,
        dimensions=len(embeddings.vectors[0]) if len(embeddings.vectors) else embedded.model.dimensions,
        usage=_usage(Usage(embeddings.input_tokens, None, embeddings.source)),
        fingerprint=embedded.model.fingerprint,
    )


def tokenize_response_of(tokenized: Tokenized) -> tokenization_service_pb2.TokenizeResponse:
    """Writes the tokens of a text."""
    tokens = tokenized.tokens
    return tokenization_service_pb2.TokenizeResponse(
        count=tokens.count, tokens=tokens.ids, model=tokenized.model, source=_SOURCES[tokens.source]
    )


def model_of(listed: Listed) -> model_pb2.Model:
    """Writes one model of the list."""
    model = listed.model
    return model_pb2.Model(
        model=model.name,
        engine=model.engine,
        capabilities=[_CAPABILITIES[capability] for capability in model.capabilities],
        state=_STATES[model.state],
        context_tokens=model.context_tokens,
        dimensions=model.dimensions,
        languages=model.languages,
        size_bytes=model.size_bytes,
        description=model.description,
        is_auto=listed.is_auto,
        fingerprint=model.fingerprint,
    )


def _finish_reason(finished: Finished) -> generation_pb2.FinishReason.ValueType:
    if finished.finish_reason is None:
        return generation_pb2.FINISH_REASON_ERROR
    return _FINISH_REASONS[finished.finish_reason]


def _usage(usage: Usage) -> generation_pb2.Usage:
    return generation_pb2.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, source=_SOURCES[usage.source]
    )


def _assignments(assignment: Assignment | None) -> list[assignment_pb2.Assignment]:
    """Those of all layers."""
    if assignment is None:
        return []
    layers = (assignment, *assignment.also)
    return [assignment_pb2.Assignment(assignment=one.key, experiment=one.experiment, variant=one.variant) for one in layers]


def _assignment(assignment: Assignment | None) -> assignment_pb2.Assignment | None:
    if assignment is None:
        return None
    return assignment_pb2.Assignment(assignment=assignment.key, experiment=assignment.experiment, variant=assignment.variant)


def _timings(timings: Timings) -> generation_pb2.Timings:
    first = None if timings.first_token is None else _duration(timings.first_token)
    queued = _duration(timings.queued) if timings.queued else None
    return generation_pb2.Timings(first_token=first, total=_duration(timings.total), queued=queued)


def _attempt(attempt: Attempt) -> generation_pb2.Attempt:
    reason = error_reason_pb2.ERROR_REASON_UNSPECIFIED
    if attempt.reason is not None:
        reason = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{attempt.reason.value}")
    return generation_pb2.Attempt(
        engine=attempt.engine,
        model=attempt.model,
        backend=attempt.backend,
        outcome=_OUTCOMES[attempt.outcome],
        reason=reason,
        output_tokens=attempt.output_tokens,
        time=_duration(attempt.seconds),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
