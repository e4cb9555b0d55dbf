"""Makes schemathesis' requests meet what exists: of random ids alone, almost all would end at NOT_FOUND."""

from __future__ import annotations

import zlib
from typing import Any

import schemathesis

from tests.fuzz.names import NAME

_IDS = {"collection", "document", "conversation", "experiment"}


def _chosen(fields: dict[str, Any]) -> bool:
    """One request in two, and the same ones in each run."""
    return zlib.crc32(repr(fields).encode(errors="replace")) % 2 == 0


def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    if isinstance(path_parameters, dict) and context.operation.method != "delete" and _chosen(path_parameters):
        return {name: NAME if name in _IDS else value for name, value in path_parameters.items()}
    return path_parameters


def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or not _chosen(body) or context.operation.path == "/v1/models:delete":
        return body
    known = {"collections": [NAME], "model": "auto", "experiment": NAME, "conversation": NAME}
    # Where a create names its own id, the existing one is a clash, which is worth a try too.
    return {
        name: known[name] if name in known and isinstance(value, type(known[name])) else value for name, value in body.items()
    }


for hook in (map_path_parameters, map_body):
    schemathesis.hook(hook)
