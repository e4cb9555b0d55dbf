from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from services.inference.engines.vllm_queue import waiting_in
from services.inference.policy_file import PolicyFile
from services.inference.repetition import repeat
from tests.unit.inference.test_models import until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_defect_ends_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    turns: list[int] = []

    async def step() -> None:
        await asyncio.sleep(0)
        turns.append(len(turns))
        if 2 <= len(turns) <= 5:
            raise ZeroDivisionError("a defect")

    task = asyncio.create_task(repeat("counting", step, 0.001))
    await until(lambda: len(turns) > 8)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    told = [one.getMessage() for one in caplog.records if one.name == "services.inference.repetition"]
    assert told == ["counting: a defect; it is tried again every 0.001 s", "counting: works again"]


async def test_the_policy_is_still_watched_after_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.yaml"
    async with PolicyFile(path, seconds=0.01) as file:
        with monkeypatch.context() as broken:
            broken.setattr("services.inference.policy_file.parsed", lambda _: 1 / 0)
            path.write_bytes(b"aliases: {a: {models: [{model: m}]}}")
            await until(lambda: "watching the policy: a defect" in caplog.text)
        path.write_bytes(b"aliases: {b: {models: [{model: m}]}}")
        await until(lambda: list(file.policy.aliases) == ["b"])


def test_what_waits_at_vllm_is_summed_and_what_is_no_number_is_left_out() -> None:
    metrics = b"""# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1e+01
vllm:num_requests_waiting{engine="2",model_name="m"} 1e
vllm:num_requests_waiting{engine="3",model_name="m"} NaN
vllm:num_requests_waiting_by_reason{reason="capacity"} 7
vllm:num_requests_running 5
"""
    assert waiting_in(metrics) == 13
    assert waiting_in(b"") == 0
