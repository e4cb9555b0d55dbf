"""Who takes part in an experiment, and what becomes of its winner, the same over gRPC and REST; flags through the gateway."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from openfeature.schemas.protobuf.flagd.evaluation.v2 import evaluation_pb2, evaluation_pb2_grpc
from penstock.audience import held_out
from penstock.experiments.v1 import assignment_service_pb2, experiment_pb2, experiment_service_pb2
from penstock.inference.v1 import generation_service_pb2

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.suite import Suite


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


def create(face: Face, **fields: object) -> str:
    """A running experiment that takes only requests that name it, so that those of other tests pass it by."""
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    design = {
        "experiment": name,
        "unit": experiment_pb2.UNIT_USER,
        "layer": name,
        "targeting": [experiment_pb2.Condition(attribute="test", operator=experiment_pb2.OPERATOR_IN, values=[name])],
        "variants": [
            experiment_pb2.Variant(variant="a", weight=1),
            experiment_pb2.Variant(variant="b", weight=1, sampling=experiment_pb2.SamplingOverride(max_tokens=64)),
        ],
        **fields,
    }
    experiment = experiment_pb2.Experiment(**design)  # type: ignore[arg-type]  # as the test names them
    face.call("CreateExperiment", experiment_service_pb2.CreateExperimentRequest(experiment=experiment))
    face.call("StartExperiment", experiment_service_pb2.StartExperimentRequest(experiment=name))
    return name


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_attributes_decide_who_meets_it_on_the_serving_path(face: Face) -> None:
    name = create(face)

    def met(**attributes: str) -> str:
        request = generation_service_pb2.GenerateRequest(prompt="2 + 2?", user="u1", attributes=attributes)
        response = face.call("Generate", request)
        return str(response.assignments[0].experiment if response.assignments else "")

    eventually(lambda: met(test=name) == name)
    assert met(test="other") == ""
    asked = assignment_service_pb2.AssignRequest(experiment=name, unit_id="u1", attributes={"test": name})
    assert face.call("Assign", asked).variant in {"a", "b"}
    asked.attributes["test"] = "other"
    assert face.call("Assign", asked).exclusion == experiment_pb2.EXCLUSION_TARGETING
    face.call("StopExperiment", experiment_service_pb2.StopExperimentRequest(experiment=name))


def test_a_ramp_a_holdout_and_a_conclusion(face: Face) -> None:
    name = create(face, ramp=experiment_pb2.Ramp(stages=[0.1, 1.0]))
    users = [f"u{number}" for number in range(40)]
    batch = assignment_service_pb2.BatchAssignRequest(
        requests=[
            assignment_service_pb2.AssignRequest(experiment=name, unit_id=user, attributes={"test": name}) for user in users
        ]
    )
    few = [one.variant for one in face.call("BatchAssign", batch).responses if one.variant]
    assert len(few) < len(users) // 2
    advanced = face.call("AdvanceExperiment", experiment_service_pb2.AdvanceExperimentRequest(experiment=name)).experiment
    assert advanced.traffic == 1
    assert all(one.variant for one in face.call("BatchAssign", batch).responses)
    try:
        face.call("SetHoldout", experiment_service_pb2.SetHoldoutRequest(share=0.25, why="what do all of them bring?"))
        assert face.call("GetHoldout", experiment_service_pb2.GetHoldoutRequest()).share == 0.25
        found = face.call("BatchAssign", batch).responses
        assert [one.exclusion == experiment_pb2.EXCLUSION_HOLDOUT for one in found] == [held_out(user, 0.25) for user in users]
    finally:
        face.call("SetHoldout", experiment_service_pb2.SetHoldoutRequest(share=0))
    conclude = experiment_service_pb2.ConcludeExperimentRequest(experiment=name, winner="c")
    with pytest.raises(Refused) as refused:
        face.call("ConcludeExperiment", conclude)
    assert (refused.value.code, refused.value.reason) == ("NOT_FOUND", "VARIANT_NOT_FOUND")
    conclude.winner = "b"
    assert face.call("ConcludeExperiment", conclude).experiment.conclusion.winner == "b"
    promotion = face.call("PromoteExperiment", experiment_service_pb2.PromoteExperimentRequest(experiment=name)).promotion
    assert promotion.settings.sampling.max_tokens == 64
    revert = experiment_service_pb2.RevertPromotionRequest(promotion=promotion.promotion, why="a test")
    assert face.call("RevertPromotion", revert).promotion.HasField("revert_time")
    listing = face.call("ListPromotions", experiment_service_pb2.ListPromotionsRequest(page_size=1)).promotions
    assert listing[0].promotion == promotion.promotion
    changes = face.call("ListExperimentChanges", experiment_service_pb2.ListExperimentChangesRequest(experiment=name)).changes
    assert [change.what.split()[0] for change in changes if change.what] == ["traffic", "winner", "variant", "promotion"]


def test_flags_through_the_gateway(suite: Suite) -> None:
    face = Grpc(suite.grpc)
    name = create(face, targeting=[])
    with grpc.insecure_channel(suite.grpc) as channel:
        request = evaluation_pb2.ResolveStringRequest(flag_key=name)
        request.context.update({"targetingKey": "u1"})
        response = evaluation_pb2_grpc.ServiceStub(channel).ResolveString(request, timeout=10)
    assert (response.reason, response.value) == ("SPLIT", response.variant)
    assert response.variant in {"a", "b"}
    face.call("StopExperiment", experiment_service_pb2.StopExperimentRequest(experiment=name))
    face.close()
