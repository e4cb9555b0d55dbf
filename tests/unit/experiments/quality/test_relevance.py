"""Relevance, over an embedder that is a plain hash of words."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from services.chassis.errors import Failure
from services.chassis.errors import Reason as Refusal
from services.experiments.quality.assessment import Judgement, Reason, State, Subject
from services.experiments.quality.relevance import Embedded, Relevance

if TYPE_CHECKING:
    from collections.abc import Sequence


class Words:
    """Each word is a dimension; English only. Refuses, or gives vectors without a direction, where it is told to."""

    def __init__(self, refusal: Refusal | None = None, value: float = 1.0) -> None:
        self._refusal = refusal
        self._value = value

    async def languages(self) -> tuple[str, ...]:
        return ("en",)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        if self._refusal is not None:
            raise Failure(self._refusal, "no")
        known = sorted({word for text in texts for word in text.lower().replace(".", "").replace("?", "").split()})
        counted = [text.lower().replace(".", "").replace("?", "").split() for text in texts]
        return Embedded([[self._value * words.count(word) for word in known] for words in counted], "words")


def judge(subject: Subject, embedder: Words | None) -> Judgement:
    return asyncio.run(Relevance(embedder).judge(subject))


def test_the_nearest_sentence_counts_and_is_pointed_at() -> None:
    question = "the capital of france"
    near = judge(Subject("Bananas are yellow. The capital of France is Paris.", question), Words())
    far = judge(Subject("Bananas are yellow. Apples are red.", question), Words())
    assert near.score == 1
    assert [one.start for one in near.evidence] == [20]
    assert dict(near.measures)["cosine"] > 0.8
    assert far.score == 0
    assert far.suggestions


def test_it_abstains_where_it_cannot_be_asked_and_fails_where_it_gets_no_answer() -> None:
    subject = Subject("Paris is the capital.", "What is the capital?")
    assert judge(Subject("Paris"), Words()).reason is Reason.NO_QUESTION
    assert judge(subject, None).reason is Reason.SERVICE_UNAVAILABLE
    away = judge(subject, Words(Refusal.SERVICE_UNAVAILABLE))
    assert (away.state, away.reason) == (State.ABSTAINED, Reason.SERVICE_UNAVAILABLE)
    refused = judge(subject, Words(Refusal.MODEL_NOT_FOUND))
    assert (refused.state, refused.reason) == (State.FAILED, Reason.SERVICE_FAILED)
    assert "MODEL_NOT_FOUND" in refused.explanation
    russian = judge(Subject("Столица Франции — Париж.", "Какая столица?"), Words())
    assert (russian.state, russian.reason) == (State.ABSTAINED, Reason.LANGUAGE_UNSUPPORTED)
    for value in (0.0, math.nan, math.inf):
        odd = judge(subject, Words(value=value))
        assert (odd.state, odd.score) == (State.FAILED, None)
