"""The generator: penstock's inference service over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

from services.chassis.call import current_call, outgoing_metadata
from services.chassis.errors import Failure, Reason
from services.chassis.remote import failure_of, failure_told
from services.retrieval.generation import Begun, Ended, FinishReason, Role, Usage, UsageSource, Written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.retrieval.generation import Generated, Prompt, Sampling

_ROLES: Final = {
    Role.SYSTEM: generation_pb2.ROLE_SYSTEM,
    Role.USER: generation_pb2.ROLE_USER,
    Role.ASSISTANT: generation_pb2.ROLE_ASSISTANT,
}
_REASONS: Final[dict[int, FinishReason]] = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
}
_USAGE_SOURCES: Final[dict[int, UsageSource]] = {
    generation_pb2.USAGE_SOURCE_REPORTED: UsageSource.REPORTED,
    generation_pb2.USAGE_SOURCE_COUNTED: UsageSource.COUNTED,
}
# The limits of the contract, in characters and bytes.
_TITLE_CHARACTERS: Final = 1024


class InferenceGenerator:
    """Generates through the channel to inference."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Generated, None]:
        """See `Generates.generate`."""
        call = self._stub.StreamGenerate(_request(prompt), timeout=current_call().remaining(), metadata=outgoing_metadata())
        ended = False
        try:
            async for response in call:
                event = _event(response)
                if event is not None:
                    ended = isinstance(event, Ended)
                    yield event
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        finally:
            call.cancel()
        if not ended:
            raise Failure(Reason.GENERATION_FAILED, "the stream from inference ended before its last event")


def _event(response: generation_service_pb2.StreamGenerateResponse) -> Generated | None:
    kind = response.WhichOneof("event")
    if kind == "delta":
        return Written(response.delta.text)
    if kind == "started":
        return Begun(response.started.model, response.started.engine)
    if kind != "finished":
        return None
    finished = response.finished
    if finished.finish_reason == generation_pb2.FINISH_REASON_ERROR:
        told = failure_told(finished.error)
        raise told or Failure(Reason.GENERATION_FAILED, "generation failed after it had begun")
    return Ended(_REASONS.get(finished.finish_reason, FinishReason.STOP), _usage(finished.usage))


def _usage(usage: generation_pb2.Usage) -> Usage:
    return Usage(
        input_tokens=usage.input_tokens if usage.HasField("input_tokens") else None,
        output_tokens=usage.output_tokens if usage.HasField("output_tokens") else None,
        source=_USAGE_SOURCES.get(usage.source, UsageSource.ESTIMATED),
    )


def _request(prompt: Prompt) -> generation_service_pb2.StreamGenerateRequest:
    request = generation_service_pb2.StreamGenerateRequest(
        model=prompt.model,
        messages=[
            generation_pb2.Message(role=_ROLES[role], parts=[generation_pb2.Part(text=text)]) for role, text in prompt.messages
        ],
        passages=[generation_pb2.Passage(text=hit.text, title=hit.title[:_TITLE_CHARACTERS]) for hit in prompt.passages],
        sampling=_sampling(prompt.sampling),
        max_tokens=prompt.max_tokens,
        user=prompt.user,
        conversation=prompt.conversation,
        # A conversation that is deleted must not live on in the cache of answers.
        cache=generation_pb2.CACHE_MODE_BYPASS if prompt.conversation or prompt.is_fresh else generation_pb2.CACHE_MODE_USE,
    )
    kept = prompt.treatment.prompt_version if prompt.treatment is not None else None
    if kept is not None:
        template = request.prompt_template
        template.name, template.version = kept
        # The prompt takes the place of system messages.
        template.messages.extend(message for message in request.messages if message.role != generation_pb2.ROLE_SYSTEM)
        request.ClearField("messages")
    if prompt.treatment is not None and prompt.treatment.assignment:
        request.assignment.CopyFrom(
            assignment_pb2.Assignment(
                assignment=prompt.treatment.assignment,
                experiment=prompt.treatment.experiment,
                variant=prompt.treatment.variant,
            )
        )
    return request


def _sampling(sampling: Sampling) -> generation_pb2.Sampling:
    chosen: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
        if (value := getattr(sampling, name)) is not None
    }
    return generation_pb2.Sampling(**chosen)
