"""One entry per engine: the contract suite runs over all of them."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.contract.engines.fixture_async_llm import Kept
from tests.contract.engines.fixture_vllm import vllm_embedder, vllm_writer  # noqa: F401 - fixtures, found by name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.contract.engines.subject import Subject

# Name of the case: where it is opened, and the variables of which one must be set for it.
CASES = {
    "openai-llamacpp": ("fixture_openai.open_llamacpp_server", ""),
    "vllm": ("fixture_vllm.open_writer", "VLLM_BASE_URL VLLM_PYTHON"),
    "vllm-minilm": ("fixture_vllm.open_embedder", "VLLM_PYTHON"),
    "vllm-async": ("fixture_async_llm.open_writer", "VLLM_IN_PROCESS"),
    "ollama-written": ("fixture_ollama.open_written_server", ""),
    "anthropic-written": ("fixture_anthropic.open_written_server", ""),
    "ollama-real": ("fixture_ollama.open_real_server", "OLLAMA_BASE_URL"),
    "llamacpp": ("fixture_embedded.open_llamacpp", ""),
    "minilm": ("fixture_embedded.open_minilm", ""),
    "extractive": ("fixture_embedded.open_extractive", ""),
    "extractive-minilm": ("fixture_embedded.open_extractive_with_minilm", ""),
}
# Of servers that take long to start there is one a session: the fixture that gives its address. All others open in a folder.
SERVED = {"vllm": "vllm_writer", "vllm-minilm": "vllm_embedder", "vllm-async": "async_llm"}


@pytest.fixture(scope="session")
def async_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kept, Path]]:
    kept = Kept()
    yield kept, tmp_path_factory.mktemp("async-llm")
    kept.end()


HERE = [case for case, (_, needed) in CASES.items() if not needed or any(map(os.environ.get, needed.split()))]


@pytest.fixture(params=HERE)
async def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    module, _, name = CASES[request.param][0].partition(".")
    opened = getattr(importlib.import_module(f"tests.contract.engines.{module}"), name)
    # One folder for the whole session: models are built once.
    folder: Path = tmp_path_factory.getbasetemp() / "engines"
    where = request.getfixturevalue(SERVED[request.param]) if request.param in SERVED else folder
    async with opened(where) as one:
        yield one
        if one.absent is not None:
            await one.absent.close()
