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
    from services.experiments.lifecycle import Experiments
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
        started = await self._experiments.start(request.experiment, _author(request.why), request.variant)
        return experiment_service_pb2.StartExperimentResponse(experiment=convert.experiment_to_proto(started))

    async def PauseExperiment(
        self, request: experiment_service_pb2.PauseExperimentRequest, context: Context
    ) -> experiment_service_pb2.PauseExperimentResponse:
        """Stops assigning until the experiment is started again."""
        paused = await self._experiments.pause(request.experiment, _author(request.why), request.variant)
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

    async def AdvanceExperiment(
        self, request: experiment_service_pb2.AdvanceExperimentRequest, context: Context
    ) -> experiment_service_pb2.AdvanceExperimentResponse:
        """Moves the ramp."""
        traffic = request.traffic if request.HasField("traffic") else None
        advanced = await self._experiments.advance(request.experiment, _author(request.why), traffic)
        return experiment_service_pb2.AdvanceExperimentResponse(experiment=convert.experiment_to_proto(advanced))

    async def ConcludeExperiment(
        self, request: experiment_service_pb2.ConcludeExperimentRequest, context: Context
    ) -> experiment_service_pb2.ConcludeExperimentResponse:
        """Decides."""
        concluded = await self._experiments.conclude(request.experiment, _author(request.why), request.winner)
        return experiment_service_pb2.ConcludeExperimentResponse(experiment=convert.experiment_to_proto(concluded))

    async def PromoteExperiment(
        self, request: experiment_service_pb2.PromoteExperimentRequest, context: Context
    ) -> experiment_service_pb2.PromoteExperimentResponse:
        """Makes the winner the default."""
        promotion = await self._experiments.promote(request.experiment, _author(request.why))
        return experiment_service_pb2.PromoteExperimentResponse(promotion=convert.promotion_to_proto(promotion))

    async def RevertPromotion(
        self, request: experiment_service_pb2.RevertPromotionRequest, context: Context
    ) -> experiment_service_pb2.RevertPromotionResponse:
        """Takes a promotion back."""
        reverted = await self._experiments.revert(request.promotion, _author(request.why))
        return experiment_service_pb2.RevertPromotionResponse(promotion=convert.promotion_to_proto(reverted))

    async def ListPromotions(
        self, request: experiment_service_pb2.ListPromotionsRequest, context: Context
    ) -> experiment_service_pb2.ListPromotionsResponse:
        """Lists promotions, latest first."""
        mark = convert.page_mark(request.page_token, "promotions")
        promotions, before = await self._experiments.promotions(request.page_size, mark)
        return experiment_service_pb2.ListPromotionsResponse(
            promotions=[convert.promotion_to_proto(promotion) for promotion in promotions],
            next_page_token=convert.page_token(before, "promotions"),
        )

    async def GetHoldout(
        self, request: experiment_service_pb2.GetHoldoutRequest, context: Context
    ) -> experiment_service_pb2.GetHoldoutResponse:
        """Returns the global holdout."""
        return experiment_service_pb2.GetHoldoutResponse(share=await self._experiments.holdout())

    async def SetHoldout(
        self, request: experiment_service_pb2.SetHoldoutRequest, context: Context
    ) -> experiment_service_pb2.SetHoldoutResponse:
        """Sets the global holdout."""
        share = await self._experiments.set_holdout(request.share, _author(request.why))
        return experiment_service_pb2.SetHoldoutResponse(share=share)

    async def ListChanges(
        self, request: experiment_service_pb2.ListChangesRequest, context: Context
    ) -> experiment_service_pb2.ListChangesResponse:
        """Lists all that was done, oldest first."""
        after = convert.page_mark(request.page_token, "changes") or 0
        page = await self._experiments.changes("", request.page_size, after)
        return experiment_service_pb2.ListChangesResponse(
            changes=[convert.change_to_proto(change) for change in page.changes],
            next_page_token=convert.page_token(page.next_after, "changes"),
        )


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
        [assigned] = await self._outcomes.assign([convert.asked_from_proto(request)], current_call().request_id)
        return convert.assigned_to_proto(assigned)

    async def BatchAssign(
        self, request: assignment_service_pb2.BatchAssignRequest, context: Context
    ) -> assignment_service_pb2.BatchAssignResponse:
        """Assigns units, and records the exposures."""
        asked = [convert.asked_from_proto(one) for one in request.requests]
        assigned = await self._outcomes.assign(asked, current_call().request_id)
        return assignment_service_pb2.BatchAssignResponse(responses=[convert.assigned_to_proto(one) for one in assigned])

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

    async def StreamOutcomes(
        self, request_iterator: AsyncIterator[outcome_service_pb2.StreamOutcomesRequest], context: Context
    ) -> AsyncIterator[outcome_service_pb2.StreamOutcomesResponse]:
        """Records batches of outcomes, and answers each once it is durable."""
        batch = 0
        async for request in request_iterator:
            batch += 1
            done = await self._outcomes.record_outcomes(
                [convert.measurement_from_proto(index, outcome) for index, outcome in enumerate(request.outcomes)]
            )
            yield outcome_service_pb2.StreamOutcomesResponse(batch=batch, recorded=done.recorded, duplicates=done.duplicates)


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
