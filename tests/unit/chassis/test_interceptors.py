"""What a call costs before its handler runs: things that are found once, and tasks that are not there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
from penstock.inference.v1 import generation_service_pb2_grpc, model_service_pb2_grpc

from services.chassis.interceptors import Errors
from services.chassis.server import Served, new_server
from services.chassis.settings import ServerSettings


async def behaviour(request: Any, _context: Any) -> Any:
    return request


async def test_a_handler_is_found_and_wrapped_once() -> None:
    asked: list[str] = []

    async def find(details: Any) -> Any:
        asked.append(details.method)
        return grpc.unary_unary_rpc_method_handler(behaviour)

    interceptor = Errors()
    first, again, other = [
        await interceptor.intercept_service(find, SimpleNamespace(method=method)) for method in ("/a/X", "/a/X", "/a/Y")
    ]
    assert first is again
    assert first is not other
    assert asked == ["/a/X", "/a/Y"]


async def test_methods_that_callers_make_up_are_not_kept() -> None:
    async def find(_: Any) -> Any:
        return None

    interceptor = Errors()
    for number in range(100):
        handler = await interceptor.intercept_service(find, SimpleNamespace(method=f"/made.Up/{number}"))
        assert handler.unary_unary is not None
    assert not interceptor._wrapped


async def test_no_task_waits_for_each_method() -> None:
    """grpc.aio would keep one for each method that generated code registers, and look at all of them for each call."""
    services = [
        Served(
            "g",
            generation_service_pb2_grpc.GenerationServiceServicer(),  # type: ignore[abstract]  # nobody calls it
            generation_service_pb2_grpc.add_GenerationServiceServicer_to_server,
        ),
        Served(
            "m",
            model_service_pb2_grpc.ModelServiceServicer(),  # type: ignore[abstract]  # nobody calls it
            model_service_pb2_grpc.add_ModelServiceServicer_to_server,
        ),
    ]
    before = asyncio.all_tasks()
    server, _ = new_server(ServerSettings(grpc_address="127.0.0.1:0"), services)
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await asyncio.sleep(0.01)
        waiting = [task.get_coro().__qualname__ for task in asyncio.all_tasks() - before]  # type: ignore[union-attr] # a coroutine
        assert not [name for name in waiting if "registered" in name]
        assert len(waiting) < 4
    finally:
        await server.stop(None)
