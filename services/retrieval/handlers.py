"""The services of collections, documents and search. Their methods are documented in the protos."""
# ruff: noqa: D102 - see above

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.retrieval.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)

from services.retrieval import collection_convert, convert
from services.retrieval.passages import DEFAULT_TOP_K
from services.retrieval.search_convert import from_cache_mode, from_options

if TYPE_CHECKING:
    import grpc.aio

    from services.retrieval.caching.cached_search import CachedSearch
    from services.retrieval.catalog import Catalog
    from services.retrieval.documents import Library

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class CollectionHandlers(collection_service_pb2_grpc.CollectionServiceServicer):
    """CollectionService."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateCollection(
        self, request: collection_service_pb2.CreateCollectionRequest, context: Context
    ) -> collection_service_pb2.CreateCollectionResponse:
        wanted = request.collection
        settings = collection_convert.from_collection(wanted)
        created = await self._catalog.create(wanted.collection, settings, wanted.embedder, request.request_id)
        return collection_service_pb2.CreateCollectionResponse(collection=collection_convert.to_collection(created))

    async def GetCollection(
        self, request: collection_service_pb2.GetCollectionRequest, context: Context
    ) -> collection_service_pb2.GetCollectionResponse:
        found = await self._catalog.get(request.collection)
        return collection_service_pb2.GetCollectionResponse(collection=collection_convert.to_collection(found))

    async def ListCollections(
        self, request: collection_service_pb2.ListCollectionsRequest, context: Context
    ) -> collection_service_pb2.ListCollectionsResponse:
        found, after = await self._catalog.page(request.page_size, convert.of_page_token(request.page_token))
        return collection_service_pb2.ListCollectionsResponse(
            collections=[collection_convert.to_collection(one) for one in found], next_page_token=convert.to_page_token(after)
        )

    async def UpdateCollection(
        self, request: collection_service_pb2.UpdateCollectionRequest, context: Context
    ) -> collection_service_pb2.UpdateCollectionResponse:
        updated = await self._catalog.update(request.collection, collection_convert.from_changes(request))
        return collection_service_pb2.UpdateCollectionResponse(collection=collection_convert.to_collection(updated))

    async def GetCollectionStats(
        self, request: collection_service_pb2.GetCollectionStatsRequest, context: Context
    ) -> collection_service_pb2.GetCollectionStatsResponse:
        stats = await self._catalog.stats(request.collection)
        return collection_service_pb2.GetCollectionStatsResponse(stats=collection_convert.to_stats(stats))

    async def DeleteCollection(
        self, request: collection_service_pb2.DeleteCollectionRequest, context: Context
    ) -> collection_service_pb2.DeleteCollectionResponse:
        await self._catalog.delete(request.collection)
        return collection_service_pb2.DeleteCollectionResponse()


class DocumentHandlers(document_service_pb2_grpc.DocumentServiceServicer):
    """DocumentService."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def AddDocuments(
        self, request: document_service_pb2.AddDocumentsRequest, context: Context
    ) -> document_service_pb2.AddDocumentsResponse:
        incoming = [convert.of_document(message, number) for number, message in enumerate(request.documents)]
        added = await self._library.add(request.collection, incoming)
        return document_service_pb2.AddDocumentsResponse(
            documents=[convert.to_document(one, request.collection) for one in added]
        )

    async def GetDocument(
        self, request: document_service_pb2.GetDocumentRequest, context: Context
    ) -> document_service_pb2.GetDocumentResponse:
        found = await self._library.get(request.collection, request.document)
        return document_service_pb2.GetDocumentResponse(document=convert.to_document(found, request.collection))

    async def DeleteDocument(
        self, request: document_service_pb2.DeleteDocumentRequest, context: Context
    ) -> document_service_pb2.DeleteDocumentResponse:
        await self._library.delete(request.collection, request.document)
        return document_service_pb2.DeleteDocumentResponse()

    async def ExpireDocuments(
        self, request: document_service_pb2.ExpireDocumentsRequest, context: Context
    ) -> document_service_pb2.ExpireDocumentsResponse:
        deleted = await self._library.expire(request.collection, request.older_than_days)
        return document_service_pb2.ExpireDocumentsResponse(deleted_count=deleted)


class SearchHandlers(search_service_pb2_grpc.SearchServiceServicer):
    """SearchService."""

    def __init__(self, searcher: CachedSearch) -> None:
        self._searcher = searcher

    async def Search(self, request: search_service_pb2.SearchRequest, context: Context) -> search_service_pb2.SearchResponse:
        top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
        options = from_options(request)
        mode, cache = convert.from_mode(request.mode), from_cache_mode(request.cache)
        searched = await self._searcher.search(request.collections, request.query, top_k, mode, options, cache=cache)
        return convert.to_search_response(searched.found, cached=searched.cached)
