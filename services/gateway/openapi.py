"""Describes the REST API as OpenAPI 3.1, out of the contract's descriptors and comments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from services.gateway.pages import FOLDER
from services.gateway.replies import OPENAI_PREFIX
from services.gateway.schemas import Schemas

if TYPE_CHECKING:
    from services.gateway.contract import Contract, Rpc

_VERSION: Final = "v1"
_ABOUT: Final = """\
The REST face of penstock's typed gRPC API.

- Bodies are JSON in UTF-8 with `content-type: application/json`, at most 32 MiB. Fields that are not known are ignored.
- Names of fields and enum values are those of the protos. 64-bit integers are strings. Zeros and empty texts are written;
  absent messages and absent `optional` fields are not.
- A stream comes as server-sent events with `accept: text/event-stream`, a line of JSON an event with
  `accept: application/x-ndjson`, and else as one JSON array. It ends with exactly one `finished`; without it, it has failed.
- Every failure is a `google.rpc.Status` whose first detail, a `google.rpc.ErrorInfo`, names the reason.
- `x-request-id` is taken from the request or made, and is returned with every response.
- Where the gateway has API keys, send one as `authorization: Bearer <key>` or as `x-api-key: <key>`.
"""
_STRUCT: Final = ".google.protobuf.Struct"
_REASONS: Final = "penstock.errors.v1.ErrorReason"
_ERROR: Final = {"$ref": "#/components/responses/Error"}
_OPENAI_ERROR: Final = {"$ref": "#/components/responses/OpenAIError"}


def describe(contract: Contract) -> bytes:
    """The description as JSON; the same bytes for the same contract."""
    schemas = Schemas(contract)
    openai = json.loads((FOLDER / "openai.json").read_text(encoding="utf-8"))
    paths: dict[str, dict[str, Any]] = {}
    for rpc in contract.rpcs:
        known = openai["operations"].get(rpc.name) if rpc.template.startswith(OPENAI_PREFIX) else None
        operation = _raw_operation(schemas, rpc, known) if known is not None else _operation(schemas, rpc)
        paths.setdefault(rpc.template, {})[rpc.verb.lower()] = operation
    paths["/healthz"] = {"get": _health()}
    services = sorted({rpc.service for rpc in contract.rpcs})
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "penstock",
            "version": _VERSION,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "tags": [{"name": _short(name), "description": schemas.comment(name)} for name in services],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "responses": {
                "Error": _error_response(schemas),
                "OpenAIError": {
                    "description": "OpenAI's error object.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/openai.Error"}}},
                },
            },
            "schemas": {**schemas.components, **{f"openai.{name}": schema for name, schema in openai["schemas"].items()}},
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _operation(schemas: Schemas, rpc: Rpc) -> dict[str, Any]:
    operation = _head(schemas, rpc)
    body_fields = {rpc.body} if rpc.body not in {"", "*"} else set()
    bound = frozenset(rpc.variables)
    message = schemas.message(rpc.input_type)
    parameters = []
    for field in message.field:
        if field.name not in bound and (rpc.body == "*" or field.name in body_fields):
            continue
        if rpc.raw_body and field.type_name == _STRUCT:
            # An object has no place in a query.
            continue
        schema = schemas.field(rpc.input_type, field)
        parameter: dict[str, Any] = {
            "name": field.name,
            "in": "path" if field.name in bound else "query",
            "description": schema.pop("description", ""),
            "schema": schema,
        }
        if field.name in bound:
            parameter["required"] = True
        parameters.append(parameter)
    if parameters:
        operation["parameters"] = parameters
    if rpc.raw_body:
        operation["requestBody"] = {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    elif rpc.body:
        schema = _body(schemas, rpc, bound)
        named = schemas.components.get(schema.get("$ref", "").rpartition("/")[2], schema)
        operation["requestBody"] = {
            # A message without required fields may as well not be sent.
            "required": any(key in named for key in ("required", "oneOf", "allOf", "items")),
            "content": {"application/json": {"schema": schema}},
        }
    operation["responses"] = {"200": _response(schemas, rpc), "default": _ERROR}
    return operation


def _body(schemas: Schemas, rpc: Rpc, bound: frozenset[str]) -> dict[str, Any]:
    if rpc.body == "*":
        whole = schemas.object(rpc.input_type, bound) if bound else schemas.reference(rpc.input_type)
        return {"type": "array", "items": whole} if rpc.client_streaming else whole
    field = next(field for field in schemas.message(rpc.input_type).field if field.name == rpc.body)
    return schemas.reference(field.type_name.removeprefix("."))


def _response(schemas: Schemas, rpc: Rpc) -> dict[str, Any]:
    schema = schemas.reference(rpc.output_type)
    described = {"description": schemas.comment(rpc.output_type) or "Done."}
    if not rpc.server_streaming:
        return {**described, "content": {"application/json": {"schema": schema}}}
    return {
        **described,
        "content": {
            "text/event-stream": {"schema": schema, "x-each": "Each event's `data` is one of these."},
            "application/x-ndjson": {"schema": schema, "x-each": "Each line is one of these."},
            "application/json": {"schema": {"type": "array", "items": schema}},
        },
    }


def _raw_operation(schemas: Schemas, rpc: Rpc, known: dict[str, Any]) -> dict[str, Any]:
    """An RPC whose JSON is OpenAI's, not ours."""
    operation = _head(schemas, rpc)
    if "request" in known:
        schema = {"$ref": f"#/components/schemas/openai.{known['request']}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/openai.{known['response']}"}}}
    if "event" in known:
        content["text/event-stream"] = {
            "schema": {"$ref": f"#/components/schemas/openai.{known['event']}"},
            "x-each": f"Each event's `data` is one of these; the last is {known.get('last', '`[DONE]`')}.",
        }
    operation["responses"] = {
        "200": {"description": "As OpenAI's API answers.", "content": content},
        "default": _OPENAI_ERROR,
    }
    return operation


def _head(schemas: Schemas, rpc: Rpc) -> dict[str, Any]:
    comment = schemas.comment(f"{rpc.service}.{rpc.name}")
    return {
        "tags": [_short(rpc.service)],
        "operationId": f"{_short(rpc.service)}_{rpc.name}",
        "summary": comment.partition(". ")[0].rstrip("."),
        "description": comment,
        "x-grpc-method": f"{rpc.service}/{rpc.name}",
    }


def _error_response(schemas: Schemas) -> dict[str, Any]:
    schemas.reference(_REASONS)
    reasons = schemas.components[_REASONS]
    prefix = "ERROR_REASON_"
    named = [name.removeprefix(prefix) for name in reasons["enum"] if not name.endswith("_UNSPECIFIED")]
    schemas.components["penstock.Error"] = {
        "type": "object",
        "description": "What went wrong.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "description": "The gRPC status code.", "minimum": 1, "maximum": 16},
            "message": {"type": "string", "description": "What was wrong, with which value, and what to do."},
            "details": {
                "type": "array",
                "description": "An ErrorInfo with the reason, and what else is known: BadRequest, RetryInfo, RequestInfo.",
                "items": {
                    "type": "object",
                    "required": ["@type"],
                    "additionalProperties": True,
                    "properties": {
                        "@type": {"type": "string"},
                        "reason": {
                            "type": "string",
                            "enum": named,
                            "description": reasons["description"].replace(prefix, ""),
                        },
                        "domain": {"type": "string"},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                        "request_id": {"type": "string"},
                    },
                },
            },
        },
    }
    return {
        "description": "The call failed; `reason` in the first detail says why.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/penstock.Error"}}},
    }


def _health() -> dict[str, Any]:
    return {
        "operationId": "healthz",
        "summary": "Whether all services are healthy",
        "description": "Needs no key. Its body is empty.",
        "security": [{}],
        "responses": {
            "200": {"description": "Inference, retrieval and experiments each have a healthy endpoint."},
            "503": _ERROR,
        },
    }


def _short(service: str) -> str:
    return service.rpartition(".")[2]
