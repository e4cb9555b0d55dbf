"""Builds the index of a copy of a shard, in a process of its own.

Run as `python -m deploy.local.qdrant_edge.rebuild SOURCE TARGET`. It prints `copied` once the copy
is complete (from then on the source may change), and ends with 0 when the target is better than
the source was, with 3 when there was nothing to improve.
"""

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

import qdrant_edge as edge

NOTHING_TO_IMPROVE = 3
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def copy_sparse(source: str, target: str) -> None:
    """Copy a file without filling its holes: the engine's logs are mostly holes."""
    with Path(source).open("rb") as reader, Path(target).open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        end = 0
        while end < size:
            try:
                start = os.lseek(reader.fileno(), end, os.SEEK_DATA)
            except OSError:
                # No data up to the end of the file.
                return
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            os.lseek(reader.fileno(), start, os.SEEK_SET)
            os.lseek(writer.fileno(), start, os.SEEK_SET)
            remaining = end - start
            while remaining > 0:
                sent = os.sendfile(writer.fileno(), reader.fileno(), None, remaining)
                if sent == 0:
                    break
                remaining -= sent


def main(source: Path, target: Path) -> int:
    """Copy, build, and return the exit status."""
    _die_with_parent()
    os.nice(10)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, copy_function=copy_sparse)
    sys.stdout.write("copied\n")
    sys.stdout.flush()
    shard = edge.EdgeShard.load(str(target))
    is_better = shard.optimize()
    shard.flush()
    shard.close()
    return 0 if is_better else NOTHING_TO_IMPROVE


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
