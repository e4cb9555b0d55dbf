"""A block of prose into sentences, for English, Russian and Chinese."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Latin and Cyrillic ends need a gap after them, Chinese ends do not. Closing quotes and brackets belong to the sentence.
END: Final = re.compile(
    r"(?P<mark>[.!?…]+)[\"'”’»)\]]*(?=\s|$)|[。！？]+[”’」』）》\"]*|[!?]+[”’」』）》\"]*(?=[\u3400-\u9fff])",
)
CODE: Final = re.compile(r"`[^`]*`")
WORD_BEFORE: Final = re.compile(r"[\w.\-]+$")
# After these a sentence goes on, whatever follows.
GOES_ON: Final = """
    mr mrs ms dr prof sen rep gen capt lt col st vs e.g i.e fig figs eq eqs sec no nos vol pp cf viz approx
    jan feb mar apr jun jul aug sep sept oct nov dec
    т.е т.к т.н т.ч им ул пр просп пл стр рис табл см ср напр проф акад гл ст тов гр корп респ пос дер с.-х и.о н
    лат англ греч нем франц фр рус итал исп яп кит букв прибл мин макс
"""
# After these it may end: it does when a capital letter follows.
MAY_END: Final = """
    etc al inc ltd co corp jr sr u.s u.k p.m a.m est dept ed
    г гг в вв т.д т.п др э руб коп тыс млн млрд кг км см мм м ч мин сек
"""
INSIDE: Final = frozenset(GOES_ON.split())
EITHER: Final = frozenset(MAY_END.split())
PLACE: Final = frozenset({"г", "д", "с", "п"})  # «г. Москва», «д. Ивановка»: a place, unless a number stands before


def sentences(block: str) -> Iterator[str]:
    """Sentences in their order, each with its final punctuation; joined they are the block but for the gaps."""
    start = 0
    # What stands in code ends nothing.
    for end in END.finditer(CODE.sub(lambda code: "`" * len(code.group()), block)):
        if end.end() <= start or not _ends(block, start, end):
            continue
        sentence = block[start : end.end()].strip()
        if sentence:
            yield sentence
        start = end.end()
    rest = block[start:].strip()
    if rest:
        yield rest


def _ends(block: str, start: int, end: re.Match[str]) -> bool:
    following = block[end.end() :].lstrip()
    if not following:
        return True
    mark = end.group("mark")
    if mark is None:
        return not following.startswith(("，", "、", "；", ")", "）"))
    if following[0].islower() or following[0] in ",;:)—–":
        return False
    return mark != "." or not _abbreviates(block[start : end.start()], following)


def _abbreviates(before: str, following: str) -> bool:
    """Whether the full stop after `before` belongs to an abbreviation, an initial or a number of a list."""
    found = WORD_BEFORE.search(before)
    if found is None:
        return False
    word = found.group().lstrip(".-").lower()
    earlier = before[: found.start()].rstrip()
    capital = following[0].isupper() or not following[0].isalnum()
    if word.isdecimal():
        return not earlier
    if earlier.endswith(".") and (joined := _joined(earlier, word)) is not None:
        word = joined
    if word in INSIDE:
        return True
    if word in PLACE and not (earlier[-1:].isdigit() or earlier.endswith(("х", "й"))):
        return True
    if word in EITHER:
        return not capital
    return len(word) == 1 and word.isalpha() and found.group()[-1].isupper()


def _joined(earlier: str, word: str) -> str | None:
    """`т. е` and `и т. д` written apart, as the one abbreviation that they are."""
    before = WORD_BEFORE.search(earlier.rstrip("."))
    joined = f"{before.group().lower()}.{word}" if before else ""
    if joined == "н.э":
        return "э"
    return joined if joined in INSIDE or joined in EITHER else None
