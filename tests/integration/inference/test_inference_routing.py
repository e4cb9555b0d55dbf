"""Routing by policy and over several servers, as the service does it when it runs."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from penstock.errors.v1 import error_reason_pb2
from penstock.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    policy_pb2,
    policy_service_pb2,
    policy_service_pb2_grpc,
)

from tests.faults import slow_engine
from tests.integration.inference.processes import Service, reason_of, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

Generate = generation_service_pb2.GenerateRequest
Update = policy_service_pb2.UpdatePolicyRequest


@pytest.fixture(scope="module")
def servers() -> Iterator[list[slow_engine.SlowEngine]]:
    with ExitStack() as stack:
        yield [stack.enter_context(slow_engine.running()) for _ in range(2)]


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy") / "policy.yaml"


@pytest.fixture(scope="module")
def routed(
    servers: list[slow_engine.SlowEngine], policy_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    urls = ", ".join(f"{one.url}/v1" for one in servers)
    service = Service(tmp_path_factory.mktemp("routed"), OPENAI_BASE_URL=urls, POLICY_FILE=str(policy_file))
    yield service
    assert service.stop() == 0


@pytest.fixture
async def channel(routed: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(routed.address) as opened:
        yield opened


@pytest.fixture
def generation(channel: grpc.aio.Channel) -> Any:
    return generation_service_pb2_grpc.GenerationServiceStub(channel)


@pytest.fixture
def policy(channel: grpc.aio.Channel) -> Any:
    return policy_service_pb2_grpc.PolicyServiceStub(channel)


def edit(file: Path, text: str) -> None:
    file.write_text(text)


def read(file: Path) -> str:
    return file.read_text()


def of(*aliases: policy_pb2.Alias) -> policy_pb2.Policy:
    return policy_pb2.Policy(aliases=aliases)


def alias(name: str, *models: str, **fields: Any) -> policy_pb2.Alias:
    return policy_pb2.Alias(alias=name, choices=[policy_pb2.WeightedModel(model=model) for model in models], **fields)


async def test_several_servers_share_the_requests_and_keep_their_sessions(
    generation: Any, channel: grpc.aio.Channel, servers: list[slow_engine.SlowEngine]
) -> None:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    listed = [one.model for one in (await stub.ListModels(model_service_pb2.ListModelsRequest())).models]
    assert listed.count("brief") == 1
    answers = [await generation.Generate(Generate(prompt=f"Question {number}", model="brief")) for number in range(24)]
    assert {one.attempts[-1].backend for one in answers} == {"openai", "openai#2"}
    assert sum(one.asked["brief"] for one in servers) == 24
    homes = [await generation.Generate(Generate(prompt=f"{number}", model="brief", session="s")) for number in range(6)]
    assert len({one.attempts[-1].backend for one in homes}) == 1


async def test_the_policy_is_read_changed_and_written(generation: Any, policy: Any, policy_file: Path) -> None:
    wanted = policy_pb2.Policy(
        aliases=[
            alias("house", "brief", fallbacks=["extractive"], sampling=generation_pb2.Sampling(temperature=0), max_tokens=5)
        ]
    )
    updated = await policy.UpdatePolicy(Update(policy=wanted))
    current = await policy.GetPolicy(policy_service_pb2.GetPolicyRequest())
    wanted.aliases[0].choices[0].weight = 1
    assert current.policy == updated.policy == wanted
    assert current.revision == updated.revision
    assert "house" in read(policy_file)
    answer = await generation.Generate(Generate(prompt="x", model="house"))
    assert (answer.model, answer.alias) == ("brief", "house")
    (attempt,) = answer.attempts
    assert attempt.outcome == generation_pb2.ATTEMPT_OUTCOME_ANSWERED
    assert attempt.reason == error_reason_pb2.ERROR_REASON_UNSPECIFIED
    assert attempt.output_tokens == answer.usage.output_tokens == 3


async def test_the_file_is_read_again_when_it_changes_but_not_when_it_is_bad(
    generation: Any, policy: Any, policy_file: Path
) -> None:
    async def until(holds: Any) -> Any:
        deadline = time.monotonic() + 10
        while not holds(current := await policy.GetPolicy(policy_service_pb2.GetPolicyRequest())):
            assert time.monotonic() < deadline
        return current

    edit(policy_file, "aliases: {edited: {models: [{model: brief}]}}")
    before = await until(lambda current: current.policy.aliases and current.policy.aliases[0].alias == "edited")
    assert (await generation.Generate(Generate(prompt="x", model="edited"))).alias == "edited"
    edit(policy_file, "aliases: {edited: {models: brief}}")
    after = await until(lambda current: current.problem)
    assert (after.policy, after.revision) == (before.policy, before.revision)
    assert "aliases[...].models" in after.problem
    assert (await generation.Generate(Generate(prompt="x", model="edited"))).alias == "edited"


@pytest.mark.parametrize(
    ("update", "code", "reason"),
    [
        (Update(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (Update(policy=of(alias("a"))), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (Update(policy=of(alias("a", "b"), alias("a", "c"))), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (Update(policy=of(alias("a", "b", "b"))), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (Update(policy=of(), revision="0123456789abcdef"), grpc.StatusCode.ABORTED, "POLICY_CHANGED"),
    ],
)
async def test_a_wrong_update_changes_nothing(policy: Any, update: Any, code: grpc.StatusCode, reason: str) -> None:
    before = await policy.GetPolicy(policy_service_pb2.GetPolicyRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await policy.UpdatePolicy(update)
    assert (caught.value.code(), reason_of(status_of(caught.value))) == (code, reason)
    assert await policy.GetPolicy(policy_service_pb2.GetPolicyRequest()) == before


async def test_an_unknown_priority_is_refused(generation: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generation.Generate(Generate(prompt="x", model="brief", priority=9))  # type: ignore[arg-type]  # that is the test
    assert reason_of(status_of(caught.value)) == "INVALID_FIELD"
