from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference import dimensions
from services.inference.engine import Capability, Embeddings, Model, UsageSource
from services.inference.inference import Inference
from services.inference.models import Models
from services.inference.tokenization import Tokens, estimated, tokenize
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Counting(ScriptedEngine):
    """One that counts letters, unless it has a failure to tell."""

    async def tokenize(self, model: str, text: str) -> Tokens:  # noqa: ARG002 - one model only
        if self.failure is not None:
            raise self.failure
        return Tokens(len(text), tuple(map(ord, text)), UsageSource.COUNTED)


class Trained(ScriptedEngine):
    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:  # noqa: ARG002 - one model only
        return Embeddings([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]], 2, UsageSource.COUNTED)


COUNTING = Counting("llamacpp", writer("counted", "llamacpp"))
MATRYOSHKA = Model("nomic-embed-text", "ollama", (Capability.EMBEDDING, Capability.DIMENSIONS), dimensions=3)


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    COUNTING.failure = None
    plain = ScriptedEngine("ollama", writer("plain", "ollama"), embedder("e", "ollama"))
    async with Models([COUNTING, plain, Trained("trained", MATRYOSHKA)]) as models:
        yield models


async def test_the_engines_own_tokenizer_counts(models: Models) -> None:
    counted = await tokenize(models, "counted", "abc")
    assert (counted.model, counted.tokens) == ("counted", Tokens(3, (97, 98, 99), UsageSource.COUNTED))


@pytest.mark.parametrize("model", ["plain", "e"])
async def test_where_none_counts_the_number_is_said_to_be_an_estimate(models: Models, model: str) -> None:
    tokens = (await tokenize(models, model, "a" * 400)).tokens
    assert tokens == Tokens(100, (), UsageSource.ESTIMATED)


async def test_a_server_that_does_not_count_is_estimated_for_and_a_failing_one_is_not(models: Models) -> None:
    COUNTING.failure = Failure(Reason.MODEL_CAPABILITY_MISSING, "no")
    assert (await tokenize(models, "counted", "abcd")).tokens.source is UsageSource.ESTIMATED
    COUNTING.failure = Failure(Reason.ENGINE_UNAVAILABLE, "gone")
    with pytest.raises(Failure, match="gone"):
        await tokenize(models, "counted", "abcd")
    with pytest.raises(Failure) as caught:
        await tokenize(models, "nowhere", "abcd")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


def test_estimates_know_scripts() -> None:
    assert estimated("x") == 1
    assert estimated("水" * 30) == 20
    assert estimated("вода" * 30) > estimated("wave" * 30)


async def test_a_trained_models_vectors_are_cut_and_brought_to_length_1(models: Models) -> None:
    inference = Inference(models, None)
    embedded = await dimensions.embed(inference, models, "nomic-embed-text", ["a", "b"], 2)
    first, second = embedded.embeddings.vectors
    assert list(first) == pytest.approx([0.6, 0.8])
    assert list(second) == [0.0, 0.0], "a beginning of nothing stays nothing"
    whole = await dimensions.embed(inference, models, "nomic-embed-text", ["a", "b"], 3)
    assert list(whole.embeddings.vectors[0]) == [3.0, 4.0, 12.0], "the model's own length is left as it is"
    assert math.hypot(*first) == pytest.approx(1)


async def test_other_models_refuse_before_any_work(models: Models) -> None:
    inference = Inference(models, None)
    with pytest.raises(Failure) as caught:
        await dimensions.embed(inference, models, "e", ["a"], 1)
    assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
    assert caught.value.metadata == {"model": "e", "capability": "DIMENSIONS"}
    assert len((await dimensions.embed(inference, models, "e", ["a"], 2)).embeddings.vectors[0]) == 2
    with pytest.raises(Failure) as longer:
        await dimensions.embed(inference, models, "nomic-embed-text", ["a"], 4)
    assert longer.value.metadata == {"field": "dimensions"}


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("text-embedding-3-small", True),
        ("nomic-embed-text:latest", True),
        ("Qwen/Qwen3-Embedding-0.6B", True),
        ("bge-m3", False),
        ("text-embedding-ada-002", False),
        ("all-minilm-l6-v2", False),
    ],
)
def test_families_that_are_trained_for_it_are_known(name: str, trained: bool) -> None:
    assert bool(dimensions.more(name)) is trained
