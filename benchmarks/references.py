"""penstock beside what others put in front of an engine, under the same load in the same run.

    make bench-references          # installs the others into .venv-references
    python -m benchmarks.references [--rounds 3] [--seconds 3] [--only penstock envoy ...]

All of them run at the same time over one mock engine, and are loaded in turn, so that what else happens on the machine falls
on all alike. Printed are medians over the rounds, in one table. Whatever is not installed is left out, and said to be. None
has a cache, keys, or more than one process of its own kind.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import machine, table
from benchmarks.gateway_latency import Figures, Way, drive, mock_engine
from benchmarks.suite import ROOT, running
from deploy.local.ports import free_ports
from deploy.local.servers import envoy_binary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BIN: Final = Path(os.environ.get("REFERENCES", ROOT / ".venv-references")) / "bin"
_ENGINE: Final = "engine direct"
_READY_SECONDS: Final = 90.0
_CHAT: Final = "/v1/chat/completions"
# Of a burst. LiteLLM needs a second for 8 times as many.
_TOKENS: Final = 200
_UNARY: Final = {"model": "mock", "messages": [{"role": "user", "content": "Say something. tokens=20"}]}
_BURST: Final = {
    "model": "mock",
    "messages": [{"role": "user", "content": f"Say much. tokens={_TOKENS} write=8"}],
    "stream": True,
}
_TYPED_BURST: Final = {"model": "mock", "prompt": f"Say much. tokens={_TOKENS} write=8"}


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that passes requests on to the engine.

    Attributes:
        name: As it stands in the table.
        url: Where it takes a chat completion.
        pids: Its processes; what they started counts with them.
        bodies: What is sent, by the kind of load: `unary` or `burst`.
        urls: Where it is sent, where that is not `url`.
    """

    name: str
    url: str
    pids: tuple[int, ...] = ()
    bodies: Mapping[str, Any] = field(default_factory=lambda: {"unary": _UNARY, "burst": _BURST})
    urls: Mapping[str, str] = field(default_factory=dict)

    def way(self, kind: str) -> Way:
        """How it is driven. An answer is good if it came to its end."""
        is_burst = kind == "burst"
        end = '"finished"' if "prompt" in self.bodies[kind] else "[DONE]"
        accept = "text/event-stream" if is_burst else "application/json"
        arguments = ("--body", json.dumps(self.bodies[kind]), "--accept", accept, "--expect", end if is_burst else "t~ken")
        return Way(self.name, kind, ("benchmarks.load", self.urls.get(kind, self.url), *arguments))

    def used(self) -> float:
        """Processor time that it has used, in seconds."""
        return sum(machine.family_seconds(pid) for pid in self.pids)


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how long and with how many connections to measure. Times are in seconds."""

    rounds: int
    seconds: float
    connections: int
    streams: int


@contextmanager
def started(name: str, command: Sequence[str], folder: Path, **variables: str) -> Iterator[int]:
    """Runs a program with its output in a file, and ends it with all that it started; gives its process id."""
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def wait_until_it_answers(peer: Peer, folder: Path) -> None:
    """Asks until an answer comes. Raises RuntimeError, with the end of its log, if none comes in time."""
    data = json.dumps(_UNARY).encode()
    request = urllib.request.Request(peer.url, data, {"content-type": "application/json"})  # noqa: S310 - our own http address
    problem = ""
    for _ in range(int(_READY_SECONDS / 0.25)):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
                if b"t~ken" in answer.read():
                    return
        except (urllib.error.URLError, OSError) as error:
            problem = str(error)
        time.sleep(0.25)
    logs = [path.read_text(errors="replace")[-2000:] for path in folder.glob(f"{peer.name.split()[0]}*.log")]
    raise RuntimeError(f"{peer.name} did not answer within {_READY_SECONDS:g} s ({problem}):\n{''.join(logs)}")


def plain_envoy(engine: str, port: int) -> str:
    """Envoy's configuration as nothing but a proxy."""
    host, _, engine_port = engine.partition(":")

    def address(host: str, port: int) -> dict[str, Any]:
        return {"socket_address": {"address": host, "port_value": port}}

    proxied = {"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}
    types = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [proxied]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": address(host, int(engine_port))}}
    many = {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536}
    cluster = {
        "name": "engine",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {"cluster_name": "engine", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "all", "address": address("127.0.0.1", port), "filter_chains": [chain]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def litellm_settings(engine: str) -> str:
    """LiteLLM's configuration; JSON is YAML."""
    parameters = {"model": "openai/mock", "api_base": f"http://{engine}/v1", "api_key": "none"}
    return json.dumps({"model_list": [{"model_name": "mock", "litellm_params": parameters}]})


def peers(engine: str, folder: Path, only: Sequence[str], stack: ExitStack) -> list[Peer]:
    """Starts everything that is to be measured."""
    found = [Peer(_ENGINE, f"http://{engine}{_CHAT}")]
    ports = free_ports(["envoy", "litellm", "vllm-router", "vllm-router metrics", "smg", "smg metrics"])
    router = ("--host", "127.0.0.1", "--worker-urls", f"http://{engine}", "--policy", "round_robin")
    (folder / "envoy.json").write_text(plain_envoy(engine, ports["envoy"]))
    (folder / "litellm.json").write_text(litellm_settings(engine))
    commands: dict[str, tuple[str, ...]] = {
        "envoy": (
            str(envoy_binary()),
            "-c",
            "envoy.json",
            "--concurrency",
            "2",
            "--log-level",
            "warn",
            "--use-dynamic-base-id",
        ),
        "litellm": (
            *(str(_BIN / "litellm"), "--config", "litellm.json", "--host", "127.0.0.1"),
            *("--port", str(ports["litellm"]), "--telemetry", "False"),
        ),
        "vllm-router": (
            *(str(_BIN / "vllm-router"), *router, "--port", str(ports["vllm-router"]), "--log-level", "warning"),
            *("--prometheus-port", str(ports["vllm-router metrics"])),
        ),
        "smg": (
            *(str(_BIN / "smg"), "launch", *router, "--port", str(ports["smg"]), "--log-level", "warn"),
            *("--prometheus-port", str(ports["smg metrics"])),
        ),
    }
    variables = {
        # Else it fetches a list from afar.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Else it wants a key for its own administration.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        # Else it ends a stream whose tokens are alike, as the mock engine's are.
        "REPEATED_STREAMING_CHUNK_LIMIT": "1000000",
        "LITELLM_LOG": "ERROR",
    }
    for name, command in commands.items():
        if only and name not in only:
            continue
        if not Path(command[0]).exists():
            print(f"{name} is left out: {command[0]} is not there; `make bench-references` installs it", flush=True)
            continue
        pid = stack.enter_context(started(name, command, folder, **variables))
        found.append(Peer(_TITLES.get(name, name), f"http://127.0.0.1:{ports[name]}{_CHAT}", (pid,)))
    if not only or "penstock" in only:
        found += penstock(engine, folder, stack)
    for peer in found:
        wait_until_it_answers(peer, folder)
    return found


_TITLES: Final = {"envoy": "envoy as a plain proxy", "litellm": "litellm proxy"}


def penstock(engine: str, folder: Path, stack: ExitStack) -> list[Peer]:
    """The whole suite, by both of its faces."""
    suite = stack.enter_context(running(folder, {"OPENAI_BASE_URL": f"http://{engine}"}))
    names = [name for name in suite.names() if name == "gateway" or name.startswith("inference")]
    pids = tuple(suite.process(name) for name in names)
    base = f"http://{suite.host}"
    chat, typed = f"{base}/openai{_CHAT}", {"unary": {"model": "mock", "prompt": "Say something. tokens=20"}}
    return [
        Peer("penstock, OpenAI's API", chat, pids),
        Peer(
            "penstock, typed REST",
            chat,
            pids,
            {**typed, "burst": _TYPED_BURST},
            {"unary": f"{base}/v1/generate", "burst": f"{base}/v1/generate:stream"},
        ),
    ]


def measure(found: Sequence[Peer], plan: Plan) -> dict[str, list[Figures]]:
    """One row of figures a round for each."""
    taken: dict[str, list[Figures]] = {peer.name: [] for peer in found}
    for peer in found:
        for kind in ("unary", "burst"):
            drive(peer.way(kind), plan.connections, 1.0)
    for _ in range(plan.rounds):
        for peer in found:
            unary = drive(peer.way("unary"), plan.connections, plan.seconds)
            before = peer.used()
            burst = drive(peer.way("burst"), plan.streams, plan.seconds)
            tokens = burst["answers"] * _TOKENS
            taken[peer.name].append(
                {
                    "rate": unary["rate"],
                    "p50": unary["latency_p50_ms"],
                    "p99": unary["latency_p99_ms"],
                    "tokens": burst["tokens_per_s"],
                    "us": (peer.used() - before) * 1e6 / max(1, tokens),
                }
            )
    return taken


def report(taken: Mapping[str, Sequence[Figures]]) -> str:
    """A table of medians over the rounds."""
    direct = taken[_ENGINE]
    rows = []
    for name, figures in taken.items():
        is_engine = name == _ENGINE

        def added(percentile: str, figures: Sequence[Figures] = figures, is_engine: bool = is_engine) -> str:
            if is_engine:
                return f"({_median(figures, percentile):.2f})"
            differences = [one[percentile] - base[percentile] for one, base in zip(figures, direct, strict=True)]
            return f"{statistics.median(differences):+.2f}"

        cost = "–" if is_engine else f"{_median(figures, 'us'):.1f}"
        tokens = f"{_median(figures, 'tokens'):,.0f}"
        rows.append((name, f"{_median(figures, 'rate'):,.0f}", added("p50"), added("p99"), tokens, cost))
    return table.render(("path", "unary a second", "added p50 ms", "added p99 ms", "tokens a second", "CPU us a token"), rows)


def _median(figures: Sequence[Figures], name: str) -> float:
    return statistics.median(one[name] for one in figures)


def main() -> None:
    """Reads the arguments, measures, and prints."""
    parser = argparse.ArgumentParser(description="penstock beside what others put in front of an engine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement of a round takes")
    parser.add_argument("--connections", type=int, default=10, help="unary requests at once")
    parser.add_argument("--streams", type=int, default=8, help="streams at once, of tokens that the engine has ready")
    parser.add_argument("--only", nargs="+", default=[], help="envoy, litellm, vllm-router, smg, penstock; all where not given")
    given = parser.parse_args()
    plan = Plan(given.rounds, given.seconds, given.connections, given.streams)
    print(f"{machine.described()}; others use {machine.busy_share():.0%} of the cores", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        engine = stack.enter_context(mock_engine())
        found = peers(engine, folder, given.only, stack)
        bystanders = machine.Bystanders()
        taken = measure(found, plan)
        others = bystanders.share()
    head = f"{plan.connections} unary requests at once; {plan.streams} streams of {_TOKENS} tokens"
    rounds = f"medians of {plan.rounds} rounds of {plan.seconds:g} s"
    print(f"\n{head}; {rounds}; meanwhile others used {others:.0%} of the cores\n\n{report(taken)}")


if __name__ == "__main__":
    main()
