"""Between the messages of the contract and the types of the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf import duration_pb2
from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import (
    embedding_pb2,
    embedding_service_pb2,
    generation_pb2,
    generation_service_pb2,
    model_pb2,
)

from services.chassis.status import to_status
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
from services.inference.inference import Assignment, Completed, Embedded, Event, Finished, Request, Started, Timings

if TYPE_CHECKING:
    from services.inference.models import Listed

GenerationMessage: TypeAlias = generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest

_ROLES: Final = {
    generation_pb2.ROLE_SYSTEM: Role.SYSTEM,
    generation_pb2.ROLE_USER: Role.USER,
    generation_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_FINISH_REASONS: Final = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: generation_pb2.FINISH_REASON_CONTENT_FILTER,
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
}
_STATES: Final = {
    ModelState.UNLOADED: model_pb2.MODEL_STATE_UNLOADED,
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.UNREACHABLE: model_pb2.MODEL_STATE_UNREACHABLE,
}


def request_of(message: GenerationMessage, request_id: str) -> Request:
    """Reads either form of the request; the validation interceptor has held it to its limits."""
    if message.HasField("prompt"):
        messages: tuple[Message, ...] = (Message(Role.USER, message.prompt),)
    else:
        messages = tuple(Message(_ROLES[one.role], "".join(part.text for part in one.parts)) for one in message.messages)
    assignment = None
    if message.HasField("assignment"):
        given = message.assignment
        assignment = Assignment(given.assignment, given.experiment, given.variant)
    return Request(
        request_id=request_id,
        model=message.model,
        messages=messages,
        passages=tuple(Passage(passage.text, passage.title) for passage in message.passages),
        sampling=_sampling_of(message.sampling),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        user=message.user,
        conversation=message.conversation,
        assignment=assignment,
    )


def _sampling_of(message: generation_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        seed=message.seed if message.HasField("seed") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
    )


def event_of(event: Event, request_id: str) -> generation_service_pb2.StreamGenerateResponse:
    """Writes one event of the stream."""
    respond = generation_service_pb2.StreamGenerateResponse
    if isinstance(event, Delta):
        return respond(delta=generation_service_pb2.GenerationDelta(text=event.text))
    if isinstance(event, Usage):
        return respond(usage=_usage(event))
    if isinstance(event, Started):
        return respond(
            started=generation_service_pb2.GenerationStarted(
                model=event.model,
                engine=event.engine,
                variant=event.assignment.variant if event.assignment else "",
                assignment=_assignment(event.assignment),
                request_id=event.request_id,
            )
        )
    return respond(
        finished=generation_service_pb2.GenerationFinished(
            finish_reason=_finish_reason(event),
            usage=_usage(event.usage),
            timings=_timings(event.timings),
            error=to_status(event.failure, request_id) if event.failure else None,
        )
    )


def response_of(completed: Completed) -> generation_service_pb2.GenerateResponse:
    """Writes a whole generation."""
    started, finished = completed.started, completed.finished
    return generation_service_pb2.GenerateResponse(
        text=completed.text,
        finish_reason=_finish_reason(finished),
        usage=_usage(finished.usage),
        model=started.model,
        engine=started.engine,
        variant=started.assignment.variant if started.assignment else "",
        assignment=_assignment(started.assignment),
        timings=_timings(finished.timings),
        request_id=started.request_id,
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


def _assignment(assignment: Assignment | None) -> assignment_pb2.Assignment | None:
    if assignment is None:
        return None
    return assignment_pb2.Assignment(assignment=assignment.key, experiment=assignment.experiment, variant=assignment.variant)


def _timings(timings: Timings) -> generation_pb2.Timings:
    first = None if timings.first_token is None else _duration(timings.first_token)
    return generation_pb2.Timings(first_token=first, total=_duration(timings.total))


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
