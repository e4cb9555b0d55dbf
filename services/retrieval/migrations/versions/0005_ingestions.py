"""Ingestions: documents on their way in, with a checkpoint for each stage; vectors by content; documents that expire.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"

# `held` documents are worked on by nobody until their ingestion is retried.
_DOCUMENTS = """
ALTER TABLE documents
    ADD COLUMN ingestion_uid uuid,
    ADD COLUMN expire_time timestamptz,
    ADD COLUMN held boolean NOT NULL DEFAULT false
"""
_OF_INGESTION = "CREATE INDEX documents_of_ingestion ON documents (ingestion_uid) WHERE ingestion_uid IS NOT NULL"
_EXPIRING = "CREATE INDEX documents_expiring ON documents (expire_time) WHERE expire_time IS NOT NULL"
_PENDING = (
    "DROP INDEX documents_pending",
    """
    CREATE INDEX documents_pending ON documents (not_before)
    WHERE indexed_edition IS DISTINCT FROM wanted_edition AND NOT held
    """,
)
# A worker that held a document when it was deleted may still write some of its chunks: they are erased again after its lease.
_ERASURES = "ALTER TABLE erasures ADD COLUMN not_before timestamptz NOT NULL DEFAULT now()"

# The counters are of documents (items) that have passed a stage, of their chunks, and of their bytes. They are changed in the
# same statement as the items they count. `unread` are those of the failed ones that failed to be read.
_INGESTIONS = """
CREATE TABLE ingestions (
    uid uuid PRIMARY KEY DEFAULT uuidv7(),
    collection_uid uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    tenant text COLLATE "C" NOT NULL,
    state text NOT NULL,
    request_id text,
    content_hash text NOT NULL,
    is_read boolean NOT NULL DEFAULT false,
    source_bytes bigint NOT NULL DEFAULT 0,
    read_bytes bigint NOT NULL DEFAULT 0,
    items integer NOT NULL DEFAULT 0,
    item_bytes bigint NOT NULL DEFAULT 0,
    ended integer NOT NULL DEFAULT 0,
    unchanged integer NOT NULL DEFAULT 0,
    superseded integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    unread integer NOT NULL DEFAULT 0,
    chunks bigint NOT NULL DEFAULT 0,
    reused_chunks bigint NOT NULL DEFAULT 0,
    chunked_items integer NOT NULL DEFAULT 0,
    chunked_bytes bigint NOT NULL DEFAULT 0,
    embedded_chunks bigint NOT NULL DEFAULT 0,
    embedded_items integer NOT NULL DEFAULT 0,
    embedded_bytes bigint NOT NULL DEFAULT 0,
    indexed_chunks bigint NOT NULL DEFAULT 0,
    indexed_items integer NOT NULL DEFAULT 0,
    indexed_bytes bigint NOT NULL DEFAULT 0,
    lease uuid,
    leased_until timestamptz,
    not_before timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    start_time timestamptz,
    end_time timestamptz,
    heartbeat_time timestamptz,
    UNIQUE (tenant, request_id)
)
"""
_BY_COLLECTION = "CREATE INDEX ingestions_by_collection ON ingestions (collection_uid, uid)"
_LIVE = "CREATE INDEX ingestions_live ON ingestions (uid) WHERE end_time IS NULL"

# `entries` documents of the source are kept already: reading goes on behind them.
_SOURCES = """
CREATE TABLE ingestion_sources (
    ingestion_uid uuid NOT NULL REFERENCES ingestions ON DELETE CASCADE,
    source integer NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    title text NOT NULL DEFAULT '',
    media_type text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    ttl_seconds double precision,
    bytes bigint NOT NULL DEFAULT 0,
    entries integer NOT NULL DEFAULT 0,
    is_read boolean NOT NULL DEFAULT false,
    reason text,
    message text,
    PRIMARY KEY (ingestion_uid, source)
)
"""
_PIECES = """
CREATE TABLE source_pieces (
    ingestion_uid uuid NOT NULL,
    source integer NOT NULL,
    piece integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (ingestion_uid, source, piece),
    FOREIGN KEY (ingestion_uid, source) REFERENCES ingestion_sources ON DELETE CASCADE
)
"""
# Files are mostly compressed already, and to try again costs more than the reading.
_UNCOMPRESSED = "ALTER TABLE source_pieces ALTER COLUMN data SET STORAGE EXTERNAL"

# One row a document of a source. Which one it is at the moment is told by `document_uid` and `version`; a later version, or a
# deletion, supersedes the item.
_ITEMS = """
CREATE TABLE ingestion_items (
    ingestion_uid uuid NOT NULL REFERENCES ingestions ON DELETE CASCADE,
    source integer NOT NULL,
    entry integer NOT NULL,
    name text NOT NULL,
    document_uid uuid,
    version integer,
    state text NOT NULL,
    bytes bigint NOT NULL DEFAULT 0,
    chunks integer,
    embedded integer NOT NULL DEFAULT 0,
    indexed integer NOT NULL DEFAULT 0,
    stage text,
    reason text,
    message text,
    PRIMARY KEY (ingestion_uid, source, entry)
)
"""
_PENDING_ITEMS = "CREATE INDEX items_pending ON ingestion_items (document_uid) WHERE state = 'PENDING'"
_FAILED_ITEMS = "CREATE INDEX items_failed ON ingestion_items (ingestion_uid, source, entry) WHERE state = 'FAILED'"

# The chunks of a document's wanted edition, until all of them are in the vector store; the first `written` are there.
_CHUNKS = """
CREATE TABLE document_chunks (
    document_uid uuid PRIMARY KEY REFERENCES documents ON DELETE CASCADE,
    edition integer NOT NULL,
    index_uid uuid NOT NULL,
    chunks jsonb NOT NULL,
    written integer NOT NULL DEFAULT 0
)
"""

# Vectors by the SHA-256 of the text that was embedded, 4 bytes a dimension, little-endian.
_EMBEDDINGS = """
CREATE TABLE embeddings (
    fingerprint text NOT NULL,
    hash bytea NOT NULL,
    vector bytea NOT NULL,
    used_on date NOT NULL DEFAULT current_date,
    PRIMARY KEY (fingerprint, hash)
)
"""
_PLAIN = "ALTER TABLE embeddings ALTER COLUMN vector SET STORAGE PLAIN"
_USED = "CREATE INDEX embeddings_used ON embeddings (used_on)"


def upgrade() -> None:
    """What is there belongs to no ingestion."""
    for statement in (
        _DOCUMENTS,
        _OF_INGESTION,
        _EXPIRING,
        *_PENDING,
        _ERASURES,
        _INGESTIONS,
        _BY_COLLECTION,
        _LIVE,
        _SOURCES,
        _PIECES,
        _UNCOMPRESSED,
        _ITEMS,
        _PENDING_ITEMS,
        _FAILED_ITEMS,
        _CHUNKS,
        _EMBEDDINGS,
        _PLAIN,
        _USED,
    ):
        op.execute(statement)
