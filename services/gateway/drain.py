"""Lets a running gateway finish its calls before it is stopped."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.gateway.settings import GatewaySettings

# The first listener's statistics, by the prefix that its configuration gives them.
_RUNNING: Final = "http.api.downstream_rq_active"
_POLL_SECONDS: Final = 0.5
_ADMIN_SECONDS: Final = 5.0


class DrainError(RuntimeError):
    """The gateway's admin does not answer."""


def drain(settings: GatewaySettings) -> bool:
    """Makes `/healthz` fail, so that no new calls are sent here, and waits until the running ones have ended.

    Returns:
        Whether all ended within `drain_seconds`.

    Raises:
        DrainError: No gateway answers on `admin_address`.
    """
    _ask(settings, "healthcheck/fail", method="POST")
    end = time.monotonic() + settings.drain_seconds
    # Whoever sends calls here has to notice first; so few calls at once mean nothing.
    time.sleep(min(settings.drain_notice_seconds, settings.drain_seconds))
    while time.monotonic() < end:
        if _running(settings) == 0:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _running(settings: GatewaySettings) -> int:
    lines = _ask(settings, f"stats?filter=^{_RUNNING}$").splitlines()
    return int(lines[0].rpartition(":")[2]) if lines else 0


def _ask(settings: GatewaySettings, path: str, method: str = "GET") -> str:
    request = urllib.request.Request(f"http://{settings.admin_address}/{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=_ADMIN_SECONDS) as response:  # noqa: S310 (our own admin)
            return str(response.read().decode())
    except (urllib.error.URLError, TimeoutError) as error:
        raise DrainError(f"no gateway's admin answers on {settings.admin_address}") from error
