"""Optimizations and their trials.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE optimizations (
        uid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant text NOT NULL,
        optimization text NOT NULL,
        design jsonb NOT NULL,
        caller jsonb NOT NULL,
        planned integer NOT NULL CHECK (planned > 0),
        request_id text,
        fingerprint text NOT NULL,
        state text NOT NULL DEFAULT 'PENDING'
            CHECK (state IN ('PENDING', 'SEARCHING', 'VALIDATING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
        winner integer,
        experiment text NOT NULL DEFAULT '',
        note text NOT NULL DEFAULT '',
        create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        end_time timestamptz,
        lease uuid,
        leased_until timestamptz,
        UNIQUE (tenant, optimization),
        UNIQUE (tenant, request_id)
    )
    """,
    "CREATE INDEX optimizations_open ON optimizations (uid) WHERE end_time IS NULL",
    """
    CREATE TABLE optimization_trials (
        optimization_uid bigint NOT NULL REFERENCES optimizations (uid),
        held_out boolean NOT NULL,
        trial integer NOT NULL CHECK (trial >= 0),
        settings jsonb NOT NULL,
        measures jsonb NOT NULL,
        finish_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (optimization_uid, held_out, trial)
    )
    """,
)


def upgrade() -> None:
    """Adds the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drops them."""
    op.execute("DROP TABLE optimization_trials, optimizations")
