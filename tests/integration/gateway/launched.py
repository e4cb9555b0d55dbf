"""Runs the gateway as `python -m services.gateway` does, on free ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from pathlib import Path

READY_SECONDS = 20


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    port: int
    admin_port: int
    http: httpx.Client
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def environment(folder: Path, backends: Mapping[str, int], **changes: str) -> dict[str, str]:
    """The environment of a gateway over these services, with free ports of its own."""
    port, admin = free_ports(2)
    return {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "ADMIN_ADDRESS": f"127.0.0.1:{admin}",
        "DATA_DIR": str(folder),
        "LOG_LEVEL": "WARNING",
        **{f"{name.upper()}_ADDRESS": f"127.0.0.1:{port}" for name, port in backends.items()},
        **changes,
    }


@contextmanager
def running(settings: Mapping[str, str], verify: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """Starts a gateway, waits until it answers, and stops it in the end. With `verify` it speaks TLS."""
    command = [sys.executable, "-m", "services.gateway"]
    with subprocess.Popen(command, env=dict(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            base = f"{'https' if verify else 'http'}://127.0.0.1:{settings['PORT']}"
            with httpx.Client(base_url=base, timeout=20, verify=verify or True) as http:
                wait_for(lambda: answers(http), process)
                admin = int(settings["ADMIN_ADDRESS"].rpartition(":")[2])
                yield Gateway(int(settings["PORT"]), admin, http, process)
        finally:
            process.terminate()
            output = process.communicate(timeout=20)[0]
            sys.stdout.write(output)


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/docs").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: object, process: subprocess.Popen[str] | None = None, seconds: float = READY_SECONDS) -> None:
    """Waits until the condition holds."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the gateway ended with {process.returncode}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
