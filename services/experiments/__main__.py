"""Serves experiments: `python -m services.experiments`."""

from __future__ import annotations

import asyncio
import logging
import signal
from functools import partial
from typing import TYPE_CHECKING

from openfeature.schemas.protobuf.flagd.evaluation.v1 import evaluation_pb2 as flagd_v1
from openfeature.schemas.protobuf.flagd.evaluation.v1 import evaluation_pb2_grpc as flagd_v1_grpc
from openfeature.schemas.protobuf.flagd.evaluation.v2 import evaluation_pb2 as flagd_v2
from openfeature.schemas.protobuf.flagd.evaluation.v2 import evaluation_pb2_grpc as flagd_v2_grpc
from penstock.experiments.v1 import (
    assignment_service_pb2_grpc,
    experiment_service_pb2_grpc,
    optimization_service_pb2_grpc,
    outcome_service_pb2_grpc,
    quality_service_pb2_grpc,
    result_service_pb2_grpc,
)

from services.chassis.channels import open_channel
from services.chassis.postgres import open_pool
from services.chassis.server import Served, run
from services.chassis.settings import read
from services.experiments import handlers
from services.experiments.acting import Actor
from services.experiments.analyst import Analyst
from services.experiments.configuration import ConfigurationFeed
from services.experiments.lifecycle import Experiments
from services.experiments.openfeature_handlers import OpenFeatureService
from services.experiments.optimization.handlers import OptimizationHandlers
from services.experiments.optimization.optimizations import Optimizations
from services.experiments.optimization.suite_target import SuiteTargets
from services.experiments.optimization.worker import Worker
from services.experiments.outcomes import Outcomes
from services.experiments.quality.assessor import Assessor
from services.experiments.quality.handlers import QualityService
from services.experiments.quality.inference_embedder import InferenceEmbedder
from services.experiments.quality.relevance import Relevance
from services.experiments.settings import ExperimentsSettings
from services.experiments.stores.postgres import PostgresStore
from services.experiments.stores.postgres_optimizations import PostgresOptimizations
from services.experiments.stores.postgres_quality import PostgresQuality

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from contextlib import AsyncExitStack

    from services.chassis.call import Lifecycle
    from services.chassis.postgres import Pool

_log = logging.getLogger(__name__)
_PACKAGE = "penstock.experiments.v1"


async def build(settings: ExperimentsSettings, stack: AsyncExitStack, lifecycle: Lifecycle) -> Sequence[Served]:
    """Wires the process."""
    pool = await stack.enter_async_context(
        open_pool(settings.database_url, schema="experiments", most=settings.database_connections)
    )
    store = PostgresStore(pool)
    feed = ConfigurationFeed(store)
    outcomes = Outcomes(store)
    analyst = Analyst(settings.analysis_seconds, settings.analysis_idle_seconds)
    stack.push_async_callback(analyst.close)
    _in_background(stack, feed.run())
    _in_background(stack, feed.end_with(lifecycle.draining))
    _in_background(stack, Actor(store, analyst, settings.acting_interval_seconds).run())
    return [
        Served(
            f"{_PACKAGE}.ExperimentService",
            handlers.ExperimentService(Experiments(store)),
            experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server,
        ),
        Served(
            f"{_PACKAGE}.AssignmentService",
            handlers.AssignmentService(outcomes, feed),
            assignment_service_pb2_grpc.add_AssignmentServiceServicer_to_server,
        ),
        Served(
            f"{_PACKAGE}.OutcomeService",
            handlers.OutcomeService(outcomes),
            outcome_service_pb2_grpc.add_OutcomeServiceServicer_to_server,
        ),
        Served(
            f"{_PACKAGE}.ResultService",
            handlers.ResultService(store, analyst),
            result_service_pb2_grpc.add_ResultServiceServicer_to_server,
        ),
        Served(
            f"{_PACKAGE}.QualityService",
            QualityService(Assessor(Relevance(await _embedder(settings, stack))), PostgresQuality(pool), analyst),
            quality_service_pb2_grpc.add_QualityServiceServicer_to_server,
        ),
        await _optimizations(settings, stack, lifecycle, pool, Experiments(store)),
        # Providers of OpenFeature that were built for flagd speak one or the other.
        Served(
            "flagd.evaluation.v1.Service",
            OpenFeatureService(flagd_v1, outcomes, feed),
            flagd_v1_grpc.add_ServiceServicer_to_server,
        ),
        Served(
            "flagd.evaluation.v2.Service",
            OpenFeatureService(flagd_v2, outcomes, feed),
            flagd_v2_grpc.add_ServiceServicer_to_server,
        ),
    ]


async def _optimizations(
    settings: ExperimentsSettings, stack: AsyncExitStack, lifecycle: Lifecycle, pool: Pool, experiments: Experiments
) -> Served:
    """Optimizations, and the worker that does them."""
    addresses = (settings.retrieval_address, settings.inference_address)
    targets = SuiteTargets(*[await open_channel(stack, address) if address else None for address in addresses])
    records = PostgresOptimizations(pool, settings.optimization_lease_seconds)
    # Not the analyst of results, which somebody waits for.
    proposer = Analyst(settings.analysis_seconds, settings.analysis_idle_seconds)
    stack.push_async_callback(proposer.close)
    worker = Worker(records, proposer, experiments, targets.of, settings.optimization_lease_seconds)
    _in_background(stack, worker.run())
    return Served(
        f"{_PACKAGE}.OptimizationService",
        OptimizationHandlers(Optimizations(records, targets, worker.wake, lifecycle.draining.is_set)),
        optimization_service_pb2_grpc.add_OptimizationServiceServicer_to_server,
    )


async def _embedder(settings: ExperimentsSettings, stack: AsyncExitStack) -> InferenceEmbedder | None:
    if not settings.inference_address:
        return None
    return InferenceEmbedder(await open_channel(stack, settings.inference_address), settings.quality_embedder)


def _in_background(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Runs until the stack closes; a defect stops the process, which is better restarted than left half alive."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.wait([task])

    def check(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and ended.exception() is not None:
            _log.critical("a background task ended by a defect; stopping", exc_info=ended.exception())
            signal.raise_signal(signal.SIGTERM)

    task.add_done_callback(check)
    stack.push_async_callback(end)


def main() -> None:
    """Serves until told to stop."""
    settings = read(ExperimentsSettings, "experiments")
    run("experiments", settings, partial(build, settings))


if __name__ == "__main__":
    main()
