"""A real vLLM sleeps, wakes, and takes LoRA adapters; its CPU build does all of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.chassis.errors import Failure, Reason
from services.inference.engine import Generation, Message, ModelState, Role, Sampling
from services.inference.engines.vllm import VllmEngine
from services.inference.lifecycle import LoadOptions
from tests.contract.engines import tiny_llama, tiny_llama_hf
from tests.contract.engines.fixture_vllm import serving
from tests.contract.engines.subject import collect

if TYPE_CHECKING:
    from pathlib import Path

RANK = 8


def adapter(folder: Path, shape: tiny_llama.Shape) -> Path:
    """A LoRA adapter of random weights, in the format of PEFT."""
    draw = np.random.default_rng(3)
    tensors = {}
    for layer in range(shape.layers):
        for part, rows in (("q_proj", shape.width), ("v_proj", shape.width // 2)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            tensors[f"{stem}.lora_A.weight"] = draw.standard_normal((RANK, shape.width)).astype(np.float16)
            tensors[f"{stem}.lora_B.weight"] = draw.standard_normal((rows, RANK)).astype(np.float16)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none"}
    written = {**told, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


async def said(engine: VllmEngine, model: str) -> str:
    asked = Generation(model, (Message(Role.USER, "Where to?"),), sampling=Sampling(temperature=0.0), max_tokens=16)
    return (await collect(engine.generate(asked)))[0]


async def states(engine: VllmEngine) -> dict[str, ModelState]:
    return {model.name: model.state for model in await engine.models()}


@pytest.mark.skipif(not os.environ.get("VLLM_PYTHON"), reason="make test-vllm runs this")
@pytest.mark.timeout(500)
async def test_a_real_server_sleeps_wakes_and_takes_adapters(tmp_path: Path) -> None:
    shape = tiny_llama.Shape()
    model, tuned = tiny_llama_hf.build(tmp_path, shape=shape), adapter(tmp_path / "adapter", shape)
    options = ("--enable-lora", "--max-lora-rank", str(RANK))
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_SERVER_DEV_MODE": "1"}
    with serving(model, "tiny", tmp_path, *options, **variables) as address:
        engine = VllmEngine(address)
        try:
            with pytest.raises(Failure) as absent:
                _ = [step async for step in engine.load_adapter("x", str(tmp_path / "nowhere"))]
            assert absent.value.reason is Reason.MODEL_NOT_FOUND
            _ = [step async for step in engine.load_adapter("tuned", str(tuned))]
            assert await states(engine) == {"tiny": ModelState.READY, "tuned": ModelState.READY}
            plain = await said(engine, "tiny")
            assert await said(engine, "tuned") != plain
            await engine.unload("tuned", force=False)
            assert await states(engine) == {"tiny": ModelState.READY}
            await engine.unload("tiny", force=False)
            assert await states(engine) == {"tiny": ModelState.UNLOADED}
            with pytest.raises(Failure) as asleep:
                await said(engine, "tiny")
            assert asleep.value.reason is Reason.MODEL_NOT_LOADED
            _ = [step async for step in engine.load("tiny", LoadOptions())]
            assert await said(engine, "tiny") == plain
        finally:
            await engine.close()
