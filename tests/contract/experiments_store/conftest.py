"""Every test here runs over each store of the experiments service."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from services.chassis.postgres import open_pool
from services.experiments.store import Store
from services.experiments.stores.memory import MemoryStore
from services.experiments.stores.postgres import PostgresStore
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    server: Postgres = request.getfixturevalue("postgres")
    async with open_pool(await server.new_database("experiments"), schema="experiments") as pool:
        yield PostgresStore(pool)
