"""The seal by which a service knows that the gateway, or another service, says who calls.

Whoever holds the secret signs the identity in a call's metadata; a service that was given the secret takes nothing unsigned.
The seal covers who calls and when it was signed, not what is asked: where others can listen on the network, use mutual TLS too.
"""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SEAL_HEADER: Final = "x-penstock-signature"
KEY_HEADER: Final = "x-penstock-key"
SCOPES_HEADER: Final = "x-penstock-scopes"
TENANT_HEADER: Final = "x-penstock-tenant"
USER_HEADER: Final = "x-penstock-user"
GROUPS_HEADER: Final = "x-penstock-groups"
IDENTITY: Final = (TENANT_HEADER, USER_HEADER, GROUPS_HEADER, SCOPES_HEADER, KEY_HEADER)

VALID_SECONDS: Final = 300
"""How long a signature holds, before and after: clocks differ, and a call may wait on its way."""
SHORTEST_SECRET: Final = 32


class Seal:
    """Signs identities and checks signatures, by HMAC-SHA256.

    Args:
        secret: Known to the gateway and the services only; 32 characters at least.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, identity: Mapping[str, str], at: float | None = None) -> str:
        """The signature of these headers, made at that time in seconds since 1970; now by default."""
        return self._signed(identity, str(int(time.time() if at is None else at)))

    def holds(self, metadata: Mapping[str, str | bytes], now: float | None = None) -> bool:
        """Whether the metadata carries a signature of its identity that is not too old."""
        signature = metadata.get(SEAL_HEADER, "")
        if not isinstance(signature, str):
            return False
        signed_at = signature.partition(".")[0]
        if not signed_at.isascii() or not signed_at.isdecimal() or len(signed_at) > 12:  # noqa: PLR2004 (some 30,000 years)
            return False
        if abs((time.time() if now is None else now) - int(signed_at)) > VALID_SECONDS:
            return False
        identity = {name: value for name in IDENTITY if isinstance(value := metadata.get(name, ""), str)}
        return hmac.compare_digest(self._signed(identity, signed_at).encode(), signature.encode())

    def _signed(self, identity: Mapping[str, str], signed_at: str) -> str:
        # A header's value holds no line break, so no two identities read the same.
        text = "\n".join((signed_at, *(identity.get(name, "") for name in IDENTITY)))
        return f"{signed_at}.{hmac.digest(self._secret, text.encode(), 'sha256').hex()}"


class _Held:
    seal: Seal | None = None


def hold(secret: str) -> None:
    """Gives this process the secret for its calls to other services; empty for none."""
    _Held.seal = Seal(secret) if secret else None


def held() -> Seal | None:
    """The process's own seal."""
    return _Held.seal
