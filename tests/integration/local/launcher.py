"""A launcher run as a user runs it, and what it leaves behind."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[3]
UP = "penstock is up"


class Launcher:
    """`python -m deploy.local` with a data folder of its own. Leaving it takes the launcher down."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.lines: list[str] = []
        self.terminal: int | None = None
        self.command = (sys.executable, "-m", "deploy.local", *(arguments or ("--until", "servers")))
        outer = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_DIR"))}
        self._environment = {**outer, "DATA_DIR": str(data_dir), "PORT": str(free_port()), **environment}
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._child = await asyncio.create_subprocess_exec(
            *self.command,
            cwd=ROOT,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE if self.terminal is None else self.terminal,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *reason: object) -> None:
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
        await self.end()

    @property
    def child(self) -> asyncio.subprocess.Process:
        assert self._child is not None
        return self._child

    @property
    def run(self) -> dict[str, Any]:
        run: dict[str, Any] = json.loads((self.data_dir / "run.json").read_text())
        return run

    async def say(self, text: str, limit_s: float = 60) -> str:
        """Read on until a line holds the text."""
        assert self.child.stdout
        async with asyncio.timeout(limit_s):
            while line := (await self.child.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if text in line:
                    return line.rstrip()
        raise AssertionError(f"the launcher ended without saying {text!r}:\n" + "\n".join(self.lines))

    async def up(self) -> Self:
        await self.say(UP)
        return self

    async def end(self, number: int | None = None) -> int:
        """Send a signal, read what is left and return the exit status."""
        if number is not None:
            self.child.send_signal(number)
        async with asyncio.timeout(30):
            if self.child.stdout:
                self.lines += (await self.child.stdout.read()).decode().splitlines()
            return await self.child.wait()


def left_behind(data_dir: Path) -> list[str]:
    """Living processes that carry the data folder in their environment or arguments, or work inside it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
            inside = (process / "cwd").readlink().is_relative_to(data_dir)
        except OSError:
            continue
        if inside or str(data_dir).encode() in words:
            found.append(f"{process.name}: {words[:80].decode(errors='replace')}")
    return found


async def nothing_left(data_dir: Path, limit_s: float) -> None:
    """Wait until no process of the suite is left."""
    deadline = time.monotonic() + limit_s
    while left := left_behind(data_dir):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
