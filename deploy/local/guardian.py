"""The second line of defence: ends what the launcher left behind, however the launcher ended.

    python -I -S guardian.py SUITE

The launcher holds the other end of standard input and writes `add GROUP SIGNAL` for each process group it starts and
`drop GROUP` for each that is gone. At end of file (the launcher has closed the pipe, or was killed) every group left gets its
signal, then SIGKILL; after that so does every process that carries SUITE in its environment. The launcher's lock file stays
open in here, so a data folder is free only once nobody works in it any more.
"""

import os
import signal
import sys
import time
from pathlib import Path

_GRACE_S = 4.0
_PAUSE_S = 0.02
SUITE_VARIABLE = "PENSTOCK_SUITE"


def main(suite: str) -> None:
    """Follow the launcher's list until it ends, then end what is still on it."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin:
        verb, group, *signals = line.split()
        if verb == "add":
            groups[int(group)] = int(signals[0])
        else:
            groups.pop(int(group), None)
    for group, first_signal in groups.items():
        _send(group, first_signal)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and any(_send(group, 0) for group in groups):
        time.sleep(_PAUSE_S)
    for group in groups:
        _send(group, signal.SIGKILL)
    # Killing takes a moment, and a process may have forked meanwhile.
    while time.monotonic() < deadline + _GRACE_S and (stray := marked(suite)):
        for process in stray:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_PAUSE_S)


def marked(suite: str) -> list[int]:
    """Other processes that carry the suite's name in their environment. Empty where there is no /proc."""
    mark = f"{SUITE_VARIABLE}={suite}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            # Gone in between, or someone else's.
            continue
        if process != os.getpid() and mark in environment.split(b"\0"):
            found.append(process)
    return found


def _send(group: int, number: int) -> bool:
    """Signal a process group and say whether it was there."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])
