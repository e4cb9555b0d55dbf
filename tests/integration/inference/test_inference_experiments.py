"""Inference takes part in an experiment of the real experiments service: evaluated in process, exposed, and named."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from penstock.experiments.v1 import (
    experiment_pb2,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    result_service_pb2,
    result_service_pb2_grpc,
)
from penstock.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

from tests.integration.inference.processes import Service
from tests.support.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PASSAGES = [
    generation_pb2.Passage(
        text="A penstock carries water from the reservoir down to the turbine of the power station.", title="P"
    )
]


@pytest.fixture
async def database_url(tmp_path: Path) -> AsyncIterator[str]:
    server = Postgres(tmp_path)
    server.start()
    yield await server.new_database("experiments")
    server.stop()


async def test_a_variant_shapes_the_response_and_its_exposure_is_recorded(database_url: str, tmp_path: Path) -> None:
    experiments = Service(tmp_path, "experiments", DATABASE_URL=database_url)
    inference = Service(tmp_path, EXPERIMENTS_ADDRESS=experiments.address)
    try:
        async with (
            grpc.aio.insecure_channel(experiments.address) as to_experiments,
            grpc.aio.insecure_channel(inference.address) as to_inference,
        ):
            await _start_experiment(to_experiments)
            stub: Any = generation_service_pb2_grpc.GenerationServiceStub(to_inference)
            responses = await _once_known(stub)
            lengths = {response.variant: response.usage.output_tokens for response in responses}
            assert set(lengths) == {"short", "whole"}
            assert lengths["short"] == 2 < lengths["whole"]
            again = await _generate(stub, "user-0")
            assert again.assignment == responses[0].assignment
            assert (await _generate(stub, "")).variant == ""
            await _exposed(to_experiments, len(responses) + 1)
    finally:
        assert inference.stop() == 0
        experiments.stop()


async def _start_experiment(channel: grpc.aio.Channel) -> None:
    stub: Any = experiment_service_pb2_grpc.ExperimentServiceStub(channel)
    experiment = experiment_pb2.Experiment(
        experiment="e1",
        unit=experiment_pb2.UNIT_USER,
        variants=[
            experiment_pb2.Variant(variant="short", weight=1, sampling=experiment_pb2.SamplingOverride(max_tokens=2)),
            experiment_pb2.Variant(variant="whole", weight=1),
        ],
        metrics=[experiment_pb2.Metric(metric="clicks")],
    )
    await stub.CreateExperiment(experiment_service_pb2.CreateExperimentRequest(experiment=experiment), timeout=5)
    await stub.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment="e1"), timeout=5)


async def _generate(stub: Any, user: str) -> generation_service_pb2.GenerateResponse:
    request = generation_service_pb2.GenerateRequest(
        model="extractive", prompt="What does a penstock carry?", passages=PASSAGES, user=user
    )
    response: generation_service_pb2.GenerateResponse = await stub.Generate(request, timeout=20)
    return response


async def _once_known(stub: Any) -> list[generation_service_pb2.GenerateResponse]:
    """Responses to 20 users, once the running experiment has reached the service."""
    async with asyncio.timeout(10):
        while not (first := await _generate(stub, "user-0")).variant:  # noqa: ASYNC110 - news from another process
            await asyncio.sleep(0.05)
    return [first, *[await _generate(stub, f"user-{number}") for number in range(1, 20)]]


async def _exposed(channel: grpc.aio.Channel, exposures: int) -> None:
    stub: Any = result_service_pb2_grpc.ResultServiceStub(channel)
    async with asyncio.timeout(10):
        while True:
            results = await stub.GetResults(result_service_pb2.GetResultsRequest(experiment="e1"))
            if sum(variant.exposures for variant in results.variants) == exposures:
                return
            await asyncio.sleep(0.1)
