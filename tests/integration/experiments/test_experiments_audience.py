"""Who takes part, over the wire: targeting, layers, ramps, holdout, paused variants, promotions; and streams of outcomes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from penstock.assigner import Assigner
from penstock.assignment import RequestType
from penstock.audience import held_out
from penstock.experiments.v1 import (
    assignment_service_pb2,
    experiment_pb2,
    experiment_service_pb2,
    outcome_pb2,
    outcome_service_pb2,
)

from tests.integration.experiments.test_assigner import knowing, until
from tests.integration.experiments.test_experiments_service import assign, refusal, results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.experiments.conftest import Service

pytestmark = pytest.mark.asyncio(loop_scope="function")
Condition = experiment_pb2.Condition


def batch(*asked: tuple[str, str, dict[str, str]]) -> assignment_service_pb2.BatchAssignRequest:
    return assignment_service_pb2.BatchAssignRequest(
        requests=[
            assignment_service_pb2.AssignRequest(experiment=experiment, unit_id=unit, attributes=attributes)
            for experiment, unit, attributes in asked
        ]
    )


async def test_targeting_decides_in_a_batch_as_alone(service: Service) -> None:
    russian = Condition(attribute="lang", operator=experiment_pb2.OPERATOR_IN, values=["ru"])
    await service.create("e1", targeting=[russian])
    await service.create("e2", unit=experiment_pb2.UNIT_CONVERSATION)
    request = batch(("e1", "u1", {"lang": "ru"}), ("e1", "u2", {"lang": "en"}), ("e2", "c1", {}), ("e1", "u1", {"lang": "ru"}))
    found = (await service.assignments.BatchAssign(request)).responses
    assert [one.exclusion for one in found] == [0, experiment_pb2.EXCLUSION_TARGETING, 0, 0]
    assert found[0] == found[3]
    assert found[1] == assignment_service_pb2.AssignResponse(exclusion=experiment_pb2.EXCLUSION_TARGETING)
    assert sum(one.exposures for one in (await results(service, "e1")).variants) == 1
    alone = assignment_service_pb2.AssignRequest(experiment="e1", unit_id="u1", attributes={"lang": "ru"})
    assert await service.assignments.Assign(alone) == found[0]
    unknown = service.assignments.BatchAssign(batch(("e1", "u9", {"lang": "ru"}), ("missing", "u1", {})))
    assert (await refusal(unknown))[:2] == ("NOT_FOUND", "EXPERIMENT_NOT_FOUND")
    assert sum(one.exposures for one in (await results(service, "e1")).variants) == 2


async def test_a_layer_is_divided_and_has_an_end(service: Service) -> None:
    for name, share in (("e1", 0.5), ("e2", 0.5)):
        await service.create(name, layer="ui", layer_share=share)
    await service.create("e3", start=False, layer="ui", layer_share=0.1)
    full = service.experiments.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment="e3"))
    assert (await refusal(full))[:2] == ("FAILED_PRECONDITION", "EXPERIMENT_CONFLICT")
    request = batch(*((name, f"u{number}", {}) for number in range(50) for name in ("e1", "e2")))
    found = (await service.assignments.BatchAssign(request)).responses
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert sorted((first.exclusion, second.exclusion)) == [0, experiment_pb2.EXCLUSION_LAYER]
    await service.stop_experiment("e1")
    await service.start_experiment("e3")


async def test_a_ramp_an_arm_and_the_holdout_reach_the_serving_path_at_once(service: Service) -> None:
    await service.create("e1", ramp=experiment_pb2.Ramp(stages=[0.2, 1.0]))
    users = [f"u{number}" for number in range(200)]

    def met(assigner: Assigner) -> dict[str, str]:
        found = {user: assigner.assign(RequestType.GENERATE, user=user) for user in users}
        return {user: treatment.variant for user, treatment in found.items() if treatment}

    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner, "e1")
        few = met(assigner)
        assert 10 <= len(few) <= 80
        await service.experiments.AdvanceExperiment(
            experiment_service_pb2.AdvanceExperimentRequest(experiment="e1", why="clean")
        )
        assert await until(lambda: len(met(assigner)) == len(users)) < 1
        assert few.items() <= met(assigner).items()
        pause = experiment_service_pb2.PauseExperimentRequest(experiment="e1", variant="b", why="slow")
        assert list((await service.experiments.PauseExperiment(pause)).experiment.paused_variants) == ["b"]
        assert await until(lambda: set(met(assigner).values()) == {"a"}) < 1
        holdout = experiment_service_pb2.SetHoldoutRequest(share=0.3)
        assert (await service.experiments.SetHoldout(holdout)).share == 0.3
        assert (await service.experiments.GetHoldout(experiment_service_pb2.GetHoldoutRequest())).share == 0.3
        assert await until(lambda: not any(held_out(user, 0.3) for user in met(assigner))) < 1
    one = next(user for user in users if held_out(user, 0.3))
    assert (await assign(service, one)).exclusion == experiment_pb2.EXCLUSION_HOLDOUT
    changes = (await service.experiments.ListChanges(experiment_service_pb2.ListChangesRequest(page_size=3))).changes
    rest = (await service.experiments.ListChanges(experiment_service_pb2.ListChangesRequest())).changes
    assert [change.what for change in rest] == ["", "", "traffic 0.2 -> 1", "variant b paused", "holdout 0 -> 0.3"]
    assert list(changes) == list(rest[:3])


async def test_a_winner_becomes_the_default_and_can_be_taken_back(service: Service) -> None:
    await service.create("e1")
    early = service.experiments.PromoteExperiment(experiment_service_pb2.PromoteExperimentRequest(experiment="e1"))
    assert (await refusal(early))[:2] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE")
    conclude = experiment_service_pb2.ConcludeExperimentRequest(experiment="e1", winner="b", why="faster")
    concluded = (await service.experiments.ConcludeExperiment(conclude)).experiment
    assert concluded.state == experiment_pb2.EXPERIMENT_STATE_CONCLUDED
    assert (concluded.conclusion.winner, concluded.conclusion.why) == ("b", "faster")
    assert (await refusal(service.experiments.ConcludeExperiment(conclude)))[:2] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE")
    promote = experiment_service_pb2.PromoteExperimentRequest(experiment="e1", why="ship it")
    promotion = (await service.experiments.PromoteExperiment(promote)).promotion
    assert (await service.experiments.PromoteExperiment(promote)).promotion == promotion
    async with Assigner(service.channel, "test") as assigner:
        assert await until(lambda: assigner.assign(RequestType.ANSWER, user="anyone") is not None) < 5
        treatment = assigner.assign(RequestType.ANSWER, user="anyone")
        assert treatment is not None
        assert (treatment.assignment, treatment.variant, treatment.model, treatment.top_k) == ("", "", "m", 3)
        assigner.expose(treatment, request_id="r")
        assert len(assigner.exposures) == 0
        revert = experiment_service_pb2.RevertPromotionRequest(promotion=promotion.promotion, why="oops")
        assert (await service.experiments.RevertPromotion(revert)).promotion.HasField("revert_time")
        assert await until(lambda: assigner.assign(RequestType.ANSWER, user="anyone") is None) < 1
    listed = (await service.experiments.ListPromotions(experiment_service_pb2.ListPromotionsRequest())).promotions
    assert [one.promotion for one in listed] == [promotion.promotion]
    missing = service.experiments.RevertPromotion(experiment_service_pb2.RevertPromotionRequest(promotion=99))
    assert (await refusal(missing))[:3] == ("NOT_FOUND", "PROMOTION_NOT_FOUND", {"promotion": "99"})


async def test_factors_make_the_variants(service: Service) -> None:
    level = experiment_pb2.Variant
    factors = [
        experiment_pb2.Factor(factor="model", levels=[level(variant="s", weight=1), level(variant="l", weight=1, model="m")]),
        experiment_pb2.Factor(
            factor="k", levels=[level(variant="k3", weight=1, top_k=3), level(variant="k9", weight=1, top_k=9)]
        ),
    ]
    made = await service.create("e1", variants=[], factors=factors)
    assert [variant.variant for variant in made.variants] == ["s.k3", "s.k9", "l.k3", "l.k9"]
    assert (made.variants[3].model, made.variants[3].top_k) == ("m", 9)
    assert list(made.factors) == factors
    assert (await assign(service, "u1")).variant in {"s.k3", "s.k9", "l.k3", "l.k9"}


async def test_streamed_outcomes_are_answered_batch_by_batch(service: Service) -> None:
    await service.create()
    key = (await assign(service, "u1")).assignment
    answered: asyncio.Queue[int] = asyncio.Queue()

    def of(*ids: str) -> Any:
        made = [outcome_pb2.Outcome(outcome=id_, assignment=key, metric="clicks", value=1) for id_ in ids]
        return outcome_service_pb2.StreamOutcomesRequest(outcomes=made)

    async def batches() -> AsyncIterator[Any]:
        yield of("o1", "o2")
        # The second batch only comes once the first is answered.
        assert await answered.get() == 1
        yield of("o2", "o3")
        assert await answered.get() == 2
        yield of("")

    call = service.outcomes.StreamOutcomes(batches())
    seen: list[tuple[int, int, int]] = []
    with pytest.raises(Exception, match="outcomes") as refused:  # noqa: PT012 - the stream fails at its end
        async with aclosing(aiter(call)) as responses:
            async for response in responses:
                seen.append((response.batch, response.recorded, response.duplicates))
                answered.put_nowait(response.batch)
    assert refused.value.code().name == "INVALID_ARGUMENT"  # type: ignore[attr-defined]  # an AioRpcError
    assert seen == [(1, 2, 0), (2, 1, 1)]
    counted = {one.variant: one.metrics[0].outcomes for one in (await results(service)).variants}
    assert sum(counted.values()) == 3
