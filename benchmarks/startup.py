"""How long a suite takes until it is ready, and what memory it holds.

    python -m benchmarks.startup [--times 3]     starts with an empty data folder, later starts, memory
    python -m benchmarks.startup --fresh         a first `make run` in a new clone, all set-up included

Memory is read when the suite is ready, and again after 200 answers and 100 added documents.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock import AsyncClient

from benchmarks import machine, table
from benchmarks.memory import together
from benchmarks.suite import ROOT, running

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.memory import Memory
    from benchmarks.suite import Suite

ANSWERS: Final = 200
DOCUMENTS: Final = 100
_BATCH: Final = 10
_AT_ONCE: Final = 4
_COLLECTION: Final = "benchmark"
_WORDS: Final = (
    *("river", "bridge", "stone", "winter", "harbour", "engine", "market", "letter"),
    *("garden", "signal", "mountain", "paper", "window", "silver", "forest", "captain"),
    *("station", "bottle", "field", "lantern", "thunder", "copper", "village", "journey"),
    *("mirror", "needle", "orchard", "pepper", "quarry", "saddle", "timber", "valley"),
)
_FRESH_LIMIT_S: Final = 900.0
Memories = dict[str, list["Memory"]]


def text_of(number: int) -> str:
    """A text of twelve sentences that no other number gives."""
    count = len(_WORDS)
    sentences = (
        f"The {_WORDS[(number + i) % count]} of the {_WORDS[(number * 7 + i * 3) % count]} "
        f"stands beside {_WORDS[(number * 5 + i * 11) % count]} number {number * 12 + i}."
        for i in range(12)
    )
    return " ".join(sentences)


async def work(suite: Suite) -> None:
    """Adds the documents and asks for the answers, four at a time."""
    async with AsyncClient(suite.host, timeout=60) as client:
        await client.create_collection(_COLLECTION)
        for first in range(0, DOCUMENTS, _BATCH):
            await client.add_documents(_COLLECTION, [text_of(number) for number in range(first, first + _BATCH)])

        async def ask(first: int) -> None:
            for number in range(first, ANSWERS, _AT_ONCE):
                query = f"What stands beside the {_WORDS[number % len(_WORDS)]} number {number}?"
                await client.answer(query, collections=[_COLLECTION])

        await asyncio.gather(*map(ask, range(_AT_ONCE)))


def measure(times: int) -> tuple[list[float], list[float], Memories, Memories]:
    """Seconds of first starts and of later ones, memory when ready and after work; the latter of the last later start."""
    first: list[float] = []
    later: list[float] = []
    ready: Memories = {}
    worked: Memories = {}
    for _ in range(times):
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            with running(Path(folder), {}) as suite:
                first.append(suite.ready_s)
            with running(Path(folder), {}) as suite:
                later.append(suite.ready_s)
                ready = suite.memory()
                if len(later) == times:
                    asyncio.run(work(suite))
                    worked = suite.memory()
    return first, later, ready, worked


def measure_fresh(environment: Mapping[str, str]) -> float:
    """Seconds from `make run` in a new clone of the last commit until the suite is ready."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        clone = Path(folder) / "penstock"
        subprocess.run(("git", "clone", "--quiet", str(ROOT), str(clone)), check=True)  # noqa: S607 - git is where PATH says
        clean = {name: "" for name in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "UV") if name in os.environ}
        with running(Path(folder), {**clean, **environment}, ("make", "run"), clone, _FRESH_LIMIT_S) as suite:
            return suite.ready_s


def report_fresh(environment: Mapping[str, str]) -> None:
    """Measures a first `make run` with the package caches as they are, and with empty ones."""
    cached = measure_fresh(environment)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as cache:
        empty = measure_fresh({**environment, "UV_CACHE_DIR": f"{cache}/uv", "PIP_CACHE_DIR": f"{cache}/pip"})
    rows = (("package caches as they are", f"{cached:.1f}"), ("empty package caches", f"{empty:.1f}"))
    print(f"\n{table.render(('first `make run` in a new clone', 'seconds'), rows)}")


def report(times: int) -> None:
    """Measures starts and memory, and prints them."""
    first, later, ready, worked = measure(times)
    rows = [
        (name, f"{statistics.median(taken):.1f}", f"{min(taken):.1f}-{max(taken):.1f}")
        for name, taken in (("empty data folder", first), ("later start", later))
    ]
    print(f"\n{table.render((f'start, {times} times each', 'median s', 'range s'), rows)}")
    held = [
        (name, *_cells(ready[name]), *_cells(worked[name])) for name in sorted(ready, key=partial(_held, ready), reverse=True)
    ]
    held.append(("**together**", *_cells(chain(*ready.values())), *_cells(chain(*worked.values()))))
    after = f"after {ANSWERS} answers, {DOCUMENTS} documents"
    head = ("MB", "when ready: RSS summed", "shared pages once", f"{after}: RSS summed", "shared pages once")
    print(f"\n{table.render(head, held)}")


def _cells(memories: Iterable[Memory]) -> tuple[str, str]:
    held = list(memories)
    return f"{sum(one.resident for one in held):.0f}", f"{together(held).resident:.0f}"


def _held(memories: Mapping[str, list[Memory]], name: str) -> float:
    return together(memories[name]).resident


def main() -> None:
    """Reads the arguments, measures, and prints."""
    parser = argparse.ArgumentParser(description="Seconds to ready, and memory.")
    parser.add_argument("--times", type=int, default=3, help="how often to start for each figure")
    parser.add_argument("--fresh", action="store_true", help="measure a first `make run` in a new clone instead")
    given = parser.parse_args()
    print(f"{machine.described()}; others use {machine.busy_share():.0%} of the cores")
    if given.fresh:
        report_fresh({})
    else:
        report(given.times)


if __name__ == "__main__":
    main()
