"""The kinds of turns in a conversation."""

from enum import StrEnum


class Intent(StrEnum):
    """What a turn is after; see Intent in the protos."""

    NEW_TOPIC = "new_topic"
    FOLLOW_UP = "follow_up"
    CLARIFICATION = "clarification"
    CONTINUATION = "continuation"
    CORRECTION = "correction"
    CHIT_CHAT = "chit_chat"
