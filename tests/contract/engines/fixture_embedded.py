"""The engines that live in our process: `minilm`, `extractive` and `llamacpp`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.inference.engines.extractive import ExtractiveEngine
from services.inference.engines.minilm import MiniLMEngine
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


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
