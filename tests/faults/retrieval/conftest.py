from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.postgres import Postgres
from tests.support.retrieval import Retrieval, retrieval

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Postgres]":
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def suite(postgres: Postgres, tmp_path: "Path") -> "AsyncIterator[Retrieval]":
    async with retrieval(tmp_path, postgres) as running:
        yield running
