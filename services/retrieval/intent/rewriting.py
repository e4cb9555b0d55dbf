"""Makes a question complete that leans on the turn before.

Without a model: what the turn before was about is put after the question, with a dash between them. That is not how a person
would say it, but search by words and by meaning takes it as well, nothing can be invented, and what was added is plain to see.
"""

from __future__ import annotations

import re
from typing import Final

from services.retrieval.intent.intents import Before, content
from services.retrieval.intent.kinds import Intent

_DASH: Final = " — "
_MOST_NAMES: Final = 3
_MOST_CHARACTERS: Final = 300
_FEW: Final = 2
_ASKING: Final = re.compile(
    r"^(?:(?:and|but|so|а|и|но|那|请问)[, ]*)?"
    r"(?:(?:please )?(?:tell me|explain|describe|расскажи(?:те)?|объясни(?:те)?|скажи(?:те)?)(?: (?:about|о|об|про))? +)?"
    r"(?:(?:who|what|which|when|where|why|how(?: (?:long|many|much|old|high|far|thick|wide|deep|big|often))?)\b ?"
    r"|(?:кто|что|где|куда|откуда|когда|почему|зачем|сколько|как(?:ой|ая|ое|ие|ого|ую|ова|ово|овы)?)\b(?: такое)? ?"
    r"|(?:什么是|怎么|如何|为什么|哪里|谁|哪个) ?)?"
    r"(?:(?:is|are|was|were|do|does|did|can|could|should|has|have|will) )?(?:(?:the|a|an) )?",
    re.IGNORECASE,
)
_WIDE_ASKING: Final = re.compile(
    "(?:有|是)?(?:多(?:少(?:钱|天|人|个)?|高|长|大|久|重|远|宽|深)|什么时候|什么|在?哪里|在?哪儿|哪一?[天年个]|怎么(?:样|办|吃|用|做)?|如何|几[点个天年]?|谁)"
    "|[吗呢吧？?]+$"
)
_NAMES: Final = re.compile(r"\b[A-ZА-ЯЁ][\w'’-]+(?: [A-ZА-ЯЁ][\w'’-]+)+|(?<![.!?\n] )(?<!^)\b[A-ZА-ЯЁ][\w'’-]+")
_SOMEBODY: Final = re.compile(
    r"\b(?:he|she|they|him|her|his|them|their|он|она|они|его|е[её]|их|ему|ей|им|него|не[её]|них)\b", re.IGNORECASE
)
_MARKERS: Final = re.compile(r"\s*\[\d+\]")


def rewritten(query: str, intent: Intent, before: Before) -> str:
    """The question made complete, or nothing where it is so already.

    Args:
        query: The question.
        intent: What it is after.
        before: The turn before, its question made complete.
    """
    if intent is Intent.CONTINUATION:
        return before.query
    if intent in (Intent.CLARIFICATION, Intent.CORRECTION):
        return f"{query}{_DASH}{before.query.split(_DASH)[-1]}"[:_MOST_CHARACTERS]
    if intent is not Intent.FOLLOW_UP:
        return ""
    own = content(query)
    topic = ""
    for part in (_topic(before.query), *(_names(before.text) if _SOMEBODY.search(query) else ())):
        if not content(part) <= own | content(topic):
            topic = f"{topic}; {part}" if topic else part
    return f"{query}{_DASH}{topic}"[: len(query) + _MOST_CHARACTERS] if topic else ""


def says_enough(query: str) -> bool:
    """Whether a question has words of its own to search for."""
    return len(content(query)) >= _FEW


def _topic(query: str) -> str:
    """What a question asks about, without the words that ask. Of a question made complete it is what was added."""
    topic = query.rsplit(_DASH, maxsplit=1)[-1]
    topic = _WIDE_ASKING.sub("", _ASKING.sub("", topic, count=1))
    return topic.strip(" ?!.,;:？！。，")


def _names(answer: str) -> list[str]:
    """The first names in an answer: `she` is one of them."""
    found = dict.fromkeys(match[0] for match in _NAMES.finditer(_MARKERS.sub("", answer)[:_MOST_CHARACTERS]))
    return [name for name in found if len(name) > _FEW][:_MOST_NAMES]
