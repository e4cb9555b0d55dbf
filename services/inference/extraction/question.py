"""What is asked, and from which texts: read off the turns of a conversation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.inference.extraction.terms import Language, language, question_terms

if TYPE_CHECKING:
    from collections.abc import Sequence

# Shorter than this, a message is only a question; longer, it brings a text along.
MATERIAL_CHARACTERS: Final = 200
INSTRUCTION_CHARACTERS: Final = 160
# What stands on lines of its own before a question is a text from so many characters on; less is a greeting.
LINES_CHARACTERS: Final = 24
# A question of fewer terms than this leans on the one before it.
SHORT_TERMS: Final = 3
ASKS_SUMMARY: Final = re.compile(
    r"\b(?:summari[sz]e|summary|sum up|tl;?dr|key points|main (?:idea|points?)|in short|overview|gist|shorten)\b|"
    r"\bwhat (?:is|are) (?:this|these|it|they|the (?:text|documents?|passages?)) about\b|"
    r"резюм|суммар|кратк|вкратце|перескаж|подытож|обобщи|главн\w+ мысл|"
    r"о ч[её]м (?:этот|эти|текст|документ|здесь|тут|это)|"
    r"总结|概括|摘要|归纳|概述|大意|主要内容|要点|讲了什么|说了什么",
    re.IGNORECASE,
)
ASKS: Final = re.compile(r"[?？]\s*$")
NAMED: Final = re.compile(r"(?:question|вопрос|问题|q)\s*[:：]", re.IGNORECASE)
ENDS: Final = re.compile(r"[.!…。！]$")
FOLLOWS_UP: Final = re.compile(
    r"^(?:and|but|so|also|what about|how about|why|why not|how so|more|"
    r"а|и|но|или|почему|зачем|а как|что насч[её]т|ещ[её]|подробнее|"
    r"那|那么|还有|为什么|然后|再)(?:[^\w]|$)|^那|\b(?:it|its|they|them|their|this|that|these|those|he|she|him|her|"
    r"он|она|оно|они|его|её|ее|их|им|ему|ей|этот|эта|это|эти|там|тогда)\b|[它他她这那]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for.

    Attributes:
        text: The question or instruction itself.
        context: The question before it, where this one leans on it; else empty.
        material: Texts that came with the conversation, in their order.
        summary: Whether the whole is asked for in short, not a fact.
        language: In which to speak when there is nothing to extract.
    """

    text: str
    context: str
    material: tuple[str, ...]
    summary: bool
    language: Language


def question(asked: Sequence[str], instructions: Sequence[str] = ()) -> Question:
    """Reads the question out of the user's messages, oldest first, and the texts brought along by them or by `instructions`."""
    text, brought = apart(asked[-1] if asked else "")
    material = [*instructions, *(apart(message)[1] or message for message in asked[:-1])]
    material = [one for one in material if len(one) >= MATERIAL_CHARACTERS]
    if brought:
        material = [brought]  # a text that comes with its question is the one meant
    earlier = next((apart(message)[0] for message in reversed(asked[:-1])), "")
    summary = ASKS_SUMMARY.search(text) is not None or (not text and bool(brought))
    leans = not summary and (len(question_terms(text)) < SHORT_TERMS or FOLLOWS_UP.search(text) is not None)
    return Question(text, earlier if leans else "", tuple(material), summary, language(text or brought or ""))


def apart(message: str) -> tuple[str, str]:
    """A message as (question or instruction, the text it brings along); either may be empty."""
    message = message.strip()
    if len(message) < MATERIAL_CHARACTERS:
        head, colon, rest = _at_colon(message)
        if colon and ASKS_SUMMARY.search(head) and rest:
            return head, rest
        return _below_lines(message)
    for head, rest in _cuts(message):
        if len(head) <= INSTRUCTION_CHARACTERS and len(rest) >= MATERIAL_CHARACTERS // 2 and _is_request(head):
            return head, rest
    return "", message


def _below_lines(message: str) -> tuple[str, str]:
    """A short message as apart() tells it: sentences on lines of their own, and under them a question, bring a text along."""
    rest, _, head = (part.strip() for part in message.rpartition("\n"))
    if len(rest) >= LINES_CHARACTERS and ENDS.search(rest) and (ASKS.search(head) or NAMED.match(head)):
        return head, rest
    return message, ""


def _cuts(message: str) -> list[tuple[str, str]]:
    """Places where a request may be cut off: first or last paragraph, line or sentence, and what stands before a colon."""
    cuts = []
    for gap in (r"\n\s*\n", r"\n"):
        pieces = re.split(gap, message)
        if len(pieces) > 1:
            cuts.append((pieces[-1].strip(), message[: len(message) - len(pieces[-1])].strip()))
            cuts.append((pieces[0].strip(), message[len(pieces[0]) :].strip()))
    head, colon, rest = _at_colon(message)
    if colon:
        cuts.append((head, rest))
    if last := re.search(r"(?:(?<=[.!?…]\s)|(?<=[。！？\n]))[^.!?…。！？\n]+[?？]\s*$", message):
        cuts.append((last.group().strip(), message[: last.start()].strip()))
    if first := re.match(r"[^.!?…。！？\n]+(?:[?？]|[.!。！](?=\s|$|[^\w\s]))", message):
        cuts.append((first.group().strip(), message[first.end() :].strip()))
    return cuts


def _at_colon(message: str) -> tuple[str, str, str]:
    found = re.match(r"([^:：\n]{1,160})([:：])\s*(.+)", message, re.DOTALL)
    return (found[1].strip(), found[2], found[3].strip()) if found else (message, "", "")


def _is_request(head: str) -> bool:
    bare = head.rstrip(":： ")
    return bool(ASKS.search(bare) or ASKS_SUMMARY.search(bare) or NAMED.match(head) or head.endswith((":", "：")))
