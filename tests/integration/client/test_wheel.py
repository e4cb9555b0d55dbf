"""The wheel, built and installed alone, with the oldest versions it promises to work with and with the newest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# What `make` bootstraps, or what the caller names.
UV = os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv" / "bin"))
OLDEST = ["protobuf==6.31.1", "grpcio==1.76.0", "googleapis-common-protos==1.70.0"]
SMOKE = """
import importlib, pkgutil, penstock
for module in pkgutil.walk_packages(penstock.__path__, "penstock."):
    # The command line needs an extra.
    if not module.name.startswith("penstock.cli."):
        importlib.import_module(module.name)
assert "site-packages" in penstock.__file__, penstock.__file__
assert penstock.__version__ == "0.1.0"
with penstock.Client("127.0.0.1:1") as client:
    try:
        client.models()
    except penstock.UnavailableError as error:
        print("UNAVAILABLE as it should be:", error.request_id)
"""

pytestmark = pytest.mark.skipif(UV is None, reason="needs uv; `make test` brings it, or set UV")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [str(UV), "build", "--quiet", "--package", "penstock", "--wheel", "--python", sys.executable, "-o", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("constraints", [OLDEST, []], ids=["oldest", "newest"])
def test_the_wheel_works_alone(wheel: Path, tmp_path: Path, constraints: list[str]) -> None:
    packages = [part for package in (str(wheel), *constraints) for part in ("--with", package)]
    command = [str(UV), "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable, *packages]
    done = subprocess.run(
        [*command, "python", "-W", "error", "-c", SMOKE], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "UNAVAILABLE as it should be" in done.stdout


@pytest.mark.parametrize("extra", ["", "[cli]"])
def test_the_command_line_is_an_extra(wheel: Path, tmp_path: Path, extra: str) -> None:
    command = [str(UV), "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable, "--with", f"{wheel}{extra}"]
    done = subprocess.run(
        [*command, "penstock", "models", "list", "--url", "127.0.0.1:1"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == ""
    if extra:
        assert done.returncode == 5, done.stderr
        assert done.stderr.startswith("penstock: nothing answers at 127.0.0.1:1.")
    else:
        assert done.returncode == 1
        assert done.stderr == "penstock: the command line needs more packages: pip install 'penstock[cli]'\n"
