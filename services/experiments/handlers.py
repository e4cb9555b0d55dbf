"""The gRPC services: convert, call the domain, convert back."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.experiments.v1 import (
    assignment_service_pb2,
    assignment_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    outcome_service_pb2,
    outcome_service_pb2_grpc,
    result_service_pb2_grpc,
)

from services.chassis.call import current_call
from services.experiments import convert
from services.experiments.convert_results import power_question_from_proto, power_to_proto, results_to_proto
from services.experiments.experiments import Author
from services.experiments.results import results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from penstock.experiments.v1 import result_service_pb2

    from services.chassis.interceptors import Context
    from services.experiments.analyst import Analyst
    from services.experiments.configuration import ConfigurationFeed
    from services.experiments.experiments import Experiments
    from services.experiments.outcomes import Outcomes
    from services.experiments.store import Store


class ExperimentService(experiment_service_pb2_grpc.ExperimentServiceServicer):
    """Creates experiments and moves them through their life."""

    def __init__(self, experiments: Experiments) -> None:
        self._experiments = experiments

    async def CreateExperiment(
        self, request: experiment_service_pb2.CreateExperimentRequest, context: Context
    ) -> experiment_service_pb2.CreateExperimentResponse:
        """Creates an experiment in DRAFT."""
        created = await self._experiments.create(convert.design_from_proto(request.experiment), request.request_id, _author())
        return experiment_service_pb2.CreateExperimentResponse(experiment=convert.experiment_to_proto(created))

    async def GetExperiment(
        self, request: experiment_service_pb2.GetExperimentRequest, context: Context
    ) -> experiment_service_pb2.GetExperimentResponse:
        """Returns one experiment."""
        found = await self._experiments.get(request.experiment)
        return experiment_service_pb2.GetExperimentResponse(experiment=convert.experiment_to_proto(found))

    async def ListExperiments(
        self, request: experiment_service_pb2.ListExperimentsRequest, context: Context
    ) -> experiment_service_pb2.ListExperimentsResponse:
        """Lists experiments, newest first."""
        page = await self._experiments.page(request.page_size, convert.page_mark(request.page_token))
        return experiment_service_pb2.ListExperimentsResponse(
            experiments=[convert.experiment_to_proto(experiment) for experiment in page.experiments],
            next_page_token=convert.page_token(page.next_before),
        )

    async def StartExperiment(
        self, request: experiment_service_pb2.StartExperimentRequest, context: Context
    ) -> experiment_service_pb2.StartExperimentResponse:
        """Starts assigning."""
        started = await self._experiments.start(request.experiment, _author(request.why))
        return experiment_service_pb2.StartExperimentResponse(experiment=convert.experiment_to_proto(started))

    async def PauseExperiment(
        self, request: experiment_service_pb2.PauseExperimentRequest, context: Context
    ) -> experiment_service_pb2.PauseExperimentResponse:
        """Stops assigning until the experiment is started again."""
        paused = await self._experiments.pause(request.experiment, _author(request.why))
        return experiment_service_pb2.PauseExperimentResponse(experiment=convert.experiment_to_proto(paused))

    async def ListExperimentChanges(
        self, request: experiment_service_pb2.ListExperimentChangesRequest, context: Context
    ) -> experiment_service_pb2.ListExperimentChangesResponse:
        """Lists what was done to an experiment, oldest first."""
        after = convert.page_mark(request.page_token, "changes") or 0
        page = await self._experiments.changes(request.experiment, request.page_size, after)
        return experiment_service_pb2.ListExperimentChangesResponse(
            changes=[convert.change_to_proto(change) for change in page.changes],
            next_page_token=convert.page_token(page.next_after, "changes"),
        )

    async def StopExperiment(
        self, request: experiment_service_pb2.StopExperimentRequest, context: Context
    ) -> experiment_service_pb2.StopExperimentResponse:
        """Stops assigning for good."""
        stopped = await self._experiments.stop(request.experiment, _author(request.why))
        return experiment_service_pb2.StopExperimentResponse(experiment=convert.experiment_to_proto(stopped))


def _author(why: str = "") -> Author:
    call = current_call()
    return Author(who=call.tenant, why=why, request_id=call.request_id)


class AssignmentService(assignment_service_pb2_grpc.AssignmentServiceServicer):
    """Gives out assignments, streams what they are evaluated from, and records who met them."""

    def __init__(self, outcomes: Outcomes, feed: ConfigurationFeed) -> None:
        self._outcomes = outcomes
        self._feed = feed

    async def Assign(
        self, request: assignment_service_pb2.AssignRequest, context: Context
    ) -> assignment_service_pb2.AssignResponse:
        """Assigns a unit, and records the exposure."""
        assigned = await self._outcomes.assign(request.experiment, request.unit_id, current_call().request_id)
        return assignment_service_pb2.AssignResponse(
            assignment=assigned.key, variant=assigned.arm.variant, treatment=convert.variant_to_proto(assigned.arm)
        )

    async def WatchConfiguration(
        self, request: assignment_service_pb2.WatchConfigurationRequest, context: Context
    ) -> AsyncIterator[assignment_service_pb2.WatchConfigurationResponse]:
        """Streams the configuration and its changes."""
        async with aclosing(self._feed.watch(request.watcher)) as configurations:
            async for configuration in configurations:
                yield convert.configuration_to_proto(configuration)

    async def RecordExposures(
        self,
        request_iterator: AsyncIterator[assignment_service_pb2.RecordExposuresRequest],
        context: Context,
    ) -> assignment_service_pb2.RecordExposuresResponse:
        """Records exposures in batches."""
        response = assignment_service_pb2.RecordExposuresResponse()
        async for request in request_iterator:
            done = await self._outcomes.record_exposures(
                [convert.exposure_from_proto(index, exposure) for index, exposure in enumerate(request.exposures)]
            )
            response.recorded += done.recorded
            response.duplicates += done.duplicates
        return response


class OutcomeService(outcome_service_pb2_grpc.OutcomeServiceServicer):
    """Takes in what came of assignments."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    async def RecordOutcomes(
        self, request: outcome_service_pb2.RecordOutcomesRequest, context: Context
    ) -> outcome_service_pb2.RecordOutcomesResponse:
        """Records outcomes: all or none."""
        done = await self._outcomes.record_outcomes(
            [convert.measurement_from_proto(index, outcome) for index, outcome in enumerate(request.outcomes)]
        )
        return outcome_service_pb2.RecordOutcomesResponse(recorded=done.recorded, duplicates=done.duplicates)


class ResultService(result_service_pb2_grpc.ResultServiceServicer):
    """Says what an experiment has shown so far."""

    def __init__(self, store: Store, analyst: Analyst) -> None:
        self._store = store
        self._analyst = analyst

    async def GetResults(
        self, request: result_service_pb2.GetResultsRequest, context: Context
    ) -> result_service_pb2.GetResultsResponse:
        """Counts and plain means per variant, and what they show."""
        return results_to_proto(await results(self._store, self._analyst, request.experiment))

    async def ComputePower(
        self, request: result_service_pb2.ComputePowerRequest, context: Context
    ) -> result_service_pb2.ComputePowerResponse:
        """Computes units, effect or power."""
        question = power_question_from_proto(request)
        return power_to_proto(question, await self._analyst.ask(question))
