"""What the retrieval service can be told by its environment."""

from __future__ import annotations

from pydantic import Field, field_validator

from services.chassis.settings import ServerSettings
from services.retrieval.fetching.allowance import Allowance


class RetrievalSettings(ServerSettings):
    """Settings of the retrieval service."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")
    qdrant_url: str = Field(description="http://host:port of Qdrant's gRPC")
    inference_address: str = Field(description="host:port of the inference service's gRPC; several IPs by comma")
    experiments_address: str = Field(default="", description="host:port of the experiments service; empty for no experiments")
    index_wait_seconds: float = Field(
        default=20.0, ge=0, description="how long AddDocuments waits for its documents to become searchable"
    )
    fetch_allowed: str = Field(
        default="",
        description="which URLs may be fetched, by comma: host, *.host, * (any), https://host/path; empty for none; never "
        "those of private networks",
    )
    max_upload_bytes: int = Field(
        default=1 << 30, ge=1024, description="largest file that UploadIngestion takes, in bytes; it is kept in the database"
    )
    embeddings_keep_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="days that the vector of a text is kept after it was last of use, so that the text is not embedded again",
    )
    redis_url: str = Field(
        default="", description="where the processes of the service share their caches; empty for memory only"
    )
    cache_bytes: int = Field(
        default=48 * 1024 * 1024, ge=0, description="memory for cached vectors, searches and answers, in bytes; 0 for no cache"
    )
    cache_ttl_seconds: float = Field(default=3600.0, gt=0, description="how long a vector or a search is kept")
    answer_cache_ttl_seconds: float = Field(default=300.0, gt=0, description="how long an answer is kept")
    conversation_ttl_days: float = Field(
        default=30.0, ge=0, le=36500, description="days after its last turn that a conversation is deleted; 0 keeps it"
    )
    conversation_turns: int = Field(
        default=500, ge=0, description="most turns of a conversation: the oldest are dropped; 0 for any number"
    )
    conversation_bytes: int = Field(
        default=2 << 20, ge=0, description="most bytes of a conversation's turns: the oldest are dropped; 0 for any number"
    )
    user_conversations: int = Field(
        default=200, ge=0, description="most conversations of a user: those unused for longest are deleted; 0 for any number"
    )
    tenant_conversation_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="most bytes of a tenant's conversations: those unused for longest are deleted; 0 for any number",
    )

    @field_validator("fetch_allowed")
    @classmethod
    def _check_rules(cls, given: str) -> str:
        Allowance(rules_of(given))
        return given

    @property
    def fetch_rules(self) -> list[str]:
        """The rules of `fetch_allowed`."""
        return rules_of(self.fetch_allowed)


def rules_of(given: str) -> list[str]:
    """What stands between commas."""
    return [rule.strip() for rule in given.split(",") if rule.strip()]
