"""Queries whose relevant documents are known: judged by people, or made of the collection's own sentences."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.retrieval.languages import CJK_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

_SEED: Final = 7
# Of a sentence so much is kept as a query: all of it would be found by its very words.
_KEPT_WORDS: Final = 0.5
_LEAST_WORDS: Final = 8
_MOST_WORDS: Final = 40
_LEAST_SIGNS: Final = 16
_SIGNS: Final = 14
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]+")


@dataclass(frozen=True, slots=True)
class Judged:
    """A query, and the ids of the documents that answer it."""

    query: str
    relevant: tuple[str, ...]


class Judgments(Protocol):
    """The judged queries of collections, in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def put(self, collection_uid: UUID, queries: Sequence[Judged]) -> bool:
        """Keeps these queries in place of those before; False if the collection is gone."""
        ...

    async def of(self, collection_uid: UUID) -> list[Judged]:
        """All judged queries of a collection, in the order in which they were given."""
        ...

    async def texts(self, collection_uid: UUID, most: int) -> list[tuple[str, str]]:
        """Ids and beginnings of the texts of searchable documents, chosen by a hash of their ids: the same ones each time."""
        ...


def made_of(texts: Sequence[tuple[str, str]]) -> list[Judged]:
    """One query a document: half the words of one of its sentences, in their order; none where it has no such sentence.

    A sentence that two documents share says nothing of either, but is rare enough.
    """
    chance = random.Random(_SEED)  # noqa: S311 - repeatable, not secret
    made = []
    for document, text in texts:
        sentences = [one.strip() for one in _SENTENCE.findall(text)]
        usable = [query for one in sentences if (query := _shortened(one, chance))]
        if usable:
            made.append(Judged(chance.choice(usable), (document,)))
    return made


def _shortened(sentence: str, chance: random.Random) -> str:
    if CJK_CHARACTER.search(sentence):
        if len(sentence) < _LEAST_SIGNS:
            return ""
        start = chance.randrange(len(sentence) - _SIGNS + 1)
        return sentence[start : start + _SIGNS]
    words = sentence.split()
    if not _LEAST_WORDS <= len(words) <= _MOST_WORDS:
        return ""
    kept = sorted(chance.sample(range(len(words)), round(_KEPT_WORDS * len(words))))
    return " ".join(words[place] for place in kept)
