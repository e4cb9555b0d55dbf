from __future__ import annotations

import math
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.chassis.cache.tiers import Tiers
from services.chassis.errors import Failure, Reason
from services.inference.cached_vectors import CachedVectors
from services.inference.caching import CachedInference
from services.inference.engine import Capability, Delta, Embeddings, Generation, Message, Model, Role, Sampling, UsageSource
from services.inference.form import Form, Image, Tool
from services.inference.generation import CacheMode, Embedded, Request, Started
from services.inference.inference import Inference, completed
from services.inference.models import Models
from services.inference.resilience import Patience
from services.inference.semantic.index import Embedder, SemanticIndex, Sought
from services.inference.semantic.questions import is_understood, keep_their_order, marks_of, question_of
from tests.unit.inference.scripted_engine import ScriptedEngine, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.inference.generation import Completed

# What each question is about: an angle. Questions of nearly the same angle mean the same.
ANGLES = {
    "How do I open the valve?": 0.0,
    "What is the way to open the valve?": 0.1,
    "What is the capital of France?": 1.5,
    "Как открыть задвижку?": 0.0,
    "Каким образом открыть задвижку?": 0.1,
    "如何打开阀门？": 0.0,
    "怎样打开阀门？": 0.1,
}
THRESHOLD = 0.97


class Angles:
    """Embeds by `ANGLES`; what it does not know has an angle of its own."""

    def __init__(self) -> None:
        self.fingerprint = "angles:1"
        self.languages: tuple[str, ...] = ()
        self.fails = False

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        if self.fails:
            raise Failure(Reason.ENGINE_UNAVAILABLE, "gone")
        angles = [ANGLES.get(text, 2.0 + len(text)) for text in inputs]
        vectors = [[5 * math.cos(angle), 5 * math.sin(angle)] for angle in angles]
        told = Model(model, "angles", (Capability.EMBEDDING,), fingerprint=self.fingerprint, languages=self.languages)
        return Embedded(told, Embeddings(vectors, 1, UsageSource.COUNTED))


class Bench:
    def __init__(self, engine: ScriptedEngine, models: Models) -> None:
        self.engine = engine
        self.angles = Angles()
        self.answers = Tiers("responses", 1_000_000, 60)
        self.semantic = SemanticIndex(self.angles, Embedder("angles", "angles:1", THRESHOLD), 100_000)
        inner = Inference(models, None, patience=Patience(total=1))
        self.cached = CachedInference(
            inner,
            CachedVectors(inner, models, Tiers("embeddings", 1_000_000, 60)),
            plan=inner.plan,
            shape=inner.shape,
            assigner=None,
            tiers=self.answers,
            semantic=self.semantic,
        )

    async def ask(self, text: str, **fields: Any) -> Completed:
        base: dict[str, Any] = {"request_id": "r", "model": "model", "messages": (Message(Role.USER, text),)}
        asked = Request(**{**base, "sampling": Sampling(temperature=0.0), **fields})
        return await completed(self.cached.stream(asked), asked.form.alternatives)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    capabilities = (Capability.GENERATION, Capability.TOOLS, Capability.LOGPROBS, Capability.IMAGES)
    engine = ScriptedEngine("openai", replace(writer("model", "openai"), capabilities=capabilities), writer("other", "openai"))
    async with Models([engine], probe_seconds=60) as models:
        yield Bench(engine, models)


OPEN, WAY, FRANCE = "How do I open the valve?", "What is the way to open the valve?", "What is the capital of France?"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (OPEN, WAY),
        ("Как открыть задвижку?", "Каким образом открыть задвижку?"),
        ("如何打开阀门？", "怎样打开阀门？"),
    ],
)
async def test_the_same_in_other_words_is_answered_and_told(bench: Bench, one: str, other: str) -> None:
    first = await bench.ask(one)
    second = await bench.ask(other)
    assert len(bench.engine.asked) == 1
    assert second.answers == first.answers
    assert (first.started.cached, first.started.similarity) == (False, None)
    assert second.started.cached
    assert second.started.similarity == pytest.approx(math.cos(0.1), abs=1e-5)
    again = await bench.ask(one)
    assert (again.started.cached, again.started.similarity) == (True, None)
    assert (bench.semantic.looks.found, bench.semantic.looks.missed) == (1, 1)


async def test_it_replays_as_a_stream(bench: Bench) -> None:
    await bench.ask(OPEN)
    asked = Request("r", "model", (Message(Role.USER, WAY),), sampling=Sampling(temperature=0.0))
    async with aclosing(bench.cached.stream(asked)) as events:
        started, *deltas = [event async for event in events]
    assert isinstance(started, Started)
    assert started.similarity is not None
    assert any(isinstance(one, Delta) for one in deltas)


async def test_what_means_something_else_is_generated(bench: Bench) -> None:
    await bench.ask(OPEN)
    assert not (await bench.ask(FRANCE)).started.cached
    assert len(bench.engine.asked) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": Sampling(temperature=0.7)},
        {"sampling": Sampling()},
        {"sampling": Sampling(temperature=0.0, top_p=0.5)},
        {"sampling": Sampling(seed=7)},
        {"max_tokens": 7},
        {"stop": ("x",)},
        {"model": "other"},
        {"user": "someone else"},
        {"form": Form(tools=(Tool("f"),))},
        {"form": Form(top_logprobs=1)},
        {"messages": (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, WAY))},
        {"messages": (Message(Role.USER, WAY, images=(Image(b"x", "image/png"),)),)},
        {"cache": CacheMode.EXACT},
        {"cache": CacheMode.BYPASS},
        {"cache": CacheMode.REFRESH},
    ],
)
async def test_all_else_must_be_the_same(bench: Bench, fields: dict[str, Any]) -> None:
    await bench.ask(OPEN)
    answer = await bench.ask(WAY, **fields)
    assert not answer.started.cached
    assert len(bench.engine.asked) == 2


async def test_an_answer_is_given_to_equal_wording_by_exact_mode(bench: Bench) -> None:
    await bench.ask(OPEN)
    assert (await bench.ask(OPEN, cache=CacheMode.EXACT)).started.cached


async def test_another_embedder_never_uses_the_old_threshold_or_vectors(bench: Bench) -> None:
    await bench.ask(OPEN)
    assert bench.semantic.used_bytes > 0
    bench.angles.fingerprint = "angles:2"
    assert not (await bench.ask(WAY)).started.cached
    assert bench.semantic.used_bytes == 0
    bench.angles.fingerprint = "angles:1"
    # Nothing of before is there any more.
    assert not (await bench.ask("What is the way to open the valve? ")).started.cached
    assert bench.semantic.looks.skipped == 1


async def test_a_language_that_the_embedder_does_not_speak_is_not_compared(bench: Bench) -> None:
    bench.angles.languages = ("en",)
    await bench.ask("如何打开阀门？")
    assert not (await bench.ask("怎样打开阀门？")).started.cached
    await bench.ask("Как открыть задвижку?")
    assert not (await bench.ask("Каким образом открыть задвижку?")).started.cached
    await bench.ask(OPEN)
    assert (await bench.ask(WAY)).started.cached
    assert bench.semantic.looks.skipped == 4


async def test_an_embedder_that_is_away_costs_nothing_but_the_look(bench: Bench) -> None:
    bench.angles.fails = True
    assert not (await bench.ask(OPEN)).started.cached
    assert (await bench.ask(OPEN)).started.cached


async def test_an_answer_that_is_gone_is_generated_anew(bench: Bench) -> None:
    await bench.ask(OPEN)
    bench.answers._seconds = -1.0
    assert not (await bench.ask(WAY)).started.cached


def test_memory_is_bounded() -> None:
    index = SemanticIndex(Angles(), Embedder("angles", "angles:1", 0.9), 20_000)
    for number in range(3000):
        vector = np.asarray([math.cos(number), math.sin(number)], np.float32)
        index.add(Sought(f"{number % 7}".encode(), f"question {number}", vector), b"key")
        assert index.used_bytes <= 20_000
    assert index.used_bytes == sum(bucket.size() for bucket in index._buckets.values())
    big = SemanticIndex(Angles(), Embedder("angles", "angles:1", 0.9), 10_000_000)
    for number in range(3000):
        big.add(Sought(b"scope", f"question {number}", np.asarray([math.cos(number), math.sin(number)], np.float32)), b"key")
    (bucket,) = big._buckets.values()
    assert len(bucket.entries) == 1024
    assert big.used_bytes == bucket.size()
    newest = np.asarray([math.cos(2999), math.sin(2999)], np.float32)
    match = big.match(Sought(b"scope", "question 2999", newest))
    assert match is not None
    assert match.similarity == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A refund after 30 days?", "A refund after 60 days?"),
        ("退款需要三天吗？", "退款需要五天吗？"),
        ("Is it safe to open?", "Is it not safe to open?"),
        ("Is it safe?", "Isn't it safe?"),
        ("Можно открыть?", "Нельзя открыть?"),
        ("可以打开吗？", "不可以打开吗？"),
        ("Tell me about Paris.", "Tell me about London."),
        ("Расскажи про Москву", "Расскажи про Казань"),
    ],
)
def test_figures_names_and_negations_tell_questions_apart(one: str, other: str) -> None:
    assert marks_of(one) != marks_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Convert 5 miles to kilometres", "Convert 5 kilometres to miles"),
        ("Does Anna report to Boris?", "Does Boris report to Anna?"),
        ("Собака кусает кошку", "Кошку собака кусает"),
        ("猫追狗", "狗追猫"),
    ],
)
def test_so_does_the_order_of_what_they_share(one: str, other: str) -> None:
    assert not keep_their_order(one, other)


def test_other_words_are_no_difference() -> None:
    for one, other in ((OPEN, WAY), ("Как открыть задвижку?", "Каким образом открыть задвижку?")):
        assert marks_of(one) == marks_of(other)
        assert keep_their_order(one, other)


def test_which_last_words_are_questions() -> None:
    model = writer("model", "openai")
    plain = Generation("model", (Message(Role.USER, OPEN),))
    assert question_of(plain, model) == OPEN
    assert not question_of(plain, replace(model, capabilities=(Capability.EXTRACTION,)))
    assert not question_of(replace(plain, messages=(Message(Role.USER, OPEN), Message(Role.ASSISTANT, "So"))), model)
    assert not question_of(replace(plain, messages=(Message(Role.USER, "x" * 1001),)), model)
    assert not question_of(replace(plain, messages=(Message(Role.USER, "  "),)), model)
    assert not question_of(replace(plain, form=Form(alternatives=2)), model)
    assert is_understood("如何", ())
    assert not is_understood("如何", ("en", "ru"))
