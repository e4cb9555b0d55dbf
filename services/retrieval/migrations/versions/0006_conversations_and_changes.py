"""Conversations belong to a tenant and a user, and end; what changed what a search may find is counted.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"

# `bytes` is what the turns take; `update_time` is that of the last turn.
_CONVERSATIONS = """
ALTER TABLE conversations
    ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN bytes bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT conversations_conversation_key,
    ADD CONSTRAINT conversations_of_tenant UNIQUE (tenant, conversation)
"""
_BY_USER = "CREATE INDEX conversations_by_user ON conversations (tenant, user_id, update_time)"
_BY_AGE = "CREATE INDEX conversations_by_age ON conversations (update_time)"
_TURNS = """
ALTER TABLE turns
    ADD COLUMN bytes integer NOT NULL DEFAULT 0,
    ADD COLUMN intent text NOT NULL DEFAULT '',
    ADD COLUMN intent_confidence double precision NOT NULL DEFAULT 0,
    ADD COLUMN rewritten_query text NOT NULL DEFAULT '',
    ADD COLUMN basis text NOT NULL DEFAULT 'passages'
"""

# A collection's state is the sum of the weights of its rows: whoever writes adds a row, and waits for nobody else who writes;
# rows are joined into one of their weight now and then. So the sum grows with every change that was committed, and with nothing
# else. No foreign key: the rows of a deleted collection are dropped by whoever joins them.
_CHANGES = """
CREATE TABLE changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_uid uuid NOT NULL,
    weight bigint NOT NULL DEFAULT 1
)
"""
_BY_COLLECTION = "CREATE INDEX changes_by_collection ON changes (collection_uid) INCLUDE (weight)"

# What a search may find changes with a document that comes or goes, and with these of its columns; leases and attempts do not
# count.
_NOTE = """
CREATE FUNCTION note_changes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO changes (collection_uid)
        SELECT DISTINCT now_.collection_uid FROM before_ JOIN now_ USING (uid)
        WHERE (before_.title, before_.metadata, before_.indexed_edition, before_.vector_count, before_.expire_time)
            IS DISTINCT FROM (now_.title, now_.metadata, now_.indexed_edition, now_.vector_count, now_.expire_time);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO changes (collection_uid) SELECT DISTINCT collection_uid FROM before_;
    END IF;
    RETURN NULL;
END
$$
"""
_ON_UPDATE = """
CREATE TRIGGER note_updates AFTER UPDATE ON documents
REFERENCING OLD TABLE AS before_ NEW TABLE AS now_ FOR EACH STATEMENT EXECUTE FUNCTION note_changes()
"""
_ON_DELETE = """
CREATE TRIGGER note_deletes AFTER DELETE ON documents
REFERENCING OLD TABLE AS before_ FOR EACH STATEMENT EXECUTE FUNCTION note_changes()
"""


def upgrade() -> None:
    """A function's tables are looked up in the schema that it was made in."""
    for statement in (_CONVERSATIONS, _BY_USER, _BY_AGE, _TURNS, _CHANGES, _BY_COLLECTION, _NOTE, _ON_UPDATE, _ON_DELETE):
        op.execute(statement)
