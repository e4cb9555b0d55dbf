"""Recorded assessments of quality.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE quality_assessments (
        uid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        assessment text NOT NULL UNIQUE,
        model text NOT NULL,
        prompt text NOT NULL,
        variant text NOT NULL,
        formula_version integer NOT NULL,
        assess_time timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX quality_assessments_by_time ON quality_assessments (assess_time)",
    """
    CREATE TABLE quality_scores (
        uid bigint NOT NULL REFERENCES quality_assessments (uid) ON DELETE CASCADE,
        criterion smallint NOT NULL,
        state smallint NOT NULL,
        score double precision CHECK (score BETWEEN 0 AND 1),
        CHECK ((state = 1) = (score IS NOT NULL)),
        PRIMARY KEY (uid, criterion)
    )
    """,
)


def upgrade() -> None:
    """Adds the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drops the tables."""
    op.execute("DROP TABLE quality_scores")
    op.execute("DROP TABLE quality_assessments")
