from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.postgres import Postgres
from tests.support.retrieval import Retrieval, retrieval

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Postgres]":
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> "AsyncIterator[Retrieval]":
    async with retrieval(tmp_path_factory.mktemp("retrieval"), postgres) as running:
        yield running
