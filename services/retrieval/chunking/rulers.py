"""Measures texts in the tokens of a collection's embedder, learning its vocabulary word by word.

What a word is in tokens does not depend on what stands beside it, or next to nothing. So each word is asked for once, many to a
call, and after some documents almost none is new: a text is measured here, exactly, and with no call. An embedder whose
engine does not tell its tokens is measured by the estimate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason
from services.retrieval.chunking.tokens import ESTIMATE, WORD, ByWords
from services.retrieval.languages import is_known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from services.retrieval.chunking.tokens import Measure
    from services.retrieval.embedding import EmbedderIdentity

_log = logging.getLogger(__name__)

# What stands between the words that are asked for, and is found again among the tokens.
_MARK: Final = "¶"
_PROBE: Final = f" {_MARK} ".join(("", "water", "pump", "water", ""))
_MARKS_IN_PROBE: Final = 4
_CALL_CHARACTERS: Final = 64 * 1024
_MOST_WORDS: Final = 100_000
# Reasons for which the embedder itself could do nothing either: the work waits, as it does for the vectors.
_WAITS: Final = frozenset(
    {
        Reason.ENGINE_UNAVAILABLE,
        Reason.ENGINE_OVERLOADED,
        Reason.SERVICE_UNAVAILABLE,
        Reason.DEADLINE_EXCEEDED,
        Reason.SHUTTING_DOWN,
    }
)

# An inference service, or a model, that tells no tokens: there is no use in asking again.
_NEVER: Final = frozenset({Reason.METHOD_NOT_FOUND, Reason.MODEL_CAPABILITY_MISSING})


class Tokenizer(Protocol):
    """Whatever knows the tokens of a model."""

    async def tokens(self, model: str, text: str) -> Sequence[int]:
        """The tokens of a text by their numbers; empty where only their number can be told, or not even that.

        Raises:
            Failure: MODEL_NOT_FOUND, ENGINE_UNAVAILABLE, SERVICE_UNAVAILABLE.
        """
        ...


@dataclass(slots=True)
class _Vocabulary:
    """What is known of an embedder: its token for the mark, 0 where it has none of its own, and the tokens of words."""

    mark: int | None = None
    words: dict[str, int] = field(default_factory=dict)


class Rulers:
    """Measures for texts.

    Args:
        tokenizer: What knows the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabularies: dict[str, _Vocabulary] = {}

    async def of(self, identity: EmbedderIdentity, texts: Sequence[str]) -> list[Measure]:
        """A measure for each of the texts. One in a language that the embedder does not know has no vector: an estimate.

        Raises:
            Failure: ENGINE_UNAVAILABLE, SERVICE_UNAVAILABLE, and what else heals by itself.
        """
        vocabulary = self._vocabularies.setdefault(identity.fingerprint, _Vocabulary())
        words = await asyncio.to_thread(_words, texts, identity.languages)
        try:
            if vocabulary.mark is None and any(words):
                vocabulary.mark = await self._mark(identity.name)
            if vocabulary.mark:
                await self._learn(vocabulary, identity.name, {word for those in words for word in those})
        except Failure as failure:
            if failure.reason in _WAITS:
                raise
            if failure.reason in _NEVER:
                vocabulary.mark = 0
            _log.warning("chunks of %s are cut by an estimate of tokens: %s", identity.name, failure.message)
            return [ESTIMATE] * len(texts)
        if not vocabulary.mark:
            return [ESTIMATE] * len(texts)
        known = vocabulary.words
        return [ByWords({word: known[word] for word in those}) if those else ESTIMATE for those in words]

    async def _mark(self, model: str) -> int:
        """The token of the mark: that which is there as often as it is; 0 if there is none."""
        counted = Counter(await self._tokenizer.tokens(model, _PROBE))
        found = [token for token, count in counted.items() if count == _MARKS_IN_PROBE]
        return found[0] if len(found) == 1 else 0

    async def _learn(self, vocabulary: _Vocabulary, model: str, words: set[str]) -> None:
        unknown = sorted(words - vocabulary.words.keys())
        if len(vocabulary.words) + len(unknown) > _MOST_WORDS:
            vocabulary.words = {word: vocabulary.words[word] for word in words & vocabulary.words.keys()}
        for batch in _batches(unknown):
            vocabulary.words.update(await self._counts(vocabulary.mark or 0, model, batch))

    async def _counts(self, mark: int, model: str, words: Sequence[str]) -> Mapping[str, int]:
        """How many tokens each word is. Where a word has the mark's token in it, it is measured with ever fewer others."""
        text = f"{_MARK} " + f" {_MARK} ".join(words) + f" {_MARK}"
        tokens = await self._tokenizer.tokens(model, text)
        places = [place for place, token in enumerate(tokens) if token == mark]
        if len(places) == len(words) + 1:
            counts = (after - before - 1 for before, after in pairwise(places))
            return {word: max(1, count) for word, count in zip(words, counts, strict=True)}
        if len(words) == 1:
            return {words[0]: max(1, len(tokens) - 2)}
        half = len(words) // 2
        return {**await self._counts(mark, model, words[:half]), **await self._counts(mark, model, words[half:])}


def _words(texts: Sequence[str], languages: Sequence[str]) -> list[set[str]]:
    """The different words of each text; none of one that is not embedded."""
    return [set(WORD.findall(text)) if is_known(text, languages) else set() for text in texts]


def _batches(words: Sequence[str]) -> Iterator[Sequence[str]]:
    start = size = 0
    for place, word in enumerate(words):
        size += len(word) + 3
        if size > _CALL_CHARACTERS:
            yield words[start:place]
            start, size = place, len(word) + 3
    if start < len(words):
        yield words[start:]
