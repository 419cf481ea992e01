"""How many points of a job were thinned out."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nothing was thinned before."""
    op.add_column("jobs", sa.Column("n_thinned", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    """Forget the number; the points stay gone."""
    op.drop_column("jobs", "n_thinned")
