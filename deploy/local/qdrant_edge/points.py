"""Ids, vectors and payloads, between Qdrant's messages and the engine."""

import math
from collections.abc import Mapping, MutableMapping
from typing import Any
from uuid import UUID

from qdrant_edge import PayloadSelector, SparseVector

from deploy.local.qdrant_edge.refusals import not_served, wrong_input
from deploy.local.qdrant_edge.stubs import json_with_int_pb2 as json_pb2
from deploy.local.qdrant_edge.stubs import points_pb2
from deploy.local.qdrant_edge.stubs import qdrant_common_pb2 as common_pb2

EngineId = int | UUID
EngineVector = list[float] | SparseVector
# An integer outside these bounds travels as a double, as Qdrant sends it.
_INT64 = range(-(2**63), 2**63)


def engine_id(point_id: common_pb2.PointId) -> EngineId:
    """Raises Refusal (INVALID_ARGUMENT) when the id is absent or no UUID."""
    match point_id.WhichOneof("point_id_options"):
        case "num":
            return point_id.num
        case "uuid":
            try:
                return UUID(point_id.uuid)
            except ValueError:
                raise wrong_input(f"Unable to parse UUID: {point_id.uuid}") from None
        case _:
            raise wrong_input("point id is empty: give an unsigned integer or a UUID")


def message_id(point_id: Any) -> common_pb2.PointId:
    """The id as a client sees it."""
    if isinstance(point_id, int):
        return common_pb2.PointId(num=point_id)
    return common_pb2.PointId(uuid=str(point_id))


def engine_vector(vector: points_pb2.Vector | points_pb2.VectorInput) -> EngineVector:
    """Raises Refusal when the vector is of no kind the engine takes, not finite, or uneven."""
    if isinstance(vector, points_pb2.VectorInput):
        kind: str | None = vector.WhichOneof("variant")
    else:
        # Clients up to 1.15 fill the deprecated flat fields, and set none of the kinds.
        kind = vector.WhichOneof("vector") or ("flat sparse" if vector.HasField("indices") else "flat dense")
    match kind:
        case "dense":
            return _finite(list(vector.dense.data))
        case "sparse":
            return _sparse(list(vector.sparse.indices), list(vector.sparse.values))
        case "flat dense" if isinstance(vector, points_pb2.Vector):
            return _finite(list(vector.data))
        case "flat sparse" if isinstance(vector, points_pb2.Vector):
            return _sparse(list(vector.indices.data), list(vector.data))
        case None:
            raise wrong_input("a query holds no vector")
        case _:
            raise not_served(f"a vector given as {kind}")


def _finite(values: list[float]) -> list[float]:
    if not math.isfinite(sum(values)):
        raise wrong_input("a vector must hold finite numbers only")
    return values


def _sparse(indices: list[int], values: list[float]) -> SparseVector:
    if len(indices) != len(values):
        raise wrong_input(f"a sparse vector has {len(indices)} indices and {len(values)} values: they must be as many")
    if len(set(indices)) != len(indices):
        raise wrong_input("the indices of a sparse vector must be unique")
    return SparseVector(indices, _finite(values))


def fill_vectors(message: points_pb2.VectorsOutput, vectors: Any) -> None:
    """Write what the engine returned as the vectors of a point; nothing when there are none."""
    if isinstance(vectors, Mapping):
        named = message.vectors.vectors
        message.vectors.SetInParent()
        for name, vector in vectors.items():
            # The unnamed vector has an empty name inside the engine.
            _fill_vector(named[name] if name else message.vector, vector)
    elif vectors is not None:
        _fill_vector(message.vector, vectors)


def _fill_vector(message: points_pb2.VectorOutput, vector: EngineVector) -> None:
    if isinstance(vector, SparseVector):
        message.sparse.indices.extend(vector.indices)
        message.sparse.values.extend(vector.values)
    else:
        message.dense.data.extend(vector)


def engine_payload(payload: Mapping[str, json_pb2.Value]) -> dict[str, Any]:
    """A payload as plain Python values."""
    return {key: engine_value(value) for key, value in payload.items()}


def engine_value(value: json_pb2.Value) -> Any:
    """One value of a payload; what is not set counts as null."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "struct_value":
        return engine_payload(value.struct_value.fields)
    if kind == "list_value":
        return [engine_value(item) for item in value.list_value.values]
    return getattr(value, kind)


def fill_payload(message: MutableMapping[str, json_pb2.Value], payload: Mapping[str, Any] | None) -> None:
    """Write plain Python values as a payload."""
    for key, value in (payload or {}).items():
        _fill_value(message[key], value)


def _fill_value(message: json_pb2.Value, value: Any) -> None:
    match value:
        case str():
            message.string_value = value
        case bool():
            message.bool_value = value
        case int() if value in _INT64:
            message.integer_value = value
        case int() | float():
            message.double_value = value
        case Mapping():
            message.struct_value.SetInParent()
            fill_payload(message.struct_value.fields, value)
        case list():
            message.list_value.SetInParent()
            for item in value:
                _fill_value(message.list_value.values.add(), item)
        case _:
            message.null_value = json_pb2.NULL_VALUE


def payload_selection(
    selector: points_pb2.WithPayloadSelector,
) -> bool | list[str] | PayloadSelector:
    """Which part of the payload to return; none when nothing is said."""
    match selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable
        case "include":
            return list(selector.include.fields)
        case "exclude":
            return PayloadSelector.Exclude(list(selector.exclude.fields))
        case _:
            return False


def vector_selection(selector: points_pb2.WithVectorsSelector) -> bool | list[str]:
    """Which vectors to return; none when nothing is said."""
    match selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable
        case "include":
            return list(selector.include.names)
        case _:
            return False
