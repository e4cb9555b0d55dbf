"""One suite for all end-to-end tests: started here, or running already (PENSTOCK_URL)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.suite import Suite, running_suite

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    running = os.environ.get("PENSTOCK_URL")
    if running:
        yield Suite.at(running)
        return
    with running_suite(tmp_path_factory.mktemp("suite")) as suite:
        yield suite
