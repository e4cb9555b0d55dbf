"""The engines that live in our process: `minilm`, `extractive` and `llamacpp`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.inference.engines.extractive import ExtractiveEngine
from services.inference.engines.llamacpp import LlamaCppEngine
from services.inference.engines.minilm import MiniLMEngine
from tests.contract.engines import tiny_llama
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Long enough that a generation that nobody stops goes on for seconds.
CONTEXT_TOKENS = 16_384


@asynccontextmanager
async def open_llamacpp(folder: Path) -> AsyncIterator[Subject]:
    model = await asyncio.to_thread(tiny_llama.build, folder)
    embedder = await asyncio.to_thread(tiny_llama.build, folder, "tiny-embedder", embedder=True)
    caller = await asyncio.to_thread(tiny_llama.build, folder, "tiny-tools", tools=True)
    engine = LlamaCppEngine(folder, threads=1, context_tokens=CONTEXT_TOKENS)
    try:
        yield Subject(engine, model.stem, embedder.stem, busy=engine.busy, caller=caller.stem)
    finally:
        await engine.close()


@asynccontextmanager
async def open_minilm(folder: Path) -> AsyncIterator[Subject]:  # noqa: ARG001 - as all openers
    engine = MiniLMEngine(threads=1)
    try:
        yield Subject(engine, embedder="all-minilm-l6-v2")
    finally:
        await engine.close()


@asynccontextmanager
async def open_extractive(folder: Path) -> AsyncIterator[Subject]:  # noqa: ARG001 - as all openers
    yield Subject(ExtractiveEngine(), "extractive")


@asynccontextmanager
async def open_extractive_with_minilm(folder: Path) -> AsyncIterator[Subject]:
    async with open_minilm(folder) as minilm:
        yield Subject(ExtractiveEngine(minilm.engine), "extractive")
