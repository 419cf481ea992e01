"""The tables.

Times are seconds since 1970 by the database's own clock. JSON is text, because PostgreSQL's own refuses NaN.
"""

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


MAX_ID = 2**31 - 1
MAX_SEQ = 2**63 - 1


def key(number: int) -> int:
    """The number as an id or index, -1 (nobody's) where no column could hold it."""
    return number if 0 <= number <= MAX_ID else -1


class Json(TypeDecorator[Any]):
    """Plain values as text; floats keep their bits, NaN and infinity included."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Line(TypeDecorator[str]):
    """Text from outside; what one of the databases cannot hold (NUL, lone surrogates) becomes a question mark."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "?").encode(errors="replace").decode()


class now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


metadata = MetaData(naming_convention=NAMING)

studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Line, nullable=False),
    Column("spec", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("idempotency_key", Line, unique=True),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("wanted", String(8), nullable=False),
    Column("spec", Json, nullable=False),
    Column("facts", Json, nullable=False),
    Column("name", Line, nullable=False),
    Column("reason", Line, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("worker", Line),
    Column("lease_until", Double),
    Column("fence", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("n_points", Integer, nullable=False),
    Column("n_thinned", Integer, nullable=False, server_default="0"),
    Column("effort", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("idempotency_key", Line, unique=True),
    Column("study_id", ForeignKey("studies.id"), index=True),
    Index(None, "state", "id"),
    sqlite_autoincrement=True,
)

tags = Table(
    "tags",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("tag", Line, nullable=False),
    Index(None, "tag", "job_id"),
)

points = Table(
    "points",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("parent", Integer),
    Column("sweep", Integer, nullable=False),
    Column("loss", Double),
    Column("penalty", Double),
    Column("lam", Double),
    Column("residual", Double),
    Column("n_nonzero", BigInteger, nullable=False),
    Column("n_params", BigInteger, nullable=False),
    Column("effort", Double),
    Column("seconds", Double),
    Column("metrics", Text, nullable=False),
    Column("layers", Text, nullable=False),
    Column("odd", Text),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

weights = Table(
    "weights",
    metadata,
    Column("job_id", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("theta", ForeignKey("blobs.digest"), nullable=False, index=True),
    Column("buffers", ForeignKey("blobs.digest"), nullable=False, index=True),
    Column("memory", ForeignKey("blobs.digest"), nullable=False, index=True),
    ForeignKeyConstraint(["job_id", "index"], ["points.job_id", "points.index"], ondelete="CASCADE"),
)

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("index", Integer),
    Column("data", Json, nullable=False),
    Column("at", Double, nullable=False),
    Index(None, "job_id", "seq"),
)

counter = Table(
    "counter",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("name", Line, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("shapes", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
