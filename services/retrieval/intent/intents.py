"""Tells what a turn of a conversation is after.

Each intent gets points: for its wording (`cues`), and for how the turn stands to the turn before. A turn that shares content
words with it, or is like it in meaning, follows it up; one with several content words of its own and none in common opens a
topic. The most points win; confidence is the softmax over all. The same turn gives the same result always, in well under a
millisecond.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.retrieval.analysis import words
from services.retrieval.grounding.function_words import FUNCTION_CHARACTERS, FUNCTION_WORDS
from services.retrieval.intent.cues import weights
from services.retrieval.intent.kinds import Intent
from services.retrieval.languages import CJK_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Mapping

# Points of an intent that nothing speaks for.
_BASE: Final[Mapping[Intent, float]] = {Intent.NEW_TOPIC: 1.0, Intent.FOLLOW_UP: 0.9}
# Cosines from which two texts are about the same, and up to which they are not; MiniLM's, and other embedders' lie higher.
_ALIKE, _UNLIKE = 0.45, 0.2
_MOST_CHARACTERS: Final = 600
_CONTENT: Final = 2
_SHARPNESS: Final = 1.3
# Words of small talk at most.
_SMALL_TALK: Final = 8


@dataclass(frozen=True, slots=True)
class Before:
    """The turn before: its question, made complete, and its answer."""

    query: str
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """An intent, and how sure it is, 0 to 1."""

    intent: Intent
    confidence: float


def judged(query: str, before: Before | None, likeness: float | None = None) -> Judgement:
    """What the turn is after.

    Args:
        query: What was said.
        before: The turn before; None for the first.
        likeness: Cosine of the vectors of `query` and the turn before; None where unknown.
    """
    text = unicodedata.normalize("NFKC", query[:_MOST_CHARACTERS]).casefold().strip()
    points = {intent: weight + _BASE.get(intent, 0.0) for intent, weight in weights(text).items()}
    if before is None:
        # Nothing is there to continue or to correct.
        points = {intent: points[intent] for intent in (Intent.NEW_TOPIC, Intent.CHIT_CHAT)}
    else:
        _compare(points, text, before, likeness)
    if points[Intent.CHIT_CHAT] and _asks_something(text):
        points[Intent.CHIT_CHAT] -= 2.0
    whole = sum(math.exp(_SHARPNESS * value) for value in points.values())
    intent = max(points, key=lambda one: points[one])
    return Judgement(intent, math.exp(_SHARPNESS * points[intent]) / whole)


def content(text: str) -> set[str]:
    """The stems of a text that say something; single characters of Chinese."""
    found = {term for word, term in words(text) if not CJK_CHARACTER.match(word) and word not in FUNCTION_WORDS}
    return found | {one for one in CJK_CHARACTER.findall(text) if one not in FUNCTION_CHARACTERS and one not in _ASKING}


_ASKING: Final = frozenset("什么哪谁多少几怎样如何是不请问啊吗呢")


def _compare(points: dict[Intent, float], text: str, before: Before, likeness: float | None) -> None:
    own = content(text)
    earlier = content(before.query) | content(before.text)
    common = own & earlier
    is_wide = bool(CJK_CHARACTER.search(text))
    weight = len(own) / 2 if is_wide else float(len(own))
    if len(common) >= (_CONTENT if is_wide else 1):
        points[Intent.FOLLOW_UP] += 1.0
        points[Intent.NEW_TOPIC] -= 0.5
    elif weight >= _CONTENT:
        points[Intent.NEW_TOPIC] += 0.6
    else:
        points[Intent.FOLLOW_UP] += 0.3
    if likeness is not None:
        if likeness >= _ALIKE:
            points[Intent.FOLLOW_UP] += 1.0
        elif likeness < _UNLIKE:
            points[Intent.NEW_TOPIC] += 0.8


def _asks_something(text: str) -> bool:
    """Whether more is said than small talk holds: `thanks, and how long is the penstock of Kirkwall?`."""
    length = len(CJK_CHARACTER.findall(text)) / 2 or len(text.split())
    return length > _SMALL_TALK and ("?" in text or "？" in text)
