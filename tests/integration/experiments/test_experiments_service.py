"""The experiments service over gRPC: life of an experiment, outcomes, results, refusals."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from penstock.assignment import assignment_key, parse_assignment_key
from penstock.experiments.v1 import (
    assignment_pb2,
    assignment_service_pb2,
    experiment_pb2,
    experiment_service_pb2,
    outcome_pb2,
    outcome_service_pb2,
    result_service_pb2,
)

from services.experiments.settings import ExperimentsSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.integration.experiments.conftest import Service

Variant = experiment_pb2.Variant


async def refusal(call: Awaitable[Any]) -> tuple[str, str, dict[str, str], str]:
    """Code, reason, metadata and message of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return caught.value.code().name, info.reason, dict(info.metadata), status.message


def arms(*weights: float, **last: Any) -> list[experiment_pb2.Variant]:
    """Variants a, b, ... of these weights; the last one changes something."""
    variants = [Variant(variant="abcdef"[index], weight=weight) for index, weight in enumerate(weights)]
    variants[-1].MergeFrom(Variant(**last))
    return variants


def outcome(assignment: str, key: str = "", metric: str = "clicks", value: float = 1.0) -> outcome_pb2.Outcome:
    return outcome_pb2.Outcome(outcome=key or str(uuid.uuid4()), assignment=assignment, metric=metric, value=value)


def outcomes(*items: outcome_pb2.Outcome) -> outcome_service_pb2.RecordOutcomesRequest:
    return outcome_service_pb2.RecordOutcomesRequest(outcomes=items)


def exposure(unit: str = "u1", variant: str = "a", key: str = "", **fields: Any) -> assignment_pb2.Exposure:
    given = assignment_pb2.Assignment(assignment=assignment_key("e1", variant, unit), experiment="e1", variant=variant)
    return assignment_pb2.Exposure(**{"exposure": key or str(uuid.uuid4()), "assignment": given, "unit_id": unit, **fields})


async def assign(service: Service, unit: str, experiment: str = "e1", **options: Any) -> assignment_service_pb2.AssignResponse:
    request = assignment_service_pb2.AssignRequest(experiment=experiment, unit_id=unit)
    response: assignment_service_pb2.AssignResponse = await service.assignments.Assign(request, timeout=5, **options)
    return response


async def results(service: Service, experiment: str = "e1") -> result_service_pb2.GetResultsResponse:
    request = result_service_pb2.GetResultsRequest(experiment=experiment)
    response: result_service_pb2.GetResultsResponse = await service.results.GetResults(request, timeout=5)
    return response


async def test_the_life_of_an_experiment(service: Service) -> None:
    created = await service.create(start=False, hypothesis="b is better", salt="mine", hash_version=9)
    assert created.state == experiment_pb2.EXPERIMENT_STATE_DRAFT
    assert created.hash_version == 1
    assert len(created.salt) == 32
    assert created.HasField("create_time")
    assert not created.HasField("start_time")
    assert not created.variants[0].HasField("model")
    assert not created.variants[0].HasField("sampling")
    assert (created.variants[1].model, created.variants[1].top_k) == ("m", 3)
    early = service.experiments.StopExperiment(experiment_service_pb2.StopExperimentRequest(experiment="e1"))
    assert (await refusal(early))[:3] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE", {"experiment": "e1", "state": "DRAFT"})
    draft = assign(service, "u1")
    assert (await refusal(draft))[:2] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE")

    start = experiment_service_pb2.StartExperimentRequest(experiment="e1")
    started = (await service.experiments.StartExperiment(start)).experiment
    assert started.state == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert (await service.experiments.StartExperiment(start)).experiment == started
    stop = experiment_service_pb2.StopExperimentRequest(experiment="e1")
    stopped = (await service.experiments.StopExperiment(stop)).experiment
    assert stopped.state == experiment_pb2.EXPERIMENT_STATE_STOPPED
    assert stopped.HasField("stop_time")
    assert (await service.experiments.StopExperiment(stop)).experiment == stopped
    again = service.experiments.StartExperiment(start)
    assert (await refusal(again))[:3] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE", {"experiment": "e1", "state": "STOPPED"})
    got = await service.experiments.GetExperiment(experiment_service_pb2.GetExperimentRequest(experiment="e1"))
    assert got.experiment == stopped


async def test_a_pause_and_what_was_done_by_whom(service: Service) -> None:
    await service.create(start=False)
    early = service.experiments.PauseExperiment(experiment_service_pb2.PauseExperimentRequest(experiment="e1"))
    assert (await refusal(early))[:3] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE", {"experiment": "e1", "state": "DRAFT"})
    await service.start_experiment("e1")
    given = await assign(service, "u1")
    acme = (("x-penstock-tenant", "acme"), ("x-request-id", "r7"))
    pause = experiment_service_pb2.PauseExperimentRequest(experiment="e1", why="errors went up")
    paused = (await service.experiments.PauseExperiment(pause, metadata=acme)).experiment
    assert paused.state == experiment_pb2.EXPERIMENT_STATE_PAUSED
    assert (await service.experiments.PauseExperiment(pause)).experiment == paused
    assert (await refusal(assign(service, "u1")))[:2] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE")
    assert (await service.outcomes.RecordOutcomes(outcomes(outcome(given.assignment)))).recorded == 1
    again = experiment_service_pb2.StartExperimentRequest(experiment="e1", why="mended")
    assert (await service.experiments.StartExperiment(again)).experiment.start_time == paused.start_time
    assert await assign(service, "u1") == given
    await service.stop_experiment("e1")
    assert (await refusal(service.experiments.PauseExperiment(pause)))[:2] == ("FAILED_PRECONDITION", "EXPERIMENT_STATE")

    listing = experiment_service_pb2.ListExperimentChangesRequest(experiment="e1", page_size=3)
    first = await service.experiments.ListExperimentChanges(listing)
    listing.page_token = first.next_page_token
    second = await service.experiments.ListExperimentChanges(listing)
    names = [experiment_pb2.ExperimentState.Name(change.after)[17:] for change in (*first.changes, *second.changes)]
    assert names == ["DRAFT", "RUNNING", "PAUSED", "RUNNING", "STOPPED"]
    assert (len(first.changes), second.next_page_token) == (3, "")
    noted = first.changes[2]
    assert (noted.who, noted.why, noted.request_id) == ("acme", "errors went up", "r7")
    assert noted.before == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert second.changes[0].why == "mended"
    listing.page_token = ""
    listing.experiment = "missing"
    assert (await refusal(service.experiments.ListExperimentChanges(listing)))[:2] == ("NOT_FOUND", "EXPERIMENT_NOT_FOUND")


async def test_changes_are_only_ever_added(service: Service, database_url: str) -> None:
    await service.create()
    connection = await asyncpg.connect(database_url)
    try:
        for statement in (
            "UPDATE experiments.changes SET why = ''",
            "DELETE FROM experiments.changes",
            "TRUNCATE experiments.changes",
        ):
            with pytest.raises(asyncpg.RaiseError, match="only ever added"):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_creation_is_idempotent_by_request_id(service: Service) -> None:
    experiment = experiment_pb2.Experiment(
        experiment="e1",
        unit=experiment_pb2.UNIT_USER,
        variants=[Variant(variant="a", weight=1), Variant(variant="b", weight=2)],
    )
    request = experiment_service_pb2.CreateExperimentRequest(experiment=experiment, request_id="r1")
    first = await service.experiments.CreateExperiment(request)
    await service.start_experiment("e1")
    assert await service.experiments.CreateExperiment(request) == first
    experiment.variants[0].weight = 3
    other = experiment_service_pb2.CreateExperimentRequest(experiment=experiment, request_id="r1")
    assert (await refusal(service.experiments.CreateExperiment(other)))[:3] == (
        "ABORTED",
        "REQUEST_ID_REUSED",
        {"request_id": "r1"},
    )
    other.request_id = ""
    refused = await refusal(service.experiments.CreateExperiment(other))
    assert refused[:3] == ("ALREADY_EXISTS", "EXPERIMENT_ALREADY_EXISTS", {"experiment": "e1"})


async def test_pages(service: Service) -> None:
    for number in range(5):
        await service.create(f"e{number}", start=False)
    seen: list[str] = []
    token = ""
    while True:
        request = experiment_service_pb2.ListExperimentsRequest(page_size=2, page_token=token)
        page = await service.experiments.ListExperiments(request)
        seen += [one.experiment for one in page.experiments]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["e4", "e3", "e2", "e1", "e0"]


async def test_a_foreign_page_token_is_refused(service: Service) -> None:
    for token in ("x", "-1", "MQ==", "ZXhwZXJpbWVudHM6", "ZXhwZXJpbWVudHM6" + "OTk5" * 20, "é"):
        request = experiment_service_pb2.ListExperimentsRequest(page_token=token)
        code, reason, metadata, _ = await refusal(service.experiments.ListExperiments(request))
        assert (code, reason, metadata) == ("INVALID_ARGUMENT", "INVALID_FIELD", {"field": "page_token"})


BAD_DESIGNS: list[tuple[dict[str, Any], str]] = [
    ({"id_": "Upper"}, "experiment.experiment"),
    ({"unit": 0}, "experiment.unit"),
    ({"unit": 99}, "experiment.unit"),
    ({"variants": arms(1)}, "experiment.variants"),
    ({"variants": arms(1, 1, variant="a")}, "experiment"),
    ({"variants": arms(float("nan"), 1)}, "experiment.variants[0].weight"),
    ({"variants": arms(1, 0)}, "experiment.variants[1].weight"),
    ({"variants": arms(1, 1, top_k=-1)}, "experiment.variants[1].top_k"),
    ({"variants": arms(1, 1, prompt="\0")}, "experiment.variants[1].prompt"),
    ({"hypothesis": "a\0b"}, "experiment.hypothesis"),
    ({"request_types": [1, 1]}, "experiment.request_types"),
    ({"request_types": [77]}, "experiment.request_types[0]"),
]


async def test_a_bad_design_is_refused_by_field(service: Service) -> None:
    for fields, field in BAD_DESIGNS:
        code, reason, metadata, message = await refusal(service.create(**{"id_": "e1", **fields}))
        assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        assert metadata["field"] == field, message


async def test_an_unknown_experiment_is_named(service: Service) -> None:
    missing = {"experiment": "missing"}
    for call in (
        service.experiments.GetExperiment(experiment_service_pb2.GetExperimentRequest(experiment="missing")),
        service.experiments.StartExperiment(experiment_service_pb2.StartExperimentRequest(experiment="missing")),
        service.experiments.StopExperiment(experiment_service_pb2.StopExperimentRequest(experiment="missing")),
        assign(service, "u1", "missing"),
        results(service, "missing"),
    ):
        assert (await refusal(call))[:3] == ("NOT_FOUND", "EXPERIMENT_NOT_FOUND", missing)
    for name in ("a\0", "\0"):
        call = service.experiments.GetExperiment(experiment_service_pb2.GetExperimentRequest(experiment=name))
        assert (await refusal(call))[:2] == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_assign_is_sticky_and_records_the_exposure_once_per_request(service: Service) -> None:
    await service.create()
    metadata = (("x-request-id", "r-1"),)
    first = await assign(service, "user-1", metadata=metadata)
    assert await assign(service, "user-1", metadata=metadata) == first
    assert await assign(service, "user-1") == first
    key = parse_assignment_key(first.assignment)
    assert key is not None
    assert (key.experiment, key.variant) == ("e1", first.variant)
    assert first.treatment.variant == first.variant
    counted = {one.variant: (one.exposures, one.exposed_units) for one in (await results(service)).variants}
    assert counted[first.variant] == (2, 1)
    variants = {(await assign(service, f"user-{number}")).variant for number in range(30)}
    assert variants == {"a", "b"}


async def test_results_are_counts_and_plain_means(service: Service) -> None:
    await service.create()
    one, two = assignment_key("e1", "a", "u1"), assignment_key("e1", "a", "u2")
    await service.outcomes.RecordOutcomes(
        outcomes(outcome(one, value=1), outcome(one, value=0), outcome(two, value=1), outcome(two, metric="seconds", value=0.1))
    )
    await service.stop_experiment("e1")
    late = await service.outcomes.RecordOutcomes(outcomes(outcome(two, metric="seconds", value=0.2)))
    assert late.recorded == 1
    found = await results(service)
    assert found.state == experiment_pb2.EXPERIMENT_STATE_STOPPED
    assert [variant.variant for variant in found.variants] == ["a", "b"]
    clicks, seconds = found.variants[0].metrics
    assert (clicks.metric, clicks.outcomes, clicks.units, clicks.sum) == ("clicks", 3, 2, 2.0)
    assert clicks.mean == pytest.approx(2 / 3)
    assert (seconds.outcomes, seconds.units, seconds.sum) == (2, 1, 0.3)
    empty = found.variants[1].metrics[0]
    assert (empty.outcomes, empty.sum, empty.HasField("mean")) == (0, 0.0, False)


async def test_outcomes_count_once_and_a_bad_one_refuses_the_batch(service: Service) -> None:
    await service.create()
    key = assignment_key("e1", "a", "u1")
    again = outcomes(outcome(key, "o1"), outcome(key, "o2"), outcome(key, "o2"))
    first = await service.outcomes.RecordOutcomes(again)
    assert (first.recorded, first.duplicates) == (2, 1)
    second = await service.outcomes.RecordOutcomes(again)
    assert (second.recorded, second.duplicates) == (0, 3)
    good = outcome(key, "o3")
    for bad, expected in (
        (outcome("nonsense"), ("NOT_FOUND", "ASSIGNMENT_NOT_FOUND")),
        (outcome(assignment_key("e2", "a", "u1")), ("NOT_FOUND", "ASSIGNMENT_NOT_FOUND")),
        (outcome(assignment_key("e1", "c", "u1")), ("NOT_FOUND", "ASSIGNMENT_NOT_FOUND")),
        (outcome(key, metric="stars"), ("INVALID_ARGUMENT", "METRIC_NOT_FOUND")),
        (outcome(key, value=float("nan")), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (outcome(key, value=float("-inf")), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (outcome(key, value=1.7e308), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (outcome(key, key="a\0b"), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (
            outcome_pb2.Outcome(
                outcome="t", assignment=key, metric="clicks", event_time=timestamp_pb2.Timestamp(seconds=10**15)
            ),
            ("INVALID_ARGUMENT", "INVALID_FIELD"),
        ),
    ):
        code, reason, metadata, _ = await refusal(service.outcomes.RecordOutcomes(outcomes(good, bad)))
        assert (code, reason) == expected
        assert metadata["field"].startswith("outcomes[1]")
    assert (await results(service)).variants[0].metrics[0].outcomes == 2


async def test_a_draft_has_given_out_no_assignment(service: Service) -> None:
    await service.create(start=False)
    batch = outcomes(outcome(assignment_key("e1", "a", "u1")))
    assert (await refusal(service.outcomes.RecordOutcomes(batch)))[1] == "ASSIGNMENT_NOT_FOUND"
    await service.start_experiment("e1")
    assert (await service.outcomes.RecordOutcomes(batch)).recorded == 1


async def test_exposures_come_as_a_stream_of_batches(service: Service) -> None:
    await service.create()
    fixed = exposure(key="x1")
    batches = [
        assignment_service_pb2.RecordExposuresRequest(exposures=[fixed, exposure("u2"), exposure("u3", "b")]),
        assignment_service_pb2.RecordExposuresRequest(exposures=[fixed, exposure("u1")]),
    ]
    done = await service.assignments.RecordExposures(iter(batches), timeout=5)
    assert (done.recorded, done.duplicates) == (4, 1)
    counted = {one.variant: (one.exposures, one.exposed_units) for one in (await results(service)).variants}
    assert counted == {"a": (3, 2), "b": (1, 1)}
    of_another = assignment_pb2.Assignment(assignment=assignment_key("e1", "a", "u2"), experiment="e1", variant="a")
    with_nul = assignment_pb2.Assignment(assignment=assignment_key("e\0", "a", "u1"), experiment="e\0", variant="a")
    for bad, reason, field in (
        (exposure("u1", "a", assignment=with_nul), "ASSIGNMENT_NOT_FOUND", "exposures[0].assignment"),
        (exposure("u1", "a", assignment=None), "ASSIGNMENT_NOT_FOUND", "exposures[0].assignment"),
        (exposure("u1", "c"), "ASSIGNMENT_NOT_FOUND", "exposures[0].assignment"),
        (exposure("", "a"), "INVALID_FIELD", "exposures[0].unit_id"),
        (exposure(key="x" * 129), "INVALID_FIELD", "exposures[0].exposure"),
        (exposure(model="a\0"), "INVALID_FIELD", "exposures[0].model"),
        (exposure("u1", "a", assignment=of_another), "ASSIGNMENT_NOT_FOUND", "exposures[0].assignment"),
    ):
        batch = iter([assignment_service_pb2.RecordExposuresRequest(exposures=[bad])])
        _, found, metadata, _ = await refusal(service.assignments.RecordExposures(batch, timeout=5))
        assert (found, metadata["field"]) == (reason, field)
    nothing = await service.assignments.RecordExposures(iter([]), timeout=5)
    assert (nothing.recorded, nothing.duplicates) == (0, 0)


async def test_many_callers_at_once(service: Service) -> None:
    await service.create()
    given = await asyncio.gather(*(assign(service, f"u{number % 40}") for number in range(120)))
    assert len({one.assignment for one in given}) == 40
    assert sum(one.exposures for one in (await results(service)).variants) == 120


def test_settings_are_frozen() -> None:
    settings = ExperimentsSettings(grpc_address="127.0.0.1:0", database_url="postgresql://x")
    with pytest.raises(ValueError, match="frozen"):
        settings.database_url = "other"
