"""Runs the sidecar: `python -m deploy.local.qdrant_edge`.

GRPC_ADDRESS is where it listens (default 127.0.0.1:6334), DATA_DIR is the folder of its data,
LOG_LEVEL is a level of Python's logging.
"""

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop

# Read when grpc is imported. The rebuild is started by fork and exec, which needs none of grpc's
# fork handlers; with them it complains in the log each time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from deploy.local.qdrant_edge.server import serve
from deploy.local.qdrant_edge.store import Store
from deploy.local.qdrant_edge.upkeep import Upkeep

log = logging.getLogger("qdrant_edge")

# Calls in progress get this long to end after SIGTERM.
GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    grpc_address: str
    data_dir: Path

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables, or their defaults."""
        return cls(
            os.environ.get("GRPC_ADDRESS", "127.0.0.1:6334"),
            Path(os.environ.get("DATA_DIR", "data/qdrant")),
        )


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; all data is on disk when this returns."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        store = Store(settings.data_dir)
        stack.callback(store.close)
        upkeep = asyncio.create_task(Upkeep(store).run())
        # It never ends by itself: if it fails the process ends too, and its supervisor starts it anew.
        upkeep.add_done_callback(lambda _: stopped.set())
        stack.push_async_callback(_cancelled, upkeep)
        server, health = await serve(store, settings.grpc_address)
        stack.push_async_callback(server.stop, GRACE_SECONDS)
        stack.push_async_callback(health.enter_graceful_shutdown)
        log.info("serving on %s, %d collections", settings.grpc_address, len(store.contents.collections))
        await stopped.wait()
        log.info("stopping")


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Run with the settings of the environment."""
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        uvloop.run(run(Settings.from_environment()))
    except OSError as error:
        sys.exit(f"qdrant_edge: {error}")


if __name__ == "__main__":
    main()
