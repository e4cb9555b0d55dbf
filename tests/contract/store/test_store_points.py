"""What is written is what is read; what is deleted is gone."""

import uuid
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.models import FieldCondition, Filter, FilterSelector, MatchValue, PointStruct, SparseVector

from tests.contract.store.sidecar import Shelf

PAYLOAD = {
    "text": "Ünïcode, русский, 中文",
    "integer": -(2**53),
    "float": 1.5,
    "whole": 2.0,
    "flag": False,
    "nothing": None,
    "list": [1, "two", [3.5], {"four": 4}],
    "tree": {"leaf": {"value": ""}, "empty": {}, "none": []},
}
KEY = str(uuid.UUID(int=2**100))


async def test_point_comes_back_whole(shelf: Shelf) -> None:
    vector: dict[str, Any] = {
        "dense": [0.6, 0.8, 0.0, 0.0],
        "sparse": SparseVector(indices=[4_000_000_000, 7], values=[0.5, -1]),
    }
    await shelf.put(PointStruct(id=KEY, vector=vector, payload=PAYLOAD), PointStruct(id=2**64 - 1, vector={}))
    records = {record.id: record for record in await shelf.client.retrieve(shelf.name, [KEY, 2**64 - 1, 5], with_vectors=True)}
    assert set(records) == {KEY, 2**64 - 1}
    assert records[KEY].payload == PAYLOAD
    assert isinstance((records[KEY].payload or {})["whole"], float)
    stored = records[KEY].vector
    assert isinstance(stored, dict)
    assert stored["dense"] == pytest.approx([0.6, 0.8, 0, 0])
    sparse = stored["sparse"]
    assert isinstance(sparse, SparseVector)
    assert dict(zip(sparse.indices, sparse.values, strict=True)) == {7: -1, 4_000_000_000: 0.5}


async def test_cosine_vectors_are_normalised(shelf: Shelf) -> None:
    await shelf.put(PointStruct(id=1, vector={"dense": [3.0, 4.0, 0.0, 0.0]}))
    (record,) = await shelf.client.retrieve(shelf.name, [1], with_vectors=["dense"])
    assert isinstance(record.vector, dict)
    assert record.vector["dense"] == pytest.approx([0.6, 0.8, 0, 0])


async def test_payload_and_vector_selection(shelf: Shelf) -> None:
    await shelf.put(PointStruct(id=1, vector={"dense": [1.0, 0.0, 0.0, 0.0]}, payload={"a": 1, "b": {"c": 2, "d": 3}}))
    (record,) = await shelf.client.retrieve(shelf.name, [1], with_payload=["b.c"], with_vectors=False)
    assert record.payload == {"b": {"c": 2}}
    assert record.vector is None
    excluded = models.PayloadSelectorExclude(exclude=["b"])
    response = await shelf.client.query_points(
        shelf.name, query=[1.0, 0.0, 0.0, 0.0], using="dense", with_payload=excluded, with_vectors=True
    )
    assert response.points[0].payload == {"a": 1}
    assert response.points[0].vector == {"dense": [1.0, 0.0, 0.0, 0.0]}
    bare = await shelf.client.query_points(shelf.name, query=[1.0, 0.0, 0.0, 0.0], using="dense", with_payload=False)
    assert not bare.points[0].payload


async def test_upsert_replaces_the_whole_point(shelf: Shelf) -> None:
    await shelf.put(
        PointStruct(
            id=1, vector={"dense": [1.0, 0.0, 0.0, 0.0], "sparse": SparseVector(indices=[1], values=[1])}, payload={"a": 1}
        )
    )
    await shelf.put(PointStruct(id=1, vector={"dense": [0.0, 1.0, 0.0, 0.0]}, payload={"b": 2}))
    (record,) = await shelf.client.retrieve(shelf.name, [1], with_vectors=True)
    assert record.payload == {"b": 2}
    assert record.vector == {"dense": [0.0, 1.0, 0.0, 0.0]}
    assert (await shelf.client.count(shelf.name)).count == 1


async def test_delete_by_id_and_by_filter(shelf: Shelf) -> None:
    await shelf.put(
        *(
            PointStruct(id=number, vector={"dense": [1.0, 0.0, 0.0, 0.0]}, payload={"odd": number % 2 == 1})
            for number in range(10)
        )
    )
    await shelf.client.delete(shelf.name, [0, 1, 99], wait=True)
    odd = Filter(must=[FieldCondition(key="odd", match=MatchValue(value=True))])
    await shelf.client.delete(shelf.name, FilterSelector(filter=odd), wait=True)
    response = await shelf.client.query_points(shelf.name, query=[1.0, 0.0, 0.0, 0.0], using="dense", limit=100)
    assert {point.id for point in response.points} == {2, 4, 6, 8}
    assert (await shelf.client.get_collection(shelf.name)).points_count == 4


async def test_payload_changes(shelf: Shelf) -> None:
    client, name = shelf.client, shelf.name
    await shelf.put(*(PointStruct(id=number, vector={}, payload={"n": number, "old": True}) for number in (1, 2)))
    await client.set_payload(name, {"new": "x"}, points=[1], wait=True)
    one = Filter(must=[FieldCondition(key="n", match=MatchValue(value=2))])
    await client.set_payload(name, {"late": 1}, points=one, wait=True)
    await client.delete_payload(name, ["old"], points=[1], wait=True)
    payloads = {record.id: record.payload for record in await client.retrieve(name, [1, 2])}
    assert payloads == {1: {"n": 1, "new": "x"}, 2: {"n": 2, "old": True, "late": 1}}
    await client.overwrite_payload(name, {"only": 1}, points=[2], wait=True)
    await client.clear_payload(name, [1], wait=True)
    payloads = {record.id: record.payload for record in await client.retrieve(name, [1, 2])}
    assert payloads == {1: {}, 2: {"only": 1}}


async def test_batch_update_runs_in_order(shelf: Shelf) -> None:
    point = PointStruct(id=1, vector={"dense": [1.0, 0.0, 0.0, 0.0]}, payload={"a": 1})
    results = await shelf.client.batch_update_points(
        shelf.name,
        [
            models.UpsertOperation(upsert=models.PointsList(points=[point])),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"b": 2}, points=[1])),
            models.UpdateVectorsOperation(
                update_vectors=models.UpdateVectors(points=[models.PointVectors(id=1, vector={"dense": [0.0, 0.0, 0.0, 1.0]})])
            ),
        ],
        wait=True,
    )
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 3
    (record,) = await shelf.client.retrieve(shelf.name, [1], with_vectors=True)
    assert record.payload == {"a": 1, "b": 2}
    assert record.vector == {"dense": [0.0, 0.0, 0.0, 1.0]}


async def test_query_by_point_leaves_it_out(shelf: Shelf) -> None:
    await shelf.put(*(PointStruct(id=number, vector={"dense": [1.0, number, 0.0, 0.0]}) for number in (1, 2, 3)))
    response = await shelf.client.query_points(shelf.name, query=1, using="dense")
    assert [point.id for point in response.points] == [2, 3]


async def test_order_by_and_facet(shelf: Shelf) -> None:
    await shelf.put(*(PointStruct(id=number, vector={}, payload={"n": -number, "k": "ab"[number % 2]}) for number in range(5)))
    await shelf.client.create_payload_index(shelf.name, "n", models.PayloadSchemaType.INTEGER, wait=True)
    await shelf.client.create_payload_index(shelf.name, "k", models.PayloadSchemaType.KEYWORD, wait=True)
    found, _ = await shelf.client.scroll(shelf.name, order_by="n", limit=3)
    assert [record.id for record in found] == [4, 3, 2]
    facets = await shelf.client.facet(shelf.name, "k", exact=True)
    assert {hit.value: hit.count for hit in facets.hits} == {"a": 3, "b": 2}


async def test_mmr_prefers_variety(shelf: Shelf) -> None:
    await shelf.put(
        PointStruct(id=1, vector={"dense": [1.0, 0.01, 0.0, 0.0]}),
        PointStruct(id=2, vector={"dense": [1.0, 0.02, 0.0, 0.0]}),
        PointStruct(id=3, vector={"dense": [1.0, 0.0, 0.9, 0.0]}),
    )
    query = models.NearestQuery(nearest=[1.0, 0.0, 0.0, 0.0], mmr=models.Mmr(diversity=0.9, candidates_limit=10))
    response = await shelf.client.query_points(shelf.name, query=query, using="dense", limit=2)
    assert [point.id for point in response.points] == [1, 3]
