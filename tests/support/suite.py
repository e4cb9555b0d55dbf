"""The whole suite, started as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
READY = "penstock is ready"
READY_SECONDS = 120


@dataclass(frozen=True)
class Suite:
    """Where the suite is: `url` for HTTP, `grpc` for channels; `data_dir` when it was started here."""

    url: str
    grpc: str
    data_dir: Path | None

    @staticmethod
    def at(url: str) -> Suite:
        return Suite(url.rstrip("/"), urlsplit(url).netloc, None)

    def processes(self) -> dict[str, int]:
        """Process ids by name, as the launcher wrote them down."""
        assert self.data_dir is not None
        run: dict[str, Any] = json.loads((self.data_dir / "run.json").read_text())
        return dict(run["processes"])


@contextmanager
def running_suite(folder: Path, **settings: str) -> Iterator[Suite]:
    """Starts a suite with its data in `folder`, and stops it by Ctrl-C."""
    port = free_port()
    log = folder / "launcher.log"
    data_dir = folder / "data"
    environment = {**os.environ, "OLLAMA_BASE_URL": "", **settings, "PORT": str(port), "DATA_DIR": str(data_dir)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_ready(process, log)
        yield Suite(f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", data_dir)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if READY in log.read_text(errors="replace"):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"the suite did not get ready:\n{log.read_text(errors='replace')}")
