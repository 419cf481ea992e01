"""One door to two databases: SQLite and PostgreSQL answer the same statements, their differences live here."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.sql.schema import Column, Table

from storage.errors import Conflict, InvalidDatabase, SchemaMismatch, StorageError, Unavailable

BUSY_SECONDS = 30
KNOWN = "sqlite:///path.db and postgresql://user@host/name work"
DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"})
MISSING = frozenset({"42P01", "42703"})


class Database:
    """Connections to a database; every transaction begins and ends here.

    Parameters
    ----------
    url : str
        ``sqlite:///path.db`` or ``postgresql://user@host/name``.

    Raises
    ------
    InvalidDatabase
        If `url` is neither.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        self._reader = _engine(self.url)
        self._writer = self._reader.execution_options(begin="IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads."""
        with _translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that writes: all of it, or nothing where an error leaves the block."""
        with _translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def rebuild(self) -> Iterator[Connection]:
        """One transaction that may copy and drop tables: SQLite's foreign keys sleep, as a drop would cascade."""
        _make_folder(self.url)
        engine = _engine(self.url, foreign_keys=False, poolclass=NullPool).execution_options(begin="IMMEDIATE")
        with _translated(), engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('paretopath migrate'))"))
            yield connection

    def close(self) -> None:
        """Let go of all connections; the next use opens new ones."""
        self._reader.dispose()


def add_unless_there(table: Table, connection: Connection, **values: Any) -> Row[Any] | None:
    """Insert a row and return its key; None where one with the same key is there already."""
    statement = _insert(table, connection).values(values).on_conflict_do_nothing()
    row: Row[Any] | None = connection.execute(statement.returning(*table.primary_key)).one_or_none()
    return row


def add_and_lock(table: Table, connection: Connection, key: Column[Any], **values: Any) -> None:
    """Insert a row or find it there; either way nobody else may delete it before this transaction ends."""
    statement = _insert(table, connection).values(values)
    touched: Executable = statement.on_conflict_do_update(index_elements=[key], set_={key: values[key.name]})
    connection.execute(touched)


def _insert(table: Table, connection: Connection) -> Any:
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name](table)


def _checked(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidDatabase(f"{url!r} is no database address; {KNOWN}") from error
    if parsed.drivername not in DRIVERS:
        raise InvalidDatabase(f"database {parsed.drivername!r} is unknown; {KNOWN}")
    if parsed.drivername.startswith("sqlite") and parsed.database in {None, "", ":memory:"}:
        raise InvalidDatabase(f"{url!r} lives in the memory of one thread; {KNOWN}")
    return url


def _engine(url: str, *, foreign_keys: bool = True, **options: Any) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping="poolclass" not in options, **options)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")

    return engine


def _make_folder(url: str) -> None:
    if url.startswith("sqlite"):
        Path(make_url(url).database or "").parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("all connections to the database have been in use for too long") from error
    except DBAPIError as error:
        raise _translation(error) from error


def _translation(error: DBAPIError) -> StorageError | DBAPIError:
    said = str(error.orig).partition("\n")[0]
    if getattr(error.orig, "sqlstate", None) in MISSING or said.startswith("no such"):
        return SchemaMismatch(f"the database lacks a part ({said}); run `paretopath migrate`")
    if isinstance(error, DataError):
        return Conflict(f"the database refuses a value: {said}")
    if error.connection_invalidated or type(error).__name__ in {"OperationalError", "InterfaceError"}:
        return Unavailable(f"the database does not answer: {said}")
    return error
