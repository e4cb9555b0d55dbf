"""What is asked of inference, and what it answers: the types that all its parts share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from services.chassis.errors import Failure, Reason
from services.inference.admission import Priority
from services.inference.engine import Delta, Generation, Message, Role, Sampling, Usage
from services.inference.form import Form
from services.inference.prompts.use import PromptUse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.assignment import Treatment

    from services.inference.answers import Answer
    from services.inference.auto.decision import Decision
    from services.inference.engine import Embeddings, FinishReason, Model, Passage
    from services.inference.progress import Timings
    from services.inference.prompts.use import PromptReference
    from services.inference.resilience import Attempt


class CacheMode(StrEnum):
    """What a request may have of the response cache.

    REFRESH generates anew and keeps the answer, BYPASS keeps none, EXACT takes none that was given to other words.
    """

    USE = "use"
    BYPASS = "bypass"
    REFRESH = "refresh"
    EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which variant of which experiment shapes the response; `key` is what outcomes name, `also` those of other layers."""

    key: str
    experiment: str
    variant: str
    also: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Attributes:
        request_id: As in logs.
        model: Name, `auto`, or empty for `auto`.
        messages: Oldest first, at least one unless there is a `prompt`.
        passages: What to answer from.
        sampling: How tokens are chosen.
        max_tokens: Most tokens to generate; None leaves the engine's limit.
        stop: Sequences that end the text.
        user: The end user's id, or empty.
        conversation: The conversation's id, or empty.
        assignment: Made already by the calling service, which has recorded the exposure too; nothing is evaluated then.
        form: What form the answer is to take.
        session: Id of a session whose requests share most of their prompt, or empty.
        priority: Who goes first when there is more work than room.
        cache: What it may have of the response cache, where there is one.
        decision: Which model it goes to, where that has been decided already.
        prompt: The prompt to render in place of `messages`.
        rendered: The version of a prompt that `messages` were rendered from already.
        attributes: What is known of it, for the targeting of experiments.
    """

    request_id: str
    model: str
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    user: str = ""
    conversation: str = ""
    assignment: Assignment | None = None
    form: Form = field(default_factory=Form)
    session: str = ""
    priority: Priority = Priority.DEFAULT
    cache: CacheMode = CacheMode.USE
    decision: Decision | None = None
    prompt: PromptUse | None = None
    rendered: PromptReference | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """The first event, sent once an engine has said something: what was decided. The last of `attempts` answers.

    `similarity` is there where a cached answer was given to a question in other words.
    """

    model: str
    engine: str
    assignment: Assignment | None
    request_id: str
    attempts: tuple[Attempt, ...] = ()
    alias: str = ""
    cached: bool = False
    decision: Decision | None = None
    prompt: PromptReference | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. With `failure` the text is incomplete, and `finish_reason` is None.

    `finish_reasons` says it of each answer where there are several.
    """

    finish_reason: FinishReason | None
    usage: Usage
    timings: Timings
    failure: Failure | None = None
    finish_reasons: tuple[FinishReason, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds, under the caller's deadline: to the first content, between two contents, and in total (0 for no limit)."""

    first_token: float = 120.0
    inter_token: float = 60.0
    total: float = 0.0


Event: TypeAlias = Started | Delta | Usage | Finished


@dataclass(frozen=True, slots=True)
class Completed:
    """A whole generation: `answers` has one, or as many as were asked for."""

    started: Started
    answers: tuple[Answer, ...]
    finished: Finished


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, and the model that made them."""

    model: Model
    embeddings: Embeddings


def assignment_of(treatment: Treatment | None) -> Assignment | None:
    """What of a treatment the response tells; nothing of settings that are only promoted."""
    if treatment is None or not treatment.assignment:
        return None
    also = tuple(Assignment(one.assignment, one.experiment, one.variant) for one in treatment.also)
    return Assignment(treatment.assignment, treatment.experiment, treatment.variant, also)


class Renders(Protocol):
    """Renders prompts."""

    def render(self, use: PromptUse) -> tuple[tuple[Message, ...], PromptReference]:
        """The messages, and which version was rendered. Raises PROMPT_NOT_FOUND, and INVALID_FIELD naming a variable."""


def treated(request: Request, treatment: Treatment | None, prompts: Renders | None = None) -> Generation:
    """What to generate from, with the variant's settings in place of the request's. Raises Failure as `Renders.render`."""
    messages, reference = request.messages, request.rendered
    use = _prompt_of(request, treatment)
    if use is not None:
        if prompts is None:
            raise not_kept(use.name)
        messages, reference = prompts.render(use)
    generation = Generation(
        request.model,
        messages,
        request.passages,
        request.sampling,
        request.max_tokens,
        request.stop,
        request.form,
        reference,
    )
    if treatment is None:
        return generation
    if treatment.prompt is not None:
        rest = tuple(message for message in messages if message.role is not Role.SYSTEM)
        messages = (Message(Role.SYSTEM, treatment.prompt), *rest) if treatment.prompt else rest
    sampling = replace(
        generation.sampling,
        temperature=generation.sampling.temperature if treatment.temperature is None else treatment.temperature,
        top_p=generation.sampling.top_p if treatment.top_p is None else treatment.top_p,
    )
    return replace(
        generation,
        model=generation.model if treatment.model is None else treatment.model,
        messages=messages,
        sampling=sampling,
        max_tokens=generation.max_tokens if treatment.max_tokens is None else treatment.max_tokens,
    )


def not_kept(name: str) -> Failure:
    """PROMPT_NOT_FOUND, where no prompts are kept at all."""
    return Failure(Reason.PROMPT_NOT_FOUND, f"prompt {name!r}: no prompts are kept here", metadata={"prompt": name})


def _prompt_of(request: Request, treatment: Treatment | None) -> PromptUse | None:
    """The prompt to render: the variant's, with the request's variables and conversation, or the request's own."""
    variant = treatment.prompt_version if treatment else None
    if variant is None:
        return request.prompt
    if request.prompt is not None:
        return replace(request.prompt, name=variant.name, version=variant.version)
    rest = tuple(message for message in request.messages if message.role is not Role.SYSTEM)
    return PromptUse(variant.name, variant.version, messages=rest)
