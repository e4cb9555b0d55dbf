"""Scores each sentence of an answer by how far it rests on the sources.

For a claim c (a sentence of the answer, without its citation markers) and a window w (one to three sentences side by side of
one source):

    contained(c, w) = the share of c's weighted words that w holds; function words weigh 0.1, figures nothing; Chinese is
                      taken by its characters
    similar(c, w)   = (cos(c, w) - 0.3) / 0.6, kept within 0 and 1, where the embedder knows the claim's language
    base(c, w)      = contained, or the mean of contained and similar where that is more
    score(c)        = the greatest base(c, w) of the windows that veto nothing, 0 where there is none

A window vetoes a claim that holds a number, a date or a name that the window does not hold, or denies what the window affirms
or the other way round. A claim is *supported* from a score of 0.5; *contradicted* where a window of a base of 0.5 or more
vetoed it and none supports it; and *unsupported* otherwise. Where its language is none of the sources' and none that the
embedder knows, and for questions and sentences without words, nothing can be told: it is *unscored*, and counts for nothing.

The whole answer's score is the mean over its scored sentences, weighted by their length.

What this does not see: who did what to whom (`A beat B` and `B beat A` are the same to it), and opposites without a negation
(`opened` and `closed`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import mul
from typing import TYPE_CHECKING, Final

from services.retrieval.grounding.evidence import Passage, containment, vetoes, windows
from services.retrieval.languages import script
from services.retrieval.sentences import sentence_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from services.retrieval.grounding.evidence import Window
    from services.retrieval.passages import Hit

SUPPORTED_FROM: Final = 0.5
_COSINE_FLOOR, _COSINE_SPAN = 0.3, 0.6
# A claim whose words one window holds to this part needs no vector.
_ENOUGH: Final = 0.9
# Windows by claim that are worth a vector: those that words rank first.
_WORTH: Final = 3
_MARKERS: Final = re.compile(r"\s*[\[【]\d{1,3}(?:\s*[,，;]\s*\d{1,3})*[\]】]")
_MARKERS_AFTER: Final = re.compile(rf"(?:{_MARKERS.pattern})+\s*")
_QUESTION: Final = re.compile("[?？]\\W*$")
_LETTER: Final = re.compile(r"[^\W\d_]")


class Verdict(StrEnum):
    """What becomes of a sentence."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNSUPPORTED = "unsupported"
    UNSCORED = "unscored"


@dataclass(frozen=True, slots=True)
class Judged:
    """A sentence of the answer, judged.

    Attributes:
        start: Where it starts in the answer's text, in characters.
        end: Where it ends, exclusive, with its markers.
        verdict: What becomes of it.
        score: 0 to 1; None where unscored.
        vetoes: What the nearest window vetoed: `number`, `date`, `name`, `negation`; empty where it is supported.
        source: Place of the source it is nearest to, from 1; 0 where none is near.
        source_start: Where the evidence starts in that source's text, in characters.
        source_end: Where it ends, exclusive.
        by_meaning: Whether vectors took part.
    """

    start: int
    end: int
    verdict: Verdict
    score: float | None = None
    vetoes: tuple[str, ...] = ()
    source: int = 0
    source_start: int = 0
    source_end: int = 0
    by_meaning: bool = False


@dataclass(frozen=True, slots=True)
class Groundedness:
    """How far a whole answer rests on its sources; `score` is None where no sentence could be scored."""

    score: float | None
    sentences: tuple[Judged, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the answer, and how well each window contains it."""

    start: int
    end: int
    passage: Passage
    contained: tuple[float, ...]

    @property
    def nearest(self) -> list[int]:
        """Places of the windows worth a vector."""
        return sorted(range(len(self.contained)), key=lambda place: -self.contained[place])[:_WORTH]


class Grounds:
    """The sources of one answer, ready to judge what is said from them."""

    def __init__(self, sources: Sequence[Hit]) -> None:
        self._sources = sources
        self._windows: list[Window] | None = None

    @property
    def windows(self) -> list[Window]:
        """All windows, read when first needed: that is after the first tokens are on their way."""
        if self._windows is None:
            self._windows = windows(self._sources)
        return self._windows

    def claims(self, text: str) -> list[Claim]:
        """The sentences of an answer."""
        found: list[Claim] = []
        last = 0
        for end in _ends(text):
            start = end - len(text[last:end].lstrip())
            passage = Passage(_MARKERS.sub("", text[start:end]).strip())
            contained = tuple(containment(passage, window.passage) for window in self.windows)
            found.append(Claim(start, start + len(text[start:end].rstrip()), passage, contained))
            last = end
        return [claim for claim in found if claim.end > claim.start]

    def wanted(self, claims: Sequence[Claim], known: Callable[[str], bool]) -> list[str]:
        """Texts whose vectors would tell more than words do, without repetition.

        Args:
            claims: The sentences.
            known: Whether the embedder knows the language of a text.
        """
        texts: dict[str, None] = {}
        for claim in claims:
            if not _says_something(claim.passage.text) or not known(claim.passage.text):
                continue
            if max(claim.contained, default=0.0) >= _ENOUGH:
                continue
            near = [self.windows[place].passage.text for place in claim.nearest]
            texts |= dict.fromkeys((claim.passage.text, *filter(known, near)))
        return list(texts)

    def judge(self, claims: Sequence[Claim], vectors: Mapping[str, Sequence[float]]) -> Groundedness:
        """The verdicts; `vectors` holds those of the `wanted` texts, as far as there are any."""
        judged = tuple(self._judged(claim, vectors) for claim in claims)
        scored = [(one.score, one.end - one.start) for one in judged if one.score is not None]
        total = sum(length for _, length in scored)
        return Groundedness(sum(score * length for score, length in scored) / total if total else None, judged)

    def support(self, sentence: str, source: int) -> tuple[float, int, int]:
        """How far one source holds a sentence, by words and vetoes alone, and where in the source: score, start, end."""
        claim = Passage(_MARKERS.sub("", sentence).strip())
        best = (-1.0, 0, 0)
        for window in self.windows:
            if window.source == source:
                contained = containment(claim, window.passage)
                if contained > best[0] and not (contained and any(vetoes(claim, window.passage))):
                    best = (contained, window.start, window.end)
        return (best[0], *_trimmed(self._sources[source].text, best[1], best[2])) if best[0] > 0 else (0.0, 0, 0)

    def _judged(self, claim: Claim, vectors: Mapping[str, Sequence[float]]) -> Judged:
        nothing = Judged(claim.start, claim.end, Verdict.UNSCORED)
        if not _says_something(claim.passage.text) or not self._can_tell(claim, vectors):
            return nothing
        mine = vectors.get(claim.passage.text)
        best = vetoed = replace(nothing, verdict=Verdict.UNSUPPORTED, score=0.0)
        vetoed_base = 0.0
        for place, window in enumerate(self.windows):
            theirs = vectors.get(window.passage.text) if mine is not None else None
            base = contained = claim.contained[place]
            if mine is not None and theirs is not None:
                base = max(contained, (contained + _similar(mine, theirs)) / 2)
            if base <= min(best.score or 0.0, vetoed_base):
                continue
            against = tuple(vetoes(claim.passage, window.passage))
            if against and base > vetoed_base:
                vetoed_base = base
                vetoed = replace(self._at(nothing, window), score=0.0, vetoes=against, by_meaning=theirs is not None)
            elif not against and base > (best.score or 0.0):
                best = replace(self._at(nothing, window), score=base, by_meaning=theirs is not None)
        if (best.score or 0.0) >= SUPPORTED_FROM:
            return replace(best, verdict=Verdict.SUPPORTED)
        if vetoed_base >= SUPPORTED_FROM:
            return replace(vetoed, verdict=Verdict.CONTRADICTED)
        return replace(best, verdict=Verdict.UNSUPPORTED)

    def _at(self, judged: Judged, window: Window) -> Judged:
        start, end = _trimmed(self._sources[window.source].text, window.start, window.end)
        return replace(judged, source=window.source + 1, source_start=start, source_end=end)

    def _can_tell(self, claim: Claim, vectors: Mapping[str, Sequence[float]]) -> bool:
        """Words tell nothing between scripts: an answer in Russian from passages in English needs vectors."""
        if claim.passage.text in vectors or any(claim.contained) or not self._sources:
            return True
        said = script(claim.passage.text)
        return any(script(source.text) == said for source in self._sources)


def _says_something(text: str) -> bool:
    return bool(_LETTER.search(text)) and not _QUESTION.search(text)


def _ends(text: str) -> list[int]:
    """Ends of sentences; markers after a sentence belong to it."""
    ends: list[int] = []
    last = 0
    for stop in sentence_ends(text):
        markers = _MARKERS_AFTER.match(text, stop)
        end = markers.end() if markers else stop
        if end > last:
            ends.append(end)
            last = end
    return ends


def _similar(one: Sequence[float], other: Sequence[float]) -> float:
    norm = math.sqrt(sum(map(mul, one, one)) * sum(map(mul, other, other)))
    cosine = sum(map(mul, one, other)) / norm if norm else 0.0
    return min(1.0, max(0.0, (cosine - _COSINE_FLOOR) / _COSINE_SPAN))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
