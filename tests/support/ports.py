"""Ports for servers that a test starts."""

import socket


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
