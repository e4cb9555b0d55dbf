"""`make ask Q="..."`: ask the suite that runs on this machine; `penstock ask` with its address and key filled in."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from penstock.cli import main as penstock

from deploy.local.data_folder import read_run
from deploy.local.settings import SettingError, read_settings
from services.gateway.keys import KeysError, first_key


class NotRunningError(Exception):
    """There is nobody to ask; the message is for the user."""


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What `penstock` reads from the environment, for the suite of the data folder that the settings name.

    Raises:
        NotRunningError: no suite runs there.
        SettingError: a setting makes no sense.
        KeysError: the suite's file of keys cannot be read.
    """
    data_dir = read_settings(settings).data_dir
    run = read_run(data_dir)
    if run is None:
        raise NotRunningError(
            f"penstock is not running with the data folder {data_dir}. "
            "Start it with `make run`, or name the folder of a running one: DATA_DIR=... make ask Q=..."
        )
    keys_file = run["api_keys_file"]
    return {
        "PENSTOCK_URL": run["grpc"],
        "PENSTOCK_API_KEY": settings.get("PENSTOCK_API_KEY") or (first_key(Path(keys_file)) if keys_file else ""),
    }


if __name__ == "__main__":
    try:
        os.environ.update(environment(os.environ))
    except (NotRunningError, SettingError, KeysError) as error:
        sys.exit(str(error))
    sys.argv.insert(1, "ask")
    penstock()
