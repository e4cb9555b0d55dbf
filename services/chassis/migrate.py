"""Brings the database to the newest schema: `python -m services.chassis.migrate`, with DATABASE_URL.

A process of its own, run before the services: they need neither Alembic nor SQLAlchemy in memory. Each service owns one
schema of its name, and its revisions in `services/<name>/migrations/versions`. Repeating it changes nothing; several at once
wait for each other.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from pydantic import Field
from pydantic_settings import BaseSettings
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICES = Path(__file__).resolve().parent.parent
# Any number will do, if nobody else locks it.
_LOCK = 0x70656E73


class MigrationSettings(BaseSettings):
    """Where the database is."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")


def owners() -> list[str]:
    """The services that keep a schema."""
    return sorted(folder.parent.name for folder in SERVICES.glob("*/migrations"))


def upgrade(connection: sqlalchemy.Connection, schema: str) -> None:
    """Runs the revisions that `schema` lacks."""
    config = Config()
    config.set_main_option("script_location", str(SERVICES / schema / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    connection.execute(sqlalchemy.text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    connection.execute(sqlalchemy.text(f'SET LOCAL search_path TO "{schema}"'))

    def steps(current: Any, _context: object) -> Any:
        return scripts._upgrade_revs("heads", current)  # noqa: SLF001 - what Alembic's own command calls

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table_schema=schema, transactional_ddl=True)
        environment.run_migrations()


async def migrate(url: str, schemas: Sequence[str]) -> None:
    """Upgrades all schemas in one transaction."""
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1).replace("postgres://", "postgresql+asyncpg://", 1)
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            for schema in schemas:
                await connection.run_sync(upgrade, schema)
    finally:
        await engine.dispose()


def main() -> None:
    """Upgrades the schemas of all services."""
    settings = MigrationSettings()  # type: ignore[call-arg]  # read from the environment
    try:
        asyncio.run(migrate(settings.database_url, owners()))
    except (OSError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.OperationalError) as error:
        sys.exit(f"migrate: the database at DATABASE_URL does not answer: {type(error).__name__}")


if __name__ == "__main__":
    main()
