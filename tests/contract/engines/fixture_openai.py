"""The `openai` engine over a real server: llama.cpp's, started here."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from services.inference.engines.openai import OpenAIEngine
from tests.contract.engines import tiny_llama
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Port 9 discards; nothing listens on it here.
NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def llamacpp_server(folder: Path, name: str = "tiny", *, tools: bool = False) -> AsyncIterator[str]:
    """Runs llama.cpp's server over a tiny model, one that calls tools where asked for; gives its address."""
    model = await asyncio.to_thread(tiny_llama.build, folder, "tiny-tools" if tools else "tiny", tools=tools)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("llamacpp_server.py")),
        str(model),
        name,
        "0",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        assert address, "llama.cpp's server did not start"
        yield address
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def open_llamacpp_server(folder: Path) -> AsyncIterator[Subject]:
    async with llamacpp_server(folder) as address, aiohttp.ClientSession() as session:

        async def busy() -> int:
            async with session.get(f"{address}/slots") as response:
                slots = json.loads(await response.read())
            return sum(slot["is_processing"] for slot in slots)

        engine = OpenAIEngine(address)
        try:
            yield Subject(engine, "tiny", "tiny", OpenAIEngine(NOWHERE), busy, ignores_names=True)
        finally:
            await engine.close()
