"""The engine that is always there: it answers with sentences of the passages it is given, and with nothing else."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Delta, End, FinishReason, Model, Role, Usage, UsageSource
from services.inference.extraction import selection, wording
from services.inference.extraction.question import Question, question
from services.inference.extraction.terms import HAN, Language, language

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Embeddings, Engine, Event, Generation
    from services.inference.extraction.selection import Candidate, Weighed

NAME: Final = "extractive"
# A word with the gap before it, or one Chinese character: what this engine counts as a token.
WIDE: Final = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TOKEN: Final = re.compile(rf"\s*(?:[{WIDE}]|[^\s{WIDE}]+)")
TOKENS_PER_DELTA: Final = 4
# Sentences worth embedding: those that words rank first. 8 take about 35 ms on one core.
EMBEDDED_SENTENCES: Final = 8
# Characters of a sentence that are embedded; the rest changes its vector little and costs time.
EMBEDDED_CHARACTERS: Final = 200
# More text than this is weighed in a thread, as it would hold the event loop for over 5 ms.
LOOP_CHARACTERS: Final = 16_384


class ExtractiveEngine:
    """Answers by choosing and ordering the best one to four sentences of `passages`, each followed by its passage's number.

    Without passages it takes them from text pasted into the messages, then without numbers. Sentences are weighed by their
    terms and, where `embedder` knows the question's language, by meaning. It writes no sentence of its own but one: where
    nothing in the texts clears the floors of `selection`, it says so and names the ways to connect a generative model.

    Sampling has no effect: the same question to the same passages gives the same answer. Tokens are words, or characters of
    Chinese, and are counted, not reported.

    Args:
        embedder: An engine with an embedding model, or None to weigh by terms alone. Not closed by this engine.
    """

    def __init__(self, embedder: Engine | None = None) -> None:
        self._embedder = embedder

    @property
    def name(self) -> str:
        """`extractive`."""
        return NAME

    async def models(self) -> Sequence[Model]:
        """The one model; always ready."""
        return (
            Model(
                name=NAME,
                engine=NAME,
                capabilities=(Capability.EXTRACTION,),
                languages=tuple(Language),
                description="Not a generative model: quotes the best sentences of the passages it is given, with citations. "
                "It cannot reason, write or chat.",
                fingerprint="extractive:3",
            ),
        )

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams the chosen sentences, a few words a delta, and ends with STOP, or LENGTH where `max_tokens` cut them."""
        if generation.model != NAME:
            raise Failure(Reason.MODEL_NOT_FOUND, f"model: the extractive engine has one model, {NAME}, not {generation.model}")
        text = await self._answer(generation)
        stop_at = min((at for at in map(text.find, generation.stop) if at >= 0), default=len(text))
        tokens = TOKEN.findall(text[:stop_at])
        limit = len(tokens) if generation.max_tokens is None else generation.max_tokens
        for first in range(0, min(limit, len(tokens)), TOKENS_PER_DELTA):
            portion = tokens[first : min(first + TOKENS_PER_DELTA, limit)]
            yield Delta("".join(portion), len(portion))
            await asyncio.sleep(0)
        read = sum(len(TOKEN.findall(text)) for text in _texts(generation))
        usage = Usage(read, min(limit, len(tokens)), UsageSource.COUNTED)
        yield End(FinishReason.LENGTH if limit < len(tokens) else FinishReason.STOP, usage)

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Never: raises MODEL_CAPABILITY_MISSING."""
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {model} quotes text and does not embed {len(inputs)} inputs")

    async def close(self) -> None:
        """Holds nothing."""

    async def _answer(self, generation: Generation) -> str:
        asked = question(
            [message.text for message in generation.messages if message.role is Role.USER],
            [message.text for message in generation.messages if message.role is Role.SYSTEM],
        )
        passages = [(passage.text, passage.title) for passage in generation.passages]
        cited = bool(passages)
        passages = passages or [(text, "") for text in asked.material]
        if not passages:
            return wording.NOTHING_GIVEN[asked.language]
        if sum(len(text) for text, _ in passages) > LOOP_CHARACTERS:
            weighed = await asyncio.to_thread(_weigh, asked, passages)
        else:
            weighed = _weigh(asked, passages)
        if not asked.summary:
            weighed = await self._weigh_by_meaning(asked, weighed)
        chosen = selection.choose(weighed)
        if not chosen:
            return wording.NOTHING_RELEVANT[asked.language]
        return _written(chosen, generation.max_tokens, cited=cited)

    async def _weigh_by_meaning(self, asked: Question, weighed: list[Weighed]) -> list[Weighed]:
        """Adds the cosine to the sentences that words rank first, where an embedder knows the language."""
        model = await self._embedding_model(asked.language)
        if model is None or self._embedder is None:
            return weighed
        ranked = sorted(weighed, key=lambda one: -one.lexical)
        near = [one for one in ranked if language(one.candidate.text) == asked.language][:EMBEDDED_SENTENCES]
        if not near:
            return weighed
        query = f"{asked.context} {asked.text}".strip()
        texts = [query, *(one.candidate.text[:EMBEDDED_CHARACTERS] for one in near)]
        try:
            embeddings = await self._embedder.embed(model, texts)
        except Failure:  # its words still answer the question
            return weighed
        vectors = np.asarray(embeddings.vectors, np.float32)
        return selection.with_cosines(near, (vectors[1:] @ vectors[0]).tolist())

    async def _embedding_model(self, spoken: Language) -> str | None:
        if self._embedder is None:
            return None
        try:
            models = await self._embedder.models()
        except Failure:
            return None
        fitting = (one for one in models if Capability.EMBEDDING in one.capabilities and spoken in one.languages)
        return next((one.name for one in fitting), None)


def _weigh(asked: Question, passages: Sequence[tuple[str, str]]) -> list[Weighed]:
    found = selection.candidates(passages)
    return selection.weigh_for_summary(found) if asked.summary else selection.weigh(asked.text, found, asked.context)


def _written(chosen: Sequence[Candidate], max_tokens: int | None, *, cited: bool) -> str:
    """The sentences as one text. Of several, only as many as `max_tokens` lets through whole; the first stays in any case."""
    pieces: list[str] = []
    room = max_tokens
    for candidate in chosen:
        piece = candidate.text + (_citation(candidate) if cited else "")
        cost = len(TOKEN.findall(piece))
        if room is not None:
            if pieces and cost > room:
                break
            room -= cost
        pieces.append(piece)
    return " ".join(pieces)


def _citation(candidate: Candidate) -> str:
    """` [2]` after a full stop; Chinese full stops bring their own gap."""
    gap = "" if candidate.text.endswith(tuple("。！？”」』）》…")) and HAN.search(candidate.text) else " "
    return f"{gap}[{candidate.passage}]"


def _texts(generation: Generation) -> itertools.chain[str]:
    return itertools.chain((message.text for message in generation.messages), (passage.text for passage in generation.passages))
