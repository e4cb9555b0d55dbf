"""What both clients need to reach a server: its address, credentials, retries and time limits."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from google.protobuf import descriptor_pb2

from penstock.experiments.v1 import (
    assignment_service_pb2,
    experiment_service_pb2,
    optimization_service_pb2,
    outcome_service_pb2,
    quality_service_pb2,
    result_service_pb2,
)
from penstock.inference.v1 import (
    embedding_service_pb2,
    generation_service_pb2,
    model_service_pb2,
    policy_service_pb2,
    prompt_service_pb2,
    routing_service_pb2,
    tokenization_service_pb2,
)
from penstock.retrieval.v1 import (
    answer_service_pb2,
    collection_service_pb2,
    conversation_service_pb2,
    document_service_pb2,
    evaluation_service_pb2,
    ingestion_service_pb2,
    reindexing_service_pb2,
    search_service_pb2,
)

DEFAULT_ADDRESS: Final = "127.0.0.1:8080"
DEFAULT_TIMEOUT: Final = 120.0

_SERVICES: Final = (
    assignment_service_pb2,
    experiment_service_pb2,
    optimization_service_pb2,
    outcome_service_pb2,
    quality_service_pb2,
    result_service_pb2,
    embedding_service_pb2,
    generation_service_pb2,
    model_service_pb2,
    policy_service_pb2,
    prompt_service_pb2,
    routing_service_pb2,
    tokenization_service_pb2,
    answer_service_pb2,
    collection_service_pb2,
    conversation_service_pb2,
    document_service_pb2,
    evaluation_service_pb2,
    ingestion_service_pb2,
    reindexing_service_pb2,
    search_service_pb2,
)
# gRPC spreads the waits by a fifth to either side.
_RETRY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_DEFAULT_PORT: Final = 443


@dataclass(frozen=True)
class Connection:
    """Where the server is, and how to call it.

    Attributes:
        target: `host:port`.
        credentials: For TLS; None for an open connection.
        authorization: Value of the header of that name; empty for none.
        timeout: Seconds that a call may take unless it says otherwise; infinity for no limit.
    """

    target: str
    credentials: grpc.ChannelCredentials | None
    authorization: str
    timeout: float

    @classmethod
    def parse(
        cls, address: str, *, api_key: str, tls: bool | None, root_certificates: bytes | None, timeout: float
    ) -> Connection:
        """Reads what a client is given.

        Args:
            address: `host:port`, or the URL of the gateway: `http://host:port` or `https://host`.
            api_key: Sent as a bearer token; empty for none.
            tls: Whether to encrypt; None means as the URL says, and where there is none, not.
            root_certificates: PEM of the authorities to trust; None means those of the system.
            timeout: See the class.

        Raises:
            ValueError: The address or the timeout makes no sense.
        """
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.scheme not in {"", "http", "https", "grpc", "grpcs"} or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"address is {address!r}; it must be host:port or http(s)://host:port")
        encrypt = parts.scheme in {"https", "grpcs"} if tls is None else tls
        if parts.port is None and not encrypt:
            raise ValueError(f"address is {address!r}; it lacks the port")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(
            target=f"{host}:{parts.port or _DEFAULT_PORT}",
            credentials=grpc.ssl_channel_credentials(root_certificates) if encrypt else None,
            authorization=f"Bearer {api_key}" if api_key else "",
            timeout=_checked(timeout),
        )

    def options(self) -> list[tuple[str, Any]]:
        """Options of the channel."""
        return [
            ("grpc.service_config", json.dumps({"methodConfig": [{"name": repeatable(), "retryPolicy": _RETRY}]})),
            ("grpc.primary_user_agent", f"penstock-python/{version('penstock')}"),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            # Finds a server that vanished without a word in the middle of a stream.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]

    def seconds(self, timeout: float | None) -> float | None:
        """The limit of one call as grpc wants it."""
        limit = self.timeout if timeout is None else _checked(timeout)
        return None if math.isinf(limit) else limit

    def metadata(self) -> tuple[str, tuple[tuple[str, str | bytes], ...]]:
        """A new request id, and the metadata of one call."""
        request_id = str(uuid.uuid4())
        key = (("authorization", self.authorization),) if self.authorization else ()
        return request_id, (("x-request-id", request_id), *key)


def repeatable() -> list[dict[str, str]]:
    """Names of the methods that a second attempt cannot harm, as the service config wants them.

    Those that the contract calls idempotent, and those that create under a request id, which the clients always send.
    Generation and answers are never begun twice.
    """
    unknown = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
    names = []
    for module in _SERVICES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                creates = "request_id" in method.input_type.fields_by_name
                if method.GetOptions().idempotency_level != unknown or creates:
                    names.append({"service": service.full_name, "method": method.name})
    return names


def _checked(timeout: float) -> float:
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; it must be above 0 seconds, or math.inf for no limit")
    return timeout
