"""Which documents a search may find, told from the facts in their metadata.

Facts live in the system of record alone: there a filter is resolved to a set of documents, by which the vector store then
restricts each ranking before it ranks. A change of metadata is so effective at once, and no place in a ranking is lost to a
document that does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

Value: TypeAlias = str | float | bool


@dataclass(frozen=True, slots=True)
class OneOf:
    """The fact is one of these values; of a fact that is a list, one element is enough here and below."""

    key: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The fact is a number within bounds."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The fact is a time, a string in the form of RFC 3339, within bounds, which know their time zone."""

    key: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """The document has the fact."""

    key: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of the conditions hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of the conditions holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """None of the conditions holds."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = OneOf | Range | TimeRange | Exists | AllOf | AnyOf | NoneOf


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """Some documents of a collection, by the smaller side: those within (`allowed`), or those without."""

    uids: tuple[UUID, ...]
    allowed: bool

    @property
    def is_empty(self) -> bool:
        """Whether no document is in it."""
        return self.allowed and not self.uids

    @property
    def is_whole(self) -> bool:
        """Whether every document is in it."""
        return not self.allowed and not self.uids
