"""What the experiments service can be told by its environment."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import ServerSettings


class ExperimentsSettings(ServerSettings):
    """Settings of this process."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")
    database_connections: int = Field(default=8, ge=2, description="most connections to the database; one of them only listens")
    analysis_seconds: float = Field(default=20.0, gt=0, description="seconds after which an analysis is given up")
    analysis_idle_seconds: float = Field(default=60.0, gt=0, description="seconds after which an idle analysis process ends")
    acting_interval_seconds: float = Field(
        default=60.0, gt=0, description="seconds between two looks at guardrails and ramps, on which the service acts by itself"
    )
