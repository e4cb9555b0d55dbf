"""Channels to other penstock services: one a target, kept for the life of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc.aio

from services.chassis import seal
from services.chassis.sealed import sealing

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

# Pings find a peer that vanished without a word; the server side permits them at this rate (see `server.OPTIONS`).
OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.lb_policy_name", "round_robin"),
)


async def open_channel(stack: AsyncExitStack, target: str) -> grpc.aio.Channel:
    """Opens a channel to `host:port` that closes with the stack. Connects lazily, and again after each loss.

    Where the process holds the secret that it shares with the gateway, its calls are signed.

    Of several targets, separated by commas, each call takes the next one that is there. They must be IP addresses of one kind.
    """
    signing = sealing(seal.held())
    return await stack.enter_async_context(grpc.aio.insecure_channel(one_target(target), options=OPTIONS, interceptors=signing))


def one_target(targets: str) -> str:
    """Several addresses, separated by commas, as grpc takes them; a single one as it is."""
    addresses = [address.strip() for address in targets.split(",") if address.strip()]
    if len(addresses) < 2:  # noqa: PLR2004 - nothing to spread over
        return targets.strip()
    kind = "ipv6" if addresses[0].startswith("[") else "ipv4"
    return f"{kind}:{','.join(addresses)}"
