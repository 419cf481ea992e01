"""One door to two databases: SQLite and PostgreSQL answer the same statements, their differences live here."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.sql.schema import Column, Table

from storage.errors import (
    Conflict,
    Corrupt,
    Full,
    InvalidDatabase,
    ReadOnly,
    SchemaMismatch,
    StorageError,
    Unavailable,
)

BUSY_SECONDS = 30.0
LARGEST_WAL = 16 * 1024**2
KNOWN = "sqlite:///path.db and postgresql://user@host/name work"
DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"})
MISSING = frozenset({"42P01", "42703"})
TOLD_BY_CODE: tuple[tuple[frozenset[str | int], type[StorageError], str], ...] = (
    (frozenset({"53100", sqlite3.SQLITE_FULL}), Full, "the database has no room for more: {said}"),
    (frozenset({"25006", sqlite3.SQLITE_READONLY}), ReadOnly, "the database takes no writes: {said}"),
    (
        frozenset({"XX001", "XX002", sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}),
        Corrupt,
        "the database itself is damaged: {said}; restore a backup",
    ),
)
# A network that swallows packets shows within half a minute; libpq by itself waits for hours.
IMPATIENT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


class Database:
    """Connections to a database; every transaction begins and ends here.

    Parameters
    ----------
    url : str
        ``sqlite:///path.db`` or ``postgresql://user@host/name``.
    busy_seconds : float
        How long a locked SQLite file is waited for.

    Raises
    ------
    InvalidDatabase
        If `url` is neither.
    """

    def __init__(self, url: str, busy_seconds: float = BUSY_SECONDS) -> None:
        self.url = _checked(url)
        self._busy_seconds = busy_seconds
        self._reader = _engine(self.url, busy_seconds)
        self._writer = self._reader.execution_options(begin="IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads."""
        with translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that writes: all of it, or nothing where an error leaves the block."""
        with translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def rebuild(self) -> Iterator[Connection]:
        """One transaction that may copy and drop tables: SQLite's foreign keys sleep, as a drop would cascade."""
        make_folder(self.url)
        engine = _engine(self.url, self._busy_seconds, foreign_keys=False, poolclass=NullPool)
        engine = engine.execution_options(begin="IMMEDIATE")
        with translated(), engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('paretopath migrate'))"))
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """No transaction: every statement stands for itself, as VACUUM must."""
        options = {"begin": ""} if is_sqlite(self.url) else {"isolation_level": "AUTOCOMMIT"}
        with translated(), self._reader.execution_options(**options).connect() as connection:
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


def is_sqlite(url: str) -> bool:
    """Whether this is the address of a SQLite file."""
    return make_url(url).get_backend_name() == "sqlite"


def file_of(url: str) -> Path:
    """The file of a SQLite database."""
    return Path(make_url(url).database or "")


def make_folder(url: str) -> None:
    """Make the folder of a SQLite file; nothing for PostgreSQL."""
    if is_sqlite(url):
        file_of(url).parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def translated() -> Iterator[None]:
    """Errors of both databases become those of `storage.errors`."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("all connections to the database have been in use for too long") from error
    except DBAPIError as error:
        raise _translation(error.orig, error.connection_invalidated) or error from error
    except sqlite3.Error as error:
        raise _translation(error) or error from error


def _engine(url: str, busy_seconds: float, *, foreign_keys: bool = True, **options: Any) -> Engine:
    if not is_sqlite(url):
        given = make_url(url).query
        patience = {name: value for name, value in IMPATIENT.items() if name not in given}
        engine = create_engine(url, pool_pre_ping="poolclass" not in options, connect_args=patience, **options)
        event.listen(engine, "before_cursor_execute", _prefer_binary)
        return engine
    engine = create_engine(url, connect_args={"timeout": busy_seconds}, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA journal_size_limit = {LARGEST_WAL}")
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if mode := connection.get_execution_options().get("begin", "DEFERRED"):
            connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _prefer_binary(_: Connection, cursor: Any, *said: Any) -> None:
    """Have PostgreSQL answer in its own format where a statement's options say so: many numbers come thrice as fast."""
    from psycopg.pq import Format

    context = said[2]
    if context.execution_options.get("binary"):
        cursor.format = Format.BINARY


def _translation(error: BaseException | None, invalidated: bool = False) -> StorageError | None:
    said = str(error).partition("\n")[0]
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorcode", 0) & 0xFF
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for codes, told, sentence in TOLD_BY_CODE:
        if code in codes:
            return told(sentence.format(said=said))
    if code in MISSING or said.startswith("no such"):
        return SchemaMismatch(f"the database lacks a part ({said}); run `paretopath migrate`")
    if "DataError" in kinds:
        return Conflict(f"the database refuses a value: {said}")
    if invalidated or kinds & {"OperationalError", "InterfaceError"}:
        return Unavailable(f"the database does not answer: {said}")
    return None
