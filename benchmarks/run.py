"""Measures all figures of docs/benchmarks.md: `make bench`, or `python -m benchmarks.run [--judged FOLDER...]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.suite import ROOT, running

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(title: str, *command: str) -> None:
    """Runs one benchmark in a process of its own; raises CalledProcessError if it fails."""
    print(f"\n## {title}\n\n    python -m {' '.join(command)}\n", flush=True)
    subprocess.run((sys.executable, "-m", *command), cwd=ROOT, check=True)


def run_search(judged: Sequence[str], chunks: int) -> None:
    """Runs what needs a suite that runs already, on one of its own."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, running(Path(folder), {}) as suite:
        environment = suite.run()["environment"]
        assert isinstance(environment, dict)  # noqa: S101 - for the type checker
        store = str(environment["QDRANT_URL"]).removeprefix("http://")
        run("Search", "benchmarks.search_latency", "--target", suite.host, "--qdrant", store, "--chunks", str(chunks))
        run("Searches a second, kept and new", "benchmarks.search_throughput", "--target", suite.host)
        inference = suite.address("inference")
        run("Groundedness", "benchmarks.grounding", "--target", inference)
        run("Intents", "benchmarks.intents", "--target", inference)
        if judged:
            # Not through the gateway: a judged set is more than a request may hold there.
            run("Quality of search", "benchmarks.retrieval_quality", *judged, "--target", suite.address("retrieval"))


def main() -> None:
    """Reads the arguments and runs everything."""
    parser = argparse.ArgumentParser(description="All figures of docs/benchmarks.md.")
    parser.add_argument("--judged", nargs="+", default=[], help="folders of judged collections, for the quality of search")
    parser.add_argument("--chunks", type=int, default=10_000, help="passages in the collection that is searched")
    arguments = parser.parse_args()
    print(machine.described(), flush=True)
    run("First `make run`", "benchmarks.startup", "--fresh")
    run("Starts and memory", "benchmarks.startup")
    run("The way through the gateway", "benchmarks.gateway_latency")
    run("Routing decisions", "benchmarks.routing_decisions")
    run("Authorization", "benchmarks.authorization")
    run("Beside others", "benchmarks.references")
    run("What one machine serves", "benchmarks.throughput")
    run("Ingestion", "benchmarks.ingestion")
    run("Chunking", "benchmarks.chunking_speed")
    run("Quality against labels", "benchmarks.quality")
    run_search(arguments.judged, arguments.chunks)


if __name__ == "__main__":
    main()
