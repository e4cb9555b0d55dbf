"""Experiments, exposures and outcomes.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE experiments (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        experiment text NOT NULL UNIQUE,
        hypothesis text NOT NULL,
        unit text NOT NULL CHECK (unit IN ('user', 'conversation', 'request')),
        variants jsonb NOT NULL,
        metrics jsonb NOT NULL,
        request_types text[] NOT NULL,
        state text NOT NULL CHECK (state IN ('DRAFT', 'RUNNING', 'STOPPED')),
        hash_version integer NOT NULL,
        salt text NOT NULL,
        create_time timestamptz NOT NULL,
        start_time timestamptz,
        stop_time timestamptz,
        start_revision bigint,
        request_id text UNIQUE,
        fingerprint text NOT NULL
    )
    """,
    "CREATE INDEX experiments_running ON experiments (start_revision) WHERE state = 'RUNNING'",
    # One row: each change of what runs makes a new revision, one after the other.
    """
    CREATE TABLE configuration (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        revision bigint NOT NULL
    )
    """,
    "INSERT INTO configuration (revision) VALUES (1)",
    """
    CREATE TABLE exposures (
        exposure text PRIMARY KEY,
        assignment text NOT NULL,
        experiment text NOT NULL,
        variant text NOT NULL,
        unit_id text NOT NULL,
        event_time timestamptz NOT NULL,
        request_id text NOT NULL,
        model text NOT NULL,
        engine text NOT NULL,
        record_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX exposures_by_experiment ON exposures (experiment, variant)",
    """
    CREATE TABLE outcomes (
        outcome text PRIMARY KEY,
        assignment text NOT NULL,
        experiment text NOT NULL,
        variant text NOT NULL,
        metric text NOT NULL,
        value double precision NOT NULL,
        event_time timestamptz NOT NULL,
        record_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX outcomes_by_experiment ON outcomes (experiment, variant, metric)",
)


def upgrade() -> None:
    """Creates the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drops the tables and all that they hold."""
    for table in ("outcomes", "exposures", "configuration", "experiments"):
        op.execute(f"DROP TABLE {table}")
