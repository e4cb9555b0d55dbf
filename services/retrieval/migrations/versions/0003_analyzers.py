"""Which analyzer made the terms of a collection's chunks.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """What is there was made by the first."""
    op.execute("ALTER TABLE collections ADD COLUMN analyzer integer NOT NULL DEFAULT 1")
