"""Which sentences answer a question: candidates, their weights, and the few that are kept."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from services.inference.extraction import cues
from services.inference.extraction.blocks import blocks
from services.inference.extraction.sentences import sentences
from services.inference.extraction.terms import HAN, question_terms, terms

if TYPE_CHECKING:
    from collections.abc import Sequence

# A sentence answers when it, its heading and its passage hold at least this share of the question, by weight of its terms, ...
COVERAGE_FLOOR: Final = 0.22
# ... or when an embedder that knows the language finds it this near (cosine; unrelated text stays below 0.25 with MiniLM).
COSINE_FLOOR: Final = 0.38
# Share of the words in the blend with the cosine, where they cover the whole question; in proportion where they cover less.
LEXICAL_SHARE: Final = 0.35
# Further sentences must be worth this share of the best one.
FURTHER_SHARE: Final = 0.65
# ... and of this share where they come out of another passage, which may speak of something else.
OTHER_PASSAGE_SHARE: Final = 0.72
MOST_SENTENCES: Final = 4
FINAL: Final = tuple(".!?…。！？:：")
SAME_SHARE: Final = 0.8
# A question of fewer terms may well stand in a sentence that answers it.
REPEATED_TERMS: Final = 3
K1: Final = 0.8
B: Final = 0.4
HEADING_WEIGHT: Final = 0.5
NEIGHBOUR_WEIGHT: Final = 0.3
PASSAGE_WEIGHT: Final = 0.1
PASSAGE_RARITY: Final = 0.5
# A term found elsewhere in the passage covers this much of itself.
PASSAGE_COVERAGE: Final = 0.5
NUMBERING: Final = re.compile(r"^\(?\d{1,2}[.)]\s+(?=\S)")
# Diagrams, and lines of links or paths set apart by dots or arrows.
DRAWING: Final = re.compile(r"[\u2500-\u259f]|(?:\s[·•|→].*){3}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may be chosen.

    Attributes:
        text: As it will be written, with a final full stop where the source has none.
        passage: Number of its passage, from 1.
        place: Its place in the passage, from 0.
        terms: Its terms with their counts.
        around: Terms of its heading and title.
        heading: What it stands under: its heading, else its title.
    """

    text: str
    passage: int
    place: int
    terms: Counter[str]
    around: frozenset[str]
    heading: str


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate and what is known of it.

    Attributes:
        candidate: The sentence.
        lexical: Weight of its words, 0 to 1, relative to the best candidate.
        coverage: Share of the question's words, by weight, that it, its heading and its passage hold, 0 to 1.
        cosine: Its nearness to the question, where an embedder told it.
        form: What its form says for or against it, a factor about 1.
        score: What it is worth beside the others, 0 to about 2.
        asked_above: Whether it stands under a heading that asks the very question, as on a page of questions and answers.
    """

    candidate: Candidate
    lexical: float
    coverage: float
    form: float = 1.0
    cosine: float | None = None
    score: float = 0.0
    asked_above: bool = False

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
            if sentence in seen or DRAWING.search(sentence):
                continue
            seen.add(sentence)
            counted = Counter(terms(sentence))
            if counted:
                found.append(
                    Candidate(
                        finished(sentence), number, place, counted, frozenset(terms(f"{title} {heading}")), heading or title
                    )
                )
    return found


def _split(text: str) -> list[tuple[str, str]]:
    """Sentences with their headings. What is indented as a whole is still a text."""
    for reading in (text, textwrap.dedent(text)):
        found = [
            (NUMBERING.sub("", sentence), block.heading) for block in blocks(reading) for sentence in sentences(block.text)
        ]
        if found:
            return found
    return []


def finished(sentence: str) -> str:
    """The sentence with a full stop where its source, a list or a table, gave it none."""
    bare = sentence.rstrip(" ,;，；、")
    if bare.rstrip("\"'”’»)]」』）》`").endswith(FINAL):
        return bare
    return bare + ("。" if HAN.search(bare[-2:]) else ".")


def weigh(question: str, found: Sequence[Candidate], context: str = "") -> list[Weighed]:
    """Weighs candidates by their words (BM25 over sentences); `context`, an earlier question, counts a third.

    A sentence that repeats a question of several words asks it too, and is left out.
    """
    asked = question.strip(" ?？").casefold()
    if len(question_terms(question)) >= REPEATED_TERMS:
        found = [candidate for candidate in found if asked not in candidate.text.casefold()]
    wanted = dict.fromkeys(question_terms(context), 1 / 3) | dict.fromkeys(question_terms(question), 1.0)
    rarity = _rarity(found, wanted)
    total = sum(rarity.values()) or 1.0
    length = sum(candidate.terms.total() for candidate in found) / max(1, len(found))
    subject, number = cues.subject(question), cues.asks_number(question)
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
        scores.append(score / (1 + 0.03 * (candidate.passage - 1)))
        coverages.append(coverage / total)
    best = max(scores, default=0.0) or 1.0
    weighed = []
    for candidate, score, coverage in zip(found, scores, coverages, strict=True):
        form = cues.form(candidate.text, subject, number=number)
        above = _asks(candidate.heading, question)
        lexical = 1.0 if above else score / best
        weighed.append(Weighed(candidate, lexical, coverage, form, score=form * lexical, asked_above=above))
    return weighed


def _asks(heading: str, question: str) -> bool:
    """Whether a heading is a question, and this one, in whatever form and order of its words."""
    return heading.rstrip().endswith(("?", "？")) and set(question_terms(heading)) == set(question_terms(question))


def _rarity(found: Sequence[Candidate], wanted: dict[str, float]) -> dict[str, float]:
    """How much each wanted term tells: much where few sentences hold it, less where every passage speaks of it."""
    passages = {candidate.passage for candidate in found}
    told = {}
    for term, weight in wanted.items():
        holding = [candidate for candidate in found if term in candidate.terms]
        speaking = {candidate.passage for candidate in found if term in candidate.terms or term in candidate.around}
        in_sentences = math.log(1 + (len(found) - len(holding) + 0.5) / (len(holding) + 0.5))
        in_passages = math.log(1 + (len(passages) - len(speaking) + 0.5) / (len(speaking) + 0.5))
        told[term] = weight * in_sentences * (1 + PASSAGE_RARITY * in_passages)
    return told


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
    # What stands under the very question is the whole answer, if its form is not against it.
    above = [one for one in ranked if one.asked_above and one.answers and one.score >= FURTHER_SHARE * best.score]
    if above:
        ranked, best = above, above[0]
    kept = [best.candidate]
    for one in ranked:
        if len(kept) >= most or one.score < FURTHER_SHARE * best.score:
            break
        if one.candidate.passage != best.candidate.passage and one.score < OTHER_PASSAGE_SHARE * best.score:
            continue
        if one.answers and not any(_same(one.candidate, other) for other in kept):
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
    """The same candidates, each with its cosine to the question; words count the less, the less of the question they cover."""
    share = LEXICAL_SHARE * max((one.coverage for one in weighed), default=0.0)
    nearest = max((*cosines, COSINE_FLOOR))
    # What leaves the question to its heading is not near to it by itself.
    near = [1.0 if one.asked_above else max(0.0, cosine) / nearest for one, cosine in zip(weighed, cosines, strict=True)]
    return [
        replace(one, cosine=cosine, score=one.form * (share * one.lexical + (1 - share) * nearness))
        for one, cosine, nearness in zip(weighed, cosines, near, strict=True)
    ]


def weigh_for_summary(found: Sequence[Candidate]) -> list[Weighed]:
    """Weighs candidates by how much of what the texts speak of they hold, and how early they stand. All of them answer."""
    spread = Counter(term for candidate in found for term in candidate.terms)
    worth = {term: math.log(1 + count) if count > 1 else 0.0 for term, count in spread.items()}
    scores = [
        sum(worth[term] for term in candidate.terms) / (6 + candidate.terms.total()) / (1 + 0.15 * candidate.place)
        for candidate in found
    ]
    best = max(scores, default=0.0) or 1.0
    return [
        Weighed(candidate, score / best, 1.0, score=cues.form(candidate.text) * score / best)
        for candidate, score in zip(found, scores, strict=True)
    ]
