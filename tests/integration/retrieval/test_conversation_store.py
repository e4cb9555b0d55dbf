"""Conversations in a real Postgres: whose they are, how long they stay, and that deleting deletes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from services.chassis.call import Call, enter_call
from services.chassis.errors import Failure, Reason
from services.chassis.postgres import open_pool
from services.retrieval.conversations import Conversations, Limits, Turn
from services.retrieval.stores.postgres_conversations import PostgresConversations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.chassis.postgres import Pool
    from tests.support.postgres import Postgres

TURN = Turn("What?", "That.", (), (), "m", complete=True, create_time=datetime(2026, 1, 2, tzinfo=UTC))


@pytest_asyncio.fixture
async def pool(postgres: Postgres) -> AsyncIterator[Pool]:
    async with open_pool(await postgres.new_database("retrieval"), schema="retrieval") as pool:
        yield pool


def calls(tenant: str = "", user: str = "") -> None:
    """Makes this task one that serves a call of the tenant's user."""
    enter_call(Call("/test", "", None, tenant, user))


def kept(pool: Pool, **limits: object) -> Conversations:
    return Conversations(PostgresConversations(pool), replace(Limits(), **limits))  # type: ignore[arg-type]  # by name


async def test_another_tenant_has_another_conversation_of_the_same_name(pool: Pool) -> None:
    conversations = kept(pool)
    for tenant in ("north", "south"):
        calls(tenant)
        await conversations.append("c", "", replace(TURN, query=tenant))
    for tenant in ("north", "south"):
        calls(tenant)
        assert [turn.query for turn in (await conversations.get("c")).turns] == [tenant]
    await conversations.delete("c")
    calls("north")
    assert (await conversations.get("c")).turns


async def test_another_user_can_neither_read_continue_nor_delete(pool: Pool) -> None:
    conversations = kept(pool)
    await conversations.append("c", "ann", TURN)
    for attempt in (
        conversations.get("c", "bob"),
        conversations.seen("c", "bob"),
        conversations.append("c", "bob", TURN),
        conversations.delete("c", "bob"),
    ):
        with pytest.raises(Failure) as refused:
            await attempt
        assert refused.value.reason is Reason.CONVERSATION_NOT_FOUND
    # What the gateway says of the caller counts, not what the caller says.
    calls(user="bob")
    with pytest.raises(Failure):
        await conversations.get("c", "ann")
    calls(user="ann")
    assert (await conversations.get("c")).user == "ann"


async def test_a_long_conversation_loses_its_oldest_turns(pool: Pool) -> None:
    conversations = kept(pool, turns=3)
    for number in range(5):
        await conversations.append("c", "", replace(TURN, query=str(number)))
    assert [turn.query for turn in (await conversations.get("c")).turns] == ["2", "3", "4"]
    narrow = kept(pool, turn_bytes=300)
    for number in range(5, 9):
        await narrow.append("c", "", replace(TURN, query=str(number), text="x" * 120))
    assert [turn.query for turn in (await conversations.get("c")).turns] == ["7", "8"]
    assert await pool.fetchval("SELECT bytes FROM conversations") == await pool.fetchval("SELECT sum(bytes) FROM turns")


async def test_a_conversation_expires_whether_or_not_it_was_swept(pool: Pool) -> None:
    conversations = kept(pool, ttl=timedelta(days=1))
    await conversations.append("old", "", TURN)
    await conversations.append("new", "", TURN)
    await pool.execute("UPDATE conversations SET update_time = now() - interval '25 hours' WHERE conversation = 'old'")
    with pytest.raises(Failure):
        await conversations.get("old")
    assert await pool.fetchval("SELECT count(*) FROM turns") == 1
    expire_time = (await conversations.get("new")).expire_time
    assert expire_time is not None
    assert timedelta(hours=23) < expire_time - datetime.now(UTC) <= timedelta(days=1)
    await pool.execute("UPDATE conversations SET update_time = now() - interval '25 hours'")
    assert await conversations.sweep() == 1


async def test_those_unused_for_longest_go_where_a_user_or_a_tenant_has_too_many(pool: Pool) -> None:
    conversations = kept(pool, user_conversations=2)
    for name in ("a", "b", "c"):
        await conversations.append(name, "ann", TURN)
    await conversations.append("d", "bob", TURN)
    names = [row["conversation"] for row in await pool.fetch("SELECT conversation FROM conversations ORDER BY 1")]
    assert names == ["b", "c", "d"]
    size = await pool.fetchval("SELECT min(bytes) FROM conversations")
    assert await kept(pool, tenant_bytes=2 * size).sweep() == 1
    names = [row["conversation"] for row in await pool.fetch("SELECT conversation FROM conversations ORDER BY 1")]
    assert names == ["c", "d"]


async def test_deleting_leaves_no_trace_in_the_database(pool: Pool) -> None:
    conversations = kept(pool)
    said = "the secret of the deep lake"
    await conversations.append("c", "ann", replace(TURN, query=said, text=said, rewritten_query=said))
    await conversations.delete("c", "ann")
    tables = await pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'retrieval'")
    for table in tables:
        rows = await pool.fetch(f"SELECT t::text AS row FROM {table['tablename']} t")  # noqa: S608 - names of our own tables
        assert not any(said in row["row"] for row in rows), table["tablename"]
