"""Every test here runs over the sidecar, and over a real Qdrant server when QDRANT_URL names one.

QDRANT_URL is http://host:grpc-port.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from qdrant_client import AsyncQdrantClient, models

from tests.contract.store.sidecar import Shelf, Sidecar, connect

STORES = ["sidecar", *(["server"] if os.environ.get("QDRANT_URL") else [])]


@pytest.fixture(scope="session", params=STORES)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    if request.param == "server":
        parts = urlsplit(os.environ["QDRANT_URL"])
        yield parts.hostname or "127.0.0.1", parts.port or 6334
        return
    sidecar = Sidecar(tmp_path_factory.mktemp("qdrant"))
    sidecar.start()
    yield "127.0.0.1", sidecar.port
    assert sidecar.stop() == 0


@pytest_asyncio.fixture
async def client(address: tuple[str, int]) -> AsyncIterator[AsyncQdrantClient]:
    host, port = address
    client = connect(port, host)
    yield client
    await client.close()


@pytest_asyncio.fixture
async def shelf(client: AsyncQdrantClient) -> AsyncIterator[Shelf]:
    name = f"test-{uuid.uuid4().hex}"
    await client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    yield Shelf(client, name)
    await client.delete_collection(name)


@pytest.fixture
def own_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that the test may stop and kill."""
    sidecar = Sidecar(tmp_path_factory.mktemp("own"))
    sidecar.start()
    yield sidecar
    if sidecar.process is not None:
        sidecar.kill()
