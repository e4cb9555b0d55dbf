"""What the way through the gateway adds to an engine's own latency.

    python -m benchmarks.gateway_latency [--rounds 5] [--seconds 2] [--attempts 2]

A suite runs with the mock engine behind it. Every round measures every path once, one after the other, so that what else
happens on the machine falls on all of them alike; printed are medians over the rounds. What a path adds is its latency less
that of the engine itself in the same round. The engine gives its tokens in one write, at once. What the gateway and the
inference service use of the processor for one answer hardly depends on what else runs, unlike the latencies.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import machine, table
from benchmarks.suite import ROOT, Suite, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Figures = dict[str, float]

_PROMPT: Final = "Say something. tokens=20"
_CHAT: Final = {"model": "mock", "messages": [{"role": "user", "content": _PROMPT}]}
_TYPED: Final = {"model": "mock", "prompt": _PROMPT}
_EVENTS: Final = "text/event-stream"
# What others may have of all cores while a measurement counts as undisturbed.
_QUIET: Final = 0.05
_WEIGHED: Final = ("gateway", "inference")
_ENGINE: Final = {"unary": "engine alone, one JSON body", "stream": "engine alone, SSE"}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a completion: its name, whether it streams, and the command that drives it."""

    name: str
    kind: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long to measure. Times are in seconds."""

    rounds: int
    seconds: float
    attempts: int
    levels: Sequence[int]


def paths(engine: str, suite: Suite) -> list[Way]:
    """The engine alone first, then every way through the suite."""
    chat, streamed = json.dumps(_CHAT), json.dumps({**_CHAT, "stream": True})
    typed = json.dumps(_TYPED)
    gateway = f"http://{suite.host}"
    inference = suite.address("inference")
    return [
        _http(_ENGINE["unary"], "unary", f"http://{engine}/v1/chat/completions", chat, "t~ken"),
        _http(_ENGINE["stream"], "stream", f"http://{engine}/v1/chat/completions", streamed, "[DONE]"),
        _http("REST, one response", "unary", f"{gateway}/v1/generate", typed, "t~ken"),
        _http("REST, SSE", "stream", f"{gateway}/v1/generate:stream", typed, '"finished"'),
        _http("OpenAI, one JSON body", "unary", f"{gateway}/openai/v1/chat/completions", chat, "t~ken"),
        _http("OpenAI, SSE", "stream", f"{gateway}/openai/v1/chat/completions", streamed, "[DONE]"),
        _grpc("gRPC, one response", "unary", suite.host),
        _grpc("gRPC, stream", "stream", suite.host),
        _grpc("gRPC without the gateway, one response", "unary", inference),
        _grpc("gRPC without the gateway, stream", "stream", inference),
    ]


def _http(name: str, kind: str, url: str, body: str, expect: str) -> Way:
    accept = _EVENTS if kind == "stream" else "application/json"
    return Way(name, kind, ("benchmarks.load", url, "--body", body, "--accept", accept, "--expect", expect))


def _grpc(name: str, kind: str, target: str) -> Way:
    stream = ("--stream",) if kind == "stream" else ()
    return Way(name, kind, ("benchmarks.grpc_load", target, "--prompt", _PROMPT, *stream))


@contextmanager
def mock_engine() -> Iterator[str]:
    """Runs the mock engine; gives its host:port."""
    command = (sys.executable, "-m", "benchmarks.mock_engine")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            yield f"127.0.0.1:{process.stdout.readline().split()[-1]}"
        finally:
            process.terminate()


def drive(way: Way, connections: int, seconds: float) -> Figures:
    """One measurement, by a load client in a process of its own. Raises RuntimeError if any answer was wrong."""
    module, *arguments = way.command
    limits = ("--connections", str(connections), "--seconds", str(seconds))
    command = (sys.executable, "-m", module, *arguments, *limits)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way.name}, {connections} at once: the load client failed:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    if figures["errors"]:
        raise RuntimeError(f"{way.name}, {connections} at once: {figures['errors']} errors, first: {figures['error']}")
    return figures


def weigh(way: Way, plan: Plan, connections: int, processes: Mapping[str, int]) -> Figures:
    """As `drive`, with `others`, and with the processor time that each of the processes used for one answer, in microseconds.

    While others take much of the machine it tries again, and keeps the attempt that they disturbed least.
    """
    best: Figures = {}
    for _ in range(plan.attempts):
        bystanders = machine.Bystanders()
        before = {name: machine.processor_seconds(pid) for name, pid in processes.items()}
        figures = drive(way, connections, plan.seconds)
        used = {name: machine.processor_seconds(pid) - before[name] for name, pid in processes.items()}
        figures |= {f"{name}_us": spent * 1e6 / figures["answers"] for name, spent in used.items()}
        figures["others"] = bystanders.share()
        if not best or figures["others"] < best["others"]:
            best = figures
        if best["others"] < _QUIET:
            break
    return best


def measure(plan: Plan) -> dict[int, dict[Way, list[Figures]]]:
    """All figures, by the number of connections and the path, one a round."""
    taken: dict[int, dict[Way, list[Figures]]] = {level: defaultdict(list) for level in plan.levels}
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        mock_engine() as engine,
        running(Path(folder), {"OPENAI_BASE_URL": f"http://{engine}"}) as suite,
    ):
        ways = paths(engine, suite)
        processes = {name: suite.process(name) for name in _WEIGHED}
        for way in ways:
            drive(way, max(plan.levels), 1.0)
        for _ in range(plan.rounds):
            for level in plan.levels:
                for way in ways:
                    taken[level][way].append(weigh(way, plan, level, processes))
    return taken


def report(taken: Mapping[Way, Sequence[Figures]]) -> str:
    """A table of medians over the rounds."""
    engines = {kind: next(figures for way, figures in taken.items() if way.name == name) for kind, name in _ENGINE.items()}
    rows = []
    for way, figures in taken.items():
        alone = engines[way.kind]
        added = "–" if way.name == _ENGINE[way.kind] else None
        rows.append(
            (
                way.name,
                f"{_median(figures, 'rate'):,.0f}",
                f"{_median(figures, 'latency_p50_ms'):.2f}",
                f"{_median(figures, 'latency_p99_ms'):.2f}",
                added or _added(figures, alone, "latency_p50_ms"),
                added or _added(figures, alone, "latency_p99_ms"),
                f"{_median(figures, 'first_token_p50_ms'):.2f}" if way.kind == "stream" else "",
                *("–" if added else f"{_median(figures, f'{name}_us'):.0f}" for name in _WEIGHED),
            )
        )
    latencies = ("p50 ms", "p99 ms", "added p50", "added p99", "first token p50")
    return table.render(("path", "a second", *latencies, *(f"{name} CPU us" for name in _WEIGHED)), rows)


def _median(figures: Sequence[Figures], name: str) -> float:
    return statistics.median(one[name] for one in figures)


def _added(figures: Sequence[Figures], alone: Sequence[Figures], name: str) -> str:
    return f"{statistics.median(one[name] - base[name] for one, base in zip(figures, alone, strict=True)):+.2f}"


def main() -> None:
    """Reads the arguments, measures, and prints."""
    parser = argparse.ArgumentParser(description="What the way through the gateway adds to an engine's latency.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement of a round takes")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--attempts", type=int, default=2, help="how often to try a measurement that others disturb")
    given = parser.parse_args()
    plan = Plan(given.rounds, given.seconds, given.attempts, given.connections)
    print(f"{machine.described()}; others use {machine.busy_share():.0%} of the cores")
    for level, taken in measure(plan).items():
        others = statistics.median(one["others"] for figures in taken.values() for one in figures)
        print(f"\n{level} at once, medians of {plan.rounds} rounds of {plan.seconds:g} s; meanwhile others used {others:.0%}")
        print(f"\n{report(taken)}", flush=True)


if __name__ == "__main__":
    main()
