"""What has come of one answer so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.retrieval.answering.events import Degradation, Finished, Sources
from services.retrieval.citations import Citation
from services.retrieval.conversations import Turn
from services.retrieval.generation import Begun, Ended, FinishReason, Written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.chassis.errors import Failure
    from services.retrieval.answering.events import Basis, Question
    from services.retrieval.answering.plan import Plan
    from services.retrieval.catalog import Collection
    from services.retrieval.citations import CitationChecker, Piece
    from services.retrieval.generation import Generated
    from services.retrieval.grounding.groundedness import Groundedness


@dataclass(slots=True)
class Progress:
    """An answer on its way.

    Attributes:
        question: What was asked.
        opening: The first event.
        plan: What there is time for.
        targets: The collections.
        checker: Checks the citations.
        basis: What the answer is made from in the end; `opening` says what it was going to be.
        started: When the question came, on the clock of `time.monotonic`.
        asked: The same as a date.
        retrieval_seconds: What it took to get to the opening.
        degradations: What was left out.
        pieces: What the caller got after the opening.
    """

    question: Question
    opening: Sources
    plan: Plan
    targets: Sequence[Collection]
    checker: CitationChecker
    basis: Basis
    started: float
    asked: datetime
    retrieval_seconds: float
    degradations: list[Degradation]
    pieces: list[Piece] = field(default_factory=list)
    first_token_seconds: float | None = None
    model: str = ""
    engine: str = ""
    ended: Ended | None = None
    groundedness: Groundedness | None = None

    def take(self, event: Generated) -> list[Piece]:
        """Notes what the model says, and gives back what the caller may see of it."""
        pieces: list[Piece] = []
        match event:
            case Begun():
                self.model, self.engine = event.model, event.engine
            case Written():
                if self.first_token_seconds is None:
                    self.first_token_seconds = time.monotonic() - self.started
                pieces += self.checker.feed(event.text)
            case Ended():
                self.ended = event
                pieces += self.checker.finish()
        self.pieces += pieces
        return pieces

    def turn(self) -> Turn:
        """What is kept of it in the conversation."""
        understanding = self.opening.understanding
        return Turn(
            query=self.question.query,
            text=self.checker.text,
            sources=self.opening.hits,
            citations=tuple(piece for piece in self.pieces if isinstance(piece, Citation)),
            model=self.model,
            complete=self.ended is not None,
            create_time=self.asked,
            intent=understanding.intent or "",
            intent_confidence=understanding.confidence,
            rewritten_query=understanding.rewritten,
            basis=self.basis,
        )

    def finished(self, conversation: str, failure: Failure | None = None) -> Finished:
        """The last event."""
        ended = self.ended
        return Finished(
            reason=ended.reason if ended and failure is None else FinishReason.ERROR,
            usage=ended.usage if ended else None,
            model=self.model,
            engine=self.engine,
            treatment=self.opening.treatment,
            retrieval_seconds=self.retrieval_seconds,
            first_token_seconds=self.first_token_seconds,
            total_seconds=time.monotonic() - self.started,
            conversation=conversation,
            failure=failure,
            groundedness=self.groundedness,
            basis=self.basis,
            degradations=tuple(self.degradations),
        )
