"""Conversations in Postgres."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from services.chassis.postgres import outages, transaction
from services.retrieval.citations import Citation
from services.retrieval.conversations import Conversation, Turn
from services.retrieval.passages import Hit

if TYPE_CHECKING:
    from services.chassis.postgres import Pool
    from services.retrieval.conversations import Limits

# `xmax` is 0 in a row that this very statement has made.
_MAKE: Final = """
INSERT INTO conversations AS c (tenant, user_id, conversation, create_time, bytes) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant, conversation) DO UPDATE SET
    update_time = now(), bytes = c.bytes + excluded.bytes, user_id = coalesce(nullif(c.user_id, ''), excluded.user_id)
    WHERE c.user_id = '' OR excluded.user_id = '' OR c.user_id = excluded.user_id
RETURNING uid, xmax = 0 AS is_new
"""
_ADD: Final = """
INSERT INTO turns (
    conversation_uid, query, text, sources, citations, model, complete, create_time, bytes, intent, intent_confidence,
    rewritten_query, basis
) VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8, $9, $10, $11, $12, $13)
"""
# The last turn stays, whatever its size.
_SHORTEN: Final = """
WITH gone AS (
    DELETE FROM turns WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER latest AS place, sum(bytes) OVER latest AS total
            FROM turns WHERE conversation_uid = $1 WINDOW latest AS (ORDER BY id DESC)
        ) ranked WHERE place > 1 AND ($2 > 0 AND place > $2 OR $3 > 0 AND total > $3)
    ) RETURNING bytes
)
UPDATE conversations SET bytes = bytes - (SELECT sum(bytes) FROM gone) WHERE uid = $1 AND EXISTS (SELECT FROM gone)
"""
_LOAD: Final = """
SELECT conversations.create_time AS began, conversations.user_id, conversations.update_time, turns.*
FROM conversations LEFT JOIN turns ON turns.conversation_uid = conversations.uid
WHERE tenant = $1 AND conversation = $2
ORDER BY turns.id DESC
LIMIT $3
"""
_DELETE: Final = """
DELETE FROM conversations WHERE tenant = $1 AND conversation = $2 AND ($3 = '' OR user_id = '' OR user_id = $3)
"""
_EXPIRED: Final = "DELETE FROM conversations WHERE update_time <= now() - make_interval(secs => $1)"
_TOO_MANY: Final = """
DELETE FROM conversations WHERE uid IN (
    SELECT uid FROM (
        SELECT uid, row_number() OVER (PARTITION BY tenant, user_id ORDER BY update_time DESC) AS place
        FROM conversations WHERE user_id <> '' AND ($2::text IS NULL OR tenant = $2 AND user_id = $3)
    ) ranked WHERE place > $1
)
"""
_TOO_LARGE: Final = """
DELETE FROM conversations WHERE uid IN (
    SELECT uid FROM (
        SELECT uid, sum(bytes) OVER (PARTITION BY tenant ORDER BY update_time DESC, uid) AS total FROM conversations
    ) ranked WHERE total > $1
)
"""


class PostgresConversations:
    """Implements `ConversationStore`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def append(self, tenant: str, user: str, conversation: str, turn: Turn, limits: Limits) -> bool:
        """See `ConversationStore.append`."""
        sources = _storable_json(json.dumps([asdict(source) for source in turn.sources]))
        citations = _storable_json(json.dumps([asdict(citation) for citation in turn.citations]))
        texts = [_storable(text) for text in (turn.query, turn.text, turn.rewritten_query)]
        size = sum(len(text.encode()) for text in (*texts, sources, citations))
        async with transaction(self._pool) as connection:
            made = await connection.fetchrow(_MAKE, tenant, _storable(user), conversation, turn.create_time, size)
            if made is None:
                return False
            await connection.execute(
                _ADD,
                made["uid"],
                *texts[:2],
                sources,
                citations,
                turn.model,
                turn.complete,
                turn.create_time,
                size,
                turn.intent,
                turn.intent_confidence,
                texts[2],
                turn.basis,
            )
            if limits.turns or limits.turn_bytes:
                await connection.execute(_SHORTEN, made["uid"], limits.turns, limits.turn_bytes)
            if made["is_new"] and user and limits.user_conversations:
                await connection.execute(_TOO_MANY, limits.user_conversations, tenant, _storable(user))
        return True

    async def load(self, tenant: str, conversation: str, most: int) -> Conversation | None:
        """See `ConversationStore.load`."""
        with outages():
            rows = await self._pool.fetch(_LOAD, tenant, conversation, most)
        if not rows:
            return None
        turns = tuple(_turn(row) for row in reversed(rows) if row["id"] is not None)
        return Conversation(conversation, turns, rows[0]["began"], rows[0]["user_id"], rows[0]["update_time"])

    async def delete(self, tenant: str, conversation: str, user: str) -> bool:
        """See `ConversationStore.delete`; turns go with their conversation."""
        with outages():
            status = await self._pool.execute(_DELETE, tenant, conversation, user)
        return bool(status != "DELETE 0")

    async def sweep(self, limits: Limits) -> int:
        """See `ConversationStore.sweep`."""
        with outages():
            statuses = [
                await self._pool.execute(statement, *parameters)
                for statement, parameters in (
                    (_EXPIRED, (limits.ttl.total_seconds(),)),
                    (_TOO_MANY, (limits.user_conversations, None, None)),
                    (_TOO_LARGE, (limits.tenant_bytes,)),
                )
                if parameters[0]
            ]
        return sum(int(status.removeprefix("DELETE ")) for status in statuses)


def _storable(text: str) -> str:
    """Postgres keeps every character but NUL."""
    return text.replace("\x00", "\ufffd")


def _storable_json(text: str) -> str:
    return text.replace("\\u0000", "\\ufffd")


def _turn(row: Any) -> Turn:
    return Turn(
        query=row["query"],
        text=row["text"],
        sources=tuple(_hit(source) for source in json.loads(row["sources"])),
        citations=tuple(Citation(**citation) for citation in json.loads(row["citations"])),
        model=row["model"],
        complete=row["complete"],
        create_time=row["create_time"],
        intent=row["intent"],
        intent_confidence=row["intent_confidence"],
        rewritten_query=row["rewritten_query"],
        basis=row["basis"],
    )


def _hit(source: dict[str, Any]) -> Hit:
    """A passage as kept; turns of earlier versions lack fields, and none has an explanation."""
    return Hit(**{**source, "explanation": None})
