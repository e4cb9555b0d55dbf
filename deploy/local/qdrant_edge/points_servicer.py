"""Qdrant's `Points` service."""

# The methods are documented in Qdrant's protos, and have the arguments that gRPC gives them.
# ruff: noqa: D102, ARG002

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
import qdrant_edge as edge

from deploy.local.qdrant_edge import operations
from deploy.local.qdrant_edge.collection import Collection
from deploy.local.qdrant_edge.points import (
    engine_id,
    fill_payload,
    fill_vectors,
    message_id,
    payload_selection,
    vector_selection,
)
from deploy.local.qdrant_edge.queries import LIMIT, condition_of, engine_query, order_by
from deploy.local.qdrant_edge.refusals import wrong_input
from deploy.local.qdrant_edge.schema import index_schema
from deploy.local.qdrant_edge.store import Store
from deploy.local.qdrant_edge.stubs import points_pb2 as pb2
from deploy.local.qdrant_edge.stubs import points_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
FACET_LIMIT = 10


class PointsServicer(points_service_pb2_grpc.PointsServicer):
    """Writes, reads and searches points; what is not here is UNIMPLEMENTED."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def Upsert(self, request: pb2.UpsertPoints, context: Context) -> pb2.PointsOperationResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        # In a thread, so that searches are answered while a large batch is converted.
        converted = await asyncio.to_thread(operations.upsert, request, collection.shapes)
        return await _written(collection, converted, request.ByteSize(), started)

    async def UpdateVectors(self, request: pb2.UpdatePointVectors, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda collection: operations.update_vectors(request, collection.shapes))

    async def DeleteVectors(self, request: pb2.DeletePointVectors, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: operations.delete_vectors(request))

    async def Delete(self, request: pb2.DeletePoints, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: operations.delete(request.points))

    async def SetPayload(self, request: pb2.SetPayloadPoints, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: operations.set_payload(request, overwrite=False))

    async def OverwritePayload(self, request: pb2.SetPayloadPoints, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: operations.set_payload(request, overwrite=True))

    async def DeletePayload(self, request: pb2.DeletePayloadPoints, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: operations.delete_payload(request))

    async def ClearPayload(self, request: pb2.ClearPayloadPoints, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: operations.clear_payload(request.points))

    async def CreateFieldIndex(self, request: pb2.CreateFieldIndexCollection, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(
            request,
            lambda _: [operations.Operation.create_field_index(request.field_name, index_schema(request))],
        )

    async def DeleteFieldIndex(self, request: pb2.DeleteFieldIndexCollection, context: Context) -> pb2.PointsOperationResponse:
        return await self._write(request, lambda _: [operations.Operation.delete_field_index(request.field_name)])

    async def UpdateBatch(self, request: pb2.UpdateBatchPoints, context: Context) -> pb2.UpdateBatchResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        steps = [operations.of_batch(step, collection.shapes) for step in request.operations]
        results = []
        for step, message in zip(steps, request.operations, strict=True):
            response = await _written(collection, step, message.ByteSize(), started)
            results.append(response.result)
        return pb2.UpdateBatchResponse(result=results, time=time.monotonic() - started)

    async def Get(self, request: pb2.GetPoints, context: Context) -> pb2.GetResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        ids = [engine_id(one) for one in request.ids]
        records = collection.shard.call(
            lambda engine: engine.retrieve(
                list(ids),
                payload_selection(request.with_payload),
                vector_selection(request.with_vectors),
            )
        )
        response = pb2.GetResponse()
        for record in records:
            _fill_point(response.result.add(), record)
        response.time = time.monotonic() - started
        return response

    async def Scroll(self, request: pb2.ScrollPoints, context: Context) -> pb2.ScrollResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        limit = request.limit if request.HasField("limit") else LIMIT
        if limit == 0:
            raise wrong_input("limit is 0: it must be 1 or more")
        scroll = edge.ScrollRequest(
            offset=engine_id(request.offset) if request.HasField("offset") else None,
            limit=limit,
            filter=condition_of(request),
            with_payload=(payload_selection(request.with_payload) if request.HasField("with_payload") else True),
            with_vector=vector_selection(request.with_vectors),
            order_by=order_by(request.order_by) if request.HasField("order_by") else None,
        )
        records, following = collection.shard.call(lambda engine: engine.scroll(scroll))
        response = pb2.ScrollResponse()
        for record in records:
            _fill_point(response.result.add(), record)
        if following is not None:
            response.next_page_offset.CopyFrom(message_id(following))
        response.time = time.monotonic() - started
        return response

    async def Count(self, request: pb2.CountPoints, context: Context) -> pb2.CountResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        exact = request.exact or not request.HasField("exact")
        wanted = edge.CountRequest(exact, condition_of(request))
        count = collection.shard.call(lambda engine: engine.count(wanted))
        return pb2.CountResponse(result=pb2.CountResult(count=count), time=time.monotonic() - started)

    async def Facet(self, request: pb2.FacetCounts, context: Context) -> pb2.FacetResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        limit = request.limit if request.HasField("limit") else FACET_LIMIT
        wanted = edge.FacetRequest(request.key, limit, request.exact, condition_of(request))
        facets = collection.shard.call(lambda engine: engine.facet(wanted))
        response = pb2.FacetResponse()
        for facet in facets.hits:
            hit = response.hits.add(count=facet.count)
            match facet.value:
                case bool():
                    hit.value.bool_value = facet.value
                case int():
                    hit.value.integer_value = facet.value
                case _:
                    hit.value.string_value = str(facet.value)
        response.time = time.monotonic() - started
        return response

    async def Query(self, request: pb2.QueryPoints, context: Context) -> pb2.QueryResponse:
        started = time.monotonic()
        response = pb2.QueryResponse()
        self._query(request, response)
        response.time = time.monotonic() - started
        return response

    async def QueryBatch(self, request: pb2.QueryBatchPoints, context: Context) -> pb2.QueryBatchResponse:
        started = time.monotonic()
        response = pb2.QueryBatchResponse()
        for query in request.query_points:
            query.collection_name = request.collection_name
            self._query(query, response.result.add())
            # Other calls get their turn between two queries of a long batch.
            await asyncio.sleep(0)
        response.time = time.monotonic() - started
        return response

    def _query(self, request: pb2.QueryPoints, response: pb2.QueryResponse | pb2.BatchResult) -> None:
        collection = self._store.collection(request.collection_name)
        query = engine_query(request, collection.stored_vector)
        for scored in collection.shard.call(lambda engine: engine.query(query)):
            message = response.result.add(score=scored.score, version=scored.version)
            _fill_point(message, scored)

    async def _write(
        self,
        request: Any,
        convert: Callable[[Collection], Sequence[operations.Operation]],
    ) -> pb2.PointsOperationResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        return await _written(collection, convert(collection), request.ByteSize(), started)


async def _written(
    collection: Collection,
    converted: Sequence[operations.Operation],
    size: int,
    started: float,
) -> pb2.PointsOperationResponse:
    number = await collection.apply(converted, size)
    return pb2.PointsOperationResponse(
        result=pb2.UpdateResult(operation_id=number, status=pb2.Completed),
        time=time.monotonic() - started,
    )


def _fill_point(message: pb2.RetrievedPoint | pb2.ScoredPoint, point: "edge.Record | edge.ScoredPoint") -> None:
    message.id.CopyFrom(message_id(point.id))
    fill_payload(message.payload, point.payload)
    fill_vectors(message.vectors, point.vector)
    if isinstance(point.order_value, float):
        message.order_value.float = point.order_value
    elif point.order_value is not None:
        message.order_value.int = point.order_value
