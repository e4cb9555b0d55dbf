"""The process beside Envoy that decides who may call what. The gateway starts it; it ends with the gateway."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import uvloop

from services.chassis.seal import Seal
from services.chassis.telemetry import start_logging
from services.gateway.authorizer.calls import Calls
from services.gateway.authorizer.decisions import Authorizer, Claims
from services.gateway.authorizer.ended import Ended
from services.gateway.authorizer.keyfile import KeyFile
from services.gateway.authorizer.limits import RENEW_SECONDS, Limiter
from services.gateway.authorizer.protocol import Decisions
from services.gateway.authorizer.redis_counters import RedisCounters
from services.gateway.bootstrap import DESCRIPTORS
from services.gateway.contract import Contract
from services.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

_PR_SET_PDEATHSIG: Final = 1
_BACKLOG: Final = 1024
_PAUSE_SECONDS: Final = 0.2
"""Between the end of a worker that failed and the next one."""

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Keeps a worker running until it is told to stop, or the gateway has ended."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway.authorizer", description=__doc__)
    parser.add_argument("--gateway", type=int, default=0, help="id of the process whose end is this one's end")
    gateway = parser.parse_args(arguments).gateway
    if gateway and not _end_with(gateway):
        return 0
    settings = GatewaySettings()
    start_logging("authorizer", settings.log_level)
    while True:
        worker = os.fork()
        if worker == 0:
            if not _end_with(os.getppid()):
                os._exit(0)
            uvloop.run(_serve(settings))
            return 0
        signal.signal(signal.SIGTERM, lambda *_, at=worker: _stop(at))
        signal.signal(signal.SIGINT, lambda *_, at=worker: _stop(at))
        _, status = os.waitpid(worker, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return 0
        _log.error("the authorizer ended with %d; another one is started", os.waitstatus_to_exitcode(status))
        time.sleep(_PAUSE_SECONDS)


def _end_with(parent: int) -> bool:
    """Is told to stop when the parent ends; says whether it still is there."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


def _stop(worker: int) -> None:
    os.kill(worker, signal.SIGTERM)
    sys.exit(0)


async def _serve(settings: GatewaySettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    secret = settings.gateway_secret.get_secret_value()
    authorizer = Authorizer(
        Calls(Contract.read(DESCRIPTORS).rpcs),
        Seal(secret) if secret else None,
        Claims(settings.jwt_tenant_claim, settings.jwt_scopes_claim, settings.jwt_groups_claim),
    )
    keys = KeyFile(settings.api_keys_file, authorizer.take)
    counters = RedisCounters(settings.redis_url.get_secret_value()) if settings.redis_url.get_secret_value() else None
    limiter = Limiter(counters)
    releases: set[asyncio.Task[None]] = set()
    ended = Ended(settings.ended_pipe, lambda lease: _kept(releases, limiter.release(lease)))
    socket = settings.authorizer_socket
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)
    # Who reaches the socket could ask which keys are good: it is this user's alone.
    mask = os.umask(0o177)
    try:
        server = await loop.create_unix_server(lambda: Decisions(authorizer, limiter), path=str(socket), backlog=_BACKLOG)
    finally:
        os.umask(mask)
    gc.collect()
    gc.freeze()
    duties = {asyncio.create_task(keys.watch()), asyncio.create_task(_renew(limiter))}
    stopping = asyncio.create_task(stop.wait())
    async with server:
        await asyncio.wait({*duties, stopping}, return_when=asyncio.FIRST_COMPLETED)
    ended.close()
    for duty in duties:
        if duty.done():
            # Without it revoked keys would stay good, or calls uncounted; better another process than that.
            duty.result()
        duty.cancel()
    if counters is not None:
        await counters.close()


async def _renew(limiter: Limiter) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        await limiter.renew()


def _kept(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Runs the work; a task that nobody holds could be lost."""
    task = asyncio.ensure_future(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    sys.exit(main())
