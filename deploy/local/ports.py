"""Finding and checking TCP ports."""

import errno
import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack

# Below the range from which the kernel takes source ports (32768 on Linux): while a server is being restarted, a client
# that keeps trying its port could otherwise be given that very port as its own, connect to itself, and hold it.
_FIRST, _LAST = 20000, 32000


class PortError(Exception):
    """The port that the user asked for cannot be had; the message names it."""


def claim(host: str, port: int) -> None:
    """Check that a port can be listened on now.

    Raises:
        PortError: somebody listens on it, or this user may not, or the host is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise PortError(_explain(host, port, error)) from error


def free_ports(names: Sequence[str], host: str = "127.0.0.1") -> dict[str, int]:
    """Pick a free loopback port for each name. All are held until the last is found, so no two are the same.

    Raises:
        PortError: fewer than that are free.
    """
    chosen: dict[str, int] = {}
    with ExitStack() as held:
        for port in random.sample(range(_FIRST, _LAST), k=2000):
            if len(chosen) == len(names):
                break
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((host, port))
            except OSError:
                continue
            chosen[names[len(chosen)]] = port
    if len(chosen) < len(names):
        message = f"found only {len(chosen)} free ports between {_FIRST} and {_LAST} on {host}; {len(names)} are needed"
        raise PortError(message)
    return chosen


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is taken: another program listens on {host}:{port}. "
            f"Stop it, or choose another port: PORT={port + 1} make run"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"port {port} needs more rights than this user has. Choose one above 1023: PORT=8080 make run"
    return f"cannot listen on {host}:{port}: {error.strerror}"
