"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    _make_jobs()
    _make_tags()
    _make_points()
    _make_blobs()
    _make_weights()
    _make_events()
    _make_counter()
    _make_uploads()


def downgrade() -> None:
    """Drop all tables."""
    for name in ("uploads", "counter", "events", "weights", "blobs", "points", "tags", "jobs"):
        op.drop_table(name)


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("wanted", sa.String(8), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("worker", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("n_points", sa.Integer, nullable=False),
        sa.Column("effort", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_jobs_idempotency_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_jobs_state_id"), "jobs", ["state", "id"])


def _make_tags() -> None:
    op.create_table(
        "tags",
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_tags_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "place", name=op.f("pk_tags")),
    )
    op.create_index(op.f("ix_tags_tag_job_id"), "tags", ["tag", "job_id"])


def _make_points() -> None:
    op.create_table(
        "points",
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("index", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("sweep", sa.Integer, nullable=False),
        sa.Column("loss", sa.Double),
        sa.Column("penalty", sa.Double),
        sa.Column("lam", sa.Double),
        sa.Column("residual", sa.Double),
        sa.Column("n_nonzero", sa.BigInteger, nullable=False),
        sa.Column("n_params", sa.BigInteger, nullable=False),
        sa.Column("effort", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("odd", sa.Text),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_points_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "index", name=op.f("pk_points")),
    )


def _make_blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )


def _make_weights() -> None:
    parts = ("theta", "buffers", "memory")
    op.create_table(
        "weights",
        sa.Column("job_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("index", sa.Integer, autoincrement=False, nullable=False),
        *(sa.Column(part, sa.String(64), nullable=False) for part in parts),
        *(sa.ForeignKeyConstraint([part], ["blobs.digest"], name=op.f(f"fk_weights_{part}")) for part in parts),
        sa.ForeignKeyConstraint(
            ["job_id", "index"],
            ["points.job_id", "points.index"],
            name=op.f("fk_weights_job_id_index"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "index", name=op.f("pk_weights")),
    )
    for part in parts:
        op.create_index(op.f(f"ix_weights_{part}"), "weights", [part])


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("index", sa.Integer),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_job_id_seq"), "events", ["job_id", "seq"])


def _make_counter() -> None:
    counter = op.create_table(
        "counter",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counter")),
    )
    op.execute(counter.insert().values(id=1, seq=0))


def _make_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("shapes", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_uploads")),
    )
