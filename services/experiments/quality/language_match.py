"""Whether a text is in the language that is expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Evidence, Reason, abstained, scored
from services.experiments.quality.language import TOLD, language_of

if TYPE_CHECKING:
    from services.experiments.quality.assessment import Judgement, Subject

_WEAK: Final = 0.9


def language_match(subject: Subject) -> Judgement:
    """The share of the text, by length, in sentences of the expected language; those that tell no language are not counted."""
    expected = subject.expected
    if not expected:
        return abstained(
            Criterion.LANGUAGE_MATCH, Reason.LANGUAGE_UNKNOWN, "neither the request nor its question tells a language"
        )
    if expected not in TOLD:
        return abstained(
            Criterion.LANGUAGE_MATCH, Reason.LANGUAGE_UNSUPPORTED, f"{expected} cannot be told from other languages"
        )
    told = [(sentence, language_of(sentence.text)) for sentence in subject.passage.sentences]
    telling = [(sentence, found) for sentence, found in told if found]
    if not telling:
        return abstained(Criterion.LANGUAGE_MATCH, Reason.TOO_SHORT, "the text is too short to tell its language")
    others = [(sentence, found) for sentence, found in telling if found != expected]
    score = 1 - sum(len(one.text) for one, _ in others) / sum(len(one.text) for one, _ in telling)
    return scored(
        Criterion.LANGUAGE_MATCH,
        score,
        explanation=f"{expected} is expected",
        evidence=[Evidence(f"in {found}", one.start, one.end) for one, found in others],
        measures={"sentences": len(telling), "other_sentences": len(others)},
        suggestions=[f"Answer in {expected}: tell the model in the system prompt."] if score < _WEAK else [],
    )
