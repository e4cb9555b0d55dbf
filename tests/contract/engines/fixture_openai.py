"""The `openai` engine over real servers: llama.cpp's, started here, and vLLM, where VLLM_BASE_URL names one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from services.inference.engine import Capability
from services.inference.engines.openai import OpenAIEngine, base_url_of
from tests.contract.engines import tiny_llama
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Port 9 discards; nothing listens on it here.
NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def llamacpp_server(folder: Path, name: str = "tiny") -> AsyncIterator[str]:
    """Runs llama.cpp's server over a tiny model; gives its address."""
    model = await asyncio.to_thread(tiny_llama.build, folder)
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


@asynccontextmanager
async def open_vllm(folder: Path) -> AsyncIterator[Subject]:  # noqa: ARG001 - as all openers
    address = os.environ["VLLM_BASE_URL"]
    engine = OpenAIEngine(address, api_key=os.environ.get("VLLM_API_KEY", ""))
    async with aiohttp.ClientSession() as session:

        async def busy() -> int:
            async with session.get(base_url_of(address).removesuffix("/v1") + "/metrics") as response:
                lines = (await response.text()).splitlines()
            running = [line for line in lines if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting{"))]
            return round(sum(float(line.rsplit(" ", 1)[1]) for line in running))

        try:
            models = [model for model in await engine.models() if Capability.GENERATION in model.capabilities]
            yield Subject(engine, models[0].name, "", OpenAIEngine(NOWHERE), busy)
        finally:
            await engine.close()
