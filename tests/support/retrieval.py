"""The retrieval service as a process, with a real PostgreSQL and Qdrant's engine behind it."""

import asyncio
import os
import shutil
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc.aio
from google.api import httpbody_pb2
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.retrieval.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    ingestion_pb2,
    ingestion_service_pb2,
    ingestion_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)

from tests.support.hashing_embedder import HashingEmbedder
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.postgres import Postgres

ROOT = Path(__file__).parents[2]
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
INDEXED = document_pb2.DOCUMENT_STATE_INDEXED
PENDING = document_pb2.DOCUMENT_STATE_PENDING


class ServerProcess:
    """A gRPC server that a test starts, kills and starts again, always on the same port."""

    def __init__(self, module: str, log: Path, environment: dict[str, str]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.channel = grpc.aio.insecure_channel(self.address, options=CHANNEL)
        self.log = log
        self._module = module
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {**os.environ, **self._environment, "GRPC_ADDRESS": self.address}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        # The first try may find only that the connection to an earlier life is dead.
        for last in (False, True):
            try:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
            except grpc.aio.AioRpcError:
                if last:
                    raise
            else:
                return

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """Ends it without a word."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def terminate(self) -> int:
        """Tells it to stop, and returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        status = await asyncio.wait_for(self._process.wait(), 20)
        self._process = None
        return status


class Retrieval:
    """The service and all it needs."""

    def __init__(self, folder: Path, database_url: str, embedder: HashingEmbedder) -> None:
        self.embedder = embedder
        self.qdrant_folder = folder / "qdrant"
        self.qdrant = ServerProcess("deploy.local.qdrant_edge", folder / "qdrant.log", {"DATA_DIR": str(self.qdrant_folder)})
        self.environment = {
            "DATABASE_URL": database_url,
            "QDRANT_URL": f"http://{self.qdrant.address}",
            "INFERENCE_ADDRESS": embedder.address,
            "EXPERIMENTS_ADDRESS": "",
            "INDEX_WAIT_SECONDS": "10",
            # The service starts reader processes; gRPC would log each time that it does nothing about that.
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }
        self.service = ServerProcess("services.retrieval", folder / "retrieval.log", self.environment)
        channel = self.service.channel
        self.collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        self.documents: Any = document_service_pb2_grpc.DocumentServiceStub(channel)
        self.ingestions: Any = ingestion_service_pb2_grpc.IngestionServiceStub(channel)
        self.searches: Any = search_service_pb2_grpc.SearchServiceStub(channel)

    def lose_qdrant_data(self) -> None:
        shutil.rmtree(self.qdrant_folder)

    async def release_leases(self) -> None:
        """Lets the leases of the dead run out now; a test need not wait the half minute."""
        connection = await asyncpg.connect(self.environment["DATABASE_URL"])
        try:
            for table in ("documents", "ingestions"):
                await connection.execute(f"UPDATE retrieval.{table} SET leased_until = now() WHERE lease IS NOT NULL")  # noqa: S608 - fixed names
        finally:
            await connection.close()

    async def create(self, collection: str = "docs", **fields: Any) -> collection_pb2.Collection:
        request_id = fields.pop("request_id", "")
        request = collection_service_pb2.CreateCollectionRequest(
            collection=collection_pb2.Collection(collection=collection, **fields), request_id=request_id
        )
        created: collection_service_pb2.CreateCollectionResponse = await self.collections.CreateCollection(request, timeout=20)
        return created.collection

    async def add(
        self, *documents: dict[str, Any] | document_pb2.DocumentInput, collection: str = "docs", seconds: float = 30
    ) -> list[document_pb2.Document]:
        request = document_service_pb2.AddDocumentsRequest(
            collection=collection,
            documents=[
                one if isinstance(one, document_pb2.DocumentInput) else json_format.ParseDict(one, document_pb2.DocumentInput())
                for one in documents
            ],
        )
        return list((await self.documents.AddDocuments(request, timeout=seconds)).documents)

    async def ingest(self, *documents: dict[str, Any], collection: str = "docs", request_id: str = "") -> str:
        """Begins an ingestion of documents given inline, and returns its id."""
        request = ingestion_service_pb2.CreateIngestionRequest(
            collection=collection,
            documents=ingestion_service_pb2.InlineDocuments(
                documents=[json_format.ParseDict(one, document_pb2.DocumentInput()) for one in documents]
            ),
            request_id=request_id,
        )
        response: ingestion_service_pb2.CreateIngestionResponse = await self.ingestions.CreateIngestion(request, timeout=20)
        return response.ingestion.ingestion

    async def upload(self, name: str, content: bytes, collection: str = "docs", **first: Any) -> str:
        """Uploads a file in pieces of 64 KiB, and returns the id of its ingestion."""

        async def pieces() -> "AsyncIterator[ingestion_service_pb2.UploadIngestionRequest]":
            begin = ingestion_service_pb2.UploadIngestionRequest(collection=collection, name=name, **first)
            yield begin
            for start in range(0, len(content), 65536):
                body = httpbody_pb2.HttpBody(data=content[start : start + 65536])
                yield ingestion_service_pb2.UploadIngestionRequest(body=body)

        response: ingestion_service_pb2.UploadIngestionResponse = await self.ingestions.UploadIngestion(pieces(), timeout=60)
        return response.ingestion.ingestion

    async def watch(self, ingestion: str) -> "AsyncIterator[ingestion_pb2.Ingestion]":
        """How an ingestion goes on, to its end."""
        request = ingestion_service_pb2.WatchIngestionRequest(ingestion=ingestion)
        async for event in self.ingestions.WatchIngestion(request, timeout=60):
            yield event.progress if event.HasField("progress") else event.finished

    async def ended(self, ingestion: str) -> ingestion_pb2.Ingestion:
        """The ingestion once it has ended."""
        found = [told async for told in self.watch(ingestion)][-1]
        assert found.HasField("end_time")
        return found

    async def get(self, document: str, collection: str = "docs") -> document_pb2.Document:
        request = document_service_pb2.GetDocumentRequest(collection=collection, document=document)
        found: document_service_pb2.GetDocumentResponse = await self.documents.GetDocument(request, timeout=20)
        return found.document

    async def delete(self, document: str, collection: str = "docs") -> None:
        request = document_service_pb2.DeleteDocumentRequest(collection=collection, document=document)
        await self.documents.DeleteDocument(request, timeout=20)

    async def search(
        self,
        query: str,
        *collections: str,
        mode: search_pb2.SearchMode.ValueType = search_pb2.SEARCH_MODE_HYBRID,
        **fields: Any,
    ) -> search_service_pb2.SearchResponse:
        request = search_service_pb2.SearchRequest(collections=collections or ["docs"], query=query, mode=mode, **fields)
        response: search_service_pb2.SearchResponse = await self.searches.Search(request, timeout=20)
        return response

    async def found(self, query: str, *collections: str, **fields: Any) -> list[str]:
        """The documents found, best first."""
        return [hit.document for hit in (await self.search(query, *collections, **fields)).hits]

    async def becomes_indexed(self, documents: "Iterable[str]", collection: str = "docs", seconds: float = 40) -> None:
        """Waits until the documents are searchable."""
        async with asyncio.timeout(seconds):
            for document in documents:
                while (await self.get(document, collection)).state != INDEXED:  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(0.1)


@asynccontextmanager
async def retrieval(folder: Path, postgres: "Postgres") -> "AsyncIterator[Retrieval]":
    """The service, started, over a database of its own."""
    url = await postgres.new_database("retrieval")
    async with AsyncExitStack() as stack:
        embedder = HashingEmbedder()  # type: ignore[abstract]  # the rest of ModelService stays unimplemented
        stack.push_async_callback(embedder.stop)
        suite = Retrieval(folder, url, embedder)
        for server in (suite.qdrant, suite.service):
            stack.push_async_callback(server.channel.close)
            stack.push_async_callback(server.kill)
        await embedder.start()
        await suite.qdrant.start()
        await suite.service.start()
        yield suite


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a failed call's ErrorInfo."""
    return info_of(error).reason


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """A failed call's ErrorInfo."""
    info = error_details_pb2.ErrorInfo()
    trailers: Any = error.trailing_metadata()
    raw = dict(trailers)["grpc-status-details-bin"]
    assert status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return info
