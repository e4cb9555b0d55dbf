"""One suite for all end-to-end tests: started here, or running already (PENSTOCK_URL)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.contract.engines import tiny_llama
from tests.support.suite import Suite, running_suite

if TYPE_CHECKING:
    from collections.abc import Iterator

GIBBERISH = "gibberish"


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    running = os.environ.get("PENSTOCK_URL")
    if running:
        yield Suite.at(running)
        return
    folder = tmp_path_factory.mktemp("suite")
    # A model that writes gibberish and calls tools, for what `extractive` cannot do. It is used by name only.
    tiny_llama.build(folder / "models", GIBBERISH, tools=True)
    with running_suite(folder, MODELS_DIR=str(folder / "models"), AUTO_MODEL="extractive") as suite:
        yield suite
