"""The data folder: one launcher at a time, and the file that tells others how to reach its suite."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# After a kill -9 the guardian needs a moment to clean up, and holds the lock until it has.
_PATIENCE_S = 10.0


class FolderInUseError(Exception):
    """Another launcher works in the data folder; the message names its process id."""


class DataFolder:
    """A data folder held by this process. The lock ends with the last process that has `lock` open."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock

    @classmethod
    def hold(cls, path: Path, patience_s: float = _PATIENCE_S) -> "DataFolder":
        """Make the folder if need be and lock it.

        Raises:
            FolderInUseError: a living launcher holds it, or a dead one's processes did not end within `patience_s` seconds.
            OSError: the folder cannot be made or written to.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"the data folder {path} cannot be made or written to: {error.strerror}; choose another: DATA_DIR=..."
            raise OSError(message) from error
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode().strip()
                if _lives(holder) or time.monotonic() > deadline:
                    os.close(lock)
                    raise FolderInUseError(_in_use(path, holder)) from None
                time.sleep(0.05)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return cls(path, lock)

    def release(self) -> None:
        """Give the folder back."""
        (self.path / "run.json").unlink(missing_ok=True)
        os.close(self.lock)

    def publish(self, run: Mapping[str, Any]) -> None:
        """Write run.json, at once and for this user only: it holds the passwords of this suite's servers."""
        draft = self.path / "run.json.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(run, file, indent=2)
        draft.replace(self.path / "run.json")


def read_run(path: Path) -> dict[str, Any] | None:
    """What run.json says of the suite in a data folder, or None when none runs there."""
    try:
        run: dict[str, Any] = json.loads((path / "run.json").read_text())
    except FileNotFoundError:
        return None
    return run if _lives(str(run["pid"])) else None


def _in_use(path: Path, holder: str) -> str:
    if _lives(holder):
        return (
            f"{path} is in use by another launcher, process {holder}. Stop it, or choose another folder: DATA_DIR=... make run"
        )
    return f"{path} is in use by what the launcher {holder} left behind and could not be ended yet; try again in a moment"


def _lives(process: str) -> bool:
    if not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
