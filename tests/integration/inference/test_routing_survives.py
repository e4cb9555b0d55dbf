"""Feedback that was acknowledged outlives the process that took it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from penstock.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    policy_pb2,
    policy_service_pb2,
    policy_service_pb2_grpc,
    routing_pb2,
    routing_service_pb2,
    routing_service_pb2_grpc,
)

from tests.faults import slow_engine
from tests.integration.inference.processes import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALIAS = policy_pb2.Alias(
    alias="auto",
    choices=[policy_pb2.WeightedModel(model="brief"), policy_pb2.WeightedModel(model="down")],
    routing=policy_pb2.Routing(strategy=policy_pb2.STRATEGY_COMPLEXITY, target=0.8, explore=0.5, outcomes=20),
)


@pytest.fixture(scope="module")
def engine() -> Iterator[slow_engine.SlowEngine]:
    with slow_engine.running() as engine:
        yield engine


async def test_what_was_learned_is_there_after_a_kill(engine: slow_engine.SlowEngine, tmp_path: Path) -> None:
    first = Service(tmp_path, OPENAI_BASE_URL=f"{engine.url}/v1")
    async with grpc.aio.insecure_channel(first.address) as channel:
        policy: Any = policy_service_pb2_grpc.PolicyServiceStub(channel)
        await policy.UpdatePolicy(policy_service_pb2.UpdatePolicyRequest(policy=policy_pb2.Policy(aliases=[ALIAS])))
        generation: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
        answers = [
            await generation.Generate(generation_service_pb2.GenerateRequest(prompt=f"Question {number}?"))
            for number in range(12)
        ]
        # `down` was drawn now and then, and could not answer: the decision still says what was chosen, and how likely.
        assert {answer.model for answer in answers} == {"brief"}
        # Once it is left alone for its failures there is nothing to draw.
        assert {answer.decision.propensity for answer in answers} <= {0.75, 0.25, 1.0}
        for answer in answers:
            assert (answer.model != answer.decision.model) == (len(answer.attempts) > 1)
        routing: Any = routing_service_pb2_grpc.RoutingServiceStub(channel)
        # Taking in what is there writes the records too, so that a kill loses none.
        await routing.CalibrateRouting(routing_service_pb2.CalibrateRoutingRequest(alias="auto"))
        for answer in answers:
            given = routing_service_pb2.RecordFeedbackRequest(request_id=answer.request_id, reward=0.25)
            assert (await routing.RecordFeedback(given)).is_known
    first.kill()
    second = Service(tmp_path, OPENAI_BASE_URL=f"{engine.url}/v1")
    try:
        async with grpc.aio.insecure_channel(second.address) as channel:
            routing = routing_service_pb2_grpc.RoutingServiceStub(channel)
            state: routing_pb2.RoutingState = (
                await routing.CalibrateRouting(routing_service_pb2.CalibrateRoutingRequest(alias="auto"))
            ).state
            assert state.records >= 12
            brief = state.models[0]
            assert brief.outcomes == pytest.approx(12)
            assert (brief.model, brief.good) == ("brief", 0)
            generation = generation_service_pb2_grpc.GenerationServiceStub(channel)
            tools = [generation_pb2.Message(role=generation_pb2.ROLE_USER, parts=[generation_pb2.Part(text="Hello")])]
            answer = await generation.Generate(generation_service_pb2.GenerateRequest(messages=tools))
            assert answer.decision.reason in {
                routing_pb2.ROUTING_REASON_UNCALIBRATED,
                routing_pb2.ROUTING_REASON_EXPLORED,
                routing_pb2.ROUTING_REASON_ONLY_ABLE,
            }
    finally:
        assert second.stop() == 0
