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

_APPEND: Final = """
WITH made AS (
    INSERT INTO conversations (conversation, user_id, create_time) VALUES ($1, $2, $8)
    ON CONFLICT (conversation) DO UPDATE SET update_time = now()
    RETURNING uid
)
INSERT INTO turns (conversation_uid, query, text, sources, citations, model, complete, create_time)
SELECT uid, $3, $4, $5::jsonb, $6::jsonb, $7, $9, $8 FROM made
"""
_LOAD: Final = """
SELECT conversations.create_time AS began, turns.*
FROM conversations LEFT JOIN turns ON turns.conversation_uid = conversations.uid
WHERE conversation = $1
ORDER BY turns.id DESC
LIMIT $2
"""


class PostgresConversations:
    """Implements `ConversationStore`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def append(self, conversation: str, user: str, turn: Turn) -> None:
        """See `ConversationStore.append`."""
        sources = json.dumps([asdict(source) for source in turn.sources])
        citations = json.dumps([asdict(citation) for citation in turn.citations])
        async with transaction(self._pool) as connection:
            await connection.execute(
                _APPEND,
                conversation,
                user,
                _storable(turn.query),
                _storable(turn.text),
                _storable_json(sources),
                _storable_json(citations),
                turn.model,
                turn.create_time,
                turn.complete,
            )

    async def load(self, conversation: str, most: int) -> Conversation | None:
        """See `ConversationStore.load`."""
        with outages():
            rows = await self._pool.fetch(_LOAD, conversation, most)
        if not rows:
            return None
        turns = tuple(_turn(row) for row in reversed(rows) if row["id"] is not None)
        return Conversation(conversation=conversation, turns=turns, create_time=rows[0]["began"])

    async def delete(self, conversation: str) -> bool:
        """See `ConversationStore.delete`; turns go with their conversation."""
        with outages():
            status = await self._pool.execute("DELETE FROM conversations WHERE conversation = $1", conversation)
        return bool(status != "DELETE 0")


def _storable(text: str) -> str:
    """Postgres keeps every character but NUL."""
    return text.replace("\x00", "\ufffd")


def _storable_json(text: str) -> str:
    return text.replace("\\u0000", "\\ufffd")


def _turn(row: Any) -> Turn:
    return Turn(
        query=row["query"],
        text=row["text"],
        sources=tuple(Hit(**source) for source in json.loads(row["sources"])),
        citations=tuple(Citation(**citation) for citation in json.loads(row["citations"])),
        model=row["model"],
        complete=row["complete"],
        create_time=row["create_time"],
    )
