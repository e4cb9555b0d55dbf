"""What the experiments service can be told by its environment."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import ServerSettings


class ExperimentsSettings(ServerSettings):
    """Settings of this process."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")
    database_connections: int = Field(default=8, ge=2, description="most connections to the database; one of them only listens")
    inference_address: str = Field(
        default="", description="host:port of the inference service's gRPC, by which relevance is judged; empty: it abstains"
    )
    quality_embedder: str = Field(
        default="all-minilm-l6-v2", min_length=1, description="the model whose embeddings relevance is judged by"
    )
    retrieval_address: str = Field(
        default="",
        description="host:port of the retrieval service's gRPC, by which optimizations are tried; empty: they are refused",
    )
    optimization_lease_seconds: float = Field(
        default=15.0, ge=1, description="seconds after which another process goes on with an optimization whose worker died"
    )
    analysis_seconds: float = Field(default=20.0, gt=0, description="seconds after which an analysis is given up")
    analysis_idle_seconds: float = Field(default=60.0, gt=0, description="seconds after which an idle analysis process ends")
    acting_interval_seconds: float = Field(
        default=60.0, gt=0, description="seconds between two looks at guardrails and ramps, on which the service acts by itself"
    )
