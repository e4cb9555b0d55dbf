"""How `make ask` finds the suite it asks."""

import json
import os
from pathlib import Path

import pytest

from deploy.local.ask import NotRunningError, environment


def test_the_suite_of_the_data_folder_is_asked_with_its_first_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"laptop: {'a' * 48}\n")
    keys.chmod(0o600)
    run = {"pid": os.getpid(), "grpc": "127.0.0.1:1234", "api_keys_file": str(keys)}
    (tmp_path / "run.json").write_text(json.dumps(run))
    found = environment({"DATA_DIR": str(tmp_path)})
    assert found == {"PENSTOCK_URL": "127.0.0.1:1234", "PENSTOCK_API_KEY": "a" * 48}


def test_without_a_suite_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="make run"):
        environment({"DATA_DIR": str(tmp_path)})
