"""What an experiment shows and how it is led, the same over gRPC and REST."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from penstock.assignment import assignment_key
from penstock.experiments.v1 import (
    experiment_pb2,
    experiment_service_pb2,
    outcome_pb2,
    outcome_service_pb2,
    result_pb2,
    result_service_pb2,
)

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


def test_an_experiment_is_led_to_a_verdict(face: Face) -> None:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    experiment = experiment_pb2.Experiment(
        experiment=name,
        unit=experiment_pb2.UNIT_REQUEST,
        # Takes no part in what other tests ask of the same suite.
        request_types=[experiment_pb2.REQUEST_TYPE_GENERATE],
        variants=[experiment_pb2.Variant(variant="a", weight=1), experiment_pb2.Variant(variant="b", weight=1)],
        metrics=[
            experiment_pb2.Metric(
                metric="solved",
                kind=experiment_pb2.METRIC_KIND_PROPORTION,
                role=experiment_pb2.METRIC_ROLE_PRIMARY,
                minimal_effect=0.05,
            )
        ],
        analysis=experiment_pb2.AnalysisPlan(method=experiment_pb2.ANALYSIS_METHOD_FIXED_HORIZON, significance=0.01),
    )
    face.call("CreateExperiment", experiment_service_pb2.CreateExperimentRequest(experiment=experiment))
    face.call("StartExperiment", experiment_service_pb2.StartExperimentRequest(experiment=name))
    pause = experiment_service_pb2.PauseExperimentRequest(experiment=name, why="only outcomes are wanted")
    paused = face.call("PauseExperiment", pause).experiment
    assert paused.state == experiment_pb2.EXPERIMENT_STATE_PAUSED
    face.call(
        "RecordOutcomes",
        outcome_service_pb2.RecordOutcomesRequest(
            outcomes=[
                outcome_pb2.Outcome(
                    outcome=f"{name}-{variant}-{unit}",
                    assignment=assignment_key(name, variant, f"{variant}{unit}"),
                    metric="solved",
                    value=float(unit < solved),
                )
                for variant, solved in (("a", 30), ("b", 60))
                for unit in range(100)
            ]
        ),
    )
    face.call("StopExperiment", experiment_service_pb2.StopExperimentRequest(experiment=name))
    found = face.call("GetResults", result_service_pb2.GetResultsRequest(experiment=name))
    (comparison,) = found.comparisons
    assert (found.control, comparison.variant) == ("a", "b")
    assert comparison.effect.difference == pytest.approx(0.3)
    assert comparison.effect.relative == pytest.approx(1.0)
    assert comparison.verdict == result_pb2.VERDICT_BETTER
    assert found.sample_ratio.missing == result_pb2.UNCOMPUTABLE_TOO_FEW_UNITS
    listing = experiment_service_pb2.ListExperimentChangesRequest(experiment=name)
    changes = face.call("ListExperimentChanges", listing).changes
    assert [experiment_pb2.ExperimentState.Name(change.after)[17:] for change in changes] == [
        "DRAFT",
        "RUNNING",
        "PAUSED",
        "STOPPED",
    ]
    assert changes[2].why == "only outcomes are wanted"


def test_the_size_of_an_experiment(face: Face) -> None:
    question = result_service_pb2.ComputePowerRequest(standard_deviation=1, minimal_effect=0.2)
    assert round(face.call("ComputePower", question).units_control, 2) == 393.41
    question = result_service_pb2.ComputePowerRequest(baseline=0.9, minimal_effect=0.2)
    with pytest.raises(Refused) as refused:
        face.call("ComputePower", question)
    assert (refused.value.code, refused.value.reason, refused.value.fields) == (
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        ("minimal_effect",),
    )
