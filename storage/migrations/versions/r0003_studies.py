"""Studies: jobs asked for together."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; jobs of before belong to no study."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_studies_idempotency_key")),
        sqlite_autoincrement=True,
    )
    # Alembic adds a column and its foreign key in two statements, of which SQLite has only the first.
    op.execute("ALTER TABLE jobs ADD COLUMN study_id INTEGER CONSTRAINT fk_jobs_study_id REFERENCES studies (id)")
    op.create_index(op.f("ix_jobs_study_id"), "jobs", ["study_id"])


def downgrade() -> None:
    """Forget the studies; their jobs stay."""
    op.drop_index(op.f("ix_jobs_study_id"), "jobs")
    op.drop_column("jobs", "study_id")
    op.drop_table("studies")
