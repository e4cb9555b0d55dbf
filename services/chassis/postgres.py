"""Connections to Postgres, and what becomes of its errors."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
    Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# The server went away, is starting, or has no room: all heal by themselves.
_OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


@contextmanager
def outages() -> Iterator[None]:
    """Turns a database that does not answer into UNAVAILABLE; everything else is a defect and passes.

    But for U+0000, which protobuf's texts may hold and Postgres' may not: what names something by it is malformed.
    """
    try:
        yield
    except asyncpg.CharacterNotInRepertoireError as error:
        raise Failure(Reason.MALFORMED_REQUEST, "a text of the request holds the character U+0000; leave it out") from error
    except _OUTAGES as error:
        raise Failure(
            Reason.DATABASE_UNAVAILABLE, "the database does not answer; nothing is half-written; try again", retry_after=1
        ) from error


@asynccontextmanager
async def open_pool(url: str, *, schema: str, most: int = 8) -> AsyncIterator[Pool]:
    """Opens a pool of at most `most` connections, each with `schema` first on its search path.

    It connects when first used, so that a service starts while the database is down.
    """
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=most,
        timeout=5,
        command_timeout=30,
        max_inactive_connection_lifetime=60,
        server_settings={"search_path": schema, "application_name": f"penstock-{schema}"},
    )
    async with pool:
        yield pool


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A connection within a transaction that commits at the end, or raises DATABASE_UNAVAILABLE.

    If the database dies while it commits, the commit may have happened: writes are keyed so that they can be repeated.
    """
    with outages():
        async with pool.acquire(timeout=5) as connection, connection.transaction():
            yield connection
