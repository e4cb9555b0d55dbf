"""What the retrieval service can be told by its environment."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import ServerSettings


class RetrievalSettings(ServerSettings):
    """Settings of the retrieval service."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")
    qdrant_url: str = Field(description="http://host:port of Qdrant's gRPC")
    inference_address: str = Field(description="host:port of the inference service's gRPC; several IPs by comma")
    experiments_address: str = Field(default="", description="host:port of the experiments service; empty for no experiments")
    index_wait_seconds: float = Field(
        default=20.0, ge=0, description="how long AddDocuments waits for its documents to become searchable"
    )
    embeddings_keep_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="days that the vector of a text is kept after it was last of use, so that the text is not embedded again",
    )
