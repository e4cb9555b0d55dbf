"""How fast documents become searchable: a file of records through the gateway, beside what the embedder alone does.

    python -m benchmarks.ingestion [--chunks 50000]

It starts a suite of its own, uploads one file of JSON lines, each a passage of 45 made-up words, which is one chunk, and
watches the ingestion to its end. Before and after, the embedder embeds passages of the same kind directly, in batches of the
same size with as many on their way; the ratio is the ingestion's chunks per second to the mean of these two. CPU time is that
of each process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import psutil
from penstock.inference.v1 import embedding_service_pb2, embedding_service_pb2_grpc

from benchmarks import machine
from benchmarks.search_latency import Words
from benchmarks.suite import running
from benchmarks.table import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.suite import Suite

# More of these words would be more tokens than one chunk has.
PASSAGE_WORDS = 45
BATCH = 64
IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingestion took, by the clock and in CPU seconds of each process."""

    chunks: int
    seconds: float
    cpu: dict[str, float]


async def embedder_rate(suite: Suite, words: Words, texts: int) -> float:
    """Texts per second that inference embeds by itself."""
    passages = [words.text(PASSAGE_WORDS) for _ in range(texts)]
    async with grpc.aio.insecure_channel(suite.address("inference")) as channel:
        embedding: Any = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        room = asyncio.Semaphore(IN_FLIGHT)

        async def embed(start: int) -> None:
            async with room:
                await embedding.Embed(embedding_service_pb2.EmbedRequest(inputs=passages[start : start + BATCH]), timeout=120)

        await embed(0)
        began = time.monotonic()
        await asyncio.gather(*(embed(start) for start in range(BATCH, texts, BATCH)))
        return (texts - BATCH) / (time.monotonic() - began)


def cpu_seconds(suite: Suite) -> dict[str, float]:
    """CPU seconds of each process of the suite so far, its children's included."""
    found = {}
    for name in suite.names():
        process = psutil.Process(suite.process(name))
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        # What a process's dead children used is known to it alone.
        gone = process.cpu_times()
        found[name] = sum(one.user + one.system for one in times) + gone.children_user + gone.children_system
    return found


def records(words: Words, chunks: int) -> Iterator[bytes]:
    """The file, line by line."""
    for number in range(chunks):
        yield json.dumps({"id": f"d{number}", "text": words.text(PASSAGE_WORDS)}).encode() + b"\n"


def ingest(suite: Suite, words: Words, chunks: int) -> Ingested:
    """Uploads the file and watches it become searchable."""
    collection = f"bench-{uuid.uuid4().hex[:8]}"
    with httpx.Client(base_url=f"http://{suite.host}", timeout=3600) as http:
        http.post("/v1/collections", json={"collection": collection}).raise_for_status()
        body = b"".join(records(words, chunks))
        before, began = cpu_seconds(suite), time.monotonic()
        path = f"/v1/collections/{collection}/ingestions:upload"
        made = http.post(path, params={"name": "passages.jsonl"}, content=body).raise_for_status().json()["ingestion"]
        watch, accept = f"/v1/ingestions/{made['ingestion']}:watch", {"accept": "text/event-stream"}
        last: dict[str, Any] = {}
        with http.stream("GET", watch, headers=accept) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    ((_, last),) = json.loads(line.removeprefix("data:")).items()
                    stages = last["stages"]
                    print(f"\r{stages[3]['chunks_done']} of {chunks}, {stages[3]['rate']:.0f}/s  ", end="", flush=True)
        seconds = time.monotonic() - began
        print()
    done = int(last["stages"][3]["chunks_done"])
    if last["state"] != "INGESTION_STATE_SUCCEEDED" or done != chunks:
        raise SystemExit(f"only {done} of {chunks} chunks were ingested: {last}")
    return Ingested(done, seconds, {name: used - before[name] for name, used in cpu_seconds(suite).items() if name in before})


def main() -> None:
    """Reads the arguments, measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="Ingestion beside the embedder alone.")
    parser.add_argument("--chunks", type=int, default=50_000)
    chunks = parser.parse_args().chunks
    print(machine.described(), flush=True)
    words = Words()
    sample = min(2048, max(8 * BATCH, chunks // 4))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, running(Path(folder), {}) as suite:
        before = asyncio.run(embedder_rate(suite, words, sample))
        ingested = ingest(suite, words, chunks)
        after = asyncio.run(embedder_rate(suite, words, sample))
    alone = (before + after) / 2
    rate = ingested.chunks / ingested.seconds
    figures = [f"{ingested.chunks}", f"{ingested.seconds:.1f}", f"{rate:.0f}", f"{alone:.0f}", f"{rate / alone:.2f}"]
    print(render(["chunks", "seconds", "chunks/s", "embedder alone, texts/s", "ratio"], [figures]))
    used = sorted(ingested.cpu.items(), key=lambda one: -one[1])
    per_chunk = [[name, f"{seconds:.1f}", f"{seconds / ingested.chunks * 1e6:.0f}"] for name, seconds in used]
    share = ingested.cpu["inference"] / sum(ingested.cpu.values())
    print(f"\nThe embedder's share of all CPU time during the ingestion: {share:.2f}\n")
    print(render(["process", "CPU s", "CPU µs a chunk"], per_chunk))


if __name__ == "__main__":
    main()
