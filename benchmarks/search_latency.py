"""How long a search takes: p50 and p99 of each mode over a collection of made-up passages, through a running suite.

    python -m benchmarks.search_latency --target 127.0.0.1:8080 --chunks 10000 --qdrant 127.0.0.1:6334

The target is the retrieval service's gRPC, or the gateway's port. Passages have 100 words drawn by Zipf's law from 20000,
queries have 6, so that both legs have work like that of real text. Every query is a new one: no cache of vectors answers it.

With `--qdrant`, the vector store's gRPC, the store is asked beside the service, in the same run and in turns with it: the same
request that the service makes of it for such a search, made beforehand and sent as bare messages: the engine alone works.
Its vectors are chance ones. The last column is the service's searches a second as a share of the store's.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import uuid
from typing import Any

import grpc.aio
import qdrant_client.grpc as qdrant
from penstock.retrieval.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)

from services.retrieval.analysis import query_vector

VOCABULARY = 20_000
PASSAGE_WORDS = 100
QUERY_WORDS = 6
PENDING = document_pb2.DOCUMENT_STATE_PENDING
BATCH = 200
# What the service asks of the store for a search with the default top_k, see services/retrieval/stores/qdrant.py.
LIMIT, DEPTH = 10, 50
MODES = {
    "hybrid": search_pb2.SEARCH_MODE_HYBRID,
    "dense": search_pb2.SEARCH_MODE_DENSE,
    "sparse": search_pb2.SEARCH_MODE_SPARSE,
}


class Words:
    """Made-up words: syllables by number, the frequent ones short; the same in every run."""

    def __init__(self) -> None:
        self._random = random.Random(1)  # noqa: S311 - a benchmark must be repeatable, not secret
        syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        self._words = ["".join(self._random.choices(syllables, k=1 + place.bit_length() // 4)) for place in range(VOCABULARY)]
        self._weights = [1 / (place + 3) for place in range(VOCABULARY)]

    def text(self, words: int) -> str:
        """A text of so many words."""
        return " ".join(self._random.choices(self._words, self._weights, k=words))


async def ingest(channel: grpc.aio.Channel, collection: str, words: Words, chunks: int) -> None:
    """Adds one passage a document, and waits until all are searchable."""
    documents: Any = document_service_pb2_grpc.DocumentServiceStub(channel)
    pending: list[str] = []
    for first in range(0, chunks, BATCH):
        inputs = [
            document_pb2.DocumentInput(document=f"d{number}", text=words.text(PASSAGE_WORDS), media_type="text/plain")
            for number in range(first, min(first + BATCH, chunks))
        ]
        request = document_service_pb2.AddDocumentsRequest(collection=collection, documents=inputs)
        response = await documents.AddDocuments(request, timeout=300)
        pending += [one.document for one in response.documents if one.state == PENDING]
    for document in pending:
        wanted = document_service_pb2.GetDocumentRequest(collection=collection, document=document)
        while (await documents.GetDocument(wanted, timeout=10)).document.state == PENDING:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.2)


async def measure(
    channel: grpc.aio.Channel, collection: str, queries: list[str], mode: search_pb2.SearchMode.ValueType, at_once: int
) -> tuple[list[str], float]:
    """One line of the table, and searches a second."""
    searches: Any = search_service_pb2_grpc.SearchServiceStub(channel)
    waiting = iter(queries)
    whole: list[float] = []
    parts: dict[str, list[float]] = {"embedding": [], "store": []}

    async def client() -> None:
        for query in waiting:
            request = search_service_pb2.SearchRequest(collections=[collection], query=query, mode=mode)
            started = time.perf_counter()
            response = await searches.Search(request, timeout=60)
            whole.append((time.perf_counter() - started) * 1000)
            for name, values in parts.items():
                values.append(getattr(response.timings, name).ToNanoseconds() / 1e6)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    rate = len(queries) / (time.perf_counter() - started)
    own = [time - embedding for time, embedding in zip(whole, parts["embedding"], strict=True)]
    figures = [part(whole, 0.5), part(whole, 0.99), part(own, 0.95), part(parts["embedding"], 0.5), part(parts["store"], 0.5)]
    return [f"{figure:.1f}" for figure in figures], rate


class Engine:
    """The store itself, asked for what the service asks it for."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._points: Any = qdrant.PointsStub(channel)  # type: ignore[no-untyped-call]  # made by protoc
        self._random = random.Random(2)  # noqa: S311 - repeatable, not secret
        self.collection = ""

    async def names(self) -> set[str]:
        """The store's collections."""
        collections: Any = qdrant.CollectionsStub(self._channel)  # type: ignore[no-untyped-call]  # as above
        return {one.name for one in (await collections.List(qdrant.ListCollectionsRequest(), timeout=10)).collections}

    def _request(self, query: str, mode: search_pb2.SearchMode.ValueType, dimensions: int) -> Any:
        terms = query_vector(query)
        vector = qdrant.DenseVector(data=[self._random.gauss(0, 1) for _ in range(dimensions)])
        dense = qdrant.Query(nearest=qdrant.VectorInput(dense=vector))
        sparse = qdrant.Query(
            nearest=qdrant.VectorInput(sparse=qdrant.SparseVector(values=terms.values, indices=terms.indices))
        )
        named = ["sparse"] if mode == search_pb2.SEARCH_MODE_SPARSE else ["dense", "sparse"]
        request = qdrant.QueryPoints(
            collection_name=self.collection,
            limit=LIMIT,
            with_payload=qdrant.WithPayloadSelector(enable=True),
            with_vectors=qdrant.WithVectorsSelector(include=qdrant.VectorsSelector(names=named)),
        )
        if mode == search_pb2.SEARCH_MODE_HYBRID:
            request.prefetch.extend(
                qdrant.PrefetchQuery(query=leg, using=name, limit=DEPTH) for name, leg in (("dense", dense), ("sparse", sparse))
            )
            request.query.CopyFrom(qdrant.Query(rrf=qdrant.Rrf(k=60)))
        else:
            request.using = "dense" if mode == search_pb2.SEARCH_MODE_DENSE else "sparse"
            request.query.CopyFrom(dense if request.using == "dense" else sparse)
        return request

    async def rate(self, queries: list[str], mode: search_pb2.SearchMode.ValueType, at_once: int, dimensions: int) -> float:
        """Searches a second."""
        requests = iter([self._request(query, mode, dimensions) for query in queries])

        async def client() -> None:
            for request in requests:
                await self._points.Query(request, timeout=60)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        return len(queries) / (time.perf_counter() - started)


def part(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def run(target: str, store: str, chunks: int, count: int) -> None:
    """Makes the collection, measures, and deletes it."""
    words = Words()
    async with grpc.aio.insecure_channel(target) as channel, grpc.aio.insecure_channel(store or target) as other:
        engine = Engine(other) if store else None
        before = await engine.names() if engine else set()
        collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        collection = f"latency-{uuid.uuid4().hex[:12]}"
        wanted = collection_pb2.Collection(collection=collection)
        made = await collections.CreateCollection(collection_service_pb2.CreateCollectionRequest(collection=wanted), timeout=60)
        try:
            started = time.monotonic()
            await ingest(channel, collection, words, chunks)
            print(f"{chunks} chunks searchable after {time.monotonic() - started:.1f} s\n")
            if engine:
                engine.collection = next(iter(await engine.names() - before))
            titles = ["mode", "clients", "p50 ms", "p99 ms", "p95 less embedding", "embedding p50", "store p50", "searches/s"]
            titles += ["the store's own", "share"] if engine else []
            print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
            for name, mode in MODES.items():
                await measure(channel, collection, [words.text(QUERY_WORDS) for _ in range(30)], mode, 1)
                for at_once in (1, 10):
                    queries = [words.text(QUERY_WORDS) for _ in range(count)]
                    cells, rate = await measure(channel, collection, queries, mode, at_once)
                    cells = [name, str(at_once), *cells, f"{rate:.0f}"]
                    if engine:
                        own = await engine.rate(queries, mode, at_once, made.collection.dimensions)
                        cells += [f"{own:.0f}", f"{rate / own:.2f}"]
                    print(f"| {' | '.join(cells)} |", flush=True)
        finally:
            request = collection_service_pb2.DeleteCollectionRequest(collection=collection)
            await collections.DeleteCollection(request, timeout=60)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="p50 and p99 of a search")
    parser.add_argument("--target", default="127.0.0.1:8080", help="host:port of the gateway or of retrieval's gRPC")
    parser.add_argument("--qdrant", default="", help="host:port of the vector store's gRPC, to be asked beside the service")
    parser.add_argument("--chunks", type=int, default=10_000, help="passages in the collection")
    parser.add_argument("--queries", type=int, default=300, help="searches for each line")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.target, arguments.qdrant, arguments.chunks, arguments.queries))


if __name__ == "__main__":
    main()
