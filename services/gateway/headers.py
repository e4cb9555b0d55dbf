"""Names of headers that more than one part of the gateway knows."""

from __future__ import annotations

from typing import Final

OURS: Final = "x-penstock-"
"""What begins so is said by the gateway alone."""
LEASE_HEADER: Final = "x-penstock-lease"
"""Names a call that counts as under way until it has ended."""
JWT_HEADER: Final = "x-penstock-jwt"
"""Where Envoy puts a token's claims once it has verified the token; from outside it is removed."""
