"""One log file a process, bounded in size."""

import os
from pathlib import Path

_LIMIT_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


class Logs:
    """The folder of logs. Each process writes straight into its own file; nothing is piped through the launcher."""

    def __init__(self, folder: Path, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where a process logs."""
        return self._folder / f"{name}.log"

    def open(self, name: str) -> int:
        """A file descriptor that appends to the log, so that `trim` may cut the file under its writer."""
        return os.open(self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def trim(self) -> None:
        """Move every log past the limit to `<name>.log.1` and empty it in place; so a name holds at most twice the limit."""
        for log in self._folder.glob("*.log"):
            if log.stat().st_size > self._limit_bytes:
                log.with_suffix(".log.1").write_bytes(log.read_bytes())
                os.truncate(log, 0)

    def size(self, name: str) -> int:
        """Bytes written so far; a mark for `tail`."""
        return self.path(name).stat().st_size if self.path(name).exists() else 0

    def tail(self, name: str, lines: int, since: int = 0) -> list[str]:
        """The last lines that a process wrote after the mark `since`."""
        if not self.path(name).exists():
            return []
        with self.path(name).open("rb") as log:
            log.seek(max(since, self.size(name) - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines:]
