"""The command line `penstock`, which comes with the extra `penstock[cli]`."""

from __future__ import annotations

import sys

# ruff: noqa: PLC0415, T201 - the packages of the extra may be missing, and that is said on the terminal

_EXTRA = {"rich", "typer"}
_FAILED = 1


def main() -> None:
    """Runs the command line, and exits with its status: see `penstock.cli.exits`."""
    try:
        from penstock.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print("penstock: the command line needs more packages: pip install 'penstock[cli]'", file=sys.stderr)
        sys.exit(_FAILED)
    app(prog_name="penstock")
