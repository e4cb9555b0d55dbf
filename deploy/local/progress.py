"""What the user sees: a live table on a terminal, plain lines anywhere else."""

import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class State(enum.Enum):
    """Where a process stands, in the words shown."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "healthy"
    DONE = "done"
    YOURS = "yours"
    """A running server that the user pointed to."""
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


_STYLES = {
    State.WAITING: "dim",
    State.STARTING: "yellow",
    State.READY: "green",
    State.DONE: "green",
    State.YOURS: "cyan",
    State.RESTARTING: "yellow",
    State.FAILED: "bold red",
    State.STOPPED: "dim",
}


class Progress(Protocol):
    """A view of the suite."""

    def show(self, name: str, state: State, seconds: float | None = None, note: str = "") -> None:
        """A process has come into a state; `seconds` is how long that took."""

    def say(self, text: str) -> None:
        """Something worth a line of its own."""

    def settle(self) -> None:
        """The start is over: from here on, only lines."""


class Lines:
    """One line an event, for pipes and log collectors."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, names), default=0)
        self._heard = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to give back."""

    def show(self, name: str, state: State, seconds: float | None = None, note: str = "") -> None:
        """Print the state, unless it will be followed by a more telling one at once."""
        if state is not State.WAITING:
            self.say(describe(name.ljust(self._width), state, seconds, note))

    def say(self, text: str) -> None:
        """Print it now, even into a pipe. When nobody reads any more the suite still runs."""
        if self._heard:
            try:
                print(text, flush=True)
            except OSError:
                self._heard = False

    def settle(self) -> None:
        """Nothing changes."""


class LiveTable:
    """A table that changes in place while the suite starts; afterwards one line an event."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self._rows: dict[str, tuple[State, float | None, str]] = dict.fromkeys(names, (State.WAITING, None, ""))
        self._spinner = Spinner("dots")
        self._console = console
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=10)
        self._settled = False

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.settle()

    def show(self, name: str, state: State, seconds: float | None = None, note: str = "") -> None:
        """Change a row, or say it once the table stands still."""
        self._rows[name] = (state, seconds, note)
        if self._settled and state in {State.FAILED, State.STOPPED}:
            self.say(describe(name, state, seconds, note))

    def say(self, text: str) -> None:
        """Print above the table."""
        self._console.print(Text(text), soft_wrap=True)

    def settle(self) -> None:
        """Leave the table as it stands."""
        if not self._settled:
            self._settled = True
            self._live.stop()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (state, seconds, note) in list(self._rows.items()):
            mark = self._spinner if state in {State.STARTING, State.RESTARTING} and not self._settled else Text("")
            took = f"{seconds:.1f} s" if seconds is not None else ""
            table.add_row(mark, name, Text(state.value, _STYLES[state]), Text(took, "dim", justify="right"), Text(note, "dim"))
        return table


def describe(name: str, state: State, seconds: float | None, note: str) -> str:
    """A state as one plain line."""
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    return f"{name}  {state.value}{took}{'  ' + note if note else ''}"


def view(names: Sequence[str]) -> "Lines | LiveTable":
    """The view that fits standard output."""
    console = Console(file=sys.stdout, highlight=False)
    return LiveTable(names, console) if console.is_terminal else Lines(names)


def suite_memory_mb(launcher: int) -> float:
    """Memory of a launcher and everything below it, in MB, shared pages counted once (PSS); 0 where there is no /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {launcher}
    while more := {process for process, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(map(_pss_kb, family)) * 1024 / 1e6


def _pss_kb(process: int) -> int:
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
