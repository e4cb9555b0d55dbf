from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio
import pytest

from tests.integration.inference.processes import LlamaServer, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    server = LlamaServer(tmp_path_factory.getbasetemp() / "engines")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def service(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    process = Service(tmp_path_factory.mktemp("inference"), VLLM_BASE_URL=llama.address)
    yield process
    assert process.stop() == 0


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(service.address) as opened:
        yield opened
