"""What callers can ask about the quality of retrieval: judged queries, comparisons, and the calibration of relevance."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason, invalid_field
from services.retrieval.access import Right
from services.retrieval.calibration import Example, TooFewExamplesError, error, fit
from services.retrieval.catalog import not_found
from services.retrieval.evaluation.evaluator import SearchesIn, Setting, evaluate
from services.retrieval.evaluation.queries import made_of
from services.retrieval.passages import DEFAULTS, SearchMode
from services.retrieval.relevance import relevance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.calibration import Calibration
    from services.retrieval.catalog import Collection
    from services.retrieval.evaluation.evaluator import Score
    from services.retrieval.evaluation.queries import Judged, Judgments
    from services.retrieval.passages import Options

MOST_MADE: Final = 200
# Passages of each query that a calibration is fitted on: those that a search may return, and so a threshold judges.
_PASSAGES: Final = 20
_AT_ONCE: Final = 4


class Names(Protocol):
    """Whatever finds collections by their ids; `catalog.Catalog` does."""

    async def named(self, collections: Sequence[str], right: Right = Right.READ) -> list[Collection]:
        """See `Catalog.named`."""
        ...

    async def calibrate(self, target: Collection, calibration: Calibration | None) -> None:
        """See `Catalog.calibrate`."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """A setting as it is asked for; an empty collection means that of the request."""

    name: str
    collection: str
    mode: SearchMode
    options: Options


USUAL: Final = tuple(
    Way(name, "", mode, DEFAULTS)
    for name, mode in (("hybrid", SearchMode.HYBRID), ("dense", SearchMode.DENSE), ("sparse", SearchMode.SPARSE))
)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How good the settings are, and on how many queries; `judged` is False where these were made."""

    queries: int
    judged: bool
    scores: list[Score]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and how far relevance was from the truth without it."""

    calibration: Calibration
    uncalibrated_error: float


class Evaluations:
    """Measures collections."""

    def __init__(self, catalog: Names, judgments: Judgments, searches: SearchesIn) -> None:
        self._catalog = catalog
        self._judgments = judgments
        self._searches = searches

    async def put(self, collection: str, queries: Sequence[Judged]) -> None:
        """Keeps judged queries in place of those before. Raises Failure(COLLECTION_NOT_FOUND, PERMISSION_DENIED)."""
        target = (await self._catalog.named([collection], Right.WRITE))[0]
        if not await self._judgments.put(target.uid, queries):
            raise not_found(collection)

    async def judgments(self, collection: str) -> list[Judged]:
        """The judged queries that a collection keeps. Raises Failure(COLLECTION_NOT_FOUND)."""
        return await self._judgments.of((await self._catalog.named([collection]))[0].uid)

    async def evaluate(
        self, collection: str, ways: Sequence[Way], queries: Sequence[Judged], most_made: int = MOST_MADE
    ) -> Evaluated:
        """Compares settings; none means the usual ones, and no queries those that the collection keeps, or made ones.

        Raises:
            Failure: COLLECTION_NOT_FOUND, INVALID_FIELD, JUDGMENTS_MISSING, and what a search raises.
        """
        ways = ways or USUAL
        if len({way.name for way in ways}) < len(ways):
            raise invalid_field("settings", "must have different names")
        target = (await self._catalog.named([collection]))[0]
        others = await self._catalog.named([way.collection or collection for way in ways])
        asked, judged = await self._queries(target, queries, most_made)
        settings = [Setting(way.name, other, way.mode, way.options) for way, other in zip(ways, others, strict=True)]
        return Evaluated(len(asked), judged, await evaluate(self._searches, settings, asked))

    async def calibrate(self, collection: str, queries: Sequence[Judged]) -> Calibrated:
        """Fits and keeps what relevance means in a collection.

        Raises:
            Failure: COLLECTION_NOT_FOUND, PERMISSION_DENIED, JUDGMENTS_MISSING, and what a search raises.
        """
        target = (await self._catalog.named([collection], Right.WRITE))[0]
        asked, judged = await self._queries(target, queries, MOST_MADE)
        examples = await self._examples(target, asked)
        time = datetime.now(UTC).isoformat()
        try:
            fitted = await asyncio.to_thread(
                fit, examples, fingerprint=target.embedder.fingerprint, queries=len(asked), judged=judged, time=time
            )
        except TooFewExamplesError as few:
            raise _missing(collection, f"the queries found {few}; give more judged queries") from few
        await self._catalog.calibrate(target, fitted)
        told = [relevance(one.covered, one.cosine) for one in examples]
        return Calibrated(fitted, error(told, [one.answers for one in examples]))

    async def remove_calibration(self, collection: str) -> None:
        """Goes back to the service's own relevance. Raises Failure(COLLECTION_NOT_FOUND, PERMISSION_DENIED)."""
        await self._catalog.calibrate((await self._catalog.named([collection], Right.WRITE))[0], None)

    async def _queries(self, target: Collection, given: Sequence[Judged], most_made: int) -> tuple[Sequence[Judged], bool]:
        kept = given or await self._judgments.of(target.uid)
        if kept:
            return kept, True
        made = await asyncio.to_thread(made_of, await self._judgments.texts(target.uid, most_made))
        if not made:
            raise _missing(target.collection, "it keeps no judged queries, and its documents have no sentences to make any of")
        return made, False

    async def _examples(self, target: Collection, queries: Sequence[Judged]) -> list[Example]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def of(judged: Judged) -> list[Example]:
            async with room:
                found = await self._searches.search_in([target], judged.query, _PASSAGES, SearchMode.HYBRID, DEFAULTS)
            return [Example(hit.covered, hit.cosine, hit.document in judged.relevant) for hit in found.hits]

        return [one for those in await asyncio.gather(*map(of, queries)) for one in those]


def _missing(collection: str, problem: str) -> Failure:
    return Failure(Reason.JUDGMENTS_MISSING, f"collection {collection!r}: {problem}", metadata={"collection": collection})
