"""Whether a text is built so that it can be taken in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Evidence, Reason, abstained, scored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.experiments.quality.assessment import Judgement, Subject
    from services.experiments.quality.text import Passage

HEADING: Final = re.compile(r"^(#{1,6})[ \t]+(\S.*)$", re.MULTILINE)
_ITEM: Final = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_PARAGRAPH: Final = re.compile(r"\S(?:.|\n(?![ \t]*\n))*")
# Words; of wide characters two count as one.
_LONGEST_PARAGRAPH: Final = 150
_LONGEST_SENTENCE: Final = 45
_NEEDS_PARTS: Final = 250
_FEWEST_WORDS: Final = 5
_WEAK: Final = 0.75


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at: whether it holds, where not, and what would help."""

    name: str
    holds: bool
    advice: str
    start: int = 0
    end: int = 0


def structure(subject: Subject) -> Judgement:
    """The share of checks that hold, among those that apply to the text."""
    if length(subject.passage) < _FEWEST_WORDS:
        return abstained(Criterion.STRUCTURE, Reason.TOO_SHORT, f"the text has fewer than {_FEWEST_WORDS} words")
    return of_checks(Criterion.STRUCTURE, list(_checks(subject)), _WEAK)


def of_checks(criterion: Criterion, checks: list[Check], weak: float) -> Judgement:
    """The share of checks that hold."""
    failing = [check for check in checks if not check.holds]
    score = 1 - len(failing) / len(checks)
    return scored(
        criterion,
        score,
        evidence=[Evidence(f"does not hold: {check.name}", check.start, check.end) for check in failing],
        measures={check.name.replace(" ", "_"): float(check.holds) for check in checks},
        suggestions=[check.advice for check in failing] if score < weak else [],
    )


def length(passage: Passage) -> float:
    """In words; two wide characters are about one."""
    return sum(0.5 if word.is_wide else 1 for word in passage.words)


def _checks(subject: Subject) -> Iterator[Check]:
    text, passage = subject.text, subject.passage
    fences = text.count("```")
    if fences:
        yield Check("code blocks closed", fences % 2 == 0, "Close each code block.", text.rfind("```"), len(text))
    widest = max(passage.sentences, key=length)
    fits = length(widest) <= _LONGEST_SENTENCE
    yield Check("sentences short", fits, "Break up the longest sentences.", widest.start, widest.end)
    starts = [(match.start(), match.end()) for match in _PARAGRAPH.finditer(text)]
    inside = [
        (start, end, sum(0.5 if w.is_wide else 1 for w in passage.words if start <= w.start < end)) for start, end in starts
    ]
    start, end, words = max(inside, key=lambda one: one[2])
    yield Check("paragraphs short", words <= _LONGEST_PARAGRAPH, "Break up the longest paragraphs.", start, end)
    headings = list(HEADING.finditer(text))
    if length(passage) > _NEEDS_PARTS:
        has_parts = bool(headings) or bool(_ITEM.search(text))
        yield Check("long text in parts", has_parts, "Give a text of this length headings or lists.")
    if headings:
        levels = [len(match[1]) for match in headings]
        yield Check("heading levels in order", all(b <= a + 1 for a, b in pairwise(levels)), "Skip no level of headings.")
        yield Check("headings followed by text", _followed(text, headings), "Put text under each heading.")
    numbers = [int(found[1]) for found in re.finditer(r"^(\d{1,3})[.)][ \t]+\S", text, re.MULTILINE)]
    if len(numbers) > 1:
        in_order = all(b in {a + 1, 1} or a == b == 1 for a, b in pairwise(numbers))
        yield Check("items numbered in order", in_order, "Number the items of a list in order.")


def _followed(text: str, headings: list[re.Match[str]]) -> bool:
    """Whether no heading is the end, or stands before one of its own level or above."""
    ends = [*(match.start() for match in headings[1:]), len(text)]
    levels = [*(len(match[1]) for match in headings[1:]), 0]
    return all(
        text[match.end() : end].strip() or len(match[1]) < level
        for match, end, level in zip(headings, ends, levels, strict=True)
    )
