"""Finding and checking TCP ports."""

import errno
import random
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

# Below the range from which the kernel takes source ports (32768 on Linux): while a server is being restarted, a client
# that keeps trying its port could otherwise be given that very port as its own, connect to itself, and hold it.
_FIRST, _LAST = 20000, 32000


class PortError(Exception):
    """The port that the user asked for cannot be had; the message names it."""


@contextmanager
def claim(host: str, port: int) -> Iterator[None]:
    """Check that a port can be listened on, and keep other launchers off it from now on.

    Nobody listens on it until the gateway starts, seconds later, and two Envoys would share a port without a word. So the
    claim is a name that only one process of this machine can have, and that ends with it.

    Raises:
        PortError: somebody listens on it, or this user may not, or the host is not this machine's.
    """
    with socket.socket(socket.AF_UNIX) as sign:
        if sys.platform == "linux":
            try:
                # Without a file: a name in the network namespace, as the port itself.
                sign.bind(f"\0penstock-port-{port}")
            except OSError as error:
                raise PortError(_taken(port, "another penstock has it")) from error
        _try(host, port)
        yield


def _try(host: str, port: int) -> None:
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


def _taken(port: int, by: str) -> str:
    return f"port {port} is taken: {by}. Stop it, or choose another port: PORT={port + 1} make run"


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return _taken(port, f"another program listens on {host}:{port}")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"port {port} needs more rights than this user has. Choose one above 1023: PORT=8080 make run"
    return f"cannot listen on {host}:{port}: {error.strerror}"
