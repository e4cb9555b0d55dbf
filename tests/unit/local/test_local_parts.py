"""Small parts of the launcher."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.data_folder import DataFolder, FolderInUseError, read_run
from deploy.local.logs import Logs
from deploy.local.ports import PortError, claim, free_ports
from deploy.local.probes import NotReadyError, http_answers, place, postgres_answers, redis_answers
from deploy.local.process import Process, describe_end
from deploy.local.progress import State, describe, suite_memory_mb
from deploy.local.servers import ClusterError, postgres, remove_stale_pid_file
from deploy.local.supervisor import Backoff, stopping_order


def test_backoff_doubles_up_to_its_limit_and_forgets_after_a_good_while() -> None:
    backoff = Backoff(first_s=1, limit_s=5, forget_after_s=30)
    assert [backoff.pause_s(0.1) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.pause_s(30) == 1


def test_processes_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(ValueError, match="a, b"):
        stopping_order([Process("a", "servers", (), after=("b",)), Process("b", "servers", (), after=("a",))])


def test_a_need_outside_the_list_counts_as_met() -> None:
    assert [
        [process.name for process in layer] for layer in stopping_order([Process("a", "servers", (), after=("gone",))])
    ] == [["a"]]


def test_free_ports_differ_and_lie_below_the_source_ports() -> None:
    ports = free_ports([str(number) for number in range(50)])
    assert len(set(ports.values())) == 50
    assert all(20000 <= port < 32000 for port in ports.values())


def test_a_taken_port_is_named_with_another_to_try() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"port {port} is taken.*PORT={port + 1}"), claim("127.0.0.1", port):
            pass
    with claim("127.0.0.1", port):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the claim is a Linux name")
def test_a_claimed_port_is_taken_before_anybody_listens() -> None:
    port = free_ports(["a"])["a"]
    with claim("127.0.0.1", port), pytest.raises(PortError, match="another penstock has it"), claim("127.0.0.1", port):
        pass
    with claim("127.0.0.1", port):
        pass


def test_a_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(PortError, match=r"192\.0\.2\.1:8080"), claim("192.0.2.1", 8080):
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@db.example:6000/x", "db.example:6000"),
        ("postgresql:///x?host=/run/postgresql", "/run/postgresql"),
        ("rediss://:secret@cache", "cache:6379"),
        ("http://vectors", "vectors:80"),
    ],
)
def test_a_place_shows_no_password(url: str, shown: str) -> None:
    assert place(url) == shown


def hang_up(server: socket.socket) -> None:
    server.accept()[0].close()


async def test_a_server_that_hangs_up_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for probe in (
            postgres_answers(f"postgresql://127.0.0.1:{port}/x"),
            redis_answers(f"redis://127.0.0.1:{port}"),
            http_answers(f"http://127.0.0.1:{port}"),
        ):
            answered = asyncio.get_running_loop().run_in_executor(None, hang_up, server)
            with pytest.raises((NotReadyError, ConnectionError)):
                await probe()
            await answered


def test_a_log_past_its_limit_is_moved_and_its_writer_goes_on(tmp_path: Path) -> None:
    logs = Logs(tmp_path, limit_bytes=100)
    writer = logs.open("postgres")
    os.write(writer, b"old\n" * 30)
    logs.trim()
    os.write(writer, b"new\n")
    os.close(writer)
    assert logs.path("postgres").read_text() == "new\n"
    assert (tmp_path / "postgres.log.1").read_text() == "old\n" * 30


def test_a_tail_starts_at_its_mark(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.path("a").write_text("before\n")
    mark = logs.size("a")
    with logs.path("a").open("a") as log:
        log.write("one\ntwo\nthree\n")
    assert logs.tail("a", 2, mark) == ["two", "three"]
    assert logs.tail("a", 9, mark) == ["one", "two", "three"]
    assert logs.tail("none", 2) == []


def test_an_end_is_told_in_words() -> None:
    assert describe_end(-signal.SIGKILL) == "was ended by SIGKILL"
    assert describe_end(3) == "exited with 3"


def test_a_state_is_told_in_a_line() -> None:
    assert describe("valkey", State.READY, 0.12, "127.0.0.1:1") == "valkey  healthy in 0.1 s  127.0.0.1:1"
    assert describe("valkey", State.STOPPED, None, "") == "valkey  stopped"


def test_memory_counts_a_process_and_its_children() -> None:
    alone = suite_memory_mb(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(50_000_000); print(len(x), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout
        child.stdout.readline()
        assert 45 < suite_memory_mb(os.getpid()) - alone < 90


def test_a_folder_has_one_holder_and_is_free_after_it(tmp_path: Path) -> None:
    folder = DataFolder.hold(tmp_path / "new")
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
        DataFolder.hold(tmp_path / "new")
    folder.publish({"pid": os.getpid(), "base_url": "x"})
    assert (tmp_path / "new" / "run.json").stat().st_mode & 0o777 == 0o600
    assert read_run(tmp_path / "new") == {"pid": os.getpid(), "base_url": "x"}
    folder.release()
    assert read_run(tmp_path / "new") is None
    DataFolder.hold(tmp_path / "new").release()


def test_a_run_of_a_dead_launcher_is_no_run(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "run.json").write_text(f'{{"pid": {dead.pid}}}')
    assert read_run(tmp_path) is None


def test_a_cluster_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ClusterError, match="PostgreSQL 16, and here is 18"):
        postgres(Path("/bin"), tmp_path, 1, {})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_pid_file_goes_only_when_nobody_works_in_the_cluster(tmp_path: Path) -> None:
    pid_file = tmp_path / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE):
        remove_stale_pid_file(tmp_path)
        assert pid_file.exists()
    remove_stale_pid_file(tmp_path)
    assert not pid_file.exists()
