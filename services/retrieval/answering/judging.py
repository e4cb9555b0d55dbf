"""Judges an answer once it is whole: by its words, and by meaning as far as an embedder and the time allow."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.chassis.call import current_call
from services.chassis.errors import Failure
from services.retrieval.answering.plan import VECTORS_AT_END_FROM
from services.retrieval.embedding import embed_as
from services.retrieval.languages import is_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.catalog import Collection
    from services.retrieval.embedding import Embedder
    from services.retrieval.grounding.groundedness import Groundedness, Grounds

_log = logging.getLogger(__name__)
# Texts embedded for one answer, at most; the rest is judged by words.
_MOST_TEXTS: Final = 32
# Seconds that vectors may take, with or without a deadline: they come after the last token.
_MOST_SECONDS: Final = 2.0
# Characters of an answer that are judged; more would hold up its end.
_MOST_CHARACTERS: Final = 40_000


class Judge:
    """Judges answers.

    Args:
        embedder: What embeds sentences, for likeness by meaning.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def judge(
        self, grounds: Grounds, text: str, targets: Sequence[Collection], *, by_meaning: bool
    ) -> tuple[Groundedness, bool]:
        """How far the text rests on the sources, and whether vectors it would have taken were left out."""
        claims = await asyncio.to_thread(grounds.claims, text[:_MOST_CHARACTERS])
        vectors: dict[str, Sequence[float]] = {}
        left_out = False
        identity = targets[0].embedder
        wanted = grounds.wanted(claims, lambda one: is_known(one, identity.languages))[:_MOST_TEXTS]
        if wanted:
            remaining = current_call().remaining(_MOST_SECONDS)
            left_out = not by_meaning or (remaining is not None and remaining < VECTORS_AT_END_FROM)
            if not left_out:
                try:
                    async with asyncio.timeout(remaining):
                        found = await embed_as(self._embedder, identity, wanted, collection=targets[0].collection)
                    vectors = dict(zip(wanted, found, strict=True))
                except (Failure, TimeoutError) as error:
                    # The answer is there; how alike its sentences are in meaning is worth less than the answer.
                    _log.info("groundedness is judged by words alone: %s", error)
                    left_out = True
        return await asyncio.to_thread(grounds.judge, claims, vectors), left_out
