"""The experiments service as a process, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.experiments.v1 import (
    assignment_service_pb2_grpc,
    experiment_pb2,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    outcome_service_pb2_grpc,
    result_service_pb2_grpc,
)

from tests.support.ports import free_port
from tests.support.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

ROOT = Path(__file__).parents[3]
# As channels between services are (services/chassis/channels.py), so that reconnecting is quick.
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


class Service:
    """One process of the service, on one port for all its lives."""

    def __init__(self, database_url: str, log: Path, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=CHANNEL)
        self.experiments: Any = experiment_service_pb2_grpc.ExperimentServiceStub(self.channel)
        self.assignments: Any = assignment_service_pb2_grpc.AssignmentServiceStub(self.channel)
        self.outcomes: Any = outcome_service_pb2_grpc.OutcomeServiceStub(self.channel)
        self.results: Any = result_service_pb2_grpc.ResultServiceStub(self.channel)
        self.process: asyncio.subprocess.Process | None = None
        self.log = log
        self._settings = {"DATABASE_URL": database_url, **(settings or {})}

    async def start(self) -> None:
        """Starts it and waits until it serves."""
        environment = {**os.environ, "GRPC_ADDRESS": f"127.0.0.1:{self.port}", **self._settings}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.experiments", cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        # The first try may find only that the connection to an earlier life is dead.
        for last in (False, True):
            try:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
            except grpc.aio.AioRpcError:
                if last:
                    raise
            else:
                return

    async def terminate(self) -> int:
        """Tells it to stop, and returns its exit status."""
        assert self.process is not None
        self.process.terminate()
        status = await asyncio.wait_for(self.process.wait(), 20)
        self.process = None
        return status

    async def kill(self) -> None:
        """Ends it without a word."""
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None

    async def create(self, id_: str = "e1", *, start: bool = True, **fields: Any) -> experiment_pb2.Experiment:
        """Creates an experiment of two equal variants, and starts it."""
        experiment = experiment_pb2.Experiment(
            **{
                "experiment": id_,
                "unit": experiment_pb2.UNIT_USER,
                "variants": [
                    experiment_pb2.Variant(variant="a", weight=1),
                    experiment_pb2.Variant(variant="b", weight=1, model="m", prompt="p", top_k=3),
                ],
                "metrics": [experiment_pb2.Metric(metric="clicks"), experiment_pb2.Metric(metric="seconds")],
                **fields,
            }
        )
        request = experiment_service_pb2.CreateExperimentRequest(experiment=experiment)
        created: experiment_pb2.Experiment = (await self.experiments.CreateExperiment(request, timeout=5)).experiment
        if start:
            await self.start_experiment(id_)
        return created

    async def start_experiment(self, id_: str) -> None:
        """Starts an experiment."""
        await self.experiments.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment=id_), timeout=5)

    async def stop_experiment(self, id_: str) -> None:
        """Stops an experiment."""
        await self.experiments.StopExperiment(experiment_service_pb2.StopExperimentRequest(experiment=id_), timeout=5)


@asynccontextmanager
async def serving(database_url: str, log: Path) -> AsyncIterator[Service]:
    """A process that lives as long as the block."""
    service = Service(database_url, log)
    try:
        await service.start()
        yield service
    finally:
        await service.channel.close()
        if service.process is not None:
            await service.terminate()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def database_url(postgres: Postgres) -> str:
    return await postgres.new_database("experiments")


@pytest_asyncio.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(database_url, tmp_path / "service.log") as service:
        yield service
    log = (tmp_path / "service.log").read_text()
    # Whatever a test does to it, the service never ran into a defect, and leaves no mess behind.
    assert '"defect in' not in log
    assert "Warning" not in log
