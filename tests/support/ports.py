"""Ports for servers that a test starts."""

import random
import socket


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on, out of a range that no outgoing connection gets one from."""
    while True:
        port = random.randint(15_000, 32_000)  # noqa: S311 - to differ is all it must
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
