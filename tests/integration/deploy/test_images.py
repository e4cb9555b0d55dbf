"""What the Dockerfiles build really starts: their own COPY and install lines, carried out without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = sorted((ROOT / "deploy" / "images").glob("*.Dockerfile"))
UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def copy(line: str, target: Path) -> None:
    """Carries out one COPY from the build context."""
    *sources, place = line.removeprefix("COPY ").split()
    for source in sources:
        destination = target / place
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            destination = destination / source if place.endswith("/") else destination
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, destination)


@pytest.mark.parametrize("dockerfile", IMAGES, ids=lambda path: path.stem)
@pytest.mark.timeout(300)
def test_image_holds_all_that_its_service_imports(dockerfile: Path, tmp_path: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            copy(line, tmp_path)
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


def test_every_service_has_an_image() -> None:
    services = {folder.parent.name for folder in (ROOT / "services").glob("*/__main__.py")}
    assert services == {path.stem for path in IMAGES}
