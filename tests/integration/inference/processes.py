"""The inference service and llama.cpp's server as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.engines import tiny_llama
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]
_LLAMA_SERVER = ROOT / "tests/contract/engines/llamacpp_server.py"


class LlamaServer:
    """llama.cpp's server over a tiny model, on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        self.address = f"http://127.0.0.1:{free_port()}"
        self._model = tiny_llama.build(folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(_LLAMA_SERVER), str(self._model), "tiny", self.address.rpartition(":")[2]]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "llama.cpp's server did not start"

    def busy(self) -> int:
        """How many generations it works on, by its own word."""
        with urllib.request.urlopen(f"{self.address}/slots", timeout=5) as response:  # noqa: S310 - our own http address
            return sum(slot["is_processing"] for slot in json.load(response))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Service:
    """`python -m services.NAME`."""

    def __init__(self, folder: Path, name: str = "inference", *, address: str = "", **variables: str) -> None:
        self.address = address or f"127.0.0.1:{free_port()}"
        self.log = folder / f"{name}{variables.get('WORKER', '')}.log"
        self._process = _start(name, self.log, {"GRPC_ADDRESS": self.address, "DATA_DIR": str(folder), **variables})
        with grpc.insecure_channel(self.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            try:
                health.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
            except grpc.RpcError:
                self.kill()
                pytest.fail(f"{name} did not get ready:\n{self.log.read_text(errors='replace')[-4000:]}")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def stop(self) -> int:
        """Tells it to stop; its exit status."""
        self._process.terminate()
        return self._process.wait(20)

    def kill(self) -> None:
        """Ends it without a word."""
        self._process.kill()
        self._process.wait(20)


def _start(name: str, log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Only what a test says: a developer's own engines stay out of it.
    foreign = {"OLLAMA_BASE_URL": "", "VLLM_BASE_URL": "", "OPENAI_BASE_URL": "", "EXPERIMENTS_ADDRESS": ""}
    environment = {**os.environ, **foreign, **variables}
    output: IO[bytes]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The rich status of a failed call."""
    trailers: Any = error.trailing_metadata()
    return status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])


def reason_of(status: status_pb2.Status) -> str:
    """The reason in a status."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def wait_until(condition: Any, seconds: float = 10.0) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come true"
        time.sleep(0.005)
    return time.monotonic() - started
