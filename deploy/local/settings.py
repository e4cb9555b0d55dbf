"""What a user may choose about a local suite, read from the environment once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


_LAST_PORT = 65535
_MOST_WORKERS = 64
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingError(ValueError):
    """A setting that cannot be used; the message says which, its value, and what would do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One local suite; docs/how-to/configure.md is written out of the descriptions.

    A plain dataclass, and not pydantic-settings as in the services: the launcher stays in memory beside the suite for its whole
    life, and this saves 16 MB of it.
    """

    port: int = field(default=8080, metadata={"description": "the one port for REST, gRPC, gRPC-Web and the console"})
    listen_host: str = field(
        default="127.0.0.1", metadata={"description": "address to listen on; off loopback API_KEYS_FILE is needed"}
    )
    data_dir: Path = field(default=ROOT / ".penstock", metadata={"description": "folder for all that the suite keeps"})
    database_url: str = field(default="", metadata={"description": "PostgreSQL to use; empty to start one"})
    redis_url: str = field(default="", metadata={"description": "Redis to use; empty to start one"})
    qdrant_url: str = field(default="", metadata={"description": "Qdrant to use; empty to start its engine"})
    ollama_base_url: str = field(
        default="",
        metadata={"description": "Ollama to look for at the start; where empty, inference still asks its usual place"},
    )
    vllm_base_url: str = field(default="", metadata={"description": "vLLM to look for at the start; empty for none"})
    inference_workers: int = field(
        default=1, metadata={"description": "processes of the inference service; above 1, one more loads the embedded models"}
    )
    """One by default: it serves what one person asks, and each further one takes the memory of a Python process."""

    @property
    def local_host(self) -> str:
        """Where this machine itself reaches the gateway."""
        return "127.0.0.1" if self.listen_host in {"0.0.0.0", "::", ""} else self.listen_host  # noqa: S104 (compared only)

    @property
    def base_url(self) -> str:
        """Where a browser on this machine finds the console, without a slash at the end."""
        return f"http://{self.local_host}:{self.port}"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Build the settings from environment variables; an empty variable counts as unset.

    Raises:
        SettingError: PORT or INFERENCE_WORKERS is no number or out of range, DATABASE_URL no address of a PostgreSQL, or
            LOG_LEVEL unknown.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    if (level := given.get("LOG_LEVEL", "INFO")).upper() not in _LOG_LEVELS:
        # Each process would refuse it in its own log.
        message = f"LOG_LEVEL is {level!r}: it must be {', '.join(_LOG_LEVELS[:-1])} or {_LOG_LEVELS[-1]}"
        raise SettingError(message)
    return Settings(
        port=_port(given.get("PORT", "8080")),
        listen_host=given.get("LISTEN_HOST", "127.0.0.1"),
        data_dir=Path(given["DATA_DIR"]).expanduser().absolute() if "DATA_DIR" in given else ROOT / ".penstock",
        database_url=_database_url(given.get("DATABASE_URL", "")),
        redis_url=given.get("REDIS_URL", ""),
        qdrant_url=given.get("QDRANT_URL", ""),
        ollama_base_url=given.get("OLLAMA_BASE_URL", ""),
        vllm_base_url=given.get("VLLM_BASE_URL", ""),
        inference_workers=_workers(given.get("INFERENCE_WORKERS", "1")),
    )


def _database_url(text: str) -> str:
    if text and not text.startswith(("postgresql://", "postgres://")):
        # It is not repeated, as it may hold a password.
        message = "DATABASE_URL does not begin with postgresql://: write postgresql://user:password@host:5432/database"
        raise SettingError(message)
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        message = f"PORT is {text!r}: it must be a number from 1 to {_LAST_PORT}, for example PORT=8081"
        raise SettingError(message)
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        message = f"INFERENCE_WORKERS is {text!r}: it must be a number from 1 to {_MOST_WORKERS}; more than cores are of no use"
        raise SettingError(message)
    return int(text)
