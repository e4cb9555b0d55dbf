"""How a collection's documents are cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_TARGET: Final = 32
MOST_TARGET: Final = 2048


class ChunkingStrategy(StrEnum):
    """What a cut follows.

    AUTO tells it by the document's type: prose by sentences, under headings where there are some, code by definitions, tables
    by rows. The others hold for every document of the collection, whatever its type.
    """

    AUTO = "AUTO"
    # Sentences alone: no heading begins a chunk.
    PROSE = "PROSE"
    # Sentences, and every heading begins a chunk, however short the one before it is.
    SECTIONS = "SECTIONS"
    # Lines and definitions.
    CODE = "CODE"
    # Lines, of which the first is said again with each chunk.
    TABLE = "TABLE"


@dataclass(frozen=True, slots=True)
class ChunkingSettings:
    """How documents are cut.

    Attributes:
        strategy: What a cut follows.
        target_tokens: About how many tokens of the embedder a chunk has, 32 to 2048; one sentence more may make it a tenth
            larger. What an embedder cannot read at once it leaves out; the one on board reads 256, with title and headings.
        overlap_tokens: How many tokens of whole sentences a chunk of prose repeats of the one before it at most, 0 to half of
            `target_tokens`. Chunks of code and tables repeat none.

    Raises:
        ValueError: a number is out of its range.
    """

    strategy: ChunkingStrategy = ChunkingStrategy.AUTO
    target_tokens: int = 200
    overlap_tokens: int = 30

    def __post_init__(self) -> None:
        if not LEAST_TARGET <= self.target_tokens <= MOST_TARGET:
            raise ValueError(f"target_tokens: {self.target_tokens} is not within {LEAST_TARGET} to {MOST_TARGET}")
        if not 0 <= self.overlap_tokens <= self.target_tokens // 2:
            raise ValueError(f"overlap_tokens: {self.overlap_tokens} is not within 0 to half of target_tokens")

    @property
    def most_tokens(self) -> int:
        """What a chunk may grow to if one more sentence then ends it well."""
        return self.target_tokens + self.target_tokens // 10

    @property
    def least_tokens(self) -> int:
        """Below this a chunk goes on over a heading."""
        return 0 if self.strategy is ChunkingStrategy.SECTIONS else self.target_tokens // 5

    def to_json(self) -> dict[str, object]:
        """As plain values, to be kept."""
        return {"strategy": self.strategy.value, "target_tokens": self.target_tokens, "overlap_tokens": self.overlap_tokens}

    @classmethod
    def from_json(cls, kept: Mapping[str, object] | None) -> ChunkingSettings:
        """What `to_json` gave; None and what is missing mean the defaults. Raises ValueError for anything else."""
        kept = kept or {}
        default = cls()
        numbers = {}
        for name in ("target_tokens", "overlap_tokens"):
            value = kept.get(name, getattr(default, name))
            if not isinstance(value, int):
                raise ValueError(f"{name}: {value!r} is no whole number")  # noqa: TRY004 - one kind of failure for all of it
            numbers[name] = value
        return cls(ChunkingStrategy(str(kept.get("strategy", default.strategy))), **numbers)


DEFAULT_CHUNKING: Final = ChunkingSettings()
