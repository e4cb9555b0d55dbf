"""What retrieval asks of a generator of text, and what it hears from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.assignment import Treatment

    from services.retrieval.passages import Hit


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"


class UsageSource(StrEnum):
    """Where a token count comes from."""

    REPORTED = "reported"
    COUNTED = "counted"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None leaves the engine's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used up; None while unknown."""

    input_tokens: int | None
    output_tokens: int | None
    source: UsageSource


@dataclass(frozen=True, slots=True)
class Prompt:
    """What inference is asked to generate from; a kept generation will not do where it must be `is_fresh`."""

    model: str
    messages: tuple[tuple[Role, str], ...]
    passages: tuple[Hit, ...]
    sampling: Sampling
    max_tokens: int | None
    user: str
    conversation: str
    treatment: Treatment | None
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """Which model and engine answer."""

    model: str
    engine: str


@dataclass(frozen=True, slots=True)
class Written:
    """More text from the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The model is done."""

    reason: FinishReason
    usage: Usage | None


Generated: TypeAlias = Begun | Written | Ended


class Generates(Protocol):
    """Whatever generates text; `inference_generation.InferenceGenerator` does."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[Generated, None]:
        """Streams Begun, any number of Written, and Ended; raises Failure. Closing it stops the engine."""
        ...
