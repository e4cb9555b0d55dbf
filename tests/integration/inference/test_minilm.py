"""The embedded embedder with its real weights."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer

from services.chassis.errors import Failure, Reason
from services.inference.engine import ModelState
from services.inference.engines import minilm
from services.inference.engines.minilm import NAME, MiniLMEngine
from tests.integration.inference.bert_reference import Reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXTS = [
    "water",
    "A penstock carries water from the reservoir to the turbine.",
    "The sluice gate at the head of a penstock controls the flow, and it closes when the turbine stops. " * 3,
    "",
    "Привет, мир! 你好，世界。 éàü 😀",
    "pressure " * 400,
    *(f"turbine number {number} turns " * (number % 11 + 1) for number in range(30)),
]


@pytest.fixture
async def engine() -> AsyncIterator[MiniLMEngine]:
    engine = MiniLMEngine(threads=2)
    yield engine
    await engine.close()


def weights_file(name: str = "model.safetensors") -> Path:
    path = minilm._package_file(name)
    assert path is not None
    return path


async def test_vectors_are_those_of_the_network_written_out(engine: MiniLMEngine) -> None:
    tokenizer = Tokenizer.from_file(str(weights_file("tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    reference = Reference(weights_file())
    texts = TEXTS[:12]
    embeddings = await engine.embed(NAME, texts)
    tokens = 0
    for text, vector in zip(texts, embeddings.vectors, strict=True):
        ids = tokenizer.encode(text).ids
        tokens += len(ids)
        assert np.dot(reference.embed(ids), vector) >= 0.999, text
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert embeddings.input_tokens == tokens


async def test_a_vector_depends_on_its_text_alone_bit_for_bit(engine: MiniLMEngine) -> None:
    together = await engine.embed(NAME, TEXTS)
    backwards = await engine.embed(NAME, TEXTS[::-1])
    assert together.vectors == backwards.vectors[::-1]
    alone = await engine.embed(NAME, [TEXTS[2]])
    assert alone.vectors[0] == together.vectors[2]


async def test_only_the_first_256_tokens_count(engine: MiniLMEngine) -> None:
    long, longer = "water " * 300, "water " * 300 + "fire " * 5000
    embeddings = await engine.embed(NAME, [long, longer])
    assert embeddings.vectors[0] == embeddings.vectors[1]
    assert embeddings.input_tokens == 512


async def test_a_query_does_not_wait_for_a_thousand_chunks(engine: MiniLMEngine) -> None:
    await engine.embed(NAME, ["warm"])
    bulk = asyncio.create_task(engine.embed(NAME, ["the flow of water through a turbine " * 30] * 200))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await engine.embed(NAME, ["a short question"])
    waited = time.monotonic() - started
    assert not bulk.done()
    assert waited < 1, "it went to the end of the line"
    bulk.cancel()
    await asyncio.gather(bulk, return_exceptions=True)


async def test_the_event_loop_runs_on_while_it_loads_and_embeds(engine: MiniLMEngine) -> None:
    engine.start_loading()
    assert (await engine.models())[0].state is ModelState.UNLOADED
    work = asyncio.create_task(engine.embed(NAME, TEXTS * 3))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 20
    assert (await engine.models())[0].state is ModelState.READY


async def test_no_input_gives_no_vector(engine: MiniLMEngine) -> None:
    embeddings = await engine.embed(NAME, [])
    assert list(embeddings.vectors) == []


async def test_weights_that_are_not_the_published_ones_are_refused(
    engine: MiniLMEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "model.safetensors"
    other.write_bytes(weights_file().read_bytes()[:-1] + b"?")
    original = minilm._package_file
    monkeypatch.setattr(minilm, "_package_file", lambda name: other if name == other.name else original(name))
    with pytest.raises(Failure) as caught:
        await engine.embed(NAME, ["water"])
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
    monkeypatch.undo()
    assert (await engine.embed(NAME, ["water"])).vectors  # the next call tries again
