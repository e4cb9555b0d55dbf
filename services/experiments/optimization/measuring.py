"""How good one setting is: each question is asked of the live services, and its answer judged without any model."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.assignment import Settings

# A failure of these is of the suite and not of the setting: it is tried again later, and never counted.
OUTAGES: Final = frozenset(
    {Reason.SERVICE_UNAVAILABLE, Reason.SHUTTING_DOWN, Reason.DATABASE_UNAVAILABLE, Reason.STORE_UNAVAILABLE}
)
# Nor of these, which no setting heals.
HOPELESS: Final = frozenset(
    {
        Reason.COLLECTION_NOT_FOUND,
        Reason.PERMISSION_DENIED,
        Reason.UNAUTHENTICATED,
        Reason.EXPERIMENT_CONFLICT,
        Reason.OPTIMIZATION_UNSUPPORTED,
    }
)
# Words of letters and digits; of scripts without spaces each character by itself.
_ALONE: Final = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS: Final = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_MOST_ERROR: Final = 500


class Objective(StrEnum):
    """What decides: see the proto's TargetMetric."""

    RESPONSE_TIME = "RESPONSE_TIME"
    QUALITY_SCORE = "QUALITY_SCORE"
    ERROR_RATE = "ERROR_RATE"


@dataclass(frozen=True)
class Case:
    """A question, a good answer (empty: none is known), and the documents that answer it."""

    question: str
    reference: str = ""
    relevant: tuple[str, ...] = ()

    @property
    def is_judged(self) -> bool:
        """Whether an answer can be told from a better one."""
        return bool(self.reference or self.relevant)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its text, the documents it was made from, how long it took, and the experiment that shaped it, if any."""

    text: str
    documents: tuple[str, ...]
    seconds: float
    experiment: str = ""


class Target(Protocol):
    """The live services."""

    async def ask(self, question: str, settings: Settings) -> Reply:
        """Asks under these settings, past all caches.

        Raises:
            Failure: the call failed.
        """
        ...


@dataclass(frozen=True)
class Measures:
    """See the proto's Measures."""

    response_time: float | None
    quality_score: float | None
    error_rate: float
    case_count: int
    last_error: str = ""

    def losses(self, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
        """One number an objective, less being better; None where one of them is unknown."""
        quality = None if self.quality_score is None else -self.quality_score
        every = {
            Objective.RESPONSE_TIME: self.response_time,
            Objective.QUALITY_SCORE: quality,
            Objective.ERROR_RATE: self.error_rate,
        }
        known = [value for objective in objectives if (value := every[objective]) is not None]
        return tuple(known) if len(known) == len(objectives) else None


async def measure(target: Target, settings: Settings, cases: Sequence[Case]) -> Measures:
    """Asks one question after the other, so that the times are those of an idle caller.

    Raises:
        Failure: an outage, what no setting heals, or an experiment that shaped an answer: then nothing was measured.
    """
    seconds: list[float] = []
    scores: list[float] = []
    last_error = ""
    for case in cases:
        try:
            reply = await target.ask(case.question, settings)
        except Failure as failure:
            if failure.reason in OUTAGES or failure.reason in HOPELESS:
                raise
            last_error = f"{failure.reason}: {failure.message}"[:_MOST_ERROR]
            if case.is_judged:
                scores.append(0.0)
            continue
        if reply.experiment:
            raise Failure(
                Reason.EXPERIMENT_CONFLICT,
                f"the running experiment {reply.experiment!r} shapes the answers that are measured; stop it, or target it away "
                "from requests with the attribute `optimization`",
                metadata={"other": reply.experiment},
            )
        seconds.append(reply.seconds)
        if case.is_judged:
            scores.append(quality(case, reply))
    return Measures(
        response_time=statistics.median(seconds) if seconds else None,
        quality_score=statistics.fmean(scores) if scores else None,
        error_rate=1 - len(seconds) / len(cases),
        case_count=len(cases),
        last_error=last_error,
    )


def quality(case: Case, reply: Reply) -> float:
    """0 to 1: the mean of how near the answer is to the reference and of how many relevant documents were found."""
    parts: list[float] = []
    if case.reference:
        parts.append(likeness(reply.text, case.reference))
    if case.relevant:
        parts.append(len(set(case.relevant) & set(reply.documents)) / len(case.relevant))
    return statistics.fmean(parts)


def likeness(text: str, reference: str) -> float:
    """0 to 1: the mean of F1 over words and of the share of the reference's words that the text holds.

    F1 is that of SQuAD (Rajpurkar et al., 2016) without its English articles: words count as often as they stand there.
    """
    said, wanted = Counter(_WORDS.findall(text.lower())), Counter(_WORDS.findall(reference.lower()))
    common = (said & wanted).total()
    if not common:
        return 0.0
    precision, recall = common / said.total(), common / wanted.total()
    return (2 * precision * recall / (precision + recall) + recall) / 2
