"""Which sentences answer a question: candidates, their weights, and the few that are kept."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from services.inference.extraction.blocks import blocks
from services.inference.extraction.sentences import sentences
from services.inference.extraction.terms import question_terms, terms

if TYPE_CHECKING:
    from collections.abc import Sequence

# A sentence answers when it, its heading and its neighbours hold at least this share of what the question is about, by weight, ...
COVERAGE_FLOOR: Final = 0.27
# ... or when an embedder that knows the language finds it this near (cosine). Unrelated text stays below 0.25 with MiniLM.
COSINE_FLOOR: Final = 0.38
# Share of the lexical score in the blend with the cosine.
LEXICAL_SHARE: Final = 0.45
# Further sentences must be worth this share of the best one.
FURTHER_SHARE: Final = 0.62
MOST_SENTENCES: Final = 4
SAME_SHARE: Final = 0.8
K1: Final = 0.8
B: Final = 0.4
HEADING_WEIGHT: Final = 0.5
NEIGHBOUR_WEIGHT: Final = 0.3
PASSAGE_WEIGHT: Final = 0.1
# A term found elsewhere in the passage covers this much of itself.
PASSAGE_COVERAGE: Final = 0.5
NUMBER_BONUS: Final = 0.25
ASKS_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|long|old|far|often|big|large|fast|high)\b|\bwhen\b|\bwhat (?:year|date|time|port|percent\w*|number)\b|"
    r"\bwhich (?:year|port)\b|сколько|когда|каком году|какого года|какой процент|какое число|多少|几|何时|哪一?年|什么时候|多[大长高久远]",
    re.IGNORECASE,
)
NUMBER: Final = re.compile(
    r"\d|[一二三四五六七八九十百千万亿两]+[年月日个次名人座部岁]|\b(?:one|two|three|four|five|six|seven|eight|nine|ten)\b"
)
NUMBERING: Final = re.compile(r"^\(?\d{1,2}[.)]\s+(?=\S)")
REFERS_BACK: Final = re.compile(
    r"(?:this|that|these|those|it|its|they|their|he|she|his|her|such|however|also|этот|эта|это|эти|он|она|оно|они|его|её|ее|их|"
    r"такой|такая|такие|однако|при этом|кроме того)\b|[这该其此他她它]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may be chosen.

    Attributes:
        text: As it will be written, with a final full stop where the source has none.
        passage: Number of its passage, from 1.
        place: Its place in the passage, from 0.
        terms: Its terms with their counts.
        around: Terms of its heading and title.
    """

    text: str
    passage: int
    place: int
    terms: Counter[str]
    around: frozenset[str]


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate and what is known of it. `coverage` is 0 to 1; `lexical` is 0 to 1, relative to the best."""

    candidate: Candidate
    lexical: float
    coverage: float
    cosine: float | None = None

    @property
    def score(self) -> float:
        """What it is worth beside the others; words alone where there is no cosine."""
        if self.cosine is None:
            return self.lexical
        return LEXICAL_SHARE * self.lexical + (1 - LEXICAL_SHARE) * max(0.0, self.cosine)

    @property
    def answers(self) -> bool:
        """Whether it clears one of the documented floors."""
        return self.coverage >= COVERAGE_FLOOR or (self.cosine is not None and self.cosine >= COSINE_FLOOR)


def candidates(passages: Sequence[tuple[str, str]]) -> list[Candidate]:
    """The sentences of passages, given as (text, title), in reading order and each only once."""
    found: list[Candidate] = []
    seen: set[str] = set()
    for number, (text, title) in enumerate(passages, 1):
        for place, (sentence, heading) in enumerate(_split(text)):
            if sentence in seen:
                continue
            seen.add(sentence)
            counted = Counter(terms(sentence))
            if counted:
                found.append(Candidate(finished(sentence), number, place, counted, frozenset(terms(f"{title} {heading}"))))
    return found


def _split(text: str) -> list[tuple[str, str]]:
    found = [(NUMBERING.sub("", sentence), block.heading) for block in blocks(text) for sentence in sentences(block.text)]
    # A text that is all indented or fenced is still a text.
    return found or [(sentence, "") for sentence in sentences(" ".join(text.split()))]


def finished(sentence: str) -> str:
    """The sentence with a full stop where its source, a list or a table, gave it none."""
    bare = sentence.rstrip(" ,;:，；：、")
    if bare.rstrip("\"'”’»)]」』）》`")[-1:] in tuple(".!?…。！？") or bare[-1:] in tuple(".!?…。！？"):
        return bare
    return bare + ("。" if re.search(r"[\u4e00-\u9fff」』）》]$", bare) else ".")


def weigh(question: str, found: Sequence[Candidate], context: str = "") -> list[Weighed]:
    """Weighs candidates by their words (BM25 over sentences); `context`, an earlier question, counts a third."""
    wanted = dict.fromkeys(question_terms(context), 1 / 3) | dict.fromkeys(question_terms(question), 1.0)
    rarity = _rarity(found, wanted)
    total = sum(rarity.values()) or 1.0
    length = sum(candidate.terms.total() for candidate in found) / max(1, len(found))
    asks_number = ASKS_NUMBER.search(question) is not None
    held = _held(found, rarity)
    scores, coverages = [], []
    for place, candidate in enumerate(found):
        near = _neighbours(found, place)
        norm = K1 * (1 - B + B * candidate.terms.total() / length)
        score = coverage = 0.0
        for term in held[candidate.passage]:
            presence = candidate.terms[term] or _echo(term, candidate, near)
            score += rarity[term] * presence * (K1 + 1) / (presence + norm)
            coverage += rarity[term] * max(min(1.0, presence), PASSAGE_COVERAGE)
        if asks_number and NUMBER.search(candidate.text):
            score *= 1 + NUMBER_BONUS
        scores.append(score / (1 + 0.03 * (candidate.passage - 1)))
        coverages.append(coverage / total)
    best = max(scores, default=0.0) or 1.0
    return [
        Weighed(candidate, score / best, coverage) for candidate, score, coverage in zip(found, scores, coverages, strict=True)
    ]


def _rarity(found: Sequence[Candidate], wanted: dict[str, float]) -> dict[str, float]:
    """How much each wanted term tells: much where few sentences hold it."""
    holding = {term: sum(term in candidate.terms for candidate in found) for term in wanted}
    return {
        term: weight * math.log(1 + (len(found) - holding[term] + 0.5) / (holding[term] + 0.5))
        for term, weight in wanted.items()
    }


def _held(found: Sequence[Candidate], rarity: dict[str, float]) -> dict[int, list[str]]:
    """The wanted terms that each passage holds anywhere."""
    held: dict[int, set[str]] = {}
    for candidate in found:
        held.setdefault(candidate.passage, set()).update(candidate.terms.keys() & rarity, candidate.around & rarity.keys())
    return {passage: [term for term in rarity if term in terms_held] for passage, terms_held in held.items()}


def _echo(term: str, candidate: Candidate, near: Sequence[Candidate]) -> float:
    """What a term is worth that the sentence leaves to its heading, its neighbours or the rest of its passage."""
    if term in candidate.around:
        return HEADING_WEIGHT
    return NEIGHBOUR_WEIGHT if any(term in other.terms for other in near) else PASSAGE_WEIGHT


def _neighbours(found: Sequence[Candidate], place: int) -> list[Candidate]:
    own = found[place].passage
    return [found[at] for at in (place - 1, place + 1) if 0 <= at < len(found) and found[at].passage == own]


def choose(weighed: Sequence[Weighed], most: int = MOST_SENTENCES) -> list[Candidate]:
    """The best sentences in reading order, the passage of the best one first; none when none clears a floor."""
    ranked = sorted(weighed, key=lambda one: -one.score)
    best = next((one for one in ranked if one.answers), None)
    if best is None:
        return []
    kept = [best.candidate]
    for one in ranked:
        if len(kept) >= most or one.score < FURTHER_SHARE * best.score:
            break
        if not any(_same(one.candidate, other) for other in kept):
            kept.append(one.candidate)
    return _for_reading(kept, best.candidate)


def _same(one: Candidate, other: Candidate) -> bool:
    """Whether one says hardly more than the other."""
    shared = (one.terms & other.terms).total()
    return shared >= SAME_SHARE * min(one.terms.total(), other.terms.total())


def _for_reading(kept: Sequence[Candidate], best: Candidate) -> list[Candidate]:
    order = list(dict.fromkeys([best.passage, *(candidate.passage for candidate in kept)]))
    return sorted(kept, key=lambda candidate: (order.index(candidate.passage), candidate.place))


def with_cosines(weighed: Sequence[Weighed], cosines: Sequence[float]) -> list[Weighed]:
    """The same candidates, each with its cosine to the question."""
    return [replace(one, cosine=cosine) for one, cosine in zip(weighed, cosines, strict=True)]


def weigh_for_summary(found: Sequence[Candidate]) -> list[Weighed]:
    """Weighs candidates by how much of what the texts speak of they hold, and how early they stand. All of them answer."""
    spread = Counter(term for candidate in found for term in candidate.terms)
    worth = {term: math.log(1 + count) if count > 1 else 0.0 for term, count in spread.items()}
    scores = [
        sum(worth[term] for term in candidate.terms) / (6 + candidate.terms.total()) / (1 + 0.15 * candidate.place)
        for candidate in found
    ]
    best = max(scores, default=0.0) or 1.0
    return [Weighed(candidate, score / best, coverage=1.0) for candidate, score in zip(found, scores, strict=True)]
