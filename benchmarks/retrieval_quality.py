"""How good search is: nDCG@10 of each mode and fusion on judged collections, through a running suite.

    python benchmarks/retrieval_quality.py FOLDER... --target 127.0.0.1:8080

A folder holds `corpus.jsonl` (id, text, perhaps title) and `queries.jsonl` (id, text, relevant: ids of documents). The target
is the retrieval service's gRPC, or the gateway's port. Judgements are yes or no; a document counts at the place of its best
chunk. Nothing in penstock is tuned to one of these sets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
import uuid
from pathlib import Path
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

DEPTH = 10
# Chunks asked for, so that ten different documents are among them.
CHUNKS = 40
AT_ONCE = 4
PENDING = document_pb2.DOCUMENT_STATE_PENDING
BATCH = 50
# What is asked for beside the query.
WAYS: dict[str, dict[str, Any]] = {
    "hybrid": {"mode": search_pb2.SEARCH_MODE_HYBRID},
    "hybrid, DBSF": {"fusion": search_pb2.Fusion(dbsf=search_pb2.DbsfFusion())},
    "hybrid, weighted": {"fusion": search_pb2.Fusion(weighted=search_pb2.WeightedFusion())},
    "dense": {"mode": search_pb2.SEARCH_MODE_DENSE},
    "sparse": {"mode": search_pb2.SEARCH_MODE_SPARSE},
}


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def ndcg(ranked: list[str], relevant: set[str]) -> float:
    """Normalised discounted cumulative gain of the first ten."""
    gain = sum(1 / math.log2(place + 2) for place, one in enumerate(ranked[:DEPTH]) if one in relevant)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(DEPTH, len(relevant))))
    return gain / ideal if ideal else 0.0


async def ingest(channel: grpc.aio.Channel, collection: str, corpus: list[dict[str, Any]]) -> float:
    """Adds all documents and waits until they are searchable; returns the seconds it took."""
    documents: Any = document_service_pb2_grpc.DocumentServiceStub(channel)
    started = time.monotonic()
    pending: list[str] = []
    for first in range(0, len(corpus), BATCH):
        inputs = [
            document_pb2.DocumentInput(
                document=one["id"], title=one.get("title", ""), text=one["text"], media_type="text/plain"
            )
            for one in corpus[first : first + BATCH]
            if one["text"].strip()
        ]
        request = document_service_pb2.AddDocumentsRequest(collection=collection, documents=inputs)
        response = await documents.AddDocuments(request, timeout=300)
        pending += [one.document for one in response.documents if one.state == PENDING]
    for document in pending:
        wanted = document_service_pb2.GetDocumentRequest(collection=collection, document=document)
        while (await documents.GetDocument(wanted, timeout=10)).document.state == PENDING:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.2)
    return time.monotonic() - started


async def measure(channel: grpc.aio.Channel, collection: str, queries: list[dict[str, Any]], way: dict[str, Any]) -> list[str]:
    """One line of the table: quality, the mode that really served, the median time, the mean relevance of right and wrong."""
    searches: Any = search_service_pb2_grpc.SearchServiceStub(channel)
    room = asyncio.Semaphore(AT_ONCE)
    scores, times, served = [], [], set()
    judged: dict[bool, list[float]] = {True: [], False: []}

    async def one(query: dict[str, Any]) -> None:
        request = search_service_pb2.SearchRequest(collections=[collection], query=query["text"], top_k=CHUNKS, **way)
        async with room:
            started = time.monotonic()
            response = await searches.Search(request, timeout=60)
            times.append(time.monotonic() - started)
        relevant = set(query["relevant"])
        scores.append(ndcg(list(dict.fromkeys(hit.document for hit in response.hits)), relevant))
        served.add(search_pb2.SearchMode.Name(response.mode).removeprefix("SEARCH_MODE_").lower())
        for hit in response.hits[:DEPTH]:
            judged[hit.document in relevant].append(hit.relevance)

    await asyncio.gather(*(one(query) for query in queries if query["relevant"]))
    right, wrong = (sum(judged[kind]) / max(1, len(judged[kind])) for kind in (True, False))
    median = sorted(times)[len(times) // 2] * 1000
    return [f"{sum(scores) / len(scores):.4f}", "+".join(sorted(served)), f"{median:.1f}", f"{right:.2f}", f"{wrong:.2f}"]


async def run(target: str, folders: list[Path]) -> None:
    """Measures each folder in a collection of its own, which it deletes in the end."""
    titles = ["set", "asked for", "nDCG@10", "served by", f"p50 ms (c={AT_ONCE})", "relevance of right", "of wrong"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    async with grpc.aio.insecure_channel(target) as channel:
        collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        for folder in folders:
            collection = f"quality-{uuid.uuid4().hex[:12]}"
            wanted = collection_pb2.Collection(collection=collection)
            await collections.CreateCollection(collection_service_pb2.CreateCollectionRequest(collection=wanted), timeout=60)
            try:
                corpus, queries = read(folder / "corpus.jsonl"), read(folder / "queries.jsonl")
                seconds = await ingest(channel, collection, corpus)
                for name, way in WAYS.items():
                    cells = [folder.name, name, *await measure(channel, collection, queries, way)]
                    print("| " + " | ".join(cells) + " |", flush=True)
                print(f"<!-- {folder.name}: {len(corpus)} documents searchable after {seconds:.1f} s -->", flush=True)
            finally:
                request = collection_service_pb2.DeleteCollectionRequest(collection=collection)
                await collections.DeleteCollection(request, timeout=60)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="nDCG@10 of each search mode on judged collections")
    parser.add_argument("folders", nargs="+", type=Path, help="folders with corpus.jsonl and queries.jsonl")
    parser.add_argument("--target", default="127.0.0.1:8080", help="host:port of the gateway or of retrieval's gRPC")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.target, arguments.folders))


if __name__ == "__main__":
    main()
