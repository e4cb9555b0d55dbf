"""Every process of the whole suite, killed in turn."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from deploy.local.probes import NotReadyError, http_answers
from tests.integration.local.launcher import Launcher, left_behind, nothing_left

PROCESSES = ["postgres", "valkey", "qdrant", "inference", "experiments", "retrieval", "gateway"]


@pytest.mark.timeout(240)
async def test_each_process_comes_back_and_none_outlives_the_launcher(tmp_path: Path) -> None:
    async with Launcher(tmp_path, "--until", "gateway") as launcher:
        ready = await launcher.say("penstock is ready", limit_s=90)
        base_url = launcher.run["base_url"]
        for place in (f"console {base_url}/", f"docs {base_url}/docs", f"REST {base_url}/v1", f"OpenAI {base_url}/openai/v1"):
            assert place in ready
        assert sorted(launcher.run["processes"]) == sorted(PROCESSES)
        for name in PROCESSES:
            os.kill(launcher.run["processes"][name], signal.SIGKILL)
            await launcher.say(f"{name} is healthy again")
        async with asyncio.timeout(30):
            await healthy(f"{base_url}/healthz")
        launcher.child.kill()
        await nothing_left(tmp_path, limit_s=8)
    async with Launcher(tmp_path, "--until", "gateway") as launcher:
        await launcher.say("penstock is ready", limit_s=90)
        assert await launcher.end(signal.SIGINT) == 0
        assert left_behind(tmp_path) == []


async def healthy(url: str) -> None:
    probe = http_answers(url, status=200)
    while True:
        try:
            await probe()
        except (NotReadyError, OSError):
            await asyncio.sleep(0.1)
        else:
            return
