"""The `vllm` engine in this process, where vLLM is installed: `make test-vllm` runs it by vLLM's own interpreter."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY

from services.inference.engines.async_llm import AsyncLlmEngine, Options
from services.inference.engines.async_llm_core import Core, Opener
from services.inference.lifecycle import LoadOptions
from tests.contract.engines import tiny_llama, tiny_llama_hf
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RANK = 8
LOAD = LoadOptions()


def options(folder: Path, **more: Any) -> Options:
    model = tiny_llama_hf.build(folder, shape=tiny_llama.Shape())
    return Options(str(model), "tiny", max_model_len=2048, more={"enforce_eager": True, "disable_log_stats": False, **more})


class Kept:
    """Starts vLLM once for all tests: it takes half a minute."""

    def __init__(self) -> None:
        self.opener = Opener()
        self.core: Core | None = None

    def open(self, wanted: Options) -> Core:
        self.core = self.core or self.opener.open(wanted)
        return self.core

    def shut(self, opened: Core) -> None:
        """Leaves it to the next test."""

    def end(self) -> None:
        if self.core is not None:
            self.opener.shut(self.core)


def running() -> int:
    """How many generations vLLM's own gauges show."""
    wanted = {"vllm:num_requests_running", "vllm:num_requests_waiting"}
    samples = (sample for metric in REGISTRY.collect() if metric.name in wanted for sample in metric.samples)
    return round(sum(sample.value for sample in samples))


@asynccontextmanager
async def open_writer(kept: tuple[Kept, Path]) -> AsyncIterator[Subject]:
    opens, folder = kept
    engine = AsyncLlmEngine(options(folder, enable_lora=True, max_lora_rank=RANK), opens)

    async def busy() -> int:
        return running()

    try:
        async for _ in engine.load("tiny", LOAD):
            pass
        # The gauges are written with the next step of the core.
        yield Subject(engine, "tiny", "", None, busy, notices=0.5, long=1024)
    finally:
        await engine.close()
