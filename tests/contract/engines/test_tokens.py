"""Engines that count tokens count as their models read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Generation, Message, Role, Sampling, UsageSource
from services.inference.tokenization import Tokenizes
from tests.contract.engines.subject import collect

if TYPE_CHECKING:
    from tests.contract.engines.subject import Subject

TEXT = "The water of the turbine flows and flows. Вода 水"


@pytest.fixture
def counter(subject: Subject) -> Tokenizes:
    if not isinstance(subject.engine, Tokenizes):
        pytest.skip("it does not count; the service estimates")
    return subject.engine


async def test_twice_the_text_is_twice_the_tokens(subject: Subject, counter: Tokenizes) -> None:
    model = subject.model or subject.embedder
    once, twice = await counter.tokenize(model, TEXT), await counter.tokenize(model, f"{TEXT} {TEXT}")
    assert once.source in {UsageSource.COUNTED, UsageSource.REPORTED}
    assert 5 < once.count <= len(TEXT.encode())
    assert once.count * 1.6 < twice.count <= once.count * 2 + 2
    if once.ids:
        assert len(once.ids) == once.count
        assert twice.ids[: once.count] == once.ids


async def test_a_long_text_is_counted_whole(subject: Subject, counter: Tokenizes) -> None:
    model = subject.model or subject.embedder
    assert (await counter.tokenize(model, "water " * 3000)).count >= 3000


async def test_the_count_is_what_a_prompt_grows_by(subject: Subject, counter: Tokenizes) -> None:
    if not subject.model or subject.engine.name == "anthropic":
        pytest.skip("it writes nothing, or a written server counts otherwise")

    async def taken(text: str) -> int:
        asked = Generation(subject.model, (Message(Role.USER, text),), sampling=Sampling(temperature=0.0), max_tokens=1)
        _, _, (end,) = await collect(subject.engine.generate(asked))
        assert end.usage.input_tokens is not None
        return end.usage.input_tokens

    grown = await taken("water" + " water" * 40) - await taken("water")
    assert grown == (await counter.tokenize(subject.model, " water" * 40)).count


async def test_an_unknown_model_is_not_counted_for(subject: Subject, counter: Tokenizes) -> None:
    if subject.engine.name in {"openai", "vllm", "anthropic"}:
        pytest.skip("the service asks only for models that are listed")
    with pytest.raises(Failure) as caught:
        await counter.tokenize("no-such-model", TEXT)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
