"""What one machine serves through the gateway, and what it costs: rates, bursts, paced streams, clients that leave, memory.

    python -m benchmarks.throughput [--rounds 3] [--seconds 5] [--soak 600] [--only unary latency bursts paced leaving soak]

A suite runs with the mock engine behind it. Each figure stands beside the same load on the engine alone. Printed are medians
over the rounds with their goal; `others` is what other programs had of all cores meanwhile: above a few per cent, rates and
99th percentiles say more about them than about penstock, while processor time stays what it is.

CPU is that of the gateway and of all inference processes together. `load` is what the load client and the engine had of one
core: near 100 % they would have measured themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import machine, table
from benchmarks.gateway_latency import Figures, Way, drive, mock_engine
from benchmarks.load import percentile
from benchmarks.soak import soak
from benchmarks.suite import ROOT, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_GENERATE: Final = "/v1/generate"
_STREAM: Final = "/v1/generate:stream"
_CHAT: Final = "/v1/chat/completions"
_EVENTS: Final = "text/event-stream"
_BURST_TOKENS: Final = 1000
_PERIOD_MS: Final = 20
_LEAVING: Final = 200
# What the paced engine takes for one answer: 4 tokens and the end, 10 ms each.
_WORKING: Final = "tokens=4 period_ms=10"


@dataclass(frozen=True, slots=True)
class Door:
    """A way to an answer: the engine itself, or one of penstock's faces."""

    name: str
    unary: str
    stream: str
    is_typed: bool
    end: str

    def body(self, prompt: str, *, stream: bool) -> str:
        """The request for this prompt."""
        if self.is_typed:
            return json.dumps({"model": "mock", "prompt": prompt})
        return json.dumps({"model": "mock", "messages": [{"role": "user", "content": prompt}], "stream": stream})

    def way(self, prompt: str, *, stream: bool) -> Way:
        """How benchmarks.load drives it."""
        accept, end = (_EVENTS, self.end) if stream else ("application/json", "t~ken")
        url, body = self.stream if stream else self.unary, self.body(prompt, stream=stream)
        return Way(self.name, "", ("benchmarks.load", url, "--body", body, "--accept", accept, "--expect", end))


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs: the doors, the engine's process and address, and the processes whose work counts."""

    engine: Door
    typed: Door
    openai: Door
    address: str
    load: int
    processes: Mapping[str, int]

    def weighed(self, measure: Callable[[], Figures]) -> Figures:
        """A measurement, with `us` of processor time, the engine's `engine_s`, and the share of `others`."""
        bystanders = machine.Bystanders()
        used, engine = self._used(), machine.processor_seconds(self.load)
        figures = measure()
        extra = {"us": (self._used() - used) * 1e6, "engine_s": machine.processor_seconds(self.load) - engine}
        return {**figures, **extra, "others": bystanders.share()}

    def _used(self) -> float:
        return sum(machine.family_seconds(pid) for pid in self.processes.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how long and with how many streams to measure. Times are in seconds."""

    rounds: int
    seconds: float
    streams: Sequence[int]
    soak: float


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what it is, where, how much, and what it should be."""

    what: str
    where: str
    value: float
    goal: str
    others: float

    def cells(self) -> tuple[str, ...]:
        """As the table has it."""
        digits = 0 if abs(self.value) >= 100 else 2  # noqa: PLR2004 - no more than three digits that mean anything
        return self.what, self.where, f"{self.value:,.{digits}f}", self.goal, f"{self.others:.0%}"


def paced(door: Door, streams: int, seconds: float, leave_after: int = 0) -> Figures:
    """Streams of 50 tokens a second, all open at once. Raises RuntimeError if the client fails."""
    tokens = round(seconds * 1000 / _PERIOD_MS)
    body = door.body(f"tokens={tokens} period_ms={_PERIOD_MS} stream_id=#", stream=True)
    limits = ("--streams", str(streams), "--tokens", str(tokens), "--expect", door.end, "--leave-after", str(leave_after))
    command = (sys.executable, "-m", "benchmarks.streams", door.stream, "--body", body, *limits)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{door.name}, {streams} streams: the client failed:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures


def leaving(bench: Bench, door: Door, clients: int) -> Figures:
    """Milliseconds from a client's leaving to the engine's noticing."""
    left: dict[str, float] = paced(door, clients, 4.0, leave_after=10)["left"]  # type: ignore[assignment] # the one that is no number
    # Whoever has not been noticed by then counts as never noticed.
    time.sleep(1.0)
    with urllib.request.urlopen(f"http://{bench.address}/gone", timeout=10) as answer:
        gone: dict[str, float] = json.loads(answer.read())
    delays = sorted((gone[number] - when) * 1000 for number, when in left.items() if gone.get(number, 0.0) >= when)
    return {"noticed": len(delays), "p50": percentile(delays, 50), "p99": percentile(delays, 99)}


def median(figures: Sequence[Figures], name: str) -> float:
    """The middle one of a figure's values."""
    return statistics.median(one[name] for one in figures)


def unary(bench: Bench, plan: Plan) -> Iterator[Row]:
    """How many answers a second, in a closed loop of 32 clients."""
    doors = {bench.engine: "", bench.typed: "≥ 2,000", bench.openai: ""}
    taken = _rounds(bench, plan, doors, lambda door: drive(door.way("tokens=20", stream=False), 32, plan.seconds))
    for door, figures in taken.items():
        others = median(figures, "others")
        yield Row("unary answers a second, 32 at once", door.name, median(figures, "rate"), doors[door], others)
        if door is not bench.engine:
            cost = statistics.median(one["us"] / one["answers"] for one in figures)
            yield Row("CPU µs an answer", door.name, cost, "", others)
            load = statistics.median((one["client_cpu_s"] + one["engine_s"]) / (plan.seconds + 0.5) for one in figures)
            yield Row("load client and engine, share of a core", door.name, load, "< 1", others)


def latency(bench: Bench, plan: Plan) -> Iterator[Row]:
    """What 10 clients at once wait longer than at the engine alone: one that works 50 ms an answer, and one at its limit."""
    doors = {bench.engine: "", bench.typed: "", bench.openai: ""}
    for prompt, what, goals in (
        (_WORKING, "an engine that takes 50 ms", ("< 2", "< 8")),
        ("tokens=20", "an engine that takes no time: the cores are full", ("", "")),
    ):

        def measure(door: Door, prompt: str = prompt) -> Figures:
            return drive(door.way(prompt, stream=False), 10, plan.seconds)

        taken = _rounds(bench, plan, doors, measure)
        alone = taken.pop(bench.engine)
        for door, figures in taken.items():
            others = median(figures, "others")
            for percent, goal in zip((50, 99), goals, strict=True):
                name = f"latency_p{percent}_ms"
                added = statistics.median(one[name] - base[name] for one, base in zip(figures, alone, strict=True))
                yield Row(f"added p{percent} ms, 10 at once, {what}", door.name, added, goal, others)


def bursts(bench: Bench, plan: Plan) -> Iterator[Row]:
    """Tokens a second where the engine has them ready: all in one write, and 20 at a time."""
    doors = {bench.engine: "", bench.typed: "≥ 100,000", bench.openai: ""}
    for write, how in ((f"write={_BURST_TOKENS}", "together"), ("write=20", "20 a write")):
        prompt = f"tokens={_BURST_TOKENS} {write}"

        def measure(door: Door, prompt: str = prompt) -> Figures:
            return drive(door.way(prompt, stream=True), 8, plan.seconds)

        for door, figures in _rounds(bench, plan, doors, measure).items():
            others = median(figures, "others")
            yield Row(
                f"tokens a second in bursts, 8 streams, {how}", door.name, median(figures, "tokens_per_s"), doors[door], others
            )
            if door is not bench.engine:
                cost = statistics.median(one["us"] / one["answers"] / _BURST_TOKENS for one in figures)
                yield Row(f"CPU µs a token in bursts, {how}", door.name, cost, "≤ 25", others)


def streams(bench: Bench, plan: Plan) -> Iterator[Row]:
    """Streams of 50 tokens a second: gaps, and what a token costs."""
    for count in plan.streams:
        goal = "< 60" if count <= 256 else ""  # noqa: PLR2004 - the goal is stated for so many
        doors = {bench.engine: "", bench.typed: goal, bench.openai: goal}

        def measure(door: Door, count: int = count) -> Figures:
            return paced(door, count, plan.seconds + 1.0)

        for door, figures in _rounds(bench, plan, doors, measure).items():
            others = median(figures, "others")
            yield Row(
                f"p99 gap ms, {count} streams of 50 tokens a second", door.name, median(figures, "gap_p99_ms"), goal, others
            )
            broken = sum(one["errors"] for one in figures)
            yield Row(f"streams not whole, of {count * plan.rounds}", door.name, broken, "0", others)
            if door is not bench.engine:
                cost = statistics.median(one["us"] / one["tokens"] for one in figures)
                yield Row(f"CPU µs a token, {count} streams", door.name, cost, "≤ 90" if count == 256 else "", others)  # noqa: PLR2004 - as above


def goings(bench: Bench, plan: Plan) -> Iterator[Row]:
    """How long an engine works for a client that is gone."""
    for door in (bench.engine, bench.typed, bench.openai):
        taken = [bench.weighed(lambda door=door: leaving(bench, door, _LEAVING)) for _ in range(plan.rounds)]  # type: ignore[misc] # mypy sees no lambda's default
        others = median(taken, "others")
        yield Row("client gone → engine closed, p50 ms", door.name, median(taken, "p50"), "", others)
        goal = "" if door is bench.engine else "< 50"
        yield Row("client gone → engine closed, p99 ms", door.name, median(taken, "p99"), goal, others)
        missed = _LEAVING * plan.rounds - sum(one["noticed"] for one in taken)
        yield Row(f"never noticed, of {_LEAVING * plan.rounds}", door.name, missed, "0", others)


def growth(bench: Bench, plan: Plan) -> Iterator[Row]:
    """How resident memory grows under mixed load."""
    bystanders = machine.Bystanders()
    ways = [bench.typed.way("tokens=20", stream=False), bench.openai.way("tokens=200 write=20", stream=True)]
    found = soak(ways, plan.soak, tuple(bench.processes.values()))
    others = bystanders.share()
    for name, pid in bench.processes.items():
        yield Row(f"RSS after {plan.soak:g} s, MB", name, found[pid].last, "", others)
        yield Row("its slope over the last two thirds, MB a minute", name, found[pid].slope, "≈ 0", others)


KINDS: Final[Mapping[str, Callable[[Bench, Plan], Iterator[Row]]]] = {
    "unary": unary,
    "latency": latency,
    "bursts": bursts,
    "paced": streams,
    "leaving": goings,
    "soak": growth,
}


def _rounds(
    bench: Bench, plan: Plan, doors: Mapping[Door, str], measure: Callable[[Door], Figures]
) -> dict[Door, list[Figures]]:
    """Every round measures every door once, so that what else happens falls on all alike."""
    taken: dict[Door, list[Figures]] = {door: [] for door in doors}
    for _ in range(plan.rounds):
        for door, figures in taken.items():
            figures.append(bench.weighed(lambda door=door: measure(door)))  # type: ignore[misc] # mypy sees no lambda's default
    return taken


def measured(plan: Plan, only: Sequence[str]) -> Iterator[Row]:
    """All figures, or those of some kinds, as they come."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        mock_engine() as engine,
        running(Path(folder), {"OPENAI_BASE_URL": f"http://{engine}"}) as suite,
    ):
        base = f"http://{suite.host}"
        names = [name for name in suite.names() if name == "gateway" or name.startswith("inference")]
        bench = Bench(
            engine=Door("engine alone", f"http://{engine}{_CHAT}", f"http://{engine}{_CHAT}", False, "[DONE]"),
            typed=Door("typed REST", f"{base}{_GENERATE}", f"{base}{_STREAM}", True, '"finished"'),
            openai=Door("OpenAI's API", f"{base}/openai{_CHAT}", f"{base}/openai{_CHAT}", False, "[DONE]"),
            address=engine,
            load=_child("benchmarks.mock_engine"),
            processes={name: suite.process(name) for name in names},
        )
        for door in (bench.typed, bench.openai):
            drive(door.way("tokens=20", stream=False), 10, 1.0)
        for name in only or KINDS:
            yield from KINDS[name](bench, plan)


def _child(module: str) -> int:
    """The process that runs a module for this one."""
    own = os.getpid()
    for pid, parent in machine.parents().items():
        if parent == own and module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise RuntimeError(f"{module} does not run")


def main() -> None:
    """Reads the arguments, measures, and prints."""
    parser = argparse.ArgumentParser(description="What one machine serves through the gateway.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each measurement of a round takes")
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256], help="paced streams at once")
    parser.add_argument("--soak", type=float, default=600.0, help="seconds under load while memory is watched")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=[])
    given = parser.parse_args()
    plan = Plan(given.rounds, given.seconds, given.streams, given.soak)
    print(f"{machine.described()}; others use {machine.busy_share():.0%} of the cores", flush=True)
    rows = [row.cells() for row in measured(plan, given.only)]
    print(f"\nMedians of {plan.rounds} rounds of {plan.seconds:g} s\n\n{table.render(_HEAD, rows)}")


_HEAD: Final = ("figure", "where", "measured", "goal", "others")


if __name__ == "__main__":
    main()
