"""A real sidecar process for the tests, and a collection to fill."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from qdrant_client import AsyncQdrantClient, models

READY_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def connect(port: int, host: str = "127.0.0.1") -> AsyncQdrantClient:
    """The client exactly as the retrieval service makes it."""
    return AsyncQdrantClient(url=f"http://{host}", grpc_port=port, prefer_grpc=True, check_compatibility=False, timeout=20)


class Sidecar:
    """Starts, stops and kills the process; the port and the data stay the same."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    def launch(self) -> "subprocess.Popen[str]":
        """Start without waiting."""
        environment = os.environ | {"GRPC_ADDRESS": f"127.0.0.1:{self.port}", "DATA_DIR": str(self.data_dir)}
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.local.qdrant_edge"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self) -> None:
        self.process = self.launch()
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]  # the stubs lack it
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=READY_SECONDS
            )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def kill(self) -> None:
        """As kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self._collect()

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self._collect()

    def _collect(self) -> int:
        assert self.process is not None
        self.process.communicate(timeout=20)
        status = self.process.returncode
        self.process = None
        return status


@dataclass(frozen=True)
class Shelf:
    """A fresh collection with a dense vector of 4 numbers and a sparse one with IDF."""

    client: AsyncQdrantClient
    name: str

    async def put(self, *points: models.PointStruct) -> None:
        await self.client.upsert(self.name, list(points), wait=True)
