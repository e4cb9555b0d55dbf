"""`python -m deploy.local`: the whole suite on one machine, in the foreground, until Ctrl-C."""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from deploy.local.data_folder import DataFolder, FolderInUseError
from deploy.local.logs import Logs
from deploy.local.ports import PortError, claim, free_ports
from deploy.local.probes import NotReadyError
from deploy.local.process import StartError
from deploy.local.process_groups import ProcessGroups
from deploy.local.progress import Progress, State, suite_memory_mb, view
from deploy.local.servers import ClusterError
from deploy.local.settings import SettingError, Settings, read_settings
from deploy.local.suite import STAGES, External, Suite, compose, port_names
from deploy.local.supervisor import Supervisor

_EXTERNAL_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1


class LaunchError(Exception):
    """The suite cannot be started as asked; the message is for the user."""


def main() -> int:
    """Run the suite and return the exit status: 0 after Ctrl-C, 1 if it could not be brought up."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="bring up only the stages up to this one")
    until = parser.parse_args().until
    began = time.monotonic()
    try:
        settings = read_settings(os.environ)
        folder = DataFolder.hold(settings.data_dir)
        try:
            with claim(settings.listen_host, settings.port):
                asyncio.run(_run(settings, folder, until, began))
        finally:
            folder.release()
    except (SettingError, FolderInUseError, PortError, ClusterError, LaunchError, StartError, OSError) as error:
        print(f"penstock cannot start: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Before the event loop listens for it.
        return 130
    return 0


async def _run(settings: Settings, folder: DataFolder, until: str, began: float) -> None:
    name = uuid.uuid4().hex
    suite = compose(settings, name, free_ports(port_names(settings)), os.environ, until)
    if suite.missing:
        raise LaunchError("".join(f"\n  {missing}" for missing in suite.missing))
    interrupted = _interrupts()
    _end_with_make()
    logs = Logs(folder.path / "logs")
    names = [external.name for external in suite.externals] + [process.name for process in suite.processes]
    async with AsyncExitStack() as stack:
        progress = view(names)
        groups = await stack.enter_async_context(ProcessGroups(name, folder.lock))

        def publish() -> None:
            folder.publish(_description(settings, suite, supervisor, groups))

        supervisor = Supervisor(suite.processes, logs, groups, progress, publish)
        stack.push_async_callback(_stop, supervisor, interrupted, progress)
        stack.enter_context(progress)
        await _until(interrupted, _start(suite, supervisor, progress, publish))
        progress.settle()
        if not interrupted.is_set():
            progress.say(_ready_line(settings, until, time.monotonic() - began))
            await interrupted.wait()
            progress.say("stopping")


async def _start(suite: Suite, supervisor: Supervisor, progress: Progress, publish: Callable[[], None]) -> None:
    await asyncio.gather(*(_check(external, progress) for external in suite.externals))
    await supervisor.start()
    publish()


async def _check(external: External, progress: Progress) -> None:
    """Make sure that a server we were pointed to is there."""
    problem = "no answer"
    for _ in range(_EXTERNAL_ATTEMPTS):
        try:
            async with asyncio.timeout(2):
                await external.answers()
        except (NotReadyError, OSError) as error:
            problem = str(error) or "no answer within 2 s"
            await asyncio.sleep(0.5)
        else:
            progress.show(external.name, State.YOURS, note=external.place)
            return
    message = f"{external.variable} points to {external.place.split()[0]}, which does not answer: {problem}"
    progress.show(external.name, State.FAILED, note=external.place)
    if external.needed:
        raise LaunchError(message)
    progress.say(f"{message}. The suite starts without it and keeps asking.")


async def _stop(supervisor: Supervisor, interrupted: asyncio.Event, progress: Progress) -> None:
    """Stop everything; at once if the user asks again."""
    interrupted.clear()
    stopping = asyncio.create_task(supervisor.stop())
    await _until(interrupted, asyncio.shield(stopping))
    if not stopping.done():
        progress.say("ending everything at once")
        supervisor.kill()
    await stopping


async def _until(interrupted: asyncio.Event, work: Awaitable[None]) -> None:
    """Do the work, or give it up when the user interrupts."""
    working = asyncio.ensure_future(work)
    interruption = asyncio.create_task(interrupted.wait())
    await asyncio.wait({working, interruption}, return_when=asyncio.FIRST_COMPLETED)
    interruption.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
    if not working.cancelled():
        working.result()


def _interrupts() -> asyncio.Event:
    """An event that Ctrl-C, a polite kill and a closed terminal set."""
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    return interrupted


def _end_with_make() -> None:
    """Be asked to stop when the `make` that runs this is killed: a user who kills `make run` means the suite."""
    parent = Path(f"/proc/{os.getppid()}/comm")
    if sys.platform == "linux" and parent.exists() and parent.read_text().strip() in {"make", "gmake"}:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _description(settings: Settings, suite: Suite, supervisor: Supervisor, groups: ProcessGroups) -> dict[str, Any]:
    """What run.json says."""
    return {
        "pid": os.getpid(),
        "guardian": groups.guardian,
        "base_url": settings.base_url,
        "grpc": f"{settings.local_host}:{settings.port}",
        "api_keys_file": os.environ.get("API_KEYS_FILE", ""),
        "processes": supervisor.pids,
        "metrics": {
            process.name: process.environment["METRICS_ADDRESS"]
            for process in suite.processes
            if process.stage in {"services", "gateway"}
        },
        "environment": dict(suite.shared),
    }


def _ready_line(settings: Settings, until: str, seconds: float) -> str:
    measured = f"{seconds:.1f} s, {suite_memory_mb(os.getpid()):.0f} MB"
    if STAGES.index(until) < STAGES.index("gateway"):
        return f"penstock is up to the stage {until} ({measured})"
    base = settings.base_url
    grpc = f"{settings.local_host}:{settings.port}"
    urls = f"console {base}/ · docs {base}/docs · REST {base}/v1 · gRPC {grpc} · OpenAI {base}/openai/v1"
    return f"penstock is ready ({measured}): {urls}"


if __name__ == "__main__":
    sys.exit(main())
