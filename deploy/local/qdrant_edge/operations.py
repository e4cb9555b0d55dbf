"""Writes, from Qdrant's messages to the engine's update operations.

Every function checks its whole request before it returns, so a refused request changes nothing.
"""

from collections.abc import Iterable, Sequence

import qdrant_edge as edge

from deploy.local.qdrant_edge.filters import engine_filter
from deploy.local.qdrant_edge.points import (
    EngineId,
    EngineVector,
    engine_id,
    engine_payload,
    engine_vector,
)
from deploy.local.qdrant_edge.refusals import not_served, wrong_input
from deploy.local.qdrant_edge.schema import dense_vectors, sparse_vectors
from deploy.local.qdrant_edge.stubs import collections_pb2, points_pb2

Operation = edge.UpdateOperation
_MODES = {
    points_pb2.Upsert: edge.UpdateMode.Upsert,
    points_pb2.InsertOnly: edge.UpdateMode.InsertOnly,
    points_pb2.UpdateOnly: edge.UpdateMode.UpdateOnly,
}
# The engine keeps the interpreter to itself while it writes: a large batch is handed over in
# parts this large (about 10 ms each), so that searches are answered in between.
POINTS_A_STEP = 256


class VectorShapes:
    """What the vectors of one collection must look like."""

    def __init__(self, config: collections_pb2.CreateCollection) -> None:
        self._sizes = {name: params.size for name, params in dense_vectors(config).items()}
        self._sparse = frozenset(sparse_vectors(config))

    def checked(self, name: str, vector: EngineVector) -> EngineVector:
        """Raises Refusal on an unknown name, a wrong kind, or a wrong dimension."""
        size = self._sizes.get(name)
        if isinstance(vector, edge.SparseVector):
            if name not in self._sparse:
                raise wrong_input(
                    f"Not existing vector name error: {name}"
                    if size is None
                    else f"vector `{name}` is dense, a sparse one was given"
                )
        elif size is None:
            raise wrong_input(
                f"vector `{name}` is sparse, a dense one was given"
                if name in self._sparse
                else f"Not existing vector name error: {name}"
            )
        elif len(vector) != size:
            raise wrong_input(f"Vector dimension error: expected dim: {size}, got {len(vector)}")
        return vector

    def engine_vectors(self, vectors: points_pb2.Vectors) -> dict[str, EngineVector]:
        """Convert and check all vectors of a point; the unnamed one gets an empty name."""
        match vectors.WhichOneof("vectors_options"):
            case "vector":
                return {"": self.checked("", engine_vector(vectors.vector))}
            case "vectors":
                return {name: self.checked(name, engine_vector(vector)) for name, vector in vectors.vectors.vectors.items()}
            case _:
                return {}


def upsert(
    request: points_pb2.UpsertPoints | points_pb2.PointsUpdateOperation.PointStructList,
    shapes: VectorShapes,
) -> list[Operation]:
    """Insert points, or replace those that are there."""
    points = [
        edge.Point(
            engine_id(point.id),
            dict(shapes.engine_vectors(point.vectors)),
            engine_payload(point.payload),
        )
        for point in request.points
    ]
    condition = engine_filter(request.update_filter) if request.HasField("update_filter") else None
    mode = _MODES[request.update_mode] if request.HasField("update_mode") else None
    return [Operation.upsert_points(step, condition, mode) for step in _steps(points)]


def update_vectors(
    request: points_pb2.UpdatePointVectors | points_pb2.PointsUpdateOperation.UpdateVectors,
    shapes: VectorShapes,
) -> list[Operation]:
    """Replace some vectors of points; their payload stays."""
    vectors = [edge.PointVectors(engine_id(point.id), dict(shapes.engine_vectors(point.vectors))) for point in request.points]
    condition = engine_filter(request.update_filter) if request.HasField("update_filter") else None
    return [
        Operation.update_vectors(vectors[start : start + POINTS_A_STEP], condition)
        for start in range(0, len(vectors), POINTS_A_STEP)
    ]


def _steps(points: Sequence[edge.Point]) -> Iterable[list[edge.Point]]:
    for start in range(0, len(points), POINTS_A_STEP):
        yield list(points[start : start + POINTS_A_STEP])


def delete(selector: points_pb2.PointsSelector) -> list[Operation]:
    """Delete points."""
    chosen = _chosen(selector)
    if isinstance(chosen, edge.Filter):
        return [Operation.delete_points_by_filter(chosen)]
    return [Operation.delete_points(list(chosen))]


def delete_vectors(
    request: points_pb2.DeletePointVectors | points_pb2.PointsUpdateOperation.DeleteVectors,
) -> list[Operation]:
    """Take some vectors away from points."""
    names = list(request.vectors.names)
    chosen = _chosen(request.points_selector)
    if isinstance(chosen, edge.Filter):
        return [Operation.delete_vectors_by_filter(chosen, names)]
    return [Operation.delete_vectors(list(chosen), names)]


def set_payload(
    request: points_pb2.SetPayloadPoints
    | points_pb2.PointsUpdateOperation.SetPayload
    | points_pb2.PointsUpdateOperation.OverwritePayload,
    *,
    overwrite: bool,
) -> list[Operation]:
    """Write keys of the payload; the other keys stay, unless `overwrite`."""
    payload = engine_payload(request.payload)
    key = request.key if request.HasField("key") else None
    chosen = _chosen(request.points_selector)
    if isinstance(chosen, edge.Filter):
        by_filter = Operation.overwrite_payload_by_filter if overwrite else Operation.set_payload_by_filter
        return [by_filter(chosen, payload, key)]
    by_id = Operation.overwrite_payload if overwrite else Operation.set_payload
    return [by_id(list(chosen), payload, key)]


def delete_payload(
    request: points_pb2.DeletePayloadPoints | points_pb2.PointsUpdateOperation.DeletePayload,
) -> list[Operation]:
    """Take keys of the payload away."""
    keys = list(request.keys)
    chosen = _chosen(request.points_selector)
    if isinstance(chosen, edge.Filter):
        return [Operation.delete_payload_by_filter(chosen, keys)]
    return [Operation.delete_payload(list(chosen), keys)]


def clear_payload(selector: points_pb2.PointsSelector) -> list[Operation]:
    """Take the whole payload away."""
    chosen = _chosen(selector)
    if isinstance(chosen, edge.Filter):
        return [Operation.clear_payload_by_filter(chosen)]
    return [Operation.clear_payload(list(chosen))]


def _chosen(selector: points_pb2.PointsSelector) -> list[EngineId] | edge.Filter:
    match selector.WhichOneof("points_selector_one_of"):
        case "points":
            return [engine_id(one) for one in selector.points.ids]
        case "filter":
            return engine_filter(selector.filter)
        case _:
            raise wrong_input("no points are selected: give ids or a filter")


def of_batch(message: points_pb2.PointsUpdateOperation, shapes: VectorShapes) -> list[Operation]:  # noqa: PLR0911  # one return a kind
    """One step of an UpdateBatch."""
    match message.WhichOneof("operation"):
        case "upsert":
            return upsert(message.upsert, shapes)
        case "delete_points":
            return delete(message.delete_points.points)
        case "set_payload":
            return set_payload(message.set_payload, overwrite=False)
        case "overwrite_payload":
            return set_payload(message.overwrite_payload, overwrite=True)
        case "delete_payload":
            return delete_payload(message.delete_payload)
        case "clear_payload":
            return clear_payload(message.clear_payload.points)
        case "update_vectors":
            return update_vectors(message.update_vectors, shapes)
        case "delete_vectors":
            return delete_vectors(message.delete_vectors)
        case kind:
            raise not_served(f"the batch operation {kind}")
