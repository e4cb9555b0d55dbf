"""Bad input gets the right code and a message that names what is wrong."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.grpc import qdrant_pb2, qdrant_pb2_grpc
from qdrant_client.models import Distance, Fusion, FusionQuery, PointStruct, Prefetch, SparseVector, VectorParams

from tests.contract.store.sidecar import Shelf

Call = Callable[[AsyncQdrantClient, str], Awaitable[object]]
DENSE = {"dense": VectorParams(size=4, distance=Distance.COSINE)}

CASES: dict[str, tuple[Call, StatusCode, str]] = {
    "query of an unknown collection": (
        lambda client, _: client.query_points("absent", query=[1.0]),
        StatusCode.NOT_FOUND,
        "`absent` doesn't exist",
    ),
    "upsert into an unknown collection": (
        lambda client, _: client.upsert("absent", [PointStruct(id=1, vector={})]),
        StatusCode.NOT_FOUND,
        "`absent` doesn't exist",
    ),
    "info of an unknown collection": (
        lambda client, _: client.get_collection("absent"),
        StatusCode.NOT_FOUND,
        "`absent` doesn't exist",
    ),
    "create what exists": (
        lambda client, name: client.create_collection(name, vectors_config=DENSE),
        StatusCode.ALREADY_EXISTS,
        "already exists",
    ),
    "size 0": (
        lambda client, name: client.create_collection(f"{name}-x", vectors_config=VectorParams(size=0, distance=Distance.DOT)),
        StatusCode.INVALID_ARGUMENT,
        "size",
    ),
    "a name with a slash": (
        lambda client, _: client.create_collection("../escape", vectors_config=DENSE),
        StatusCode.INVALID_ARGUMENT,
        "name",
    ),
    "upsert of a wrong dimension": (
        lambda client, name: client.upsert(name, [PointStruct(id=1, vector={"dense": [1.0, 2.0, 3.0]})]),
        StatusCode.INVALID_ARGUMENT,
        "expected dim: 4, got 3",
    ),
    "query of a wrong dimension": (
        lambda client, name: client.query_points(name, query=[1.0], using="dense"),
        StatusCode.INVALID_ARGUMENT,
        "expected dim: 4, got 1",
    ),
    "upsert of an unknown vector": (
        lambda client, name: client.upsert(name, [PointStruct(id=1, vector={"other": [1.0, 2.0, 3.0, 4.0]})]),
        StatusCode.INVALID_ARGUMENT,
        "other",
    ),
    "query of an unknown vector": (
        lambda client, name: client.query_points(name, query=[1.0, 2.0, 3.0, 4.0], using="other"),
        StatusCode.INVALID_ARGUMENT,
        "other",
    ),
    "an id that is no UUID": (
        lambda client, name: client.upsert(name, [PointStruct(id="doc-1", vector={})]),
        StatusCode.INVALID_ARGUMENT,
        "doc-1",
    ),
    "sparse indices twice": (
        lambda client, name: client.upsert(
            name, [PointStruct(id=1, vector={"sparse": SparseVector(indices=[1, 1], values=[1, 2])})]
        ),
        StatusCode.INVALID_ARGUMENT,
        "unique",
    ),
    "weights that do not fit the legs": (
        lambda client, name: client.query_points(
            name,
            prefetch=[Prefetch(query=[1.0, 0.0, 0.0, 0.0], using="dense")],
            query=models.RrfQuery(rrf=models.Rrf(weights=[1, 2])),
        ),
        StatusCode.INVALID_ARGUMENT,
        "weights",
    ),
    "fusion of nothing": (
        lambda client, name: client.query_points(name, query=FusionQuery(fusion=Fusion.RRF)),
        StatusCode.INVALID_ARGUMENT,
        "prefetch",
    ),
    "a malformed key": (
        lambda client, name: client.count(
            name,
            count_filter=models.Filter(must=[models.FieldCondition(key="a[", match=models.MatchValue(value=1))]),
        ),
        StatusCode.INVALID_ARGUMENT,
        "a[",
    ),
    "payload of a missing point": (
        lambda client, name: client.set_payload(name, {"a": 1}, points=[99], wait=True),
        StatusCode.NOT_FOUND,
        "99",
    ),
}


@pytest.mark.parametrize(("call", "code", "text"), CASES.values(), ids=CASES.keys())
async def test_is_refused(shelf: Shelf, call: Call, code: StatusCode, text: str) -> None:
    with pytest.raises(AioRpcError) as refused:
        await call(shelf.client, shelf.name)
    assert refused.value.code() == code
    assert text in (refused.value.details() or "")


async def test_refused_batch_changes_nothing(shelf: Shelf) -> None:
    points = [PointStruct(id=number, vector={"dense": [1.0, 0.0, 0.0, 0.0]}) for number in range(1000)]
    points.append(PointStruct(id=1000, vector={"dense": [1.0, 0.0, 0.0]}))
    with pytest.raises(AioRpcError) as refused:
        await shelf.put(*points)
    assert refused.value.code() == StatusCode.INVALID_ARGUMENT
    assert (await shelf.client.count(shelf.name)).count == 0


async def test_health_is_served(address: tuple[str, int]) -> None:
    host, port = address
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = await stub.Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        root = qdrant_pb2_grpc.QdrantStub(channel)  # type: ignore[no-untyped-call]  # generated without types
        reply = await root.HealthCheck(qdrant_pb2.HealthCheckRequest())
        assert reply.version
