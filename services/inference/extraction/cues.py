"""What the form of a question and of a sentence says, beside their words: figures asked for and given, definitions, prose."""

from __future__ import annotations

import re
from typing import Final

from services.inference.extraction.terms import HAN

NUMBER_BONUS: Final = 0.25
DEFINITION_BONUS: Final = 0.35
# Characters after which a sentence is long and worth less: whoever reads it has to search in it.
LONG_CHARACTERS: Final = 300
# Share of plain words below which a sentence is a listing of paths, figures or symbols.
PROSE_SHARE: Final = 0.5
FEW_WORDS: Final = 4
# A definition names its subject at its beginning.
OPENING_CHARACTERS: Final = 60
ASKS_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|long|old|far|often|big|large|fast|high)\b|\bwhen\b|"
    r"\bwhat (?:year|date|time|port|percent\w*|number)\b|\bwhich (?:year|port)\b|"
    r"сколько|когда|каком году|какого года|какой процент|какое число|多少|几|何时|哪一?年|什么时候|多[大长高久远]",
    re.IGNORECASE,
)
NUMBER: Final = re.compile(
    r"\d|[一二三四五六七八九十百千万亿两]+[年月日个次名人座部岁]|\b(?:one|two|three|four|five|six|seven|eight|nine|ten)\b",
    re.IGNORECASE,
)
ASKS_DEFINITION: Final = re.compile(
    r"^\W*(?:what|who)(?:'s|\s+is|\s+are|\s+was|\s+were)\s+(?:an?\s+|the\s+)?(?P<en>[^?]+?)\s*\??\s*$|"
    r"^\W*(?:что\s+такое|кто\s+так(?:ой|ая|ие))\s+(?P<ru>[^?]+?)\s*\??\s*$|"
    r"^(?:什么是|谁是)(?P<zh>[^?？]+?)[?？]?\s*$|^(?P<zh2>[^?？]+?)(?:是什么|是谁|是啥)[?？]?\s*$",
    re.IGNORECASE,
)
# Right after its subject, perhaps past a bracket or two words: "Penstock (from water power) is a ...".
DEFINES: Final = re.compile(
    r"^[`*\"'«“”»)]*\s*(?:[(（][^()（）]{0,80}[)）]\s*|\w+\s+){0,2}?(?:(?:is|are|was|were|means|это|является|были|был)\b|[—–]|是|指|为)"
)
ARTICLE: Final = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
ASKS_ITSELF: Final = re.compile(r"[?？][\"'”’»)\]`.]*$")
# It announced a list or a sample that is not here.
LEADS_IN: Final = re.compile(r"[:：]$")
PLAIN_WORD: Final = re.compile(r"[(\"'«“]?[^\W\d_]+(?:['’-][^\W\d_]+)*[)\"'»”]?[.,;:!?]?$")


def asks_number(question: str) -> bool:
    """Whether a date, an amount or a figure is asked for."""
    return ASKS_NUMBER.search(question) is not None


def subject(question: str) -> str:
    """What the question asks a definition of, in lower case; empty for any other question."""
    found = ASKS_DEFINITION.match(question.strip())
    return next((name.strip(" `'\"«»“”").casefold() for name in found.groups() if name), "") if found else ""


def form(text: str, subject: str = "", *, number: bool = False) -> float:
    """What the form of a sentence says for or against it, as a factor about 1."""
    factor = 1.0
    if number and NUMBER.search(text):
        factor *= 1 + NUMBER_BONUS
    if subject:
        factor *= _definition(text, subject)
    factor /= 1 + max(0, len(text) - LONG_CHARACTERS) / (4 * LONG_CHARACTERS)
    if ASKS_ITSELF.search(text) or LEADS_IN.search(text):
        factor /= 2
    return factor if _is_prose(text) else factor / 2


def _is_prose(text: str) -> bool:
    words = text.split()
    plain = sum(PLAIN_WORD.match(word) is not None for word in words)
    return len(words) < FEW_WORDS or HAN.search(text) is not None or plain >= PROSE_SHARE * len(words)


def _definition(text: str, subject: str) -> float:
    """More for a sentence that opens with the subject, and most for one that goes on to say what it is."""
    at = ARTICLE.sub("", text).casefold().find(subject)
    if not 0 <= at < OPENING_CHARACTERS:
        return 1.0
    following = ARTICLE.sub("", text)[at + len(subject) :]
    opens = at <= 1 and not following[:1].isalnum() and not following.startswith((".", "/", "-", "_", "<"))
    return (1 + DEFINITION_BONUS * opens) * (1 + DEFINITION_BONUS * (DEFINES.match(following) is not None))
