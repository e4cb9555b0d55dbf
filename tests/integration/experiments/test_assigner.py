"""The assigner of the wheel, against the real service: same answers as the server, and nothing lost while it is away."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc.aio
from penstock.assigner import Assigner, compile_plans
from penstock.assignment import RequestType, Treatment
from penstock.experiments.v1 import assignment_service_pb2, experiment_pb2, result_service_pb2

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.integration.experiments.conftest import Service

GENERATE, ANSWER = RequestType.GENERATE, RequestType.ANSWER


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> float:
    """Waits until it holds; returns how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come to hold in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def exposures_counted(service: Service, experiment: str = "e1") -> int:
    request = result_service_pb2.GetResultsRequest(experiment=experiment)
    found = await service.results.GetResults(request, timeout=10)
    return sum(variant.exposures for variant in found.variants)


async def knowing(assigner: Assigner, experiment: str = "e1") -> None:
    """Waits until an experiment that was just started is known here."""
    assert await assigner.configured(5)
    await until(lambda: experiment in assigner.running, 1)


def treated(assigner: Assigner, number: int = 0) -> Treatment:
    treatment = assigner.assign(GENERATE, user=f"u{number}")
    assert treatment is not None
    return treatment


async def test_it_gives_what_the_server_gives(service: Service) -> None:
    async with Assigner(service.channel, "test") as assigner:
        assert await assigner.configured(5)
        assert assigner.assign(GENERATE, user="u1") is None
        await service.create()
        assert await until(lambda: assigner.assign(GENERATE, user="u1")) < 1
        for number in range(50):
            request = assignment_service_pb2.AssignRequest(experiment="e1", unit_id=f"u{number}")
            served = await service.assignments.Assign(request)
            treatment = treated(assigner, number)
            assert (treatment.assignment, treatment.variant) == (served.assignment, served.variant)
            assert (treatment.experiment, treatment.unit_id) == ("e1", f"u{number}")
            expected = ("m", "p", 3) if served.variant == "b" else (None, None, None)
            assert (treatment.model, treatment.prompt, treatment.top_k) == expected
            assert (treatment.temperature, treatment.top_p, treatment.max_tokens) == (None, None, None)
        await service.stop_experiment("e1")
        assert await until(lambda: assigner.assign(GENERATE, user="u1") is None) < 1


async def test_the_first_started_that_matches_takes_the_request(service: Service) -> None:
    await service.create("by-conversation", unit=experiment_pb2.UNIT_CONVERSATION)
    await service.create("answers-only", request_types=[experiment_pb2.REQUEST_TYPE_ANSWER], unit=experiment_pb2.UNIT_USER)
    await service.create("by-request", unit=experiment_pb2.UNIT_REQUEST)
    await service.create("draft", start=False)
    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner, "by-request")

        def experiment(kind: RequestType, **units: str) -> str | None:
            treatment = assigner.assign(kind, **units)  # type: ignore[arg-type]  # units are texts, attributes are none
            return treatment.experiment if treatment else None

        everything = {"user": "u", "conversation": "c", "request_id": "r"}
        assert experiment(GENERATE, **everything) == "by-conversation"
        assert experiment(ANSWER, user="u", request_id="r") == "answers-only"
        assert experiment(GENERATE, user="u", request_id="r") == "by-request"
        assert experiment(GENERATE, user="u") is None
        assert experiment(GENERATE) is None


async def test_exposures_arrive_within_a_second(service: Service) -> None:
    await service.create()
    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner)
        for number in range(1234):
            assigner.expose(treated(assigner, number), request_id=f"r{number}", model="m", engine="llamacpp")
        assert await until(lambda: assigner.exposures.recorded == 1234, 3) < 2
    assert await exposures_counted(service) == 1234


async def test_leaving_sends_what_is_held(service: Service) -> None:
    await service.create()
    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner)
        assigner.expose(treated(assigner), request_id="r")
    assert await exposures_counted(service) == 1


async def test_nothing_is_lost_or_counted_twice_while_the_service_is_away(service: Service) -> None:
    await service.create()
    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner)
        number = 0
        for life in range(3):
            for _ in range(300):
                assigner.expose(treated(assigner, number), request_id=f"r{number}")
                number += 1
                await asyncio.sleep(0.001)
            if life < 2:
                await service.kill()
                # The last configuration still holds.
                assert treated(assigner).experiment == "e1"
                await service.start()
        await until(lambda: assigner.exposures.recorded == number, 10)
        revision = assigner.revision
        await service.create("e2")
        await until(lambda: assigner.revision > revision)
    assert await exposures_counted(service) == number == 900


async def test_an_exposure_that_is_refused_does_not_hold_up_the_others(service: Service) -> None:
    await service.create()
    forged = Treatment(assignment="1~e9~a~" + "x" * 22, experiment="e9", variant="a", unit_id="u")
    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner)
        for number in range(20):
            assigner.expose(forged if number == 13 else treated(assigner, number), request_id="r")
    assert (assigner.exposures.recorded, assigner.exposures.refused, len(assigner.exposures)) == (19, 1, 0)
    assert await exposures_counted(service) == 19


async def test_a_full_buffer_drops_the_oldest_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    treatment = Treatment(assignment="1~e1~a~" + "x" * 22, experiment="e1", variant="a", unit_id="u")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port()}") as channel:
        with caplog.at_level(logging.WARNING, "penstock.exposures"):
            started = time.monotonic()
            async with Assigner(channel, "test", most_items=100, close_seconds=0.5) as assigner:
                assert assigner.assign(GENERATE, user="u") is None
                assert not await assigner.configured(0.1)
                for number in range(250):
                    assigner.expose(treatment, request_id=str(number))
                assert len(assigner.exposures) == 100
                assert assigner.exposures.dropped == 150
                await until(lambda: any("150 exposures dropped" in record.message for record in caplog.records))
            assert time.monotonic() - started < 3
            small = Assigner(channel, "test", most_bytes=1000)
            for number in range(50):
                small.expose(treatment, request_id=str(number))
            assert 2 <= len(small.exposures) < 12


def test_what_this_version_cannot_evaluate_is_left_out() -> None:
    def experiment(id_: str, **fields: Any) -> experiment_pb2.Experiment:
        variants = [experiment_pb2.Variant(variant=name, weight=1) for name in "ab"]
        common = {"experiment": id_, "unit": experiment_pb2.UNIT_USER, "variants": variants, "hash_version": 1}
        return experiment_pb2.Experiment(**{**common, **fields})

    later = [
        experiment("now"),
        experiment("hash", hash_version=2),
        experiment("unit", unit=77),
        experiment("types", request_types=[99]),
        experiment("some-types", request_types=[99, 2]),
    ]
    plans = {plan.experiment: plan.request_types for plan in compile_plans(later)}
    assert plans == {"now": {GENERATE, ANSWER}, "some-types": {ANSWER}}


async def test_assigning_is_fast(service: Service) -> None:
    await service.create()
    async with Assigner(service.channel, "test") as assigner:
        await knowing(assigner)
        started = time.process_time()
        for _ in range(20_000):
            treated(assigner, 1)
        rate = 20_000 / (time.process_time() - started)
    print(f"{rate:.0f} assignments/s")  # noqa: T201 - the figure
    # 200,000 a second is the goal; the floor here allows for a crowded machine.
    assert rate > 60_000
