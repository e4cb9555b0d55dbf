"""What may be tried: the settings that a variant of an experiment can impose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final, TypeAlias

from penstock.assignment import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Value: TypeAlias = "str | int | float"

# More settings than this are as good as endless: nobody tries them all.
_MOST_LISTED: Final = 100_000


@dataclass(frozen=True)
class Span:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class IntegerSpan:
    """The whole numbers from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Space:
    """See the proto's SearchSpace; each field has the name of the setting that it tries. Empty or None: left as it is."""

    model: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ()
    fusion: tuple[str, ...] = ()
    reranker: tuple[str, ...] = ()
    temperature: Span | None = None
    top_p: Span | None = None
    min_relevance: Span | None = None
    max_tokens: IntegerSpan | None = None
    top_k: IntegerSpan | None = None

    def choices(self) -> dict[str, tuple[str, ...]]:
        """The settings that are chosen from a list."""
        every = {"model": self.model, "prompt": self.prompt, "fusion": self.fusion, "reranker": self.reranker}
        return {name: values for name, values in every.items() if values}

    def spans(self) -> dict[str, Span]:
        """The settings that are numbers."""
        every = {"temperature": self.temperature, "top_p": self.top_p, "min_relevance": self.min_relevance}
        return {name: span for name, span in every.items() if span is not None}

    def integers(self) -> dict[str, IntegerSpan]:
        """The settings that are whole numbers."""
        every = {"max_tokens": self.max_tokens, "top_k": self.top_k}
        return {name: span for name, span in every.items() if span is not None}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to try."""
        return not (self.choices() or self.spans() or self.integers())

    def size(self) -> float:
        """How many settings there are; infinite where a number may be anything between two others."""
        if any(span.low < span.high for span in self.spans().values()):
            return math.inf
        choices = math.prod(len(values) for values in self.choices().values())
        return choices * math.prod(span.high - span.low + 1 for span in self.integers().values())

    def listed(self) -> Iterator[dict[str, Value]]:
        """All settings, where they can be listed, else none."""
        if self.size() > _MOST_LISTED:
            return
        axes: dict[str, tuple[Value, ...]] = {
            **self.choices(),
            **{name: (span.low,) for name, span in self.spans().items()},
            **{name: tuple(range(span.low, span.high + 1)) for name, span in self.integers().items()},
        }
        for values in product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


def settings_of(values: Mapping[str, Value]) -> Settings:
    """One point of a space as what a variant imposes."""
    return Settings(**values)  # type: ignore[arg-type]  # the names are those of its fields, and the values of their types


def values_of(settings: Settings) -> dict[str, Value]:
    """The point that these settings are."""
    return settings.changes()
