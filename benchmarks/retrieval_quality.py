"""How good search is on judged collections: nDCG@10 and more of each mode and fusion, with intervals, by EvaluateRetrieval.

    python -m benchmarks.retrieval_quality FOLDER... [--target 127.0.0.1:8080] [--plots FOLDER]

A folder holds `corpus.jsonl` (id, text, perhaps title) and `queries.jsonl` (id, text, relevant: ids of documents). The target
is the retrieval service's gRPC; without one a suite of its own is started. Judgements are yes or no; a
document counts at the place of its best chunk. Intervals are the bootstrap's, of 95 %. Nothing in penstock is tuned to one set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
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
    evaluation_pb2,
    evaluation_service_pb2,
    evaluation_service_pb2_grpc,
    search_pb2,
)

from benchmarks.suite import running

PENDING = document_pb2.DOCUMENT_STATE_PENDING
BATCH = 50
MOST_QUERIES = 5000
HYBRID = "hybrid"
# The first is what every search gets that asks for nothing; differences are to it.
WAYS = [
    evaluation_pb2.EvaluationSetting(name=HYBRID),
    evaluation_pb2.EvaluationSetting(name="dense", mode=search_pb2.SEARCH_MODE_DENSE),
    evaluation_pb2.EvaluationSetting(name="sparse", mode=search_pb2.SEARCH_MODE_SPARSE),
    evaluation_pb2.EvaluationSetting(name="hybrid, DBSF", fusion=search_pb2.Fusion(dbsf=search_pb2.DbsfFusion())),
    evaluation_pb2.EvaluationSetting(name="hybrid, weighted", fusion=search_pb2.Fusion(weighted=search_pb2.WeightedFusion())),
]
LARGE = (("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20))


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


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


def verdict(scores: list[evaluation_pb2.SettingScore]) -> str:
    """How the default compares with the better of the two rankings by themselves."""
    by_name = {one.name: one.ndcg_at_10 for one in scores}
    better = max(("sparse", "dense"), key=lambda name: by_name[name].value.mean)
    # The difference is that ranking's less the default's.
    apart = by_name[better].difference
    told = "beats" if apart.high < 0 else "ties with" if apart.low <= 0 else "loses to"
    return f"hybrid {told} {better} ({-apart.mean:+.4f}, {-apart.high:+.4f} to {-apart.low:+.4f})"


async def measure(channel: grpc.aio.Channel, folder: Path, plots: Path | None) -> None:
    """Measures one folder in a collection of its own, which it deletes in the end."""
    collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
    evaluations: Any = evaluation_service_pb2_grpc.EvaluationServiceStub(channel)
    collection = f"quality-{uuid.uuid4().hex[:12]}"
    wanted = collection_pb2.Collection(collection=collection)
    await collections.CreateCollection(collection_service_pb2.CreateCollectionRequest(collection=wanted), timeout=60)
    try:
        corpus = read(folder / "corpus.jsonl")
        queries = [
            evaluation_pb2.JudgedQuery(query=one["text"], relevant=one["relevant"])
            for one in read(folder / "queries.jsonl")
            if one["relevant"]
        ]
        seconds = await ingest(channel, collection, corpus)
        request = evaluation_service_pb2.EvaluateRetrievalRequest(
            collection=collection, settings=WAYS, queries=queries[:MOST_QUERIES]
        )
        compared = await evaluations.EvaluateRetrieval(request, timeout=3600)
    finally:
        unwanted = collection_service_pb2.DeleteCollectionRequest(collection=collection)
        await collections.DeleteCollection(unwanted, timeout=60)
    print(f"### {folder.name}: {compared.query_count} queries, {len(corpus)} documents, searchable after {seconds:.1f} s\n")
    print(f"{compared.table}\n{verdict(list(compared.scores))}\n", flush=True)
    if plots:
        keep(plots / f"{folder.name}.svg", compared.plot)


def keep(path: Path, text: str) -> None:
    """Writes a file, and its folder if it must."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


async def run(target: str, folders: list[Path], plots: Path | None) -> None:
    """Measures each folder."""
    async with grpc.aio.insecure_channel(target, options=LARGE) as channel:
        for folder in folders:
            await measure(channel, folder, plots)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="nDCG@10 and more of each search mode on judged collections")
    parser.add_argument("folders", nargs="+", type=Path, help="folders with corpus.jsonl and queries.jsonl")
    parser.add_argument("--target", default="", help="host:port of retrieval's gRPC; none starts a suite")
    parser.add_argument("--plots", type=Path, help="folder for a plot in SVG of each judged folder")
    arguments = parser.parse_args()
    if arguments.target:
        asyncio.run(run(arguments.target, arguments.folders, arguments.plots))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-eval-") as folder, running(Path(folder), {}) as suite:
        asyncio.run(run(suite.address("retrieval"), arguments.folders, arguments.plots))


if __name__ == "__main__":
    main()
