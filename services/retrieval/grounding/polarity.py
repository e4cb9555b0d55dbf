"""What a text denies, in English, Russian and Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.retrieval.analysis import words
from services.retrieval.grounding.function_words import FUNCTION_WORDS
from services.retrieval.languages import CJK_RANGES

if TYPE_CHECKING:
    from collections.abc import Iterator

_DENIALS: Final = (
    "not no never without neither nor none cannot nobody nothing nowhere prohibited forbidden "
    "не ни нет без нельзя никогда никто ничего запрещено запрещается"
)
_DENYING: Final = frozenset(_DENIALS.split())
# `not only`, `no more than`, `не только`, `не более`: these deny nothing of what follows.
_BOUNDS: Final = "only just merely more less fewer later earlier least только лишь более менее больше меньше позднее позже"
_BOUNDING: Final = frozenset(_BOUNDS.split())
# Words after the denial that it reaches: in `did not win the Nobel Prize` both `win` and `Nobel` are denied.
_REACH: Final = 2
_CLAUSE: Final = re.compile(r"[,.;:!?()—–]|\s(?:but|however|because|а|но|однако|потому)\s")
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_WIDE_DENYING: Final = re.compile(
    "不得不|不仅|不但|不过|不同|不断|不久|不少|无论|非常|未来|没关系|(禁止|没有|不|没|未|无法|禁)"
)
# Auxiliaries between the denial and what it denies.
_WIDE_BETWEEN: Final = re.compile("(?:允许|可以|能够|会|能|可|得|被|有|应该|应|宜|再|在|曾|许|要|必|予|给|把|将|过|是)*")
_WIDE_WORD: Final = re.compile(f"[{CJK_RANGES}]{{1,2}}")


@dataclass(frozen=True, slots=True)
class Denials:
    """Terms that are denied.

    Attributes:
        heads: Those right after a denial.
        reached: These, and the next ones.
    """

    heads: frozenset[str]
    reached: frozenset[str]


def denials(text: str) -> Denials:
    """What the text denies."""
    heads: set[str] = set()
    reached: set[str] = set()
    for denied in (*_spaced(text), *_wide(text)):
        heads.update(denied[:1])
        reached.update(denied)
    return Denials(frozenset(heads), frozenset(reached))


def contradict(claim: Denials, claim_terms: frozenset[str], source: Denials, source_terms: frozenset[str]) -> bool:
    """Whether one denies what the other affirms."""
    if claim.reached & source.reached:
        return False
    return bool(claim.reached & source_terms) or bool(source.heads & claim_terms)


def _spaced(text: str) -> Iterator[list[str]]:
    for match in _TOKEN.finditer(text):
        word = match[0].casefold().replace("’", "'")
        if word not in _DENYING and not word.endswith("n't"):
            continue
        rest = text[match.end() :]
        clause = _CLAUSE.search(rest)
        following = list(words(rest[: clause.start() if clause else len(rest)][:80]))
        if following and following[0][0] in _BOUNDING:
            continue
        content = [term for one, term in following if one not in FUNCTION_WORDS and not one[0].isdigit()]
        if content:
            yield content[:_REACH]


def _wide(text: str) -> Iterator[list[str]]:
    for match in _WIDE_DENYING.finditer(text):
        if match[1] is None:
            continue
        between = _WIDE_BETWEEN.match(text, match.end())
        word = _WIDE_WORD.match(text, between.end() if between else match.end())
        if word is None:
            # All that follows is an auxiliary, as in 不可: that itself is denied.
            word = _WIDE_WORD.match(text, match.end())
        if word is not None:
            yield [term for _, term in words(word[0])]
