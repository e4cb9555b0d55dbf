"""The launcher's end of the pipe to the guardian."""

import asyncio
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.guardian import SUITE_VARIABLE

_GUARDIAN = Path(__file__).with_name("guardian.py")


class ProcessGroups:
    """The process groups of one suite, known to a guardian that ends them should the launcher not get to it."""

    def __init__(self, suite: str, lock: int) -> None:
        self._suite = suite
        self._lock = lock
        self._groups: dict[int, int] = {}
        self._guardian: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._spawn()
        self._watch = asyncio.create_task(self._respawn())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pipe and wait until the guardian has seen that nothing is left."""
        if self._watch:
            self._watch.cancel()
        if self._guardian and self._guardian.stdin:
            self._guardian.stdin.close()
            await self._guardian.wait()

    def add(self, group: int, orphan_signal: int) -> None:
        """Name a group that has just been started, and the signal to end it with."""
        self._groups[group] = orphan_signal
        self._tell(f"add {group} {orphan_signal}")

    def drop(self, group: int) -> None:
        """Forget a group that has ended: its number may soon be another's."""
        self._groups.pop(group, None)
        self._tell(f"drop {group}")

    @property
    def guardian(self) -> int:
        """The guardian's process id."""
        return self._guardian.pid if self._guardian else 0

    async def _spawn(self) -> None:
        self._guardian = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_GUARDIAN),
            self._suite,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != SUITE_VARIABLE},
            cwd="/",
            pass_fds=(self._lock,),
            start_new_session=True,
        )
        for group, orphan_signal in self._groups.items():
            self._tell(f"add {group} {orphan_signal}")

    async def _respawn(self) -> None:
        while self._guardian:
            await self._guardian.wait()
            await self._spawn()

    def _tell(self, line: str) -> None:
        # A guardian that has just died is told everything again by its successor.
        if self._guardian and self._guardian.stdin and not self._guardian.stdin.is_closing():
            self._guardian.stdin.write(f"{line}\n".encode())
