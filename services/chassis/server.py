"""Boots a gRPC server: interceptors, health, reflection, signals, drain."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import pkgutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc.aio
import penstock
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.chassis import seal, telemetry
from services.chassis.call import Lifecycle
from services.chassis.interceptors import Errors, Telemetry
from services.chassis.sealed import Sealed
from services.chassis.validation import Validation

if TYPE_CHECKING:
    from services.chassis.settings import ServerSettings

_log = logging.getLogger(__name__)

# Beyond the limit that `Validation` answers with a typed error, grpc itself refuses a message.
_HEADROOM: Final = 2
OPTIONS: Final = (
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.max_concurrent_streams", 4096),
    # Two servers on one port would silently share its connections.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ping as often as `channels.OPTIONS` makes ours do, and grpc-go's default floor.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass(frozen=True, slots=True)
class Served:
    """One gRPC service: its full name, its implementation, and the generated function that registers it."""

    name: str
    servicer: Any
    register: Callable[[Any, grpc.aio.Server], None]


Build: TypeAlias = Callable[[AsyncExitStack, Lifecycle], Awaitable[Sequence[Served]]]


def run(service: str, settings: ServerSettings, build: Build) -> None:
    """Runs a server until it is told to stop by SIGTERM or SIGINT. Exits with 1 if its address is taken.

    Args:
        service: Short name, as in the logs.
        settings: The process's settings.
        build: Wires the process; what it opens goes on the stack, which is closed after the last call has ended.
    """
    telemetry.start_logging(service, settings.log_level)
    uvloop.run(_serve(service, settings, build))


async def _serve(service: str, settings: ServerSettings, build: Build) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    lifecycle = Lifecycle(draining=asyncio.Event())
    async with AsyncExitStack() as stack:
        stack.callback(telemetry.start_traces(service, settings))
        stack.callback(telemetry.start_metrics(settings.metrics_address))
        seal.hold(settings.gateway_secret.get_secret_value())
        served = await build(stack, lifecycle)
        server, checks = new_server(settings, served)
        port = _listen(server, settings.grpc_address)
        await server.start()
        for name in ("", *(one.name for one in served)):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        _spare_what_stays()
        _log.info("serving on port %d", port)
        await stop.wait()
        _log.info("draining for at most %g s", settings.drain_seconds)
        await checks.enter_graceful_shutdown()
        # Whoever spreads calls looks at the health once a second; a call that comes after the stop would be lost.
        await asyncio.sleep(settings.drain_notice_seconds)
        lifecycle.draining.set()
        await server.stop(settings.drain_seconds)
    _log.info("stopped")


def new_server(settings: ServerSettings, served: Sequence[Served]) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """Builds the server with its ordered interceptors, health and reflection; it listens nowhere yet."""
    secret = settings.gateway_secret.get_secret_value()
    sealed = [Sealed(seal.Seal(secret))] if secret else []
    server = grpc.aio.server(
        interceptors=[Telemetry(), Errors(), *sealed, Validation(settings.max_request_bytes)],
        options=[*OPTIONS, ("grpc.max_receive_message_length", _HEADROOM * settings.max_request_bytes)],
    )
    server.add_registered_method_handlers = _leave_out  # type: ignore[method-assign] # there is no option for it
    for one in served:
        one.register(one.servicer, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*all_services(), health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return server, checks


def _spare_what_stays() -> None:
    """Has the collector of cycles pass over what the start made: looking through it stops all calls for some 50 ms."""
    gc.collect()
    gc.freeze()


def _leave_out(service_name: str, method_handlers: Mapping[str, Any]) -> None:
    """Has methods found by their names alone.

    For each method that generated code registers besides, grpc.aio keeps a task waiting, and it sorts all of these tasks for
    each call that comes in: a cost that grows with every method, and saves nothing here.
    """


def all_services() -> list[str]:
    """Full names of the services of all penstock packages: reflection describes the whole suite, whichever part is asked."""
    names = []
    for module in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if module.name.endswith("_service_pb2"):
            descriptor = importlib.import_module(module.name).DESCRIPTOR
            names += [service.full_name for service in descriptor.services_by_name.values()]
    return sorted(names)


def _listen(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        # grpc's own text is a dump of C++ source lines.
        _log.error("cannot listen on %s: the address is taken or not of this machine", address)
        sys.exit(1)
