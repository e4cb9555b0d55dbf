"""Brings the processes of a suite up in their order, keeps them up, and takes them down in reverse."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

from deploy.local.logs import Logs
from deploy.local.process import Life, Process, StartError, describe_end, spawn
from deploy.local.process_groups import ProcessGroups
from deploy.local.progress import Progress, State

_ATTEMPTS_AT_START = 3
_TRIM_EVERY_S = 5.0


class Backoff:
    """How long to wait before the next restart: doubling, forgotten after a good while."""

    def __init__(self, first_s: float = 0.1, limit_s: float = 10.0, forget_after_s: float = 30.0) -> None:
        self._first_s, self._limit_s, self._forget_after_s = first_s, limit_s, forget_after_s
        self._next_s = first_s

    def pause_s(self, lived_s: float) -> float:
        """The pause after a life of `lived_s` seconds, in seconds."""
        if lived_s >= self._forget_after_s:
            self._next_s = self._first_s
        pause = self._next_s
        self._next_s = min(self._next_s * 2, self._limit_s)
        return pause


class Supervisor:
    """The processes of one suite. Whoever starts it stops it, also when the start failed or was given up."""

    def __init__(
        self,
        processes: Sequence[Process],
        logs: Logs,
        groups: ProcessGroups,
        progress: Progress,
        changed: Callable[[], None],
    ) -> None:
        self._processes = processes
        self._logs, self._groups, self._progress, self._changed = logs, groups, progress, changed
        self._lives: dict[str, Life] = {}
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each process that runs now, by name."""
        return {name: life.pid for name, life in self._lives.items()}

    async def start(self) -> None:
        """Start everything, each process as soon as what it needs is ready.

        Raises:
            StartError: the first process that could not be brought up.
        """
        self._keepers.append(asyncio.create_task(self._trim_logs()))
        names = {process.name for process in self._processes}
        ready = {name: asyncio.Event() for name in names}

        async def bring_up(process: Process) -> None:
            for needed in names.intersection(process.after):
                await ready[needed].wait()
            await self._bring_up(process)
            ready[process.name].set()

        try:
            async with asyncio.TaskGroup() as group:
                for process in self._processes:
                    group.create_task(bring_up(process), name=f"start of {process.name}")
        except ExceptionGroup as failures:
            # Name the first only: the others stopped because of it.
            raise failures.exceptions[0] from failures

    async def stop(self) -> None:
        """Stop everything, each process only after those that need it."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for group in stopping_order(self._processes):
            lives = [self._lives[process.name] for process in group if process.name in self._lives]
            await asyncio.gather(*(self._end(life) for life in lives))

    def kill(self) -> None:
        """End everything at once, for a user who will not wait."""
        for life in self._lives.values():
            life.kill()

    async def _bring_up(self, process: Process) -> None:
        started = time.monotonic()
        self._progress.show(process.name, State.STARTING)
        life = None
        attempt = 0
        while life is None:
            attempt += 1
            try:
                life = await self._begin(process)
            except StartError as failure:
                if process.optional:
                    self._progress.show(process.name, State.FAILED, time.monotonic() - started)
                    self._progress.say(str(failure))
                    return
                if attempt == _ATTEMPTS_AT_START or process.ready is None:
                    self._progress.show(process.name, State.FAILED, time.monotonic() - started)
                    raise
                self._progress.say(f"{process.name}: attempt {attempt} failed, trying again")
        seconds = time.monotonic() - started
        if process.ready is None:
            last_words = self._logs.tail(process.name, 1, life.log_mark)
            self._progress.show(process.name, State.DONE, seconds, last_words[0] if last_words else "")
            return
        self._progress.show(process.name, State.READY, seconds, process.address)
        self._keepers.append(asyncio.create_task(self._keep(life), name=f"keeper of {process.name}"))

    async def _begin(self, process: Process) -> Life:
        """One life up to the point where it is ready."""
        life = await spawn(process, self._logs, self._groups)
        self._lives[process.name] = life
        try:
            await life.become_ready(self._logs)
        except StartError:
            del self._lives[process.name]
            raise
        if process.ready is None:
            del self._lives[process.name]
        self._changed()
        return life

    async def _keep(self, life: Life) -> None:
        """Give a process its next life whenever it dies, for as long as the suite is up."""
        process, backoff = life.process, Backoff()
        while True:
            born = time.monotonic()
            status = await asyncio.shield(life.ended)
            died = time.monotonic()
            await life.end(signal.SIGKILL)
            self._progress.show(process.name, State.RESTARTING)
            self._progress.say(f"{process.name} {describe_end(status)}; starting it again")
            pause = backoff.pause_s(died - born)
            while True:
                await asyncio.sleep(pause)
                try:
                    life = await self._begin(process)
                    break
                except StartError as failure:
                    pause = backoff.pause_s(0)
                    self._progress.say(f"{failure}\n{process.name}: next attempt in {pause:.1f} s")
            self._progress.show(process.name, State.READY, time.monotonic() - died, process.address)
            self._progress.say(f"{process.name} is healthy again after {time.monotonic() - died:.1f} s")

    async def _end(self, life: Life) -> None:
        await life.end(life.process.stop_signal)
        self._progress.show(life.process.name, State.STOPPED)

    async def _trim_logs(self) -> None:
        while True:
            self._logs.trim()
            await asyncio.sleep(_TRIM_EVERY_S)


def stopping_order(processes: Sequence[Process]) -> list[list[Process]]:
    """Groups of processes, each as early as it can be: all that need a process are in groups before its own.

    Raises:
        ValueError: two processes need each other.
    """
    left, order = list(processes), list[list[Process]]()
    while left:
        needed = {name for process in left for name in process.after}
        group = [process for process in left if process.name not in needed]
        if not group:
            message = f"these processes wait for each other: {', '.join(process.name for process in left)}"
            raise ValueError(message)
        order.append(group)
        left = [process for process in left if process not in group]
    return order
