"""Pauses, and the list of changes.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE experiments DROP CONSTRAINT experiments_state_check",
    "ALTER TABLE experiments ADD CHECK (state IN ('DRAFT', 'RUNNING', 'PAUSED', 'STOPPED'))",
    """
    CREATE TABLE changes (
        change bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        experiment text NOT NULL REFERENCES experiments (experiment),
        before text,
        after text NOT NULL,
        change_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        who text NOT NULL,
        why text NOT NULL,
        request_id text NOT NULL
    )
    """,
    "CREATE INDEX changes_by_experiment ON changes (experiment, change)",
    # What was done before changes were noted is known by its time.
    """
    INSERT INTO changes (experiment, before, after, change_time, who, why, request_id)
    SELECT experiment, before, after, change_time, '', '', ''
    FROM experiments, LATERAL (
        VALUES (NULL, 'DRAFT', create_time), ('DRAFT', 'RUNNING', start_time), ('RUNNING', 'STOPPED', stop_time)
    ) AS made (before, after, change_time)
    WHERE change_time IS NOT NULL ORDER BY change_time
    """,
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'changes are only ever added'; END $$
    """,
    """
    CREATE TRIGGER changes_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON changes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
)


def upgrade() -> None:
    """Adds the state and the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drops the table; paused experiments are stopped."""
    op.execute("DROP TABLE changes")
    op.execute("DROP FUNCTION refuse_change")
    op.execute("UPDATE experiments SET state = 'STOPPED', stop_time = clock_timestamp() WHERE state = 'PAUSED'")
    op.execute("ALTER TABLE experiments DROP CONSTRAINT experiments_state_check")
    op.execute("ALTER TABLE experiments ADD CHECK (state IN ('DRAFT', 'RUNNING', 'STOPPED'))")
