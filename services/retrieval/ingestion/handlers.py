"""The service of ingestions. Its methods are documented in the protos."""
# ruff: noqa: D102 - see above

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.retrieval.v1 import ingestion_service_pb2, ingestion_service_pb2_grpc

from services.chassis.errors import invalid_field
from services.retrieval.convert import of_page_token, to_page_token
from services.retrieval.ingestion import convert

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    import grpc.aio

    from services.retrieval.ingestion.ingestions import Ingestions

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class IngestionHandlers(ingestion_service_pb2_grpc.IngestionServiceServicer):
    """IngestionService."""

    def __init__(self, ingestions: Ingestions, draining: asyncio.Event) -> None:
        self._ingestions = ingestions
        self._draining = draining

    async def CreateIngestion(
        self, request: ingestion_service_pb2.CreateIngestionRequest, context: Context
    ) -> ingestion_service_pb2.CreateIngestionResponse:
        made = await self._ingestions.create(request.collection, convert.of_sources(request), request.request_id)
        return ingestion_service_pb2.CreateIngestionResponse(ingestion=convert.to_ingestion(made))

    async def UploadIngestion(
        self, request_iterator: AsyncIterator[ingestion_service_pb2.UploadIngestionRequest], context: Context
    ) -> ingestion_service_pb2.UploadIngestionResponse:
        first = await anext(request_iterator, None)
        if first is None or not first.collection:
            raise invalid_field("collection", "the first message must name the collection")
        made = await self._ingestions.receive(first.collection, convert.of_upload(first), _pieces(first, request_iterator))
        return ingestion_service_pb2.UploadIngestionResponse(ingestion=convert.to_ingestion(made))

    async def GetIngestion(
        self, request: ingestion_service_pb2.GetIngestionRequest, context: Context
    ) -> ingestion_service_pb2.GetIngestionResponse:
        found = await self._ingestions.get(request.ingestion)
        return ingestion_service_pb2.GetIngestionResponse(ingestion=convert.to_ingestion(found))

    async def ListIngestions(
        self, request: ingestion_service_pb2.ListIngestionsRequest, context: Context
    ) -> ingestion_service_pb2.ListIngestionsResponse:
        after = of_page_token(request.page_token)
        found, following = await self._ingestions.page(request.collection, request.page_size, after)
        return ingestion_service_pb2.ListIngestionsResponse(
            ingestions=[convert.to_ingestion(one) for one in found], next_page_token=to_page_token(following)
        )

    async def ListIngestionFailures(
        self, request: ingestion_service_pb2.ListIngestionFailuresRequest, context: Context
    ) -> ingestion_service_pb2.ListIngestionFailuresResponse:
        after = of_page_token(request.page_token)
        found, following = await self._ingestions.failures(request.ingestion, request.page_size, after)
        return ingestion_service_pb2.ListIngestionFailuresResponse(
            failures=[convert.to_failure(one) for one in found], next_page_token=to_page_token(following)
        )

    async def WatchIngestion(
        self, request: ingestion_service_pb2.WatchIngestionRequest, context: Context
    ) -> AsyncIterator[ingestion_service_pb2.WatchIngestionResponse]:
        async for ingestion in self._ingestions.watch(request.ingestion, self._draining):
            told = convert.to_ingestion(ingestion)
            if ingestion.has_ended:
                yield ingestion_service_pb2.WatchIngestionResponse(finished=told)
            else:
                yield ingestion_service_pb2.WatchIngestionResponse(progress=told)

    async def CancelIngestion(
        self, request: ingestion_service_pb2.CancelIngestionRequest, context: Context
    ) -> ingestion_service_pb2.CancelIngestionResponse:
        found = await self._ingestions.cancel(request.ingestion)
        return ingestion_service_pb2.CancelIngestionResponse(ingestion=convert.to_ingestion(found))

    async def RetryIngestion(
        self, request: ingestion_service_pb2.RetryIngestionRequest, context: Context
    ) -> ingestion_service_pb2.RetryIngestionResponse:
        found = await self._ingestions.retry(request.ingestion, convert.of_stage(request.stage))
        return ingestion_service_pb2.RetryIngestionResponse(ingestion=convert.to_ingestion(found))


async def _pieces(
    first: ingestion_service_pb2.UploadIngestionRequest,
    following: AsyncIterator[ingestion_service_pb2.UploadIngestionRequest],
) -> AsyncIterator[bytes]:
    yield first.body.data
    async for message in following:
        yield message.body.data
