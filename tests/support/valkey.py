"""A real Valkey for tests, which may be killed and halted."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

from deploy.local.probes import NotReadyError, redis_answers
from deploy.local.servers import valkey_binary
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path


class Valkey:
    """One server. `start` it first; `kill` it in the end."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = self._launched()
        probe = redis_answers(self.url)
        async with asyncio.timeout(20):
            while True:
                try:
                    await probe()
                except (NotReadyError, OSError):
                    await asyncio.sleep(0.05)
                else:
                    return

    def _launched(self) -> subprocess.Popen[bytes]:
        binary = valkey_binary()
        assert binary is not None
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", str(self._folder)]
        return subprocess.Popen([str(binary), *options], stdout=subprocess.DEVNULL)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
