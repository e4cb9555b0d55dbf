"""How long a text is in tokens: exactly in those of an embedder, or by an estimate."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from services.retrieval.languages import CJK_CHARACTER, CJK_RANGES

if TYPE_CHECKING:
    from collections.abc import Mapping

# One word of up to 7 letters is about one WordPiece token, each 5 more another; figures, marks and Chinese characters
# are one each. Held against the real tokenizer this is some 10 % too high on English prose, which is the safe side.
_PIECE: Final = re.compile(rf"{CJK_CHARACTER.pattern}|[^\W\d_]{{1,7}}|\d{{1,3}}|[^\w\s]|_")
# What tokenizers do not join with what stands beside it, or nearly so. Longer words are measured in parts: the safe side.
WORD: Final = re.compile(rf"{CJK_CHARACTER.pattern}|[^\W\d_{CJK_RANGES}]{{1,32}}|\d{{1,3}}|[^\w\s]|_")


class Measure(Protocol):
    """Tells how many tokens a text has."""

    def tokens(self, text: str, start: int, end: int) -> int:
        """How many the span has."""
        ...

    def fitting(self, text: str, start: int, end: int, most: int) -> int:
        """How far from `start` the text may go to have `most` tokens; beyond `start` in any case, and `end` at most."""
        ...


class Estimate:
    """Estimates by the lengths of words."""

    def tokens(self, text: str, start: int, end: int) -> int:
        """See `Measure.tokens`."""
        return sum(1 for _ in _PIECE.finditer(text, start, end))

    def fitting(self, text: str, start: int, end: int, most: int) -> int:
        """See `Measure.fitting`."""
        beyond = next(islice(_PIECE.finditer(text, start, end), most, None), None)
        return max(beyond.start(), start + 1) if beyond else end


class ByWords:
    """Counts by what is known of each word.

    Args:
        tokens: Of each word of the texts that are measured, how many tokens it is.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens

    def tokens(self, text: str, start: int, end: int) -> int:
        """See `Measure.tokens`."""
        known = self._tokens
        return sum(known.get(word, 1) for word in WORD.findall(text, start, end))

    def fitting(self, text: str, start: int, end: int, most: int) -> int:
        """See `Measure.fitting`."""
        for match in WORD.finditer(text, start, end):
            most -= self._tokens.get(match[0], 1)
            if most < 0:
                return max(match.start(), start + 1)
        return end


ESTIMATE: Final = Estimate()


def estimate_tokens(text: str) -> int:
    """About how many tokens the text has."""
    return ESTIMATE.tokens(text, 0, len(text))
