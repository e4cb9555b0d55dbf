"""The whole suite, started once as a user starts it, or one that runs already (PENSTOCK_URL)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
READY = "penstock is ready"
READY_SECONDS = 120


@dataclass(frozen=True)
class Suite:
    """Where the suite is: `url` for HTTP, `grpc` for channels; `data_dir` and `launcher` (a pid) when it was started here."""

    url: str
    grpc: str
    data_dir: Path | None
    launcher: int | None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if READY in log.read_text(errors="replace"):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"the suite did not get ready:\n{log.read_text(errors='replace')}")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    running = os.environ.get("PENSTOCK_URL")
    if running:
        yield Suite(running.rstrip("/"), urlsplit(running).netloc, None, None)
        return
    data_dir = tmp_path_factory.mktemp("suite")
    port = free_port()
    log = data_dir / "launcher.log"
    environment = {**os.environ, "PORT": str(port), "DATA_DIR": str(data_dir / "data")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_ready(process, log)
        yield Suite(f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", data_dir / "data", process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
