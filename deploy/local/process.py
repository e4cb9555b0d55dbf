"""One process of the suite: what it is, and one life of it from spawn to end."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.logs import Logs
from deploy.local.probes import NotReadyError, Probe
from deploy.local.process_groups import ProcessGroups
from deploy.local.settings import ROOT

_LEASH = Path(__file__).with_name("leash.py")
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 0.25
_PROBE_LIMIT_S = 3.0
_TAIL_LINES = 12


class StartError(Exception):
    """A process ended early or did not become ready in time; the message says why and shows the end of its log."""


@dataclass(frozen=True, slots=True)
class Process:
    """What to run. Pure data: see suite.py for the list."""

    name: str
    stage: str
    """The part of the start-up it belongs to, one of suite.STAGES."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """All of it: nothing is inherited. It may hold passwords, so it is never shown."""
    after: tuple[str, ...] = ()
    """What must be ready before it starts, and is stopped only after it has ended."""
    ready: Probe | None = None
    """Asked until it returns. Without one this is a step: it is done when it exits with 0."""
    address: str = ""
    """Where it listens, to show."""
    before_start: Callable[[], None] | None = None
    stop_signal: int = signal.SIGTERM
    orphan_signal: int = signal.SIGKILL
    """What it gets when the launcher has died."""
    unprivileged: bool = False
    """It refuses to run as root."""
    optional: bool = False
    """The suite is of use even if it fails."""
    start_limit_s: float = 60.0
    stop_limit_s: float = 12.0
    """More than the services take to drain (DRAIN_SECONDS)."""


class Life:
    """One life of a process. Make it with `spawn`."""

    def __init__(self, process: Process, child: asyncio.subprocess.Process, groups: ProcessGroups, log_mark: int) -> None:
        self.process = process
        self.pid = child.pid
        self.log_mark = log_mark
        self._groups = groups
        self._over = False
        self.ended = asyncio.create_task(child.wait(), name=f"end of {process.name}")
        groups.add(child.pid, process.orphan_signal)

    async def become_ready(self, logs: Logs) -> None:
        """Wait until the probe answers or, for a step, until it has done its work.

        Raises:
            StartError: it ended instead, or took longer than its limit; nothing of it is left then.
        """
        probe = self.process.ready
        deadline = time.monotonic() + self.process.start_limit_s
        pause, reason = _FIRST_PAUSE_S, "still running"
        while time.monotonic() < deadline:
            await asyncio.wait({self.ended}, timeout=pause)
            if self.ended.done():
                break
            pause = min(pause * 1.5, _LAST_PAUSE_S)
            if probe is None:
                continue
            try:
                async with asyncio.timeout(_PROBE_LIMIT_S):
                    await probe()
            except (NotReadyError, OSError) as error:
                reason = str(error) or "no answer"
            else:
                return
        if self.ended.done() and probe is None and self.ended.result() == 0:
            self.forget()
            return
        problem = (
            describe_end(self.ended.result())
            if self.ended.done()
            else f"not ready after {self.process.start_limit_s:.0f} s ({reason})"
        )
        await self.end(signal.SIGKILL)
        tail = "".join(f"\n    {line}" for line in logs.tail(self.process.name, _TAIL_LINES, self.log_mark))
        raise StartError(f"{self.process.name} {problem}; its log is {logs.path(self.process.name)}{tail}")

    async def end(self, first_signal: int) -> None:
        """End it: the signal, then SIGKILL after its limit, to the whole group either way."""
        if self._over:
            return
        if not self.ended.done():
            _signal(os.kill, self.pid, first_signal)
            await asyncio.wait({self.ended}, timeout=self.process.stop_limit_s)
        # The children it may have left in its group as well.
        _signal(os.killpg, self.pid, signal.SIGKILL)
        await self.ended
        self.forget()

    def kill(self) -> None:
        """Do not wait any longer for it to end by itself."""
        if not self.ended.done():
            _signal(os.killpg, self.pid, signal.SIGKILL)

    def forget(self) -> None:
        """Take its group off the guardian's list, and never signal it again: the number may soon be another's."""
        self._over = True
        self._groups.drop(self.pid)


async def spawn(process: Process, logs: Logs, groups: ProcessGroups) -> Life:
    """Start a process on the launcher's leash. Call it on the main thread: the leash is tied to the thread that spawns."""
    if process.before_start:
        process.before_start()
    flags = ("--unprivileged",) if process.unprivileged else ()
    mark = logs.size(process.name)
    log = logs.open(process.name)
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), str(int(process.orphan_signal)), *flags, "--"),
            *process.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(process.environment),
            cwd=ROOT,
            start_new_session=True,
        )
    finally:
        os.close(log)
    return Life(process, child, groups, mark)


def describe_end(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"exited with {status}"


def _signal(send: Callable[[int, int], None], target: int, number: int) -> None:
    try:
        send(target, number)
    except ProcessLookupError:
        return
