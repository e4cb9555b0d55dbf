"""The supervisor over small real processes that behave badly on purpose."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.guardian import SUITE_VARIABLE, marked
from deploy.local.logs import Logs
from deploy.local.probes import NotReadyError, Probe
from deploy.local.process import Process, StartError
from deploy.local.process_groups import ProcessGroups
from deploy.local.progress import Lines, State
from deploy.local.supervisor import Supervisor
from tests.integration.local.launcher import left_behind, nothing_left

FOREVER = "import time; time.sleep(600)"


class Diary(Lines):
    """Remembers what the view is told."""

    def __init__(self) -> None:
        super().__init__([])
        self.states: list[tuple[str, State]] = []
        self.said: list[str] = []

    def show(self, name: str, state: State, seconds: float | None = None, note: str = "") -> None:
        self.states.append((name, state))
        super().show(name, state, seconds, note)

    def say(self, text: str) -> None:
        self.said.append(text)

    def names(self, state: State) -> list[str]:
        return [name for name, other in self.states if other is state]

    async def has(self, name: str, state: State, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.states.count((name, state)) < times:  # noqa: ASYNC110  (an event a state would be more to read)
                await asyncio.sleep(0.01)


class Stage:
    """What a supervisor needs around it."""

    def __init__(self, folder: Path, groups: ProcessGroups) -> None:
        self.folder, self.groups, self.logs, self.diary = folder, groups, Logs(folder / "logs"), Diary()

    def supervise(self, *processes: Process) -> Supervisor:
        return Supervisor(processes, self.logs, self.groups, self.diary, lambda: None)

    def process(self, name: str, code: str, *, after: tuple[str, ...] = (), step: bool = False) -> Process:
        """A Python program that is ready once it has made the file of its name."""
        file = self.folder / name
        prefix = "" if step else f"import pathlib; pathlib.Path({str(file)!r}).touch()\n"
        return Process(
            name=name,
            stage="servers",
            command=(sys.executable, "-u", "-c", prefix + code),
            environment={SUITE_VARIABLE: self.folder.name, "DATA_DIR": str(self.folder)},
            after=after,
            ready=None if step else there(file),
            stop_limit_s=0.5,
            start_limit_s=5,
        )


def there(file: Path) -> Probe:
    async def probe() -> None:
        if not os.access(file, os.F_OK):
            raise NotReadyError("no file yet")

    return probe


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    async with ProcessGroups(tmp_path.name, lock) as groups:
        yield Stage(tmp_path, groups)
    os.close(lock)
    assert left_behind(tmp_path) == []


async def test_each_starts_after_what_it_needs_and_stops_before_it(stage: Stage) -> None:
    supervisor = stage.supervise(
        stage.process("roof", FOREVER, after=("walls",)),
        stage.process("walls", FOREVER, after=("survey", "ground")),
        stage.process("survey", "print('level')", step=True),
        stage.process("ground", FOREVER),
    )
    await supervisor.start()
    assert stage.diary.names(State.READY) == ["ground", "walls", "roof"]
    assert stage.diary.names(State.DONE) == ["survey"]
    assert any("level" in line for line in stage.diary.said)
    await supervisor.stop()
    assert stage.diary.names(State.STOPPED) == ["roof", "walls", "ground"]


async def test_a_process_that_ends_early_fails_the_start_with_the_end_of_its_log(stage: Stage) -> None:
    supervisor = stage.supervise(
        stage.process("bad", "raise SystemExit('no such disk')", step=True), stage.process("good", FOREVER)
    )
    with pytest.raises(StartError, match="bad exited with 1") as failure:
        await supervisor.start()
    assert "no such disk" in str(failure.value)
    await supervisor.stop()


async def test_a_process_that_is_never_ready_fails_the_start_in_time(stage: Stage) -> None:
    lazy = Process(
        name="lazy",
        stage="servers",
        command=(sys.executable, "-c", FOREVER),
        environment={"DATA_DIR": str(stage.folder)},
        ready=there(stage.folder / "never"),
        start_limit_s=0.3,
    )
    supervisor = stage.supervise(lazy)
    with pytest.raises(StartError, match=r"lazy not ready after 0 s \(no file yet\)"):
        await supervisor.start()
    await supervisor.stop()


async def test_an_optional_step_may_fail(stage: Stage) -> None:
    step = Process("extra", "sample", (sys.executable, "-c", "raise SystemExit(3)"), optional=True)
    supervisor = stage.supervise(step, stage.process("main", FOREVER))
    await supervisor.start()
    assert stage.diary.names(State.FAILED) == ["extra"]
    assert any("extra exited with 3" in line for line in stage.diary.said)
    await supervisor.stop()


async def test_one_that_keeps_dying_is_restarted_ever_more_slowly(stage: Stage) -> None:
    supervisor = stage.supervise(stage.process("flaky", "import time; time.sleep(0.1)"))
    await supervisor.start()
    await stage.diary.has("flaky", State.READY, times=2)
    early = time.monotonic()
    await stage.diary.has("flaky", State.READY, times=3)
    await stage.diary.has("flaky", State.READY, times=5)
    assert time.monotonic() - early > 0.2 + 0.4 + 0.8
    await supervisor.stop()


async def test_one_that_ignores_the_polite_signal_is_killed(stage: Stage) -> None:
    deaf = stage.process("deaf", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}")
    supervisor = stage.supervise(deaf)
    await supervisor.start()
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await supervisor.stop()
    assert 0.4 < time.monotonic() - began < 5


async def test_children_in_its_group_go_with_it(stage: Stage) -> None:
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n{FOREVER}"
    supervisor = stage.supervise(stage.process("parent", parent))
    await supervisor.start()
    await asyncio.sleep(0.3)
    assert len(left_behind(stage.folder)) == 2
    os.kill(supervisor.pids["parent"], signal.SIGKILL)
    await stage.diary.has("parent", State.READY, times=2)
    await supervisor.stop()


async def test_the_guardian_finds_those_that_left_their_group(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    runaway = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}], start_new_session=True)"
    async with ProcessGroups("runaways", lock):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", runaway), env={SUITE_VARIABLE: "runaways", "DATA_DIR": str(tmp_path)}
        )
        await child.wait()
        assert len(marked("runaways")) == 1
    os.close(lock)
    assert marked("runaways") == []
    await nothing_left(tmp_path, limit_s=1)


async def test_a_user_who_will_not_wait_need_not(stage: Stage) -> None:
    deaf = stage.process("deaf", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}")
    supervisor = stage.supervise(replace(deaf, stop_limit_s=60))
    await supervisor.start()
    await asyncio.sleep(0.2)
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.2)
    assert not stopping.done()
    supervisor.kill()
    async with asyncio.timeout(5):
        await stopping
