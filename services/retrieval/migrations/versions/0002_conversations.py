"""Conversations and their turns.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

_CONVERSATIONS = """
CREATE TABLE conversations (
    uid uuid PRIMARY KEY DEFAULT uuidv7(),
    conversation text COLLATE "C" NOT NULL UNIQUE,
    user_id text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now()
)
"""
_TURNS = """
CREATE TABLE turns (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_uid uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    query text NOT NULL,
    text text NOT NULL,
    sources jsonb NOT NULL,
    citations jsonb NOT NULL,
    model text NOT NULL,
    complete boolean NOT NULL,
    create_time timestamptz NOT NULL
)
"""
_BY_CONVERSATION = "CREATE INDEX turns_by_conversation ON turns (conversation_uid, id)"


def upgrade() -> None:
    """Creates the tables."""
    for statement in (_CONVERSATIONS, _TURNS, _BY_CONVERSATION):
        op.execute(statement)
