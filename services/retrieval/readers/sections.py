"""Finds the sections of a text that has lines and no marks for headings, as an academic paper in PDF.

A line is a heading by its number, which must be the next one there can be, or by its name, as `Abstract` has it.
Numbers alone make a paper of no text: a list has them too. So there must be several headings, some of them by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.retrieval.reading import Heading

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERED: Final = re.compile(
    r"(?P<number>(?:\d{1,2}|[A-Z])(?:\.\d{1,2}){0,3}|[IVX]{1,5}(?=\.))\.?[ \t]+(?P<title>[^\W\d_][^\n]{1,100})"
)
_CHINESE_NUMBERED: Final = re.compile(
    r"(?:第[一二三四五六七八九十]+[章节節]|[一二三四五六七八九十]+、)[ \t]*(?P<title>[^\n]{1,40})"
)
_NAMES: Final = re.compile(
    r"(?:abstract|introduction|background|related work|methods?|methodology|materials and methods|experiments?|evaluation"
    r"|results?|results and discussion"
    r"|discussion|conclusions?|conclusions? and future work|future work|limitations|acknowledge?ments?"
    r"|references|bibliography|appendix(?: [a-z])?|supplementary material"
    r"|аннотация|реферат|введение|обзор литературы|методы|материалы и методы|эксперименты|результаты|результаты и обсуждение"
    r"|обсуждение|выводы|заключение|благодарности|литература|список литературы|приложение(?: [а-я])?"
    r"|摘\s*要|引\s*言|绪论|緒論|相关工作|相關工作|方法|实验|實驗|结果|結果|讨论|討論|结论|結論|总结|致谢|致謝|参考文献|參考文獻|附录|附錄)",
    re.IGNORECASE,
)
# What is named so ends what was numbered: it belongs to no section.
_UNNUMBERED_LEVEL: Final = 1
_LEAST_HEADINGS: Final = 3
_LEAST_NAMED: Final = 2
_MOST_WORDS: Final = 14


@dataclass(frozen=True, slots=True)
class _Found:
    heading: Heading
    is_named: bool


def sections(text: str) -> tuple[Heading, ...]:
    """The headings of a paper; empty where the text is none."""
    found = list(_headings(text))
    if len(found) < _LEAST_HEADINGS or sum(one.is_named for one in found) < _LEAST_NAMED:
        return ()
    return tuple(one.heading for one in found)


def _headings(text: str) -> Iterator[_Found]:
    numbers: list[int] = []
    is_roman = False
    place = 0
    for line in text.splitlines(keepends=True):
        start, bare = place + len(line) - len(line.lstrip()), line.strip()
        place += len(line)
        if not bare or len(bare.split()) > _MOST_WORDS:
            continue
        name = _NAMES.fullmatch(bare.rstrip(".:："))
        if name is not None:
            yield _Found(Heading(start, _UNNUMBERED_LEVEL, bare.rstrip(".:：")), is_named=True)
        elif (numbered := _NUMBERED.fullmatch(bare)) and _is_title(numbered["title"]):
            now = _numbers(numbered["number"], numbers, is_roman=is_roman)
            if now and _follows(now, numbers):
                numbers = now
                is_roman |= numbered["number"] in _ROMAN
                is_named = _NAMES.fullmatch(numbered["title"].rstrip(".")) is not None
                yield _Found(Heading(start, len(numbers), bare), is_named)
        elif chinese := _CHINESE_NUMBERED.fullmatch(bare):
            is_named = _NAMES.fullmatch(chinese["title"].strip()) is not None
            yield _Found(Heading(start, 1, bare), is_named)


def _is_title(title: str) -> bool:
    """Whether it may be one: begins with a capital where there are such, and is no sentence."""
    return not title[0].islower() and not title.rstrip().endswith((".", ",", ";", ":"))


_ROMAN: Final = {
    "I": 1,
    "II": 2,
    "III": 3,
    "IV": 4,
    "V": 5,
    "VI": 6,
    "VII": 7,
    "VIII": 8,
    "IX": 9,
    "X": 10,
    "XI": 11,
    "XII": 12,
}


def _numbers(number: str, before: list[int], *, is_roman: bool) -> list[int]:
    """`3.1` as [3, 1], `IV` as [4]; `B` is [4, 2] under it, and elsewhere an appendix: those count on from 100."""
    parts = number.split(".")
    if parts[0].isdigit():
        return [int(part) for part in parts]
    roman = [_ROMAN[number]] if number in _ROMAN else []
    if roman and _follows(roman, before):
        return roman
    if len(parts[0]) > 1:
        return []
    letter = ord(parts[0]) - ord("A")
    return [before[0], letter + 1] if is_roman and before else [100 + letter, *(int(part) for part in parts[1:])]


def _follows(now: list[int], before: list[int]) -> bool:
    """Whether a section can come right after another: its first part, the next one, or the next of one it is in."""
    if now == [*before, 1] or (not before and now == [1]):
        return True
    if now == [100]:
        return bool(before)
    depth = len(now)
    return depth <= len(before) and now[:-1] == before[: depth - 1] and now[-1] == before[depth - 1] + 1
