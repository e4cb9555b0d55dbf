"""Whether a text says things twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Evidence, Reason, abstained, scored

if TYPE_CHECKING:
    from services.experiments.quality.assessment import Judgement, Subject
    from services.experiments.quality.text import Word

# Words, and wide characters, in a row that nobody repeats by chance.
_ROW: Final = 5
_WIDE_ROW: Final = 9
_WEAK: Final = 0.8


def repetition(subject: Subject) -> Judgement:
    """1 less the share of words that stand in a row of 5 (9 wide characters) which occurred before."""
    words = subject.passage.words
    row = _WIDE_ROW if sum(word.is_wide for word in words) * 2 > len(words) else _ROW
    if len(words) <= row:
        return abstained(Criterion.REPETITION, Reason.TOO_SHORT, f"{len(words)} words or characters hold no two rows of {row}")
    repeated = _repeated(words, row)
    evidence = []
    start = 0
    while start < len(words):
        end = start
        while end < len(words) and repeated[end]:
            end += 1
        if end > start:
            evidence.append(Evidence("said before", words[start].start, words[end - 1].end))
        start = max(end, start + 1)
    score = 1 - sum(repeated) / len(words)
    return scored(
        Criterion.REPETITION,
        score,
        evidence=evidence,
        measures={"repeated_share": 1 - score, "row": row},
        suggestions=["Say each thing once; in sampling, a frequency or repetition penalty helps."] if score < _WEAK else [],
    )


def _repeated(words: tuple[Word, ...], row: int) -> list[bool]:
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(words)
    for start in range(len(words) - row + 1):
        gram = tuple(word.text for word in words[start : start + row])
        if gram in seen:
            repeated[start : start + row] = [True] * row
        seen.add(gram)
    return repeated
