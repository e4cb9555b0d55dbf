"""Answers that would come out the same again.

An answer is kept outside of conversations, where it is whole, and where repeating it is what the caller gets anyway: with a
temperature of 0, with a seed, or from the engine that quotes. What model `auto` is may change while an answer is kept: that is
why these are kept for minutes only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from services.chassis.call import current_call
from services.retrieval.answering.events import Basis, CacheMode, Finished, Sources
from services.retrieval.answering.prompt import sampling
from services.retrieval.caching.keys import key_of, states
from services.retrieval.caching.wire import kept_hits, read_hits
from services.retrieval.citations import Citation, Text
from services.retrieval.generation import FinishReason, Usage
from services.retrieval.grounding.groundedness import Groundedness  # noqa: TC001 - read at run time, to decode
from services.retrieval.passages import SearchMode  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.assignment import Treatment

    from services.chassis.cache.tiers import Tiers
    from services.retrieval.answering.events import Question
    from services.retrieval.answering.progress import Progress
    from services.retrieval.catalog import Collection
    from services.retrieval.citations import Piece

_QUOTING: Final = "extractive"


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A piece of text (`citation` is None), or a citation."""

    text: str
    citation: Citation | None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A whole answer, as it is kept."""

    hits: list[dict[str, Any]]
    mode: SearchMode
    mode_note: str
    spoken: tuple[_Spoken, ...]
    reason: FinishReason
    usage: Usage | None
    model: str
    engine: str
    groundedness: Groundedness | None
    basis: Basis


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Kept).decode
Key: TypeAlias = bytes | None


@dataclass(frozen=True, slots=True)
class Again:
    """An answer, once more."""

    opening: Sources
    pieces: Sequence[Piece]
    finished: Finished


class KeptAnswers:
    """Keeps answers.

    Args:
        tiers: Where; None to keep none.
    """

    def __init__(self, tiers: Tiers | None) -> None:
        self._tiers = tiers

    def key(self, question: Question, treatment: Treatment | None, targets: Sequence[Collection]) -> Key:
        """What the answer is kept by; None where it is not."""
        if self._tiers is None or question.conversation or question.cache is CacheMode.BYPASS:
            return None
        shaped: tuple[object, ...] = ()
        if treatment is not None:
            shaped = (treatment.experiment, treatment.variant, *sorted(treatment.changes().items()))
        prompts = tuple(target.settings.system_prompt for target in targets)
        # The user takes part in routing; the tenant in what models there are.
        scope = (current_call().tenant, question.user)
        return key_of("answer", states(targets), prompts, scope, replace(question, cache=CacheMode.USE), shaped)

    async def get(self, key: Key, question: Question, treatment: Treatment | None, started: float) -> Again | None:
        """The answer, if it is known; `started` is when the question came, on the clock of `time.monotonic`."""
        if key is None or self._tiers is None or question.cache is not CacheMode.USE:
            return None
        value = await self._tiers.get(key)
        if value is None:
            return None
        try:
            kept = _decode(value)
            hits = read_hits(kept.hits)
        except (msgspec.DecodeError, TypeError, ValueError):
            # The shared store is written by others too.
            return None
        elapsed = time.monotonic() - started
        opening = Sources(hits, treatment, kept.mode, kept.mode_note, kept.basis, cached=True)
        finished = Finished(
            reason=kept.reason,
            usage=kept.usage,
            model=kept.model,
            engine=kept.engine,
            treatment=treatment,
            retrieval_seconds=elapsed,
            first_token_seconds=elapsed,
            total_seconds=elapsed,
            conversation="",
            groundedness=kept.groundedness,
            basis=kept.basis,
        )
        return Again(opening, [one.citation or Text(one.text) for one in kept.spoken], finished)

    def put(self, key: Key, question: Question, progress: Progress, finished: Finished) -> None:
        """Keeps an answer that ended well, if it would come out the same again."""
        chosen = sampling(question.sampling, progress.opening.treatment)
        repeats = chosen.temperature == 0 or chosen.seed is not None or progress.engine == _QUOTING
        if key is None or self._tiers is None or not repeats or finished.reason is not FinishReason.STOP:
            return
        if finished.degradations:
            # Somebody with more time would get a better one.
            return
        spoken = [_Spoken("", one) if isinstance(one, Citation) else _Spoken(one.text, None) for one in progress.pieces]
        opening = progress.opening
        kept = _Kept(
            hits=kept_hits(opening.hits),
            mode=opening.mode,
            mode_note=opening.mode_note,
            spoken=tuple(spoken),
            reason=finished.reason,
            usage=finished.usage,
            model=finished.model,
            engine=finished.engine,
            groundedness=finished.groundedness,
            basis=finished.basis,
        )
        self._tiers.put({key: _encode(kept)})
