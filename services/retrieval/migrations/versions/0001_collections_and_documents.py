"""Collections, their documents, and what is still to be erased from the vector store.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

_COLLECTIONS = """
CREATE TABLE collections (
    uid uuid PRIMARY KEY,
    collection text COLLATE "C" NOT NULL UNIQUE,
    description text NOT NULL,
    embedder text NOT NULL,
    fingerprint text NOT NULL,
    dimensions integer NOT NULL,
    languages text[] NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
)
"""

# What CreateCollection answered, so that a repeated call gets the same; older ones than a day are dropped.
_CREATIONS = """
CREATE TABLE creations (
    request_id text PRIMARY KEY,
    content_hash text NOT NULL,
    response jsonb NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
)
"""

# `wanted_edition` is the edition of the content that ought to be searchable, `indexed_edition` the one that is: while they
# differ, the document is pending. `version` is what callers see; it also grows when only facts change.
_DOCUMENTS = """
CREATE TABLE documents (
    uid uuid PRIMARY KEY,
    collection_uid uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    document text COLLATE "C" NOT NULL,
    title text NOT NULL,
    media_type text NOT NULL,
    metadata jsonb NOT NULL,
    content_hash text NOT NULL,
    text text NOT NULL,
    headings jsonb NOT NULL,
    pages integer[] NOT NULL,
    version integer NOT NULL DEFAULT 1,
    wanted_edition integer NOT NULL DEFAULT 1,
    indexed_edition integer,
    chunk_count integer NOT NULL DEFAULT 0,
    vector_count integer NOT NULL DEFAULT 0,
    lease uuid,
    leased_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    create_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (collection_uid, document)
)
"""
_PENDING = "CREATE INDEX documents_pending ON documents (not_before) WHERE indexed_edition IS DISTINCT FROM wanted_edition"
_LEASED = "CREATE INDEX documents_leased ON documents (lease) WHERE lease IS NOT NULL"
_WITH_VECTORS = "CREATE INDEX documents_with_vectors ON documents (collection_uid) WHERE vector_count > 0"
_COUNTED = "CREATE INDEX documents_counted ON documents (collection_uid) INCLUDE (chunk_count)"

# Points of the vector store that no document needs any more. Without a document it is the whole collection. No foreign keys:
# what they name is mostly gone already.
_ERASURES = """
CREATE TABLE erasures (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_uid uuid NOT NULL,
    document_uid uuid,
    from_edition integer NOT NULL DEFAULT 0,
    to_edition integer NOT NULL DEFAULT 2147483647
)
"""


def upgrade() -> None:
    """Creates the tables."""
    for statement in (_COLLECTIONS, _CREATIONS, _DOCUMENTS, _PENDING, _LEASED, _WITH_VECTORS, _COUNTED, _ERASURES):
        op.execute(statement)
