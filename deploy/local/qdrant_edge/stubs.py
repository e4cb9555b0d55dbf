"""Qdrant's generated messages and servicers, without the client they ship with.

`qdrant_client/__init__.py` imports the whole client (numpy, httpx, pydantic: 65 MB and a second of
start-up). The stubs need none of it, so they are imported below a package whose `__init__` never
ran; the bare package is taken out again, so that a later `import qdrant_client` is the real one.
"""

import sys
from importlib.util import find_spec, module_from_spec


def _register_bare_client() -> bool:
    if "qdrant_client" in sys.modules:
        return False
    spec = find_spec("qdrant_client")
    if spec is None:
        message = "qdrant-client is not installed: install the extra 'local'"
        raise ModuleNotFoundError(message)
    sys.modules["qdrant_client"] = module_from_spec(spec)
    return True


_is_bare = _register_bare_client()

# The imports must come after the bare package stands in sys.modules.
from qdrant_client.grpc import (  # noqa: E402  # as said above
    collections_pb2,
    collections_service_pb2_grpc,
    json_with_int_pb2,
    points_pb2,
    points_service_pb2_grpc,
    qdrant_common_pb2,
    qdrant_pb2,
    qdrant_pb2_grpc,
    snapshots_service_pb2_grpc,
)

if _is_bare:
    del sys.modules["qdrant_client"]

__all__ = [
    "collections_pb2",
    "collections_service_pb2_grpc",
    "json_with_int_pb2",
    "points_pb2",
    "points_service_pb2_grpc",
    "qdrant_common_pb2",
    "qdrant_pb2",
    "qdrant_pb2_grpc",
    "snapshots_service_pb2_grpc",
]
