"""Describes the REST API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.gateway.contract import Contract


def describe(contract: Contract) -> bytes:
    """OpenAPI 3.1 as JSON."""
    return json.dumps(
        {"openapi": "3.1.0", "info": {"title": "penstock", "version": "v1"}, "paths": {}, "n": len(contract.rpcs)}
    ).encode()
