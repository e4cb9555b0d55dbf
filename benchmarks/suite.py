"""A suite started for a measurement, as a user starts it."""

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
from typing import TYPE_CHECKING, Final

from benchmarks.memory import by_owner
from deploy.local.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.memory import Memory

ROOT: Final = Path(__file__).resolve().parents[1]
_READY: Final = "penstock is ready"
_COMMAND: Final = (sys.executable, "-m", "deploy.local")


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite that is ready. `ready_s` counts from the start of its launcher."""

    host: str
    data_dir: Path
    launcher: int
    ready_s: float

    def run(self) -> dict[str, object]:
        """What the launcher wrote down about the suite: `processes`, `environment` and more."""
        document: dict[str, object] = json.loads((self.data_dir / "run.json").read_text())
        return document

    def address(self, service: str) -> str:
        """host:port of a service's own gRPC; of the first of its processes where there are several."""
        environment = self.run()["environment"]
        assert isinstance(environment, dict)  # noqa: S101 - for the type checker
        return str(environment[f"{service.upper()}_ADDRESS"]).partition(",")[0]

    def names(self) -> list[str]:
        """The launcher's names for the processes that run."""
        processes = self.run()["processes"]
        assert isinstance(processes, dict)  # noqa: S101 - for the type checker
        return [str(name) for name in processes]

    def process(self, name: str) -> int:
        """The process id behind the launcher's name for it."""
        processes = self.run()["processes"]
        assert isinstance(processes, dict)  # noqa: S101 - for the type checker
        return int(processes[name])

    def memory(self) -> dict[str, list[Memory]]:
        """Memory of each process, by the launcher's name for it; what a process started counts with it."""
        processes = self.run()["processes"]
        assert isinstance(processes, dict)  # noqa: S101 - for the type checker
        return by_owner({int(pid): str(name) for name, pid in processes.items()} | {self.launcher: "launcher"})


@contextmanager
def running(
    folder: Path, environment: Mapping[str, str], command: Sequence[str] = _COMMAND, cwd: Path = ROOT, limit_s: float = 300.0
) -> Iterator[Suite]:
    """Starts a suite with its data in `folder`/data, waits until it says that it is ready, and ends it by Ctrl-C.

    Raises:
        RuntimeError: it ended, or was not ready within `limit_s` seconds; with what it said.
    """
    port = free_ports(["gateway"])["gateway"]
    data_dir = folder / "data"
    given = {**os.environ, "OLLAMA_BASE_URL": "", **environment, "PORT": str(port), "DATA_DIR": str(data_dir)}
    log = folder / "launcher.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=given, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        ready_s = _wait(process, log, began, limit_s)
        launcher = int(json.loads((data_dir / "run.json").read_text())["pid"])
        yield Suite(f"127.0.0.1:{port}", data_dir, launcher, ready_s)
    finally:
        if process.poll() is None:
            # To all of `make` and its children, as a terminal does it.
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], log: Path, began: float, limit_s: float) -> float:
    while time.monotonic() < began + limit_s and process.poll() is None:
        if _READY in log.read_text(errors="replace"):
            return time.monotonic() - began
        time.sleep(0.02)
    raise RuntimeError(f"the suite did not get ready within {limit_s:g} s:\n{log.read_text(errors='replace')}")
