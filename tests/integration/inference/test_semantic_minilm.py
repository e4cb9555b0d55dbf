"""What the semantic cache takes for the same with the embedded MiniLM, at the threshold that docs/how-to/observe.md gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.inference.engines.minilm import MiniLMEngine
from services.inference.generation import Embedded
from services.inference.semantic.index import Embedder, SemanticIndex
from services.inference.semantic.questions import marks_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

FINGERPRINT = "all-minilm-l6-v2:53aa51172d14:mean"
SAME = [
    ("How do I reset my password?", "What is the way to reset my password?"),
    ("What is a penstock?", "What's a penstock?"),
    ("How do I cancel my subscription?", "How can I cancel my subscription?"),
    ("Can I get a refund?", "Is it possible to get a refund?"),
    ("What does the pro plan cost?", "How much is the pro plan?"),
]
OTHER = [
    ("How do I open the valve?", "How do I close the valve?"),
    ("Can I get a refund after 30 days?", "Can I get a refund after 60 days?"),
    ("What does the pro plan cost?", "What does the basic plan cost?"),
    ("Is it safe to open the valve under pressure?", "Is it not safe to open the valve under pressure?"),
    ("How do I enable logging?", "How do I disable logging?"),
    ("What is the maximum temperature?", "What is the minimum temperature?"),
    ("Tell me about Paris", "Tell me about London"),
    ("Who founded the company?", "Who bought the company?"),
    ("What is the pressure upstream of the gate?", "What is the pressure downstream of the gate?"),
    ("Convert 5 miles to kilometres", "Convert 5 kilometres to miles"),
    ("Does Anna report to Boris?", "Does Boris report to Anna?"),
    ("Как открыть задвижку?", "Как закрыть задвижку?"),
    ("如何打开阀门？", "如何关闭阀门？"),
]


class Embeds:
    def __init__(self, engine: MiniLMEngine) -> None:
        self._engine = engine

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        (listed,) = await self._engine.models()
        return Embedded(listed, await self._engine.embed(model, inputs))


@pytest.fixture
async def embeds() -> AsyncIterator[Embeds]:
    engine = MiniLMEngine()
    engine.start_loading()
    embeds = Embeds(engine)
    await embeds.embed("all-minilm-l6-v2", ["warm"])
    yield embeds
    await engine.close()


async def is_match(embeds: Embeds, one: str, other: str) -> bool:
    index = SemanticIndex(embeds, Embedder("all-minilm-l6-v2", FINGERPRINT, 0.97), 1_000_000)
    first, second = await index.seek(repr(marks_of(one)).encode(), one), await index.seek(repr(marks_of(other)).encode(), other)
    if first is None or second is None:
        return False
    index.add(first, b"key")
    return index.match(second) is not None


async def test_minilm_finds_some_of_the_same_and_none_of_the_others(embeds: Embeds) -> None:
    found = [pair for pair in SAME if await is_match(embeds, *pair)]
    assert len(found) >= 3, found
    assert [pair for pair in OTHER if await is_match(embeds, *pair)] == []
