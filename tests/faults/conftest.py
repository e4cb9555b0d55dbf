"""A suite that may be hurt, with an engine that streams slowly behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults import slow_engine
from tests.support.suite import Suite, running_suite

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine() -> Iterator[slow_engine.SlowEngine]:
    with slow_engine.running() as engine:
        yield engine


@pytest.fixture(scope="session")
def hurt_suite(engine: slow_engine.SlowEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    settings = {"INTER_TOKEN_SECONDS": "1", "FIRST_TOKEN_SECONDS": "20", "MAX_CONCURRENCY": "4", "TENANT_CONCURRENCY": "2"}
    folder = tmp_path_factory.mktemp("hurt")
    with running_suite(folder, OPENAI_BASE_URL=f"{engine.url}/v1", AUTO_MODEL="extractive", **settings) as suite:
        yield suite
