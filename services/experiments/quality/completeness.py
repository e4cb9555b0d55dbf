"""Whether a text deals with all parts of what it should."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Evidence, Reason, abstained, scored
from services.experiments.quality.text import Passage, is_content, term_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.experiments.quality.assessment import Judgement, Subject

# A part is dealt with where so much of it is in the text: of a reference, and of a question, whose answer has other words too.
_TOLD: Final = 0.5
_DEALT_WITH: Final = 0.4
_WEAK: Final = 0.7
_CUT_OFF: Final = 0.5
_FEWEST_WORDS: Final = 20
_SPLIT: Final = re.compile(
    r"[?？;；\n]+|,\s+(?:and|or|how|what|why|when|where|who)\s|\s(?:and|also)\s(?=(?:how|what|why|when|where|who|which|is|are|does|do|can)\s)"
    r"|,?\s+и\s+(?=(?:как|что|почему|когда|где|кто|какой|какая|какие|сколько|зачем|чем)\s)"
    r"|[，,]\s*(?=(?:以及|并且|如何|怎么|为什么|什么|哪|谁|何时))|以及"
)
_ENDING: Final = re.compile(r"[.!?…。！？:：;；|`>”’」』）\"')\]»*_]\s*$")
_FREE_LINE: Final = re.compile(r"\s*(?:[-*+•|#>]|\d{1,3}[.)])")


def completeness(subject: Subject) -> Judgement:
    """The share of parts that the text deals with; half of it where the text is cut off."""
    reference = subject.reference.strip()
    parts = list(Passage(reference).sentences) if reference else _questions(subject.question)
    is_cut = is_cut_off(subject.text, len(subject.passage.words))
    if not reference and len(parts) < 2 and not is_cut:  # noqa: PLR2004 - one part is no list
        return abstained(
            Criterion.COMPLETENESS,
            Reason.NO_PARTS,
            "there is no reference and no question of several parts, so that there is nothing to count",
        )
    needed = _TOLD if reference else _DEALT_WITH
    missing = _missing(parts, subject.passage, needed) if reference or len(parts) > 1 else []
    covered = 1 - len(missing) / len(parts) if parts else 1.0
    evidence = [Evidence(f"not dealt with: {part.text[:200]}") for part in missing]
    suggestions = ["Deal with the parts that the evidence names."] if missing and covered < _WEAK else []
    if is_cut:
        evidence.insert(0, Evidence("the text breaks off", max(0, len(subject.text) - 40), len(subject.text)))
        suggestions.append("The text breaks off: allow more tokens.")
    return scored(
        Criterion.COMPLETENESS,
        covered * (_CUT_OFF if is_cut else 1.0),
        evidence=evidence,
        measures={"parts": len(parts), "missing_parts": len(missing), "is_cut_off": float(is_cut)},
        suggestions=suggestions,
    )


def is_cut_off(text: str, words: int) -> bool:
    """Whether a text of some length ends in the middle of a sentence or a code block."""
    if text.count("```") % 2:
        return True
    last = text.rstrip().rpartition("\n")[2]
    return words >= _FEWEST_WORDS and not _ENDING.search(last) and not _FREE_LINE.match(last)


def _questions(question: str) -> list[Passage]:
    pieces = (Passage(piece.strip()) for piece in _SPLIT.split(question))
    return [piece for piece in pieces if any(is_content(word) for word in piece.words)]


def _missing(parts: Sequence[Passage], text: Passage, needed: float) -> list[Passage]:
    """Those with too little in the text; terms that all parts of several share tell nothing about one."""
    terms = [{term_of(word): 1.0 for word in part.words if is_content(word)} for part in parts]
    common = set.intersection(*(set(one) for one in terms)) if len(terms) > 1 else set()
    missing = []
    for part, own in zip(parts, terms, strict=True):
        telling = [term for term in own if term not in common] or list(own)
        if telling and sum(term in text.weights for term in telling) / len(telling) < needed:
            missing.append(part)
    return missing
