"""How each experiment is analysed.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the plan; an empty one is the default plan."""
    op.execute("ALTER TABLE experiments ADD COLUMN analysis jsonb NOT NULL DEFAULT '{}'")


def downgrade() -> None:
    """Drops the plans."""
    op.execute("ALTER TABLE experiments DROP COLUMN analysis")
