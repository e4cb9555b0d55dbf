"""What tells two questions apart that their vectors may not.

Vectors see the topic: "convert 5 miles to kilometres" and "convert 5 kilometres to miles" have a cosine of 0.99 with the
embedded MiniLM, as have a question and its negation. So two questions also have to agree in their figures, their names and
their negations, and the words that they share have to come in the same order. What this refuses wrongly is only generated anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from services.inference.engine import Capability, Role
from services.inference.form import Form
from services.inference.prompting import language_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.engine import Generation, Model

# A longer text is no question, and its vector says little of its details.
_LONGEST: Final = 1000
_FIGURES: Final = re.compile(r"\d+(?:[.,:]\d+)*|[零〇一二两三四五六七八九十百千万亿]+")
_WORDS: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Han characters stand alone, since nothing is between words.
_HAN: Final = re.compile(r"[\u3400-\u9fff]")
_SENTENCE: Final = re.compile(r"[.!?…。！？]\s*$")
_NEGATIONS: Final = frozenset(
    {
        *("no", "not", "never", "without", "none", "nobody", "nothing", "neither", "nor", "cannot", "except"),
        *("не", "нет", "без", "ни", "никогда", "никто", "ничего", "нельзя", "кроме"),
        *("不", "没", "沒", "无", "無", "别", "未", "非", "勿"),
    }
)


def question_of(generation: Generation, model: Model) -> str:
    """The last thing that the user said, if an answer to the same in other words would do; else nothing.

    Not where tools, a form, probabilities or several answers are asked for, nor where images are read or tools have answered;
    and not for an extractor, which is quicker than a look.
    """
    messages = generation.messages
    last = messages[-1]
    is_plain = all(not one.images and not one.tool_calls and one.role is not Role.TOOL for one in messages)
    if generation.form != Form() or last.role is not Role.USER or not is_plain or Capability.EXTRACTION in model.capabilities:
        return ""
    return last.text if 0 < len(last.text.strip()) <= _LONGEST else ""


def is_understood(text: str, languages: Sequence[str]) -> bool:
    """Whether an embedder of these languages can tell what the text means; one that names none takes all."""
    return not languages or language_of(text) in languages


def marks_of(text: str) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """What two texts must have in common: their figures in order, their names, and how often they deny."""
    words = list(_WORDS.finditer(text))
    names = {
        word[0].casefold()
        for word in words
        if any(letter.isupper() for letter in word[0]) and not _begins_sentence(text, word.start()) and word[0] != "I"
    }
    denials = sum(word[0].casefold() in _NEGATIONS or word[0].casefold().endswith(("n't", "n’t")) for word in words)
    denials += sum(one in _NEGATIONS for one in _HAN.findall(text))
    return tuple(_FIGURES.findall(text)), tuple(sorted(names)), denials


def keep_their_order(one: str, other: str) -> bool:
    """Whether the words that both have come in the same order."""
    first, second = _words_of(one), _words_of(other)
    # A word that stands there twice says nothing of the order.
    shared = {word for word in first if first.count(word) == 1 and second.count(word) == 1}
    return [word for word in first if word in shared] == [word for word in second if word in shared]


def _words_of(text: str) -> list[str]:
    words: list[str] = []
    for word in _WORDS.findall(text.casefold()):
        words += _HAN.findall(word) or [word]
    return words


def _begins_sentence(text: str, place: int) -> bool:
    before = text[:place].rstrip("\"'«“„(—- ")
    return not before or _SENTENCE.search(before) is not None
