"""Conversations: what was asked and answered before, and what of it the next question may see.

A conversation belongs to a tenant, and to the user who began it, where one was named; to others it does not exist. It is
deleted when nobody has asked for a while, and earlier where its owner has too many; a long one loses its oldest turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.citations import Citation
    from services.retrieval.passages import Hit

# What a question sees of its conversation: enough to follow up, little enough to leave the context to the passages.
_TURNS_SEEN: Final = 6
_CHARACTERS_SEEN: Final = 6_000
# What GetConversation returns at most.
TURNS_SHOWN: Final = 250


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; not `complete` where the answer was cut or the caller went away.

    Attributes:
        intent: What the question was after; empty where it was not told.
        intent_confidence: How sure that was, 0 to 1.
        rewritten_query: The question made complete; empty where it was so.
        basis: What the answer was made from.
    """

    query: str
    text: str
    sources: tuple[Hit, ...]
    citations: tuple[Citation, ...]
    model: str
    complete: bool
    create_time: datetime
    intent: str = ""
    intent_confidence: float = 0.0
    rewritten_query: str = ""
    basis: str = "passages"


def turns_of(earlier: Sequence[tuple[str, str]], now: datetime) -> list[Turn]:
    """Turns that the caller tells of, as questions and answers, as far as the next question may see them."""
    return _fitting(
        [Turn(query, text, (), (), model="", complete=True, create_time=now) for query, text in earlier[-_TURNS_SEEN:]]
    )


def _fitting(turns: Sequence[Turn]) -> list[Turn]:
    """The last turns that fit what a question sees."""
    room = _CHARACTERS_SEEN
    kept: list[Turn] = []
    for turn in reversed(turns):
        room -= len(turn.query) + len(turn.text)
        if room < 0:
            break
        kept.append(turn)
    return kept[::-1]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as kept, oldest turn first; `update_time` is that of the last one."""

    conversation: str
    turns: tuple[Turn, ...]
    create_time: datetime
    user: str = ""
    update_time: datetime | None = None
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept at most. 0 means without limit.

    Attributes:
        ttl: How long after its last turn a conversation is kept.
        turns: Turns of a conversation.
        turn_bytes: Bytes of all turns of a conversation.
        user_conversations: Conversations of a user.
        tenant_bytes: Bytes of all conversations of a tenant.
    """

    ttl: timedelta = timedelta(days=30)
    turns: int = 500
    turn_bytes: int = 2 << 20
    user_conversations: int = 200
    tenant_bytes: int = 1 << 30


class ConversationStore(Protocol):
    """Keeps conversations durably. Every method raises Failure(DATABASE_UNAVAILABLE) while it does not answer."""

    async def append(self, tenant: str, user: str, conversation: str, turn: Turn, limits: Limits) -> bool:
        """Adds a turn, and makes the conversation if there is none; False if it is another user's."""
        ...

    async def load(self, tenant: str, conversation: str, most: int) -> Conversation | None:
        """The latest turns, or None if the tenant has no such conversation."""
        ...

    async def delete(self, tenant: str, conversation: str, user: str) -> bool:
        """Removes the conversation with all its turns; tells whether there was one of this user. No user means anybody."""
        ...

    async def sweep(self, limits: Limits) -> int:
        """Removes what is over the limits; tells how many conversations."""
        ...


class Conversations:
    """Reads, continues and forgets conversations of the caller's tenant."""

    def __init__(self, store: ConversationStore, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()

    async def get(self, conversation: str, user: str = "") -> Conversation:
        """The conversation with its latest turns; raises CONVERSATION_NOT_FOUND."""
        found = await self._load(conversation, TURNS_SHOWN)
        if found is None or not _owns(_who(user), found.user):
            raise _missing(conversation)
        return found

    async def delete(self, conversation: str, user: str = "") -> None:
        """Forgets the conversation; raises CONVERSATION_NOT_FOUND."""
        if not await self._store.delete(current_call().tenant, conversation, _who(user)):
            raise _missing(conversation)

    async def seen(self, conversation: str, user: str = "") -> Sequence[Turn]:
        """The turns that the next question may see, oldest first; none for an empty id or a new conversation.

        Raises:
            Failure: CONVERSATION_NOT_FOUND where it is another user's.
        """
        if not conversation:
            return ()
        found = await self._load(conversation, _TURNS_SEEN)
        if found is None:
            return ()
        if not _owns(_who(user), found.user):
            raise _anothers(conversation)
        return _fitting(found.turns)

    async def append(self, conversation: str, user: str, turn: Turn) -> None:
        """Keeps a turn durably. Raises Failure(CONVERSATION_NOT_FOUND) where the conversation is another user's."""
        if not await self._store.append(current_call().tenant, _who(user), conversation, turn, self._limits):
            raise _anothers(conversation)

    async def sweep(self) -> int:
        """Removes what is over the limits, of every tenant."""
        return await self._store.sweep(self._limits)

    async def _load(self, conversation: str, most: int) -> Conversation | None:
        """One that has expired is gone, whether or not it was swept already."""
        tenant = current_call().tenant
        found = await self._store.load(tenant, conversation, most)
        if found is None or found.update_time is None or not self._limits.ttl:
            return found
        expires = found.update_time + self._limits.ttl
        if expires <= datetime.now(UTC):
            await self._store.delete(tenant, conversation, "")
            return None
        return Conversation(conversation, found.turns, found.create_time, found.user, found.update_time, expires)


def _who(user: str) -> str:
    """The gateway's word on who calls counts more than the request's."""
    return current_call().user or user


def _owns(user: str, owner: str) -> bool:
    return not user or not owner or user == owner


def _missing(conversation: str) -> Failure:
    return Failure(
        Reason.CONVERSATION_NOT_FOUND,
        f"conversation {conversation!r} does not exist; an answer with this id makes it",
        metadata={"conversation": conversation},
    )


def _anothers(conversation: str) -> Failure:
    return Failure(
        Reason.CONVERSATION_NOT_FOUND,
        f"conversation {conversation!r} is not yours to continue; choose another id",
        metadata={"conversation": conversation},
    )
