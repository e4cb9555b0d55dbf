"""Audiences, ramps, conclusions, promotions and the holdout.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE experiments DROP CONSTRAINT experiments_state_check",
    "ALTER TABLE experiments ADD CHECK (state IN ('DRAFT', 'RUNNING', 'PAUSED', 'STOPPED', 'CONCLUDED'))",
    """
    ALTER TABLE experiments
        ADD COLUMN audience jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN traffic double precision NOT NULL DEFAULT 1,
        ADD COLUMN stage_time timestamptz,
        ADD COLUMN layer_start double precision NOT NULL DEFAULT 0,
        ADD COLUMN paused text[] NOT NULL DEFAULT '{}',
        ADD COLUMN conclusion jsonb
    """,
    """
    ALTER TABLE exposures
        ADD COLUMN execution jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN fell_back boolean NOT NULL DEFAULT false
    """,
    # Filled in once, and without a look at each row.
    "ALTER TABLE outcomes ADD COLUMN covariate boolean NOT NULL DEFAULT false",
    "CREATE INDEX outcomes_covariates ON outcomes (experiment) WHERE covariate",
    "CREATE INDEX exposures_fell_back ON exposures (experiment, assignment) WHERE fell_back",
    "ALTER TABLE configuration ADD COLUMN holdout double precision NOT NULL DEFAULT 0",
    # What concerns no experiment has neither its id nor its states.
    "ALTER TABLE changes ALTER COLUMN experiment DROP NOT NULL, ALTER COLUMN after DROP NOT NULL",
    "ALTER TABLE changes ADD COLUMN what text NOT NULL DEFAULT ''",
    """
    CREATE TABLE promotions (
        promotion bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        experiment text NOT NULL REFERENCES experiments (experiment),
        variant jsonb NOT NULL,
        request_types text[] NOT NULL,
        promote_time timestamptz NOT NULL,
        revert_time timestamptz
    )
    """,
    "CREATE UNIQUE INDEX promotions_holding ON promotions (experiment) WHERE revert_time IS NULL",
)


def upgrade() -> None:
    """Adds the columns and the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drops them; concluded experiments are stopped ones, and what was noted of no experiment is lost."""
    op.execute("DROP TABLE promotions")
    op.execute("ALTER TABLE changes DISABLE TRIGGER changes_only_added")
    op.execute("DELETE FROM changes WHERE experiment IS NULL")
    op.execute("ALTER TABLE changes ENABLE TRIGGER changes_only_added")
    op.execute("ALTER TABLE changes DROP COLUMN what, ALTER COLUMN experiment SET NOT NULL, ALTER COLUMN after SET NOT NULL")
    op.execute("ALTER TABLE configuration DROP COLUMN holdout")
    op.execute("ALTER TABLE exposures DROP COLUMN execution, DROP COLUMN fell_back")
    op.execute("DELETE FROM outcomes WHERE covariate")
    op.execute("ALTER TABLE outcomes DROP COLUMN covariate")
    op.execute("UPDATE experiments SET state = 'STOPPED' WHERE state = 'CONCLUDED'")
    op.execute(
        "ALTER TABLE experiments DROP COLUMN audience, DROP COLUMN traffic, DROP COLUMN stage_time, DROP COLUMN layer_start, "
        "DROP COLUMN paused, DROP COLUMN conclusion"
    )
    op.execute("ALTER TABLE experiments DROP CONSTRAINT experiments_state_check")
    op.execute("ALTER TABLE experiments ADD CHECK (state IN ('DRAFT', 'RUNNING', 'PAUSED', 'STOPPED'))")
