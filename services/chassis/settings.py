"""What every server can be told by its environment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.seal import SHORTEST_SECRET

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=BaseSettings)


class ServerSettings(BaseSettings):
    """Settings common to all servers, read from the environment; frozen once built, and built only in `__main__`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    grpc_address: str = Field(description="host:port to serve gRPC on; port 0 takes a free one")
    metrics_address: str = Field(default="", description="host:port to serve Prometheus metrics on; empty for none")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")
    drain_seconds: float = Field(
        default=10.0, ge=0, description="how long running calls may take to end once the server is told to stop"
    )
    drain_notice_seconds: float = Field(
        default=0.0,
        ge=0,
        description="how long calls are still taken after that, so that the gateway sees it and sends them elsewhere",
    )
    max_request_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, description="largest request message accepted")
    gateway_secret: SecretStr = Field(
        default=SecretStr(""),
        description="shared with the gateway, 32 characters or more: only what it signs is served",
    )
    otel_exporter_otlp_endpoint: str = Field(default="", description="where to send traces; empty for none")

    @field_validator("gateway_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        return checked_secret(value)

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError(f"LOG_LEVEL is {value!r}; it must be DEBUG, INFO, WARNING or ERROR")
        return level


def checked_secret(value: SecretStr) -> SecretStr:
    """The secret that signs who calls, if it is none at all or long enough.

    Raises:
        ValueError: It can be guessed.
    """
    if 0 < len(value.get_secret_value()) < SHORTEST_SECRET:
        raise ValueError(f"GATEWAY_SECRET is shorter than {SHORTEST_SECRET} characters; `openssl rand -hex 32` makes one")
    return value


def read(kind: type[S], service: str) -> S:
    """Builds the settings of a service from the environment; ends the process with what is wrong with them, in plain words."""
    try:
        return kind()
    except ValidationError as error:
        sys.exit(f"{service}: {'; '.join(plain(problem) for problem in error.errors())}")


def plain(problem: ErrorDetails) -> str:
    """One problem with one setting, by the name of its environment variable."""
    name = "_".join(str(part) for part in problem["loc"]).upper()
    message = problem["msg"].removeprefix("Value error, ")
    return message if not name or message.startswith(name) else f"{name}: {message}"
