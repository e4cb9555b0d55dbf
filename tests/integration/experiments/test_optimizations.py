"""Optimizations by the service as a process, over a real PostgreSQL and answers scripted in the test's own gRPC server."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from penstock.experiments.v1 import (
    experiment_pb2,
    experiment_service_pb2,
    optimization_pb2,
    optimization_service_pb2,
    optimization_service_pb2_grpc,
)
from penstock.retrieval.v1 import answer_service_pb2, answer_service_pb2_grpc, search_pb2

from tests.integration.experiments.conftest import Service
from tests.integration.experiments.test_experiments_service import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="function")
TENANT = (("x-penstock-tenant", "acme"),)
BEST = 6


class Answers(answer_service_pb2_grpc.AnswerServiceServicer):
    """Finds the relevant document from `top_k` 6 on, fails with 1, and is slower the more it reads."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.tenants: set[str] = set()
        # Cleared: every answer waits.
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.held = 0
        self.is_away = False

    async def Answer(self, request: Any, context: Any) -> answer_service_pb2.AnswerResponse:
        if self.is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        top_k = request.top_k if request.HasField("top_k") else 2
        self.asked.append((top_k, request.query))
        self.tenants |= {value for name, value in context.invocation_metadata() if name == "x-penstock-tenant"}
        if not self.flowing.is_set():
            self.held += 1
            await self.flowing.wait()
        if top_k == 1:
            info = error_details_pb2.ErrorInfo(domain="penstock", reason="GENERATION_FAILED")
            told = status_pb2.Status(code=code_pb2.INTERNAL, message="broken")
            told.details.add().Pack(info)
            await context.abort_with_status(rpc_status.to_status(told))
        await asyncio.sleep(0.002 * top_k)
        documents = ["relevant" if place == BEST - 1 else f"other-{place}" for place in range(top_k)]
        return answer_service_pb2.AnswerResponse(text="text", sources=[search_pb2.Hit(document=one) for one in documents])

    async def StreamAnswer(self, request: Any, context: Any) -> AsyncIterator[answer_service_pb2.StreamAnswerResponse]:
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "optimizations ask for whole answers")
        yield answer_service_pb2.StreamAnswerResponse()


@asynccontextmanager
async def optimizing(database_url: str, log: Path, answers: Answers, **environment: str) -> AsyncIterator[tuple[Service, Any]]:
    server = grpc.aio.server()
    answer_service_pb2_grpc.add_AnswerServiceServicer_to_server(answers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told = {"RETRIEVAL_ADDRESS": f"127.0.0.1:{port}", "OPTIMIZATION_LEASE_SECONDS": "1", **environment}
    service = Service(database_url, log, told)
    try:
        await service.start()
        yield service, optimization_service_pb2_grpc.OptimizationServiceStub(service.channel)
    finally:
        await service.channel.close()
        if service.process is not None:
            await service.terminate()
        await server.stop(None)
        # Collected later, when its loop is closed, it would complain.
        del server
        gc.collect()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest_asyncio.fixture
async def running(database_url: str, tmp_path: Path, answers: Answers) -> AsyncIterator[tuple[Service, Any]]:
    async with optimizing(database_url, tmp_path / "service.log", answers) as running:
        yield running
    assert '"defect in' not in (tmp_path / "service.log").read_text()


def asked(name: str = "o1", **fields: Any) -> optimization_service_pb2.CreateOptimizationRequest:
    plain = {
        "optimization": name,
        "type": optimization_pb2.OPTIMIZATION_TYPE_HYPERPARAMETER_TUNING,
        "request_type": experiment_pb2.REQUEST_TYPE_ANSWER,
        "collections": ["docs"],
        "space": optimization_pb2.SearchSpace(top_k=optimization_pb2.IntegerRange(min=1, max=8)),
        "cases": [optimization_pb2.EvaluationCase(question=f"q{number}", relevant=["relevant"]) for number in range(6)],
        "objectives": [optimization_pb2.TARGET_METRIC_QUALITY_SCORE, optimization_pb2.TARGET_METRIC_RESPONSE_TIME],
        "trials": 30,
        "call_timeout": duration_pb2.Duration(seconds=20),
    }
    message = optimization_pb2.Optimization(**{**plain, **fields})
    return optimization_service_pb2.CreateOptimizationRequest(optimization=message)


async def now(stub: Any, name: str = "o1") -> optimization_pb2.Optimization:
    request = optimization_service_pb2.GetOptimizationRequest(optimization=name)
    found: optimization_pb2.Optimization = (await stub.GetOptimization(request, metadata=TENANT, timeout=5)).optimization
    return found


async def until_held(answers: Answers, count: int) -> None:
    async with asyncio.timeout(15):
        while answers.held < count:  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.02)


async def ended(stub: Any, name: str = "o1", seconds: float = 25) -> list[optimization_pb2.Optimization]:
    """What a watch tells, to its end."""
    watch = stub.WatchOptimization(
        optimization_service_pb2.WatchOptimizationRequest(optimization=name), metadata=TENANT, timeout=seconds
    )
    events = [event async for event in watch]
    assert [event.WhichOneof("event") for event in events[:-1]] == ["progress"] * (len(events) - 1)
    assert events[-1].WhichOneof("event") == "finished"
    counts = [getattr(event, str(event.WhichOneof("event"))).finished_count for event in events]
    assert counts == sorted(counts), "progress never goes back"
    return [getattr(event, str(event.WhichOneof("event"))) for event in events]


async def test_it_finds_the_best_setting_and_leaves_a_draft(running: tuple[Service, Any], answers: Answers) -> None:
    service, stub = running
    made = (await stub.CreateOptimization(asked(), metadata=TENANT)).optimization
    assert (made.state, made.planned_count, made.finished_count) == (optimization_pb2.OPTIMIZATION_STATE_PENDING, 8 + 1 + 3, 0)
    last = (await ended(stub))[-1]
    assert (last.state, last.note) == (optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED, "")
    assert last.finished_count == last.planned_count == 12
    # With 1 every call fails; below 6 nothing is found, so that only the fastest of those may stand beside 6.
    front = [(one.settings.top_k, one.measures.quality_score) for one in last.pareto_front]
    assert front[0] == (BEST, 1.0)
    assert all(top_k < BEST for top_k, _ in front[1:])
    in_use, *finalists = last.finals
    assert (in_use.trial, in_use.measures.quality_score, in_use.measures.case_count) == (0, 0.0, 2)
    winner = next(one for one in finalists if one.trial == last.winner)
    assert winner.settings.top_k >= BEST
    # What was held out was never asked in the search: 8 settings x 4 questions, then 4 settings x 2 others.
    assert len(answers.asked) == 8 * 4 + 4 * 2
    assert not {query for _, query in answers.asked[:32]} & {query for _, query in answers.asked[32:]}
    assert answers.tenants == {"acme"}
    request = experiment_service_pb2.GetExperimentRequest(experiment=last.experiment)
    draft = (await service.experiments.GetExperiment(request)).experiment
    assert draft.state == experiment_pb2.EXPERIMENT_STATE_DRAFT
    assert [one.top_k for one in draft.variants] == [0, winner.settings.top_k]
    assert (draft.ramp.stages[0], draft.traffic) == (0.01, 0.01)


async def test_another_process_goes_on_after_a_kill(running: tuple[Service, Any], answers: Answers) -> None:
    service, stub = running
    await stub.CreateOptimization(asked(), metadata=TENANT)
    async with asyncio.timeout(10):
        while len(answers.asked) < 10:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    answers.flowing.clear()
    await until_held(answers, 1)
    before = await now(stub)
    assert 1 <= before.finished_count < before.planned_count
    await service.kill()
    answers.flowing.set()
    await service.start()
    events = await ended(stub)
    assert events[0].finished_count >= before.finished_count
    assert events[-1].state == optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED
    # Only the measurement under way was made again: at most 4 questions.
    assert 40 <= len(answers.asked) <= 44
    assert events[-1].winner


async def test_cancelling_gives_up_what_is_under_way(running: tuple[Service, Any], answers: Answers) -> None:
    _, stub = running
    answers.flowing.clear()
    await stub.CreateOptimization(asked(), metadata=TENANT)
    await until_held(answers, 1)
    request = optimization_service_pb2.CancelOptimizationRequest(optimization="o1")
    cancelled = (await stub.CancelOptimization(request, metadata=TENANT)).optimization
    assert (cancelled.state, cancelled.finished_count) == (optimization_pb2.OPTIMIZATION_STATE_CANCELLED, 0)
    # The worker is free for the next one, whose answers flow.
    await stub.CreateOptimization(asked("o2", trials=1, space=search(top_k=7)), metadata=TENANT)
    await until_held(answers, 2)
    answers.flowing.set()
    assert (await ended(stub, "o2"))[-1].state == optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED
    assert await now(stub) == cancelled
    assert (await stub.CancelOptimization(request, metadata=TENANT)).optimization == cancelled


def search(**least: int) -> optimization_pb2.SearchSpace:
    return optimization_pb2.SearchSpace(
        **{name: optimization_pb2.IntegerRange(min=value, max=value) for name, value in least.items()}  # type: ignore[arg-type]  # by name
    )


async def test_nothing_better_leaves_no_experiment(running: tuple[Service, Any]) -> None:
    _, stub = running
    await stub.CreateOptimization(
        asked(space=search(top_k=2), objectives=[optimization_pb2.TARGET_METRIC_QUALITY_SCORE]), metadata=TENANT
    )
    last = (await ended(stub))[-1]
    assert (last.state, last.experiment) == (optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED, "")
    assert not last.HasField("winner")
    assert "no finalist was better" in last.note


async def test_what_cannot_be_measured_fails_and_says_why(running: tuple[Service, Any]) -> None:
    _, stub = running
    await stub.CreateOptimization(
        asked(space=search(top_k=1), objectives=[optimization_pb2.TARGET_METRIC_RESPONSE_TIME]), metadata=TENANT
    )
    last = (await ended(stub))[-1]
    assert (last.state, last.finished_count, list(last.pareto_front)) == (optimization_pb2.OPTIMIZATION_STATE_FAILED, 1, [])
    assert "GENERATION_FAILED: broken" in last.note


async def test_an_outage_is_waited_for_and_counts_for_nothing(running: tuple[Service, Any], answers: Answers) -> None:
    _, stub = running
    answers.is_away = True
    await stub.CreateOptimization(asked(trials=1, space=search(top_k=BEST)), metadata=TENANT)
    async with asyncio.timeout(10):
        while "waits" not in (found := await now(stub)).note:  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.05)
    assert found.finished_count == 0
    answers.is_away = False
    last = (await ended(stub))[-1]
    assert (last.state, last.note) == (optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED, "")
    assert [one.measures.error_rate for one in last.finals] == [0, 0]


async def test_refusals_and_tenants(running: tuple[Service, Any]) -> None:
    _, stub = running
    keyed = asked(trials=1, space=search(top_k=2))
    keyed.request_id = "r1"
    first = (await stub.CreateOptimization(keyed, metadata=TENANT)).optimization
    await ended(stub)
    assert (await stub.CreateOptimization(keyed, metadata=TENANT)).optimization == first
    keyed.optimization.seed = 1
    assert (await refusal(stub.CreateOptimization(keyed, metadata=TENANT)))[:2] == ("ABORTED", "REQUEST_ID_REUSED")
    again = stub.CreateOptimization(asked(), metadata=TENANT)
    assert (await refusal(again))[:2] == ("ALREADY_EXISTS", "OPTIMIZATION_ALREADY_EXISTS")
    for kind in (optimization_pb2.OPTIMIZATION_TYPE_QUANTIZATION, optimization_pb2.OPTIMIZATION_TYPE_PRUNING):
        unsupported = stub.CreateOptimization(asked("o9", type=kind), metadata=TENANT)
        assert (await refusal(unsupported))[:2] == ("FAILED_PRECONDITION", "OPTIMIZATION_UNSUPPORTED")
    # Nothing told the service where inference is.
    generating = asked("o9", request_type=experiment_pb2.REQUEST_TYPE_GENERATE, collections=[])
    generating.optimization.space.CopyFrom(search(max_tokens=5))
    for case in generating.optimization.cases:
        case.relevant[:] = []
        case.reference = "text"
    assert (await refusal(stub.CreateOptimization(generating, metadata=TENANT)))[:2] == (
        "FAILED_PRECONDITION",
        "OPTIMIZATION_UNSUPPORTED",
    )
    other = (("x-penstock-tenant", "other"),)
    request = optimization_service_pb2.GetOptimizationRequest(optimization="o1")
    assert (await refusal(stub.GetOptimization(request, metadata=other)))[:2] == ("NOT_FOUND", "OPTIMIZATION_NOT_FOUND")
    assert not (await stub.ListOptimizations(optimization_service_pb2.ListOptimizationsRequest(), metadata=other)).optimizations
    listed = await stub.ListOptimizations(optimization_service_pb2.ListOptimizationsRequest(page_size=1), metadata=TENANT)
    assert [(one.optimization, one.finished_count) for one in listed.optimizations] == [("o1", 3)]
    assert not listed.next_page_token
