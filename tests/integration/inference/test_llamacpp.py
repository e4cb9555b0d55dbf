"""llama.cpp in this process, with real GGUF files of random weights."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Delta, FinishReason, Generation, Message, ModelState, Passage, Role, Sampling
from services.inference.engines.gguf_header import read_header
from services.inference.engines.llamacpp import LlamaCppEngine
from tests.contract.engines import tiny_llama
from tests.contract.engines.subject import collect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "gguf"
    tiny_llama.build(folder)
    tiny_llama.build(folder, "tiny-embedder", embedder=True)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    for file in built.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    return tmp_path


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[LlamaCppEngine]:
    engine = LlamaCppEngine(folder, parallel=2, context_tokens=2048, threads=1)
    yield engine
    await engine.close()


def asking(text: str = "Where does the water go?", **settings: object) -> Generation:
    values: dict[str, object] = {"model": "tiny", "max_tokens": 12, "sampling": Sampling(temperature=0.0), **settings}
    return Generation(messages=(Message(Role.USER, text),), **values)  # type: ignore[arg-type] # names are checked at run time


def test_the_header_is_read_without_loading(built: Path) -> None:
    header = read_header(built / "tiny-embedder.gguf")
    assert (header.architecture, header.context_tokens, header.dimensions, header.pooling) == ("llama", 16384, 256, 1)
    assert read_header(built / "tiny.gguf").pooling == 0


async def test_models_come_and_go_with_their_files(folder: Path) -> None:
    engine = LlamaCppEngine(folder / "models")
    assert list(await engine.models()) == []
    (folder / "models").mkdir()
    (folder / "tiny.gguf").rename(folder / "models" / "one.gguf")
    (folder / "models" / "not-a-model.gguf").write_bytes(b"a page of text")
    (folder / "models" / "cut.gguf").write_bytes(b"GGUF\x03\x00")
    (model,) = await engine.models()
    assert (model.name, model.state, model.capabilities[0]) == ("one", ModelState.UNLOADED, Capability.GENERATION)
    (folder / "models" / "one.gguf").unlink()
    assert list(await engine.models()) == []


async def test_a_file_that_is_no_model_is_told_of_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = LlamaCppEngine(folder)
    (folder / "page.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    for _ in range(3):
        await engine.models()
    assert [record.getMessage() for record in caplog.records] == [
        "page.gguf in MODELS_DIR is not served: it is not a GGUF file",
    ]


async def test_a_model_is_loaded_once_for_all_who_ask(engine: LlamaCppEngine) -> None:
    texts = await asyncio.gather(*(collect(engine.generate(asking())) for _ in range(5)))
    assert len({text for text, _, _ in texts}) == 1  # greedy, and the same whoever is beside it
    states = {model.name: model.state for model in await engine.models()}
    assert states == {"tiny": ModelState.READY, "tiny-embedder": ModelState.UNLOADED}


async def test_a_seed_repeats_a_draw_and_another_draws_anew(engine: LlamaCppEngine) -> None:
    async def draw(seed: int) -> str:
        sampling = Sampling(temperature=1.5, top_p=0.95, top_k=50, seed=seed, presence_penalty=0.1, frequency_penalty=0.1)
        return (await collect(engine.generate(asking(sampling=sampling))))[0]

    first, again, other = await draw(-7), await draw(-7), await draw(8)
    assert first == again != other


async def test_passages_are_written_into_the_prompt(engine: LlamaCppEngine) -> None:
    _, _, (bare,) = await collect(engine.generate(asking()))
    _, _, (given,) = await collect(engine.generate(asking(passages=(Passage("Water goes to the turbine. " * 10),))))
    assert bare.usage.input_tokens is not None
    assert given.usage.input_tokens is not None
    assert given.usage.input_tokens > bare.usage.input_tokens + 50


async def test_the_context_ends_a_generation_without_limit(engine: LlamaCppEngine) -> None:
    _, _, (end,) = await collect(engine.generate(asking(max_tokens=None)))
    assert end.finish_reason is FinishReason.LENGTH
    assert end.usage.input_tokens is not None
    assert end.usage.output_tokens is not None
    assert end.usage.input_tokens + end.usage.output_tokens == pytest.approx(2048, abs=2)


async def test_a_prompt_beyond_the_context_names_both_lengths(engine: LlamaCppEngine) -> None:
    with pytest.raises(Failure) as caught:
        await collect(engine.generate(asking("flow " * 4000)))
    assert caught.value.reason is Reason.CONTEXT_TOO_LONG
    assert caught.value.metadata["context_tokens"] == "2048"


async def test_cancelling_while_a_long_prompt_is_read_is_quick(folder: Path) -> None:
    engine = LlamaCppEngine(folder, parallel=1, context_tokens=16_384, threads=1)
    await collect(engine.generate(asking(max_tokens=1)))
    reading = asyncio.create_task(collect(engine.generate(asking("flow " * 15_000))))
    while not await engine.busy():  # noqa: ASYNC110 - llama.cpp's own counter can only be asked
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert not reading.done()
    started = time.monotonic()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    while await engine.busy():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.005)
    assert time.monotonic() - started < 0.5
    await engine.close()


async def test_more_generations_than_slots_wait_and_may_give_up(engine: LlamaCppEngine) -> None:
    begun = [engine.generate(asking(max_tokens=1500)) for _ in range(2)]
    for events in begun:
        assert isinstance(await anext(events), Delta)
    waiting = asyncio.create_task(collect(engine.generate(asking())))
    await asyncio.sleep(0.02)
    assert await engine.busy() <= 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    for events in begun:
        await events.aclose()
    text, _, _ = await collect(engine.generate(asking()))
    assert text


async def test_the_loop_runs_on_and_waiting_tokens_come_together(engine: LlamaCppEngine) -> None:
    tokens = deltas = 0
    async with aclosing(engine.generate(asking(max_tokens=400))) as events:
        async for event in events:
            if isinstance(event, Delta):
                tokens += event.tokens
                deltas += 1
                await asyncio.sleep(0.01)  # a slow reader
    assert tokens >= 390
    assert deltas < tokens / 3


async def test_a_damaged_file_is_told_plainly_and_not_tried_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "tiny.gguf").read_bytes()
    (folder / "half.gguf").write_bytes(whole[: len(whole) // 2])
    engine = LlamaCppEngine(folder)
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            await collect(engine.generate(asking(model="half")))
        assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
        assert "damaged" in caught.value.message
    assert capfd.readouterr().err.count("half") <= 4  # llama.cpp says why on stderr, once
    (folder / "half.gguf").write_bytes(whole)  # the user has mended it
    await engine.models()
    text, _, _ = await collect(engine.generate(asking(model="half")))
    assert text
    await engine.close()


async def test_writers_do_not_embed_and_embedders_do_not_write(engine: LlamaCppEngine) -> None:
    with pytest.raises(Failure) as embedding:
        await engine.embed("tiny", ["text"])
    with pytest.raises(Failure) as writing:
        await collect(engine.generate(asking(model="tiny-embedder")))
    assert embedding.value.reason is writing.value.reason is Reason.MODEL_CAPABILITY_MISSING


async def test_an_input_longer_than_the_embedder_reads_is_refused(engine: LlamaCppEngine) -> None:
    with pytest.raises(Failure) as caught:
        await engine.embed("tiny-embedder", ["water " * 3000])
    assert caught.value.reason is Reason.CONTEXT_TOO_LONG


async def test_vectors_do_not_depend_on_what_is_beside_them(engine: LlamaCppEngine) -> None:
    together = await engine.embed("tiny-embedder", ["a gate", "three green turbines turn " * 9, "", "水"])
    alone = await engine.embed("tiny-embedder", ["three green turbines turn " * 9])
    assert list(together.vectors[1]) == pytest.approx(list(alone.vectors[0]), abs=1e-6)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
async def test_closing_gives_the_memory_back(tmp_path: Path) -> None:
    tiny_llama.build(tmp_path, "wide", tiny_llama.Shape(width=1024, layers=4))
    engine = LlamaCppEngine(tmp_path, parallel=2, context_tokens=8192, threads=1)
    await engine.models()
    before = resident()
    await collect(engine.generate(asking(model="wide")))
    loaded = resident()
    await engine.close()
    after = resident()
    assert loaded - before > 40 << 20
    assert after - before < (loaded - before) / 2
