"""How long a search takes: p50 and p99 of each mode over a collection of made-up passages, through a running suite.

    python benchmarks/search_latency.py --target 127.0.0.1:8080 --chunks 10000

The target is the retrieval service's gRPC, or the gateway's port. Passages have 100 words drawn by Zipf's law from 20000,
queries have 6, so that both legs have work like that of real text. Every query is a new one: no cache of vectors answers it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import uuid
from typing import Any

import grpc.aio
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

VOCABULARY = 20_000
PASSAGE_WORDS = 100
QUERY_WORDS = 6
PENDING = document_pb2.DOCUMENT_STATE_PENDING
BATCH = 200
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
) -> str:
    """One line of the table."""
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
    figures = [part(whole, 0.5), part(whole, 0.99), part(parts["embedding"], 0.5), part(parts["store"], 0.5)]
    return " | ".join([*(f"{figure:.1f}" for figure in figures), f"{rate:.0f}"])


def part(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def run(target: str, chunks: int, count: int) -> None:
    """Makes the collection, measures, and deletes it."""
    words = Words()
    async with grpc.aio.insecure_channel(target) as channel:
        collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        collection = f"latency-{uuid.uuid4().hex[:12]}"
        wanted = collection_pb2.Collection(collection=collection)
        await collections.CreateCollection(collection_service_pb2.CreateCollectionRequest(collection=wanted), timeout=60)
        try:
            started = time.monotonic()
            await ingest(channel, collection, words, chunks)
            print(f"{chunks} chunks searchable after {time.monotonic() - started:.1f} s\n")
            print("| mode | clients | p50 ms | p99 ms | embedding p50 | store p50 | searches/s |\n" + "|---" * 7 + "|")
            for name, mode in MODES.items():
                await measure(channel, collection, [words.text(QUERY_WORDS) for _ in range(30)], mode, 1)
                for at_once in (1, 10):
                    queries = [words.text(QUERY_WORDS) for _ in range(count)]
                    print(f"| {name} | {at_once} | {await measure(channel, collection, queries, mode, at_once)} |", flush=True)
        finally:
            request = collection_service_pb2.DeleteCollectionRequest(collection=collection)
            await collections.DeleteCollection(request, timeout=60)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="p50 and p99 of a search")
    parser.add_argument("--target", default="127.0.0.1:8080", help="host:port of the gateway or of retrieval's gRPC")
    parser.add_argument("--chunks", type=int, default=10_000, help="passages in the collection")
    parser.add_argument("--queries", type=int, default=300, help="searches for each line")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.target, arguments.chunks, arguments.queries))


if __name__ == "__main__":
    main()
