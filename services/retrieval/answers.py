"""Answers a question from documents: searches, generates, checks citations, keeps the conversation, logs the exposure."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from penstock.assignment import RequestType

from services.chassis.errors import Failure
from services.retrieval.chunking.tokens import estimate_tokens
from services.retrieval.citations import Citation, CitationChecker, Text
from services.retrieval.conversations import Turn
from services.retrieval.generation import Begun, Ended, FinishReason, Prompt, Role, Sampling, Written
from services.retrieval.passages import DEFAULT_TOP_K, DEFAULTS, SearchMode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from penstock.assignment import Treatment

    from services.retrieval.conversations import Conversations
    from services.retrieval.generation import Generated, Generates, Usage
    from services.retrieval.passages import Found, Hit, Options, Searches

_log = logging.getLogger(__name__)

# Tokens of passages that a prompt takes: what small models read well, with room for the conversation and the answer.
_PASSAGE_TOKENS: Final = 3_000
# Told to the model when nothing was found, so that it does not make an answer up.
_NOTHING_FOUND: Final = (
    "No passage was found for the question. Say that the documents do not answer it; do not answer from memory."
)


@dataclass(frozen=True, slots=True)
class Question:
    """What to answer, and from what. An empty conversation keeps nothing; an empty model means `auto`."""

    collections: tuple[str, ...]
    query: str
    top_k: int | None = None
    mode: SearchMode = SearchMode.HYBRID
    conversation: str = ""
    user: str = ""
    model: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    options: Options = DEFAULTS


class Assigns(Protocol):
    """Evaluates experiments in process; `penstock.assigner.Assigner` does."""

    def assign(
        self, request_type: RequestType, *, user: str = "", conversation: str = "", request_id: str = ""
    ) -> Treatment | None:
        """What the request gets, or None where no experiment applies."""
        ...

    def expose(self, treatment: Treatment, *, request_id: str, model: str = "", engine: str = "") -> None:
        """Notes that the request met the treatment."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """The first event: what the answer is made from."""

    hits: tuple[Hit, ...]
    treatment: Treatment | None
    mode: SearchMode
    mode_note: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. Times are in seconds from the arrival of the question; `failure` is set when the answer was cut."""

    reason: FinishReason
    usage: Usage | None
    model: str
    engine: str
    treatment: Treatment | None
    retrieval_seconds: float
    first_token_seconds: float | None
    total_seconds: float
    conversation: str
    failure: Failure | None = None


AnswerEvent: TypeAlias = Sources | Text | Citation | Finished


@dataclass(slots=True)
class _Progress:
    """What has come of one answer so far."""

    question: Question
    treatment: Treatment | None
    found: Found
    sources: tuple[Hit, ...]
    checker: CitationChecker
    started: float
    asked: datetime
    retrieval_seconds: float
    citations: list[Citation] = field(default_factory=list)
    first_token_seconds: float | None = None
    model: str = ""
    engine: str = ""
    ended: Ended | None = None

    def turn(self) -> Turn:
        return Turn(
            query=self.question.query,
            text=self.checker.text,
            sources=self.sources,
            citations=tuple(self.citations),
            model=self.model,
            complete=self.ended is not None,
            create_time=self.asked,
        )

    def finished(self, conversation: str, failure: Failure | None = None) -> Finished:
        ended = self.ended
        return Finished(
            reason=ended.reason if ended and failure is None else FinishReason.ERROR,
            usage=ended.usage if ended else None,
            model=self.model,
            engine=self.engine,
            treatment=self.treatment,
            retrieval_seconds=self.retrieval_seconds,
            first_token_seconds=self.first_token_seconds,
            total_seconds=time.monotonic() - self.started,
            conversation=conversation,
            failure=failure,
        )


class Answers:
    """Answers questions from documents."""

    def __init__(self, searches: Searches, generates: Generates, conversations: Conversations, assigns: Assigns | None) -> None:
        self._searches = searches
        self._generates = generates
        self._conversations = conversations
        self._assigns = assigns
        self._keeping: set[asyncio.Task[None]] = set()

    async def answer(self, question: Question, request_id: str) -> AsyncGenerator[AnswerEvent, None]:
        """Streams Sources, text and citations, and exactly one Finished.

        Raises:
            Failure: before Sources, as it is; after it, once Finished has told it too.
        """
        started, asked = time.monotonic(), datetime.now(UTC)
        treatment = self._assign(question, request_id)
        top_k = (treatment.top_k if treatment else None) or question.top_k or DEFAULT_TOP_K
        seen, found = await asyncio.gather(
            self._conversations.seen(question.conversation),
            self._searches.search(question.collections, question.query, top_k, question.mode, question.options),
        )
        sources = packed(found.hits)
        progress = _Progress(
            question=question,
            treatment=treatment,
            found=found,
            sources=sources,
            checker=CitationChecker(sources),
            started=started,
            asked=asked,
            retrieval_seconds=time.monotonic() - started,
        )
        yield Sources(hits=sources, treatment=treatment, mode=found.mode, mode_note=found.mode_note)
        try:
            async with aclosing(self._generates.generate(_prompt(question, treatment, sources, seen))) as generated:
                async for event in generated:
                    for piece in _take(progress, event):
                        yield piece
        except Failure as failure:
            yield progress.finished(await self._keep(progress), failure)
            raise
        except BaseException:
            # The caller went away: what was answered so far is kept all the same, by a task of its own.
            self._keep_in_background(progress)
            raise
        finally:
            if treatment is not None and self._assigns is not None:
                self._assigns.expose(treatment, request_id=request_id, model=progress.model, engine=progress.engine)
        yield progress.finished(await self._keep(progress))

    async def close(self) -> None:
        """Waits until what is still to be kept is kept."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    def _assign(self, question: Question, request_id: str) -> Treatment | None:
        if self._assigns is None:
            return None
        return self._assigns.assign(
            RequestType.ANSWER, user=question.user, conversation=question.conversation, request_id=request_id
        )

    async def _keep(self, progress: _Progress) -> str:
        """Keeps the turn; returns the conversation it is in, or nothing where none was asked for or it could not be kept."""
        question = progress.question
        if not question.conversation:
            return ""
        try:
            await self._conversations.append(question.conversation, question.user, progress.turn())
        except Failure as failure:
            # The answer itself is whole; that it is not kept is told by the empty conversation.
            _log.warning("a turn is not kept: %s", failure.message)
            return ""
        return question.conversation

    def _keep_in_background(self, progress: _Progress) -> None:
        if not progress.question.conversation:
            return
        task = asyncio.get_running_loop().create_task(self._keep_only(progress))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep_only(self, progress: _Progress) -> None:
        await self._keep(progress)


def _take(progress: _Progress, event: Generated) -> list[Text | Citation]:
    """Notes what the model says, and gives back what the caller may see of it."""
    pieces: list[Text | Citation] = []
    match event:
        case Begun():
            progress.model, progress.engine = event.model, event.engine
        case Written():
            if progress.first_token_seconds is None:
                progress.first_token_seconds = time.monotonic() - progress.started
            pieces += progress.checker.feed(event.text)
        case Ended():
            progress.ended = event
            pieces += progress.checker.finish()
    progress.citations += [piece for piece in pieces if isinstance(piece, Citation)]
    return pieces


def packed(hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """The best hits that fit the prompt together; always the first, so that an answer has something to stand on."""
    room = _PASSAGE_TOKENS
    kept: list[Hit] = []
    for hit in hits:
        room -= estimate_tokens(hit.text)
        if kept and room < 0:
            break
        kept.append(hit)
    return tuple(kept)


def _prompt(question: Question, treatment: Treatment | None, sources: tuple[Hit, ...], seen: Sequence[Turn]) -> Prompt:
    messages: list[tuple[Role, str]] = []
    if treatment is not None and treatment.prompt:
        messages.append((Role.SYSTEM, treatment.prompt))
    if not sources:
        messages.append((Role.SYSTEM, _NOTHING_FOUND))
    for turn in seen:
        messages.append((Role.USER, turn.query))
        if turn.text:
            messages.append((Role.ASSISTANT, turn.text))
    messages.append((Role.USER, question.query))
    return Prompt(
        model=(treatment.model if treatment else None) or question.model,
        messages=tuple(messages),
        passages=sources,
        sampling=_sampling(question.sampling, treatment),
        max_tokens=(treatment.max_tokens if treatment else None) or question.max_tokens,
        user=question.user,
        conversation=question.conversation,
        treatment=treatment,
    )


def _sampling(sampling: Sampling, treatment: Treatment | None) -> Sampling:
    if treatment is None:
        return sampling
    imposed = {name: value for name in ("temperature", "top_p") if (value := getattr(treatment, name)) is not None}
    return replace(sampling, **imposed)
