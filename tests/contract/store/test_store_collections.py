"""Collections and aliases."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from grpc import StatusCode
from grpc.aio import AioRpcError
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.models import (
    CreateAlias,
    CreateAliasOperation,
    DeleteAlias,
    DeleteAliasOperation,
    Distance,
    PointStruct,
    RenameAlias,
    RenameAliasOperation,
    VectorParams,
)

from tests.contract.store.sidecar import Shelf


@pytest_asyncio.fixture
async def pair(client: AsyncQdrantClient) -> AsyncIterator[tuple[str, str]]:
    """Two collections; point 1 of the first says blue, that of the second green."""
    names = (f"blue-{uuid.uuid4().hex}", f"green-{uuid.uuid4().hex}")
    for name in names:
        await client.create_collection(name, vectors_config=VectorParams(size=2, distance=Distance.DOT))
        await client.upsert(name, [PointStruct(id=1, vector=[1.0, 2.0], payload={"colour": name.split("-")[0]})], wait=True)
    yield names
    for name in names:
        await client.delete_collection(name)


async def colour(client: AsyncQdrantClient, name: str) -> object:
    response = await client.query_points(name, query=[1.0, 1.0])
    return (response.points[0].payload or {})["colour"]


def alias(collection: str, name: str) -> CreateAliasOperation:
    return CreateAliasOperation(create_alias=CreateAlias(collection_name=collection, alias_name=name))


async def test_collection_is_described(client: AsyncQdrantClient) -> None:
    name = f"described-{uuid.uuid4().hex}"
    assert not await client.collection_exists(name)
    await client.create_collection(
        name,
        vectors_config={"dense": VectorParams(size=384, distance=Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        hnsw_config=models.HnswConfigDiff(m=24, ef_construct=200),
        metadata={"embedder": "all-minilm-l6-v2"},
    )
    try:
        assert await client.collection_exists(name)
        assert name in {one.name for one in (await client.get_collections()).collections}
        info = await client.get_collection(name)
        assert info.status == models.CollectionStatus.GREEN
        assert info.points_count == 0
        vectors = info.config.params.vectors
        assert isinstance(vectors, dict)
        assert (vectors["dense"].size, vectors["dense"].distance) == (384, Distance.COSINE)
        sparse = info.config.params.sparse_vectors
        assert sparse is not None
        assert sparse["bm25"].modifier == models.Modifier.IDF
        assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (24, 200)
        assert info.config.metadata == {"embedder": "all-minilm-l6-v2"}
        await client.update_collection(name, metadata={"revision": 2})
        metadata = (await client.get_collection(name)).config.metadata
        assert metadata == {"embedder": "all-minilm-l6-v2", "revision": 2}
    finally:
        assert await client.delete_collection(name)
    assert not await client.collection_exists(name)
    assert not await client.delete_collection(name)


async def test_name_can_be_used_again_and_starts_empty(client: AsyncQdrantClient, shelf: Shelf) -> None:
    await shelf.put(PointStruct(id=1, vector={"dense": [1.0, 0.0, 0.0, 0.0]}))
    await client.delete_collection(shelf.name)
    await client.create_collection(shelf.name, vectors_config=VectorParams(size=2, distance=Distance.DOT))
    assert (await client.count(shelf.name)).count == 0


async def test_unnamed_vector(client: AsyncQdrantClient, pair: tuple[str, str]) -> None:
    (record,) = await client.retrieve(pair[0], [1], with_vectors=True)
    assert record.vector == [1, 2]
    response = await client.query_points(pair[0], query=[1.0, 1.0])
    assert response.points[0].score == pytest.approx(3)


async def test_alias_switches_at_once(client: AsyncQdrantClient, pair: tuple[str, str]) -> None:
    blue, green = pair
    live = f"live-{uuid.uuid4().hex}"
    await client.update_collection_aliases([alias(blue, live)])
    assert await colour(client, live) == "blue"
    assert await client.collection_exists(live)
    assert [one.alias_name for one in (await client.get_collection_aliases(blue)).aliases] == [live]
    await client.update_collection_aliases(
        [DeleteAliasOperation(delete_alias=DeleteAlias(alias_name=live)), alias(green, live)]
    )
    assert await colour(client, live) == "green"
    await client.upsert(live, [PointStruct(id=2, vector=[0.0, 0.0])], wait=True)
    assert (await client.count(green)).count == 2
    renamed = f"{live}-renamed"
    await client.update_collection_aliases(
        [RenameAliasOperation(rename_alias=RenameAlias(old_alias_name=live, new_alias_name=renamed))]
    )
    assert await colour(client, renamed) == "green"
    known = {one.alias_name: one.collection_name for one in (await client.get_aliases()).aliases}
    assert known[renamed] == green
    assert live not in known


async def test_alias_changes_are_all_or_none(client: AsyncQdrantClient, pair: tuple[str, str]) -> None:
    live = f"live-{uuid.uuid4().hex}"
    with pytest.raises(AioRpcError) as refused:
        await client.update_collection_aliases([alias(pair[0], live), alias("no-such-collection", "other")])
    assert refused.value.code() == StatusCode.NOT_FOUND
    assert live not in {one.alias_name for one in (await client.get_aliases()).aliases}


async def test_aliases_go_with_their_collection(client: AsyncQdrantClient, pair: tuple[str, str]) -> None:
    live = f"live-{uuid.uuid4().hex}"
    await client.update_collection_aliases([alias(pair[0], live)])
    await client.delete_collection(pair[0])
    assert not await client.collection_exists(live)
    assert live not in {one.alias_name for one in (await client.get_aliases()).aliases}


async def test_writes_during_a_deletion_end_with_an_error_or_before_it(client: AsyncQdrantClient) -> None:
    name = f"doomed-{uuid.uuid4().hex}"
    await client.create_collection(name, vectors_config=VectorParams(size=2, distance=Distance.DOT))
    points = [PointStruct(id=number, vector=[1.0, 2.0]) for number in range(2000)]
    writes = [asyncio.create_task(client.upsert(name, points, wait=True)) for _ in range(4)]
    await asyncio.sleep(0.05)
    await client.delete_collection(name)
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(outcome, AioRpcError):
            assert outcome.code() in {StatusCode.NOT_FOUND, StatusCode.UNAVAILABLE}
        else:
            assert isinstance(outcome, models.UpdateResult)
    assert not await client.collection_exists(name)
