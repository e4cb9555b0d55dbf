"""Answers a question from documents: searches, generates, checks citations, judges the answer, keeps the conversation."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from penstock.assignment import RequestType

from services.chassis.call import current_call
from services.chassis.errors import Failure
from services.retrieval.answering.events import Basis, Degradation, NothingFound, Sources
from services.retrieval.answering.plan import planned
from services.retrieval.answering.progress import Progress
from services.retrieval.answering.prompt import packed, prompt
from services.retrieval.answering.wording import notice, out_of_chat, refusal
from services.retrieval.citations import CitationChecker
from services.retrieval.conversations import turns_of
from services.retrieval.generation import Begun, Ended, FinishReason, Written
from services.retrieval.intent.kinds import Intent
from services.retrieval.passages import Found, SearchTimings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from penstock.assignment import Treatment

    from services.retrieval.answering.events import AnswerEvent, Question
    from services.retrieval.answering.judging import Judge
    from services.retrieval.answering.retrieving import Retriever
    from services.retrieval.caching.kept_answers import KeptAnswers
    from services.retrieval.catalog import Collection
    from services.retrieval.conversations import Conversations, Turn
    from services.retrieval.generation import Generated, Generates

_log = logging.getLogger(__name__)

# The engine that only quotes: without passages it has nothing to say.
_QUOTING: Final = "extractive"
_NO_TIME: Final = SearchTimings(embedding=0.0, store=0.0, total=0.0)


class Assigns(Protocol):
    """Evaluates experiments in process; `penstock.assigner.Assigner` does."""

    def assign(
        self,
        request_type: RequestType,
        *,
        user: str = "",
        conversation: str = "",
        request_id: str = "",
        attributes: Mapping[str, str] = ...,
    ) -> Treatment | None:
        """What the request gets, or None where no experiment applies."""
        ...

    def expose(self, treatment: Treatment, *, request_id: str, model: str = "", engine: str = "") -> None:
        """Notes that the request met the treatment."""
        ...


class Names(Protocol):
    """Knows the collections; `catalog.Catalog` does."""

    async def named(self, collections: Sequence[str]) -> list[Collection]:
        """These collections in this order. Raises Failure(COLLECTION_NOT_FOUND)."""
        ...


class Answers:
    """Answers questions from documents.

    Args:
        catalog: Knows the collections.
        retriever: Finds passages.
        generates: Writes answers.
        judge: Tells how far they rest on the passages.
        conversations: Keeps them.
        assigns: Evaluates experiments; None where there are none.
        kept: Answers that would come out the same again.
    """

    def __init__(
        self,
        *,
        catalog: Names,
        retriever: Retriever,
        generates: Generates,
        judge: Judge,
        conversations: Conversations,
        assigns: Assigns | None,
        kept: KeptAnswers,
    ) -> None:
        self._catalog = catalog
        self._retriever = retriever
        self._generates = generates
        self._judge = judge
        self._conversations = conversations
        self._assigns = assigns
        self._kept = kept
        self._keeping: set[asyncio.Task[None]] = set()

    async def answer(self, question: Question, request_id: str) -> AsyncGenerator[AnswerEvent, None]:
        """Streams Sources, text and citations, and exactly one Finished.

        Raises:
            Failure: before Sources, as it is; after it, once Finished has told it too.
        """
        started, asked = time.monotonic(), datetime.now(UTC)
        treatment = self._assign(question, request_id)
        targets, seen = await asyncio.gather(self._catalog.named(question.collections), self._seen(question, asked))
        key = self._kept.key(question, treatment, targets)
        again = await self._kept.get(key, question, treatment, started)
        if again is not None:
            self._expose(treatment, request_id, again.finished.model, again.finished.engine)
            for event in (again.opening, *again.pieces, again.finished):
                yield event
            return
        progress = await self._prepared(question, treatment, targets, seen, started=started, asked=asked)
        yield progress.opening
        try:
            async with aclosing(self._written(progress, seen)) as written:
                async for said in written:
                    for piece in progress.take(said):
                        yield piece
            await self._judged(progress)
        except Failure as failure:
            yield progress.finished(await self._keep(progress), failure)
            raise
        except BaseException:
            # The caller went away: what was answered so far is kept all the same, by a task of its own.
            self._keep_in_background(progress)
            raise
        finally:
            self._expose(treatment, request_id, progress.model, progress.engine)
        finished = progress.finished(await self._keep(progress))
        self._kept.put(key, question, progress, finished)
        yield finished

    async def close(self) -> None:
        """Waits until what is still to be kept is kept."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def _seen(self, question: Question, asked: datetime) -> Sequence[Turn]:
        if question.earlier:
            return turns_of(question.earlier, asked)
        return await self._conversations.seen(question.conversation, question.user)

    async def _prepared(
        self,
        question: Question,
        treatment: Treatment | None,
        targets: Sequence[Collection],
        seen: Sequence[Turn],
        *,
        started: float,
        asked: datetime,
    ) -> Progress:
        """Searches, and decides what to answer from."""
        plan = planned(question, treatment, targets, current_call().remaining())
        understanding = await self._retriever.understand(question, seen, targets)
        is_chat = understanding.intent is Intent.CHIT_CHAT
        if is_chat:
            found = Found((), question.mode, "", _NO_TIME)
        else:
            found = await self._retriever.retrieve(question, understanding, plan, targets, seen)
        degradations = plan.degradations
        if found.rerank_note and Degradation.RERANK_SKIPPED not in degradations:
            degradations = (*degradations, Degradation.RERANK_SKIPPED)
        hits = packed(found.hits, question.context_tokens)
        if hits:
            basis = Basis.PASSAGES
        elif is_chat:
            basis = Basis.CONVERSATION
        else:
            basis = Basis.MODEL_ALONE if question.nothing_found is NothingFound.WITHOUT_CONTEXT else Basis.REFUSAL
        opening = Sources(
            hits=hits,
            treatment=treatment,
            mode=found.mode,
            mode_note=found.mode_note,
            basis=basis,
            degradations=degradations,
            understanding=understanding,
        )
        return Progress(
            question=question,
            opening=opening,
            plan=plan,
            targets=targets,
            checker=CitationChecker(hits),
            basis=basis,
            started=started,
            asked=asked,
            retrieval_seconds=time.monotonic() - started,
            degradations=list(degradations),
        )

    async def _written(self, progress: Progress, seen: Sequence[Turn]) -> AsyncGenerator[Generated, None]:
        """What the model says; without passages, or without a model that can do without them, what is said in its place."""
        question, understanding = progress.question, progress.opening.understanding
        if progress.basis is Basis.REFUSAL:
            yield Written(refusal(question.query))
            yield Ended(FinishReason.STOP, None)
            return
        query = understanding.rewritten or question.query
        if understanding.intent is Intent.CONTINUATION and understanding.rewritten:
            query = f"{question.query} — {understanding.rewritten}"
        asked = prompt(
            question,
            progress.opening.treatment,
            progress.opening.hits,
            seen,
            basis=progress.basis,
            query=query,
            system_prompts=[question.instructions or target.settings.system_prompt for target in progress.targets],
        )
        generated = self._generates.generate(asked)
        async with aclosing(generated if progress.opening.hits else self._without_passages(progress, generated)) as events:
            async for event in events:
                yield event

    async def _without_passages(
        self, progress: Progress, generated: AsyncGenerator[Generated, None]
    ) -> AsyncGenerator[Generated, None]:
        """Says where the answer does not come from; an engine that only quotes is not heard at all."""
        query = progress.question.query
        async with aclosing(generated):
            async for event in generated:
                yield event
                if not isinstance(event, Begun):
                    continue
                if event.engine == _QUOTING:
                    is_chat = progress.basis is Basis.CONVERSATION
                    progress.basis = progress.basis if is_chat else Basis.REFUSAL
                    yield Written(out_of_chat(query) if is_chat else refusal(query))
                    yield Ended(FinishReason.STOP, None)
                    return
                if progress.basis is Basis.MODEL_ALONE:
                    yield Written(f"{notice(query)}\n\n")

    async def _judged(self, progress: Progress) -> None:
        """Judges what was said, where there is something to compare it with."""
        if not progress.opening.hits:
            return
        progress.groundedness, left_out = await self._judge.judge(
            progress.checker.grounds, progress.checker.text, progress.targets, by_meaning=progress.plan.by_meaning
        )
        if left_out and Degradation.GROUNDEDNESS_BY_WORDS not in progress.degradations:
            progress.degradations.append(Degradation.GROUNDEDNESS_BY_WORDS)

    def _assign(self, question: Question, request_id: str) -> Treatment | None:
        if self._assigns is None:
            return None
        return self._assigns.assign(
            RequestType.ANSWER,
            user=question.user,
            conversation=question.conversation,
            request_id=request_id,
            attributes={**dict(question.attributes), "tenant": current_call().tenant},
        )

    def _expose(self, treatment: Treatment | None, request_id: str, model: str, engine: str) -> None:
        if treatment is not None and self._assigns is not None:
            self._assigns.expose(treatment, request_id=request_id, model=model, engine=engine)

    async def _keep(self, progress: Progress) -> str:
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

    def _keep_in_background(self, progress: Progress) -> None:
        if not progress.question.conversation:
            return
        task = asyncio.get_running_loop().create_task(self._keep_only(progress))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep_only(self, progress: Progress) -> None:
        await self._keep(progress)
