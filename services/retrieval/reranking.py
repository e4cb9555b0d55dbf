"""Has a language model reorder what a search found.

Each of the best passages is graded by itself, from 0 (says nothing of it) to 3 (answers it), in an answer that is held to these
four (`Output.choice`). Where the model tells how likely each of them was, the grade is their mean by that likelihood, so that
passages of one grade still differ. It takes a call a passage: there is a time limit, a share of the caller's deadline, beyond
which the order stays as it was, which is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.selection import Passage

_log = logging.getLogger(__name__)

GRADES: Final = ("0", "1", "2", "3")
# Passages that are graded, at most; those after them stay behind.
CANDIDATES: Final = 20
_AT_ONCE: Final = 4
_LIMIT_SECONDS: Final = 10.0
# Of the caller's time left so much is for grading, and with less than this nothing is begun.
_SHARE: Final = 0.6
_LEAST_SECONDS: Final = 0.2
_PASSAGE_CHARACTERS: Final = 2_000
# These heal by themselves: the search goes on without. Others say that the model cannot do it, which the caller must know.
_OUTAGES: Final = frozenset(
    {
        Reason.DEADLINE_EXCEEDED,
        Reason.ENGINE_OVERLOADED,
        Reason.ENGINE_UNAVAILABLE,
        Reason.GENERATION_FAILED,
        Reason.OVERLOADED,
        Reason.OUT_OF_MEMORY,
        Reason.SERVICE_UNAVAILABLE,
        Reason.SHUTTING_DOWN,
    }
)


class Grader(Protocol):
    """Whatever grades passages; penstock's inference does, by a language model."""

    async def grade(self, model: str, query: str, passage: str) -> float:
        """How well the passage answers the query, 0 to 1.

        Raises:
            Failure: MODEL_NOT_FOUND, MODEL_CAPABILITY_MISSING, and the outages of inference.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reranked:
    """Passages in their order. `model` is empty and `note` says why where they are in the order that they had."""

    passages: list[Passage]
    model: str
    note: str
    seconds: float


class Reranker:
    """Reorders passages."""

    def __init__(self, grader: Grader) -> None:
        self._grader = grader

    async def rerank(self, model: str, query: str, passages: Sequence[Passage]) -> Reranked:
        """Puts the best passages into the order of their grades; those of one grade stay in the order that they had.

        Raises:
            Failure: MODEL_NOT_FOUND, MODEL_CAPABILITY_MISSING.
        """
        started = time.monotonic()
        left = current_call().remaining()
        limit = _LIMIT_SECONDS if left is None else min(_LIMIT_SECONDS, _SHARE * left)
        if limit < _LEAST_SECONDS:
            return Reranked(list(passages), "", f"Not reranked by {model}: the deadline is too near.", 0.0)
        try:
            async with asyncio.timeout(limit):
                graded = await self._graded(model, query, passages[:CANDIDATES])
        except TimeoutError:
            note = f"Not reranked by {model}: it did not grade the passages within {limit:.1f} s."
            return Reranked(list(passages), "", note, time.monotonic() - started)
        except Failure as failure:
            if failure.reason not in _OUTAGES:
                raise
            _log.warning("not reranked: %s", failure.message)
            note = f"Not reranked by {model}: {failure.message}"
            return Reranked(list(passages), "", note, time.monotonic() - started)
        graded.sort(key=lambda one: one.reranked or 0.0, reverse=True)
        return Reranked([*graded, *passages[CANDIDATES:]], model, "", time.monotonic() - started)

    async def _graded(self, model: str, query: str, passages: Sequence[Passage]) -> list[Passage]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def graded(passage: Passage) -> Passage:
            async with room:
                grade = await self._grader.grade(model, query, passage.placed.candidate.text[:_PASSAGE_CHARACTERS])
            return replace(passage, reranked=grade)

        tasks = [asyncio.create_task(graded(one)) for one in passages]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            # The first failure, or the limit, ends the work on all others.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
