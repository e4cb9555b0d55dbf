"""What the sidecar keeps when it is stopped, killed, or rebuilt."""

import asyncio
from pathlib import Path

import pytest
from grpc.aio import AioRpcError
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.models import Distance, PointStruct, VectorParams

from deploy.local.qdrant_edge.collection import Collection
from deploy.local.qdrant_edge.operations import delete, upsert
from deploy.local.qdrant_edge.store import Store
from deploy.local.qdrant_edge.stubs import collections_pb2, points_pb2, qdrant_common_pb2
from deploy.local.qdrant_edge.upkeep import Upkeep
from tests.contract.store.sidecar import Sidecar, connect

NAME = "docs"


async def create(client: AsyncQdrantClient) -> None:
    await client.create_collection(NAME, vectors_config={"dense": VectorParams(size=4, distance=Distance.COSINE)})


def points(start: int, stop: int) -> list[PointStruct]:
    return [
        PointStruct(id=number, vector={"dense": [1.0, number, 0.0, 0.0]}, payload={"n": number})
        for number in range(start, stop)
    ]


async def test_all_is_there_after_a_restart(own_sidecar: Sidecar) -> None:
    client = connect(own_sidecar.port)
    await create(client)
    await client.upsert(NAME, points(0, 100), wait=True)
    await client.create_payload_index(NAME, "n", models.PayloadSchemaType.INTEGER, wait=True)
    live = models.CreateAlias(collection_name=NAME, alias_name="live")
    await client.update_collection_aliases([models.CreateAliasOperation(create_alias=live)])
    await client.close()
    assert own_sidecar.stop() == 0
    own_sidecar.start()
    client = connect(own_sidecar.port)
    assert (await client.count("live")).count == 100
    response = await client.query_points("live", query=[1.0, 50.0, 0.0, 0.0], using="dense", limit=1)
    assert response.points[0].id == 50
    assert response.points[0].payload == {"n": 50}
    assert "n" in (await client.get_collection(NAME)).payload_schema
    await client.close()


async def test_acknowledged_writes_survive_kill_9(own_sidecar: Sidecar) -> None:
    client = connect(own_sidecar.port)
    await create(client)
    acknowledged: set[int] = set()

    async def write(first: int) -> None:
        number = first
        while True:
            try:
                await client.upsert(NAME, points(number, number + 10), wait=True)
            except AioRpcError:
                return
            acknowledged.update(range(number, number + 10))
            number += 10

    writers = [asyncio.create_task(write(first * 1_000_000)) for first in range(4)]
    # Also refused writes stand in the log; they must not get in the way of reading it again.
    with pytest.raises(AioRpcError):
        await client.set_payload(NAME, {"a": 1}, points=[999_999_999], wait=True)
    while len(acknowledged) < 500:  # noqa: ASYNC110  # the writers run until the kill
        await asyncio.sleep(0.01)
    await client.delete(NAME, [0], wait=True)
    acknowledged.discard(0)
    own_sidecar.kill()
    await asyncio.gather(*writers)
    await client.close()
    own_sidecar.start()
    client = connect(own_sidecar.port)
    found = await client.retrieve(NAME, sorted(acknowledged), with_vectors=True)
    assert {int(record.id) for record in found} == acknowledged
    assert all(record.payload == {"n": record.id} for record in found)
    assert await client.retrieve(NAME, [0]) == []
    await client.close()


async def test_leftovers_of_a_crash_are_removed(own_sidecar: Sidecar) -> None:
    client = connect(own_sidecar.port)
    await create(client)
    await client.close()
    own_sidecar.kill()
    (folder,) = (own_sidecar.data_dir / "collections").iterdir()
    (folder / "1").mkdir()
    (own_sidecar.data_dir / "collections" / "orphan").mkdir()
    own_sidecar.start()
    assert [one.name for one in (own_sidecar.data_dir / "collections").iterdir()] == [folder.name]
    assert [one.name for one in folder.iterdir()] == ["0"]


def grpc_points(start: int, stop: int, version: int) -> points_pb2.UpsertPoints:
    request = points_pb2.UpsertPoints(collection_name=NAME)
    for number in range(start, stop):
        point = request.points.add()
        point.id.num = number
        point.vectors.vector.dense.data.extend([1.0, *(float(number % (7 + axis)) for axis in range(31))])
        point.payload["version"].integer_value = version
    return request


async def test_rebuild_keeps_the_writes_made_meanwhile(tmp_path: Path) -> None:
    config = collections_pb2.CreateCollection(collection_name=NAME)
    config.vectors_config.params.size = 32
    config.vectors_config.params.distance = collections_pb2.Cosine
    config.optimizers_config.indexing_threshold = 100
    store = Store(tmp_path)
    try:
        store.create(config)
        collection = store.collection(NAME)
        await collection.apply(upsert(grpc_points(0, 4000, 1), collection.shapes), 0)
        upkeep = Upkeep(store)
        collection.last_write = 0.0
        assert upkeep.is_due(collection)
        rebuilding = asyncio.create_task(upkeep.rebuild(NAME, collection))
        rounds = await write_during(rebuilding, collection)
        assert rounds > 0
        assert collection.record.generation == 1
        info = collection.shard.call(lambda engine: engine.info())
        assert info.points_count == 4000 + rounds - 1
        # The copy is indexed; what came meanwhile may stand outside.
        assert info.indexed_vectors_count >= 4000
        versions = {
            record.id: (record.payload or {})["version"]
            for record in collection.shard.call(lambda engine: engine.retrieve(list(range(4000 + rounds)), True, False))
        }
        assert 3 not in versions
        assert versions[7] == 1 + rounds
        assert all(4000 + number in versions for number in range(rounds))
        assert not upkeep.is_due(collection)
        assert [one.name for one in collection.folder.iterdir()] == ["1"]
    finally:
        store.close()
    reopened = Store(tmp_path)
    assert reopened.collection(NAME).shard.call(lambda engine: engine.info()).points_count == 4000 + rounds - 1
    reopened.close()


async def write_during(rebuilding: "asyncio.Task[None]", collection: Collection) -> int:
    """Add a point, change point 7, delete point 3, again and again until the rebuild ends."""
    rounds = 0
    three = points_pb2.PointsSelector(points=points_pb2.PointsIdsList(ids=[qdrant_common_pb2.PointId(num=3)]))
    while not rebuilding.done():
        await collection.apply(upsert(grpc_points(4000 + rounds, 4001 + rounds, 1), collection.shapes), 100)
        rounds += 1
        await collection.apply(upsert(grpc_points(7, 8, 1 + rounds), collection.shapes), 100)
        await collection.apply(delete(three), 10)
        await asyncio.sleep(0.01)
    await rebuilding
    return rounds
