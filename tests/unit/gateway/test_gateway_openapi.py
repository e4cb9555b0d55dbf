from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from openapi_spec_validator import validate
from protovalidate._gen.buf.validate import validate_pb

from services.gateway import rules
from services.gateway.bootstrap import DESCRIPTORS
from services.gateway.contract import Contract
from services.gateway.openapi import describe

CONTRACT = Contract.read(DESCRIPTORS)
DOCUMENT: Any = json.loads(describe(CONTRACT))
SCHEMAS = DOCUMENT["components"]["schemas"]


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


def test_it_is_valid_and_the_same_each_time() -> None:
    validate(DOCUMENT)
    assert describe(CONTRACT) == describe(Contract.read(DESCRIPTORS))


@pytest.mark.parametrize("rpc", CONTRACT.rpcs, ids=lambda rpc: rpc.name)
def test_every_rpc_is_described(rpc: Any) -> None:
    operation = DOCUMENT["paths"][rpc.template][rpc.verb.lower()]
    assert operation["description"]
    assert operation["x-grpc-method"] == f"{rpc.service}/{rpc.name}"
    in_path = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
    assert in_path == set(rpc.variables)
    assert ("requestBody" in operation) == bool(rpc.body)
    if rpc.server_streaming and not rpc.raw:
        assert {"text/event-stream", "application/x-ndjson", "application/json"} == set(
            operation["responses"]["200"]["content"]
        )


def test_nothing_refers_to_nothing() -> None:
    for reference in references(DOCUMENT):
        place: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert place


def test_every_field_and_value_is_described() -> None:
    for name, schema in SCHEMAS.items():
        if not name.startswith("penstock.") or name == "penstock.Error":
            continue
        assert schema["description"], name
        for field, described in schema.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field}"


def test_limits_come_from_the_protos() -> None:
    request = SCHEMAS["penstock.inference.v1.GenerateRequest"]
    assert request["properties"]["max_tokens"]["minimum"] == 1
    assert request["properties"]["max_tokens"]["maximum"] == 131072
    assert request["properties"]["stop"]["maxItems"] == 16
    assert request["properties"]["stop"]["items"]["maxLength"] == 256
    assert request["oneOf"] == [{"required": ["prompt"]}, {"required": ["messages"]}, {"required": ["prompt_template"]}]
    variant = SCHEMAS["penstock.experiments.v1.Variant"]["properties"]
    assert variant["weight"]["exclusiveMinimum"] == 0
    assert variant["variant"]["pattern"].startswith("^[a-z0-9]")
    experiment = SCHEMAS["penstock.experiments.v1.Experiment"]
    assert experiment["required"] == ["experiment", "unit"]
    assert "UNIT_UNSPECIFIED" not in experiment["properties"]["unit"]["enum"]
    assert experiment["properties"]["request_types"]["uniqueItems"] is True
    assert experiment["properties"]["state"]["readOnly"] is True
    data = SCHEMAS["penstock.retrieval.v1.DocumentInput"]["properties"]["data"]
    assert data["maxLength"] == len(base64.b64encode(b"0" * 16777216))


def test_path_fields_are_not_in_the_body() -> None:
    add = DOCUMENT["paths"]["/v1/collections/{collection}/documents"]["post"]
    body = add["requestBody"]["content"]["application/json"]["schema"]
    assert "collection" not in body["properties"]
    assert body["required"] == ["documents"]


def test_events_of_a_stream_are_one_of() -> None:
    events = SCHEMAS["penstock.retrieval.v1.StreamAnswerResponse"]["oneOf"]
    assert [event["required"][0] for event in events] == ["sources", "token", "citation", "finished"]


def test_the_numbers_of_rules_are_those_of_validate_proto() -> None:
    file = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    numbers = {message.name: {field.name: field.number for field in message.field} for message in file.message_type}
    kinds = numbers["FieldRules"]
    assert {one.number for one in file.extension if one.name != "predefined"} == {rules.OPTION}
    assert (kinds["required"], kinds["string"], kinds["bytes"]) == (rules.REQUIRED, rules.STRING, rules.BYTES)
    assert (kinds["enum"], kinds["repeated"], kinds["map"]) == (rules.ENUM, rules.REPEATED, rules.MAP)
    assert list(rules.NUMBERS.values()) == [kinds[name] for name in ("float", "double", "int32", "uint32")]
    for message in ("FloatRules", "DoubleRules", "Int32Rules", "UInt32Rules"):
        assert list(rules.RANGE) == [numbers[message][name] for name in ("lt", "lte", "gt", "gte")]
    text = numbers["StringRules"]
    assert [*rules.TEXT, rules.TEXT_LENGTH, rules.TEXT_MAX_BYTES] == [
        text[name] for name in ("min_len", "max_len", "pattern", "len", "max_bytes")
    ]
    lists = numbers["RepeatedRules"]
    assert [*rules.ITEMS, rules.ITEMS_UNIQUE, rules.ITEMS_RULES] == [
        lists[name] for name in ("min_items", "max_items", "unique", "items")
    ]
    assert list(rules.PAIRS) == [numbers["MapRules"][name] for name in ("min_pairs", "max_pairs")]
    assert (numbers["BytesRules"]["max_len"], numbers["EnumRules"]["not_in"]) == (rules.BYTES_MAX, rules.ENUM_NOT_IN)
    assert (numbers["MessageRules"]["oneof"], numbers["OneofRules"]["required"]) == (rules.MESSAGE_ONEOF, 1)
    assert (numbers["MessageOneofRule"]["fields"], numbers["MessageOneofRule"]["required"]) == (1, 2)
