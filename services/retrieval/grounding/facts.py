"""The facts in a text that cannot be nearly right: numbers, dates and names."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.retrieval.analysis import terms
from services.retrieval.grounding.numerals import Number, numbers
from services.retrieval.languages import CJK_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MONTHS: Final = (
    "january jan|янв[а-я]*",
    "february feb|фев[а-я]*",
    "march mar|мар[а-я]*",
    "april apr|апр[а-я]*",
    "may|ма[йяею]м?",
    "june jun|июн[а-я]*",
    "july jul|июл[а-я]*",
    "august aug|авг[а-я]*",
    "september sep sept|сен[а-я]*",
    "october oct|окт[а-я]*",
    "november nov|ноя[а-я]*",
    "december dec|дек[а-я]*",
)
_MONTH: Final = "|".join(f"(?P<m{place}_N>(?:{one.replace(' ', '|')}))" for place, one in enumerate(_MONTHS, 1))


def _month(mark: str) -> str:
    return f"(?:{_MONTH.replace('_N', mark)})"


_DATE: Final = re.compile(
    rf"(?<!\w)(?:(?P<year1>\d{{4}})-(?P<month1>\d\d)-(?P<day1>\d\d)"
    rf"|(?P<day2>\d{{1,2}})\.(?P<month2>\d{{1,2}})\.(?P<year2>\d{{4}})"
    rf"|(?P<day3>\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+{_month('a')}\.?(?!\w)(?:,?\s+(?P<year3>\d{{4}}))?"
    rf"|{_month('b')}\.?\s+(?P<day4>\d{{1,2}})(?:st|nd|rd|th)?(?!\w)(?:,?\s+(?P<year4>\d{{4}}))?"
    rf"|{_month('c')}\.?\s+(?P<year5>\d{{4}}))",
    re.IGNORECASE,
)
_WIDE_DATE: Final = re.compile(r"(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?:(?P<day>\d{1,2})[日号])?")
_WORD: Final = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
# Before a word that begins a sentence.
_OPENING: Final = re.compile(r"(?:^|[.!?:;…\n«“\"(]\s*|[—–-]\s+)$")
_TITLE: Final = re.compile("《([^》]{1,40})》|「([^」]{1,40})」|«([^»]{1,60})»")


@dataclass(frozen=True, slots=True)
class Date:
    """A day, a month or a day of a year, as far as it is said."""

    year: int | None
    month: int
    day: int | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text says exactly. `names` are stems of words that name somebody or something."""

    numbers: tuple[Number, ...]
    dates: tuple[Date, ...]
    names: frozenset[str]


def facts(text: str) -> Facts:
    """Reads a text in which full-width characters are normal ones (NFKC)."""
    found = tuple(_dates(text))
    spans = [(date.start, date.end) for date in found]
    plain = tuple(number for number in numbers(text) if not any(start <= number.start < end for start, end in spans))
    return Facts(plain, found, frozenset(_names(text)))


def normalized(text: str) -> str:
    """The text as `facts` takes it, with every character still in its place, so that spans stay true."""
    return "".join(one if len(one := unicodedata.normalize("NFKC", character)) == 1 else character for character in text)


def holds_numbers(source: Facts, claim: Facts) -> bool:
    """Whether every number of the claim is one of the source's, in the same unit where both tell one."""
    years = {float(date.year) for date in source.dates if date.year is not None}
    return all(
        any(other.value == one.value and (not one.unit or not other.unit or one.unit == other.unit) for other in source.numbers)
        or ((not one.unit or one.unit == "y") and one.value in years)
        for one in claim.numbers
    )


def holds_dates(source: Facts, claim: Facts) -> bool:
    """Whether every date of the claim is one of the source's, as far as the claim tells it."""
    loose_years = {number.value for number in source.numbers}
    return all(
        any(
            other.month == one.month
            and one.day in (None, other.day)
            and (one.year in (None, other.year) or (other.year is None and one.year in loose_years))
            for other in source.dates
        )
        for one in claim.dates
    )


def _dates(text: str) -> Iterator[Date]:
    for match in _DATE.finditer(text):
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        number = {name[:-1]: int(value) for name, value in groups.items() if value.isdigit()}
        month: int = number.get("month") or next(int(name[1:-1]) for name in groups if name[0] == "m" and name[1].isdigit())
        yield Date(number.get("year"), month, number.get("day"), match.start(), match.end())
    for match in _WIDE_DATE.finditer(text):
        year, day = (None if value is None else int(value) for value in (match["year"], match["day"]))
        yield Date(year, int(match["month"]), day, match.start(), match.end())


def _names(text: str) -> Iterator[str]:
    """Stems of capitalised words within sentences, and of those that begin one before another; and of titles in quotes."""
    words = list(_WORD.finditer(text))
    for place, match in enumerate(words):
        word = match[0]
        if not word[0].isupper() or CJK_CHARACTER.match(word):
            continue
        if _OPENING.search(text, max(0, match.start() - 3), match.start()):
            following = words[place + 1] if place + 1 < len(words) else None
            before_a_name = following is not None and following.start() == match.end() + 1 and following[0][0].isupper()
            if not (before_a_name and len(word) > 1) or word in _ARTICLES:
                continue
        elif word == "I":
            continue
        yield from _stems((word,))
    for match in _TITLE.finditer(text):
        yield from _stems(group for group in match.groups() if group)


_OPENERS: Final = "The A An In On At By From Of For With To And But Its His Her Their This That В На Из По О Об От Для С К"
_ARTICLES: Final = frozenset(_OPENERS.split())


def _stems(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from terms(text)
