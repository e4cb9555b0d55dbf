"""Flags by OpenFeature's own provider for flagd, over gRPC, against the service as it runs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.schemas.protobuf.flagd.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from penstock.assignment import parse_assignment_key
from penstock.experiments.v1 import experiment_pb2, experiment_service_pb2

from tests.integration.experiments.test_experiments_service import arms, results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openfeature.client import OpenFeatureClient

    from tests.integration.experiments.conftest import Service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[OpenFeatureClient]:
    provider = FlagdProvider(host="127.0.0.1", port=service.port, resolver_type=ResolverType.RPC, deadline_ms=5000)
    await asyncio.to_thread(api.set_provider, provider)
    yield api.get_client()
    await asyncio.to_thread(api.shutdown)


def context(unit: str, **attributes: Any) -> EvaluationContext:
    return EvaluationContext(unit, attributes)


async def test_the_provider_resolves_what_assign_gives(service: Service, client: OpenFeatureClient) -> None:
    await service.create("e1")
    kinds = set()
    for number in range(12):
        unit = context(f"u{number}")
        text = await asyncio.to_thread(client.get_string_details, "e1", "mine", unit)
        truth = await asyncio.to_thread(client.get_boolean_value, "e1", False, unit)
        changes = await asyncio.to_thread(client.get_object_value, "e1", {}, unit)
        assert (text.reason, text.variant) == ("SPLIT", text.value)
        assert truth is (text.value == "b")
        assert isinstance(changes, dict)
        key = parse_assignment_key(str(changes["assignment"]))
        assert key is not None
        assert (key.experiment, key.variant) == ("e1", text.value)
        assert changes.get("model") == ("m" if text.value == "b" else None)
        kinds.add(text.value)
    assert kinds == {"a", "b"}
    assert sum(one.exposed_units for one in (await results(service)).variants) == 12


async def test_whoever_takes_no_part_gets_the_default(service: Service, client: OpenFeatureClient) -> None:
    adults = experiment_pb2.Condition(attribute="age", operator=experiment_pb2.OPERATOR_AT_LEAST, values=["18"])
    await service.create("e1", targeting=[adults])
    young = await asyncio.to_thread(client.get_string_details, "e1", "mine", context("u1", age=17))
    assert (young.value, young.reason, young.variant) == ("mine", "DEFAULT", None)
    grown = await asyncio.to_thread(client.get_string_details, "e1", "mine", context("u1", age=18))
    assert grown.value in {"a", "b"}
    missing = await asyncio.to_thread(client.get_string_details, "e9", "mine", context("u1"))
    assert (missing.value, missing.error_code) == ("mine", ErrorCode.FLAG_NOT_FOUND)
    number = await asyncio.to_thread(client.get_integer_details, "e1", 7, context("u1"))
    assert (number.value, number.error_code) == (7, ErrorCode.TYPE_MISMATCH)
    nobody = await asyncio.to_thread(client.get_string_details, "e1", "mine", EvaluationContext())
    assert nobody.value == "mine"
    assert nobody.error_code is not None


async def test_three_variants_are_no_truth_value(service: Service, client: OpenFeatureClient) -> None:
    await service.create("e1", variants=arms(1, 1, 1))
    found = await asyncio.to_thread(client.get_boolean_details, "e1", True, context("u1"))
    assert (found.value, found.error_code) == (True, ErrorCode.TYPE_MISMATCH)


async def test_the_provider_hears_of_changes(service: Service, client: OpenFeatureClient) -> None:
    heard = threading.Event()
    flags: list[str] = []

    def hear(details: Any) -> None:
        flags.extend(details.flags_changed)
        heard.set()

    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, hear)
    await service.create("e1")
    assert await asyncio.to_thread(heard.wait, 5)
    assert flags == ["e1"]


async def test_all_flags_of_a_unit_over_the_first_version(service: Service) -> None:
    await service.create("e1")
    await service.create("e2", start=False)
    stub: Any = evaluation_pb2_grpc.ServiceStub(service.channel)
    request = evaluation_pb2.ResolveAllRequest()
    request.context.update({"targetingKey": "u1"})
    flags = (await stub.ResolveAll(request)).flags
    assert list(flags) == ["e1"]
    asked = evaluation_pb2.ResolveStringRequest(flag_key="e1", context=request.context)
    assert sum(one.exposures for one in (await results(service)).variants) == 0
    assert (await stub.ResolveString(asked)).value == flags["e1"].string_value
    assert sum(one.exposures for one in (await results(service)).variants) == 1
    await service.experiments.StopExperiment(experiment_service_pb2.StopExperimentRequest(experiment="e1"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ResolveString(asked)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
