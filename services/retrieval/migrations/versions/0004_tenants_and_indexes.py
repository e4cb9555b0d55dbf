"""Collections belong to a tenant, say who may use them, and are served by an index that can be replaced.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

# Without an index of its own, that of the collection's uid serves it, as before. No access list means the whole tenant's.
# Whatever is NULL in `fusion`, `reranker` or `calibration` is the service's default.
_COLLECTIONS = """
ALTER TABLE collections
    ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN owner text NOT NULL DEFAULT '',
    ADD COLUMN acl jsonb,
    ADD COLUMN ttl_seconds bigint,
    ADD COLUMN text_languages text[] NOT NULL DEFAULT '{}',
    ADD COLUMN chunking jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN fusion jsonb,
    ADD COLUMN reranker text,
    ADD COLUMN system_prompt text NOT NULL DEFAULT '',
    ADD COLUMN calibration jsonb,
    ADD COLUMN index_uid uuid,
    ADD COLUMN revision bigint NOT NULL DEFAULT 1,
    DROP CONSTRAINT collections_collection_key,
    ADD CONSTRAINT collections_of_tenant UNIQUE (tenant, collection)
"""
_CREATIONS = """
ALTER TABLE creations
    ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT '',
    DROP CONSTRAINT creations_pkey,
    ADD PRIMARY KEY (tenant, request_id)
"""
# Where it is set, one index is meant, else every index of the collection.
_ERASURES = "ALTER TABLE erasures ADD COLUMN index_uid uuid"

# Queries whose relevant documents are known, for evaluation, calibration, and the gate of a reindexing.
_JUDGMENTS = """
CREATE TABLE judgments (
    collection_uid uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    number integer NOT NULL,
    query text NOT NULL,
    relevant text[] NOT NULL,
    PRIMARY KEY (collection_uid, number)
)
"""

# A second index of a collection: built beside the one that serves, then put in its place, the other being kept for a while.
# What stands in this row is always of the index that does not serve.
_REINDEXINGS = """
CREATE TABLE reindexings (
    uid uuid PRIMARY KEY DEFAULT uuidv7(),
    collection_uid uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    tenant text COLLATE "C" NOT NULL,
    state text NOT NULL,
    index_uid uuid NOT NULL,
    embedder text NOT NULL,
    fingerprint text NOT NULL,
    dimensions integer NOT NULL,
    languages text[] NOT NULL,
    text_languages text[] NOT NULL,
    chunking jsonb NOT NULL,
    calibration jsonb,
    gate jsonb NOT NULL,
    outcome jsonb,
    note text NOT NULL DEFAULT '',
    most_done integer NOT NULL DEFAULT 0,
    keep_seconds bigint NOT NULL,
    manual boolean NOT NULL,
    lease uuid,
    leased_until timestamptz,
    create_time timestamptz NOT NULL DEFAULT now(),
    switch_time timestamptz,
    end_time timestamptz
)
"""
# One at a time; the words are those of `reindexing.State`.
_ONE = "CREATE UNIQUE INDEX reindexings_live ON reindexings (collection_uid) WHERE end_time IS NULL"
_MIRRORED = """
CREATE TABLE mirrored_documents (
    index_uid uuid NOT NULL,
    document_uid uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    edition integer NOT NULL,
    chunk_count integer NOT NULL,
    vector_count integer NOT NULL,
    PRIMARY KEY (index_uid, document_uid)
)
"""
_MIRRORED_BY_DOCUMENT = "CREATE INDEX mirrored_by_document ON mirrored_documents (document_uid)"


def upgrade() -> None:
    """Everything there belongs to nobody in particular, as it did."""
    for statement in (
        _COLLECTIONS,
        _CREATIONS,
        _ERASURES,
        _JUDGMENTS,
        _REINDEXINGS,
        _ONE,
        _MIRRORED,
        _MIRRORED_BY_DOCUMENT,
    ):
        op.execute(statement)
