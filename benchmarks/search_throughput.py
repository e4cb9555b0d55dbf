"""How many full hybrid searches a second go through Envoy, kept ones and new ones.

    python -m benchmarks.search_throughput --target 127.0.0.1:8080 --chunks 10000

Kept: one query again and again, over REST by the lean client of `benchmarks.load`. New: queries that nobody asked
before, over gRPC, so that each is embedded, searched and ranked. Client and servers share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from typing import Any, Final

import grpc.aio
from penstock.retrieval.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    search_pb2,
)

from benchmarks.load import Plan, drive, request_of, summary
from benchmarks.search_latency import QUERY_WORDS, Words, ingest, measure

_CONNECTIONS: Final = 16
_WARM_UP: Final = 1.0


async def kept(target: str, collection: str, query: str, seconds: float) -> dict[str, float | int | str]:
    """Rate and latencies of one query that is kept."""
    body = json.dumps({"collections": [collection], "query": query})
    host, _, port = target.rpartition(":")
    plan = Plan(
        host=host,
        port=int(port),
        request=request_of(f"http://{target}/v1/search", body, "application/json"),
        expect=b'"cached":true',
        token=b"hits",
        connections=_CONNECTIONS,
        seconds=seconds,
        warm_up=_WARM_UP,
    )
    return summary(await drive(plan), seconds)


async def run(target: str, chunks: int, seconds: float) -> None:
    """Makes the collection, measures, and deletes it."""
    words = Words()
    async with grpc.aio.insecure_channel(target) as channel:
        collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        collection = f"throughput-{uuid.uuid4().hex[:12]}"
        wanted = collection_pb2.Collection(collection=collection)
        await collections.CreateCollection(collection_service_pb2.CreateCollectionRequest(collection=wanted), timeout=60)
        try:
            await ingest(channel, collection, words, chunks)
            query = words.text(QUERY_WORDS)
            await measure(channel, collection, [query, query], search_pb2.SEARCH_MODE_HYBRID, 1)
            print("kept:", json.dumps(await kept(target, collection, query, seconds)), flush=True)
            print("\nnew: p50 ms | p99 ms | p95 less embedding | embedding p50 | store p50 | searches/s")
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                queries = [words.text(QUERY_WORDS) for _ in range(300)]
                cells, rate = await measure(channel, collection, queries, search_pb2.SEARCH_MODE_HYBRID, _CONNECTIONS)
                print(" | ".join([*cells, f"{rate:.0f}"]), flush=True)
        finally:
            request = collection_service_pb2.DeleteCollectionRequest(collection=collection)
            await collections.DeleteCollection(request, timeout=60)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Searches a second, kept and new")
    parser.add_argument("--target", default="127.0.0.1:8080", help="host:port of the gateway")
    parser.add_argument("--chunks", type=int, default=10_000, help="passages in the collection")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each is measured")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.target, arguments.chunks, arguments.seconds))


if __name__ == "__main__":
    main()
