"""One entry per engine: the contract suite runs over all of them."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.contract.engines.subject import Subject

# Name of the case: where it is opened, and the variable that must be set for it.
CASES = {
    "openai-llamacpp": ("fixture_openai.open_llamacpp_server", ""),
    "openai-vllm": ("fixture_openai.open_vllm", "VLLM_BASE_URL"),
    "ollama-written": ("fixture_ollama.open_written_server", ""),
    "ollama-real": ("fixture_ollama.open_real_server", "OLLAMA_BASE_URL"),
    "llamacpp": ("fixture_embedded.open_llamacpp", ""),
    "minilm": ("fixture_embedded.open_minilm", ""),
    "extractive": ("fixture_embedded.open_extractive", ""),
    "extractive-minilm": ("fixture_embedded.open_extractive_with_minilm", ""),
}


HERE = [case for case, (_, variable) in CASES.items() if not variable or os.environ.get(variable)]


@pytest.fixture(params=HERE)
async def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    module, _, name = CASES[request.param][0].partition(".")
    opened = getattr(importlib.import_module(f"tests.contract.engines.{module}"), name)
    # One folder for the whole session: models are built once.
    folder: Path = tmp_path_factory.getbasetemp() / "engines"
    async with opened(folder) as one:
        yield one
        if one.absent is not None:
            await one.absent.close()
