"""What only the sidecar promises: plain refusals at the start, and of what it does not serve."""

import math
from pathlib import Path

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from qdrant_client.models import Distance, PointStruct, VectorParams

from tests.contract.store.sidecar import Sidecar, connect


def test_taken_port_is_said_plainly(own_sidecar: Sidecar, tmp_path: Path) -> None:
    rival = Sidecar(tmp_path)
    rival.port = own_sidecar.port
    process = rival.launch()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{rival.port}" in errors


def test_data_folder_has_one_user(own_sidecar: Sidecar) -> None:
    process = Sidecar(own_sidecar.data_dir).launch()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "another process uses the data folder" in errors


async def test_what_is_not_finite_is_refused(own_sidecar: Sidecar) -> None:
    client = connect(own_sidecar.port)
    await client.create_collection("docs", vectors_config=VectorParams(size=2, distance=Distance.DOT))
    for values in ([math.nan, 0.0], [math.inf, 0.0], [math.inf, -math.inf]):
        with pytest.raises(AioRpcError) as refused:
            await client.upsert("docs", [PointStruct(id=1, vector=values)])
        assert refused.value.code() == StatusCode.INVALID_ARGUMENT
        assert "finite" in (refused.value.details() or "")
    await client.close()


async def test_what_is_not_served_says_so(own_sidecar: Sidecar) -> None:
    client = connect(own_sidecar.port)
    await client.create_collection("docs", vectors_config=VectorParams(size=2, distance=Distance.DOT))
    for call in (client.list_snapshots("docs"), client.query_points_groups("docs", "key", query=[1.0, 2.0])):
        with pytest.raises(AioRpcError) as refused:
            await call
        assert refused.value.code() == StatusCode.UNIMPLEMENTED
        assert "is not served by the embedded Qdrant engine" in (refused.value.details() or "")
    await client.close()
