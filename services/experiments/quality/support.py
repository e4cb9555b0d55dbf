"""What rests on what: sentences of a text on contexts (groundedness), and a reference in a text (accuracy).

A sentence is as well supported as the share of its weighted terms that the best sentences of one source hold, and not at all
where it has a number that they lack, or denies what they state. A term is a stem; a word without content counts a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Evidence, abstained, scored
from services.experiments.quality.assessment import Reason as _Reason
from services.experiments.quality.text import Passage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.experiments.quality.assessment import Judgement, Subject

# Below this a sentence counts as unsupported.
_SUPPORTED: Final = 0.5
# From here on everything that matters is there: what is missing are other words for the same.
_FULL: Final = 0.8
_WEAK: Final = 0.6
# Sentences side by side that may support one together.
_WIDEST: Final = 2
# Bounds the time: sentences of the text times windows of the sources.
_MOST_SENTENCES: Final = 200
_MOST_WINDOWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Support:
    """How well a sentence is supported, 0 to 1, by which source, and what speaks against it."""

    score: float
    source: int
    problem: str = ""


def groundedness(subject: Subject) -> Judgement:
    """How much of the text rests on the contexts, by length: unsupported sentences are named."""
    sources = [_windows(Passage(context), len(subject.contexts)) for context in subject.contexts]
    claims = subject.passage.sentences[:_MOST_SENTENCES]
    if not claims:
        return abstained(Criterion.GROUNDEDNESS, _Reason.TOO_SHORT, "the text has no words")
    found = [support(claim, sources) for claim in claims]
    lengths = [sum(claim.weights.values()) for claim in claims]
    score = sum(one.score * length for one, length in zip(found, lengths, strict=True)) / sum(lengths)
    evidence = [
        Evidence(one.problem or "nothing in the contexts says this", claim.start, claim.end)
        for claim, one in zip(claims, found, strict=True)
        if one.score < _SUPPORTED
    ]
    evidence += [
        Evidence("supported", claim.start, claim.end, one.source)
        for claim, one in zip(claims, found, strict=True)
        if one.score >= _SUPPORTED
    ]
    unsupported = sum(one.score < _SUPPORTED for one in found)
    advice = "Leave out or correct the sentences that the contexts do not support; they are named in the evidence."
    return scored(
        Criterion.GROUNDEDNESS,
        score,
        evidence=evidence,
        measures={"sentences": len(claims), "unsupported_sentences": unsupported},
        suggestions=[advice] if score < _WEAK else [],
    )


def accuracy(subject: Subject) -> Judgement:
    """How much of the reference the text says; a number that differs or a denial of it counts as not said."""
    claims = Passage(subject.reference).sentences[:_MOST_SENTENCES]
    if not claims:
        return abstained(Criterion.ACCURACY, _Reason.TOO_SHORT, "the reference has no words")
    source = [_windows(subject.passage, 1)]
    found = [support(claim, source) for claim in claims]
    lengths = [sum(claim.weights.values()) for claim in claims]
    score = sum(one.score * length for one, length in zip(found, lengths, strict=True)) / sum(lengths)
    evidence = [
        Evidence(f"{one.problem or 'the text does not say'}: {claim.text[:200]}")
        for claim, one in zip(claims, found, strict=True)
        if one.score < _SUPPORTED
    ]
    advice = "Say what the reference says where the evidence names a difference."
    return scored(
        Criterion.ACCURACY,
        score,
        evidence=evidence,
        measures={"reference_sentences": len(claims), "missing_sentences": len(evidence)},
        suggestions=[advice] if score < _WEAK else [],
    )


def support(claim: Passage, sources: Sequence[Sequence[Passage]]) -> Support:
    """The best support among windows of the sources."""
    best = Support(0.0, 0)
    nearest, veto = 0.0, ""
    for place, source in enumerate(sources):
        for window in source:
            share = claim.share_in(window)
            if share < nearest and share < best.score:
                continue
            problem = _problem(claim, window)
            if problem and share > nearest:
                nearest, veto = share, problem
            elif not problem and share > best.score:
                best = Support(share, place)
    # What nearly says the same, and differs in a number or a denial, is contradicted, not merely unsupported.
    if veto and nearest >= _SUPPORTED and nearest > best.score:
        return Support(0.0, best.source, veto)
    return Support(min(1.0, best.score / _FULL) if best.score >= _SUPPORTED else best.score, best.source)


def _problem(claim: Passage, window: Passage) -> str:
    missing = claim.numbers - window.numbers
    if missing:
        return f"the number {min(missing)} is not there"
    return "one denies what the other states" if claim.denies != window.denies else ""


def _windows(source: Passage, sources: int) -> list[Passage]:
    """Single sentences and pairs of neighbours."""
    sentences = source.sentences[: max(1, _MOST_WINDOWS // _WIDEST // max(1, sources))]
    pairs = (
        Passage(source.text[one.start - source.start : two.end - source.start], one.start) for one, two in pairwise(sentences)
    )
    return [*sentences, *pairs]
