"""Conversations: what was asked and answered before, and what of it the next question may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.retrieval.citations import Citation
    from services.retrieval.passages import Hit

# What a question sees of its conversation: enough to follow up, little enough to leave the context to the passages.
_TURNS_SEEN: Final = 6
_CHARACTERS_SEEN: Final = 6_000
# What GetConversation returns at most.
TURNS_SHOWN: Final = 250


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; not `complete` where the answer was cut or the caller went away."""

    query: str
    text: str
    sources: tuple[Hit, ...]
    citations: tuple[Citation, ...]
    model: str
    complete: bool
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as kept, oldest turn first."""

    conversation: str
    turns: tuple[Turn, ...]
    create_time: datetime


class ConversationStore(Protocol):
    """Keeps conversations durably. Every method raises Failure(DATABASE_UNAVAILABLE) while it does not answer."""

    async def append(self, conversation: str, user: str, turn: Turn) -> None:
        """Adds a turn, and makes the conversation if there is none."""
        ...

    async def load(self, conversation: str, most: int) -> Conversation | None:
        """The latest turns, or None if there is no such conversation."""
        ...

    async def delete(self, conversation: str) -> bool:
        """Removes the conversation with all its turns; tells whether there was one."""
        ...


class Conversations:
    """Reads, continues and forgets conversations."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    async def get(self, conversation: str) -> Conversation:
        """The conversation with its latest turns; raises CONVERSATION_NOT_FOUND."""
        found = await self._store.load(conversation, TURNS_SHOWN)
        if found is None:
            raise _missing(conversation)
        return found

    async def delete(self, conversation: str) -> None:
        """Forgets the conversation; raises CONVERSATION_NOT_FOUND."""
        if not await self._store.delete(conversation):
            raise _missing(conversation)

    async def seen(self, conversation: str) -> Sequence[Turn]:
        """The turns that the next question may see, oldest first; none for an empty id or a new conversation."""
        if not conversation:
            return ()
        found = await self._store.load(conversation, _TURNS_SEEN)
        turns = found.turns if found else ()
        room = _CHARACTERS_SEEN
        kept: list[Turn] = []
        for turn in reversed(turns):
            room -= len(turn.query) + len(turn.text)
            if room < 0:
                break
            kept.append(turn)
        return kept[::-1]

    async def append(self, conversation: str, user: str, turn: Turn) -> None:
        """Keeps a turn durably."""
        await self._store.append(conversation, user, turn)


def _missing(conversation: str) -> Failure:
    return Failure(
        Reason.CONVERSATION_NOT_FOUND,
        f"conversation {conversation!r} does not exist; an answer with this id makes it",
        metadata={"conversation": conversation},
    )
