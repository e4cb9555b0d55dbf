"""One gateway over three small services, shared by the tests of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.gateway.backends import Backends
from tests.integration.gateway.launched import Gateway, environment, free_ports, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def backends() -> Iterator[Backends]:
    names = ("inference", "retrieval", "experiments")
    with Backends(dict(zip(names, free_ports(len(names)), strict=True))) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(environment(tmp_path_factory.mktemp("gateway"), backends.ports)) as started:
        wait_for(lambda: started.http.get("/healthz").status_code == 200)
        yield started
