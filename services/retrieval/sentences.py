"""Finds where sentences end, in English, Russian and Chinese, without a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# The end of a paragraph, of a line before a list item or a table row, or a mark that ends a sentence with what closes after it.
_BOUNDARY: Final = re.compile(
    r"(?P<paragraph>\n[ \t]*\n\s*)"
    r"|(?P<item>\n)(?=[ \t]*(?:[-*+•|]|\d{1,3}[.)])[ \t])"
    r"|(?P<wide>[。！？!?…]+[”’」』）\"')\]»]*(?:\s+|(?<=[。！？”’」』）])))"
    r"|(?P<stop>\.+[”’\"')\]»]*\s+)"
)
_LAST_WORD: Final = re.compile(r"([^\W\d_][\w.-]*)$")
_WORD_TAIL: Final = 24
# After these a stop ends no sentence. Most Russian ones stand before a name or a number.
_ENGLISH: Final = (
    "mr mrs ms dr prof st sr jr vs etc e.g i.e cf fig figs eq eqs no nos vol pp al inc ltd co corp dept approx est sec ch ref "
    "jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k ph.d"
)
_RUSSIAN: Final = (
    "т.е т.к т.н т.п т.д т.о тж гг вв им ул пер пл просп стр рис табл илл тыс млн млрд трлн руб коп долл см ср напр др пр "
    "проф акад доц канд докт св обл р-н пос дер чел шт кв мин сек эт корп лат англ нем фр рус греч итал исп кит яп род ум изд "
    "ред гл прим сокр"
)
_ABBREVIATIONS: Final = frozenset(_ENGLISH.split()) | frozenset(_RUSSIAN.split())
# These end a list and so, before a capital, mostly the sentence too: nobody's name follows them.
_CLOSING: Final = re.compile(r"(?:(?<!\w)т\.\s?[дп]|(?<!\w)и\s(?:др|пр|проч)|(?<!\w)etc)$", re.IGNORECASE)


def sentence_ends(text: str) -> Iterator[int]:
    """Where each sentence ends, with the white space after it, in ascending order; the last is the text's length."""
    end = 0
    for match in _BOUNDARY.finditer(text):
        if match["stop"] and not _ends_sentence(text, match.start(), match.end()):
            continue
        end = match.end()
        yield end
    if end < len(text):
        yield len(text)


def _ends_sentence(text: str, stop: int, following: int) -> bool:
    if following < len(text) and text[following].islower():
        return False
    found = _LAST_WORD.search(text, max(0, stop - _WORD_TAIL), stop)
    if found is None:
        return True
    if _CLOSING.search(text, max(0, stop - _WORD_TAIL), stop):
        return True
    word = found[1]
    # A single letter is an initial, or `г.` for year and city; the stop after a Latin `I` may end a sentence.
    return not (len(word) == 1 and word != "I") and word.lower() not in _ABBREVIATIONS
