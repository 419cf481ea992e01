"""Backups of a SQLite file: SQLite's own online copy, one consistent state while others write."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

from storage import jobs, schema
from storage.database import Database, file_of, is_sqlite, make_folder, translated
from storage.errors import Conflict, Corrupt, InvalidDatabase, NotFound, SchemaMismatch


def back_up(url: str, file: Path, force: bool = False) -> None:
    """Write the database to one file, which appears when it is complete.

    Raises
    ------
    InvalidDatabase
        If this is not SQLite; the text names the command to use.
    Conflict
        If the file exists, without `force`.
    NotFound
        If there is no such database, or no folder for the file.
    """
    _refuse_other(url, f"pg_dump --format=custom --file={file} {_shown(url)}")
    _refuse_existing(file, force)
    for path in (file_of(url), file.absolute().parent):
        _refuse_missing(path)
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        _copy(file_of(url), part)
        _make_single(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def restore(database: Database, file: Path, force: bool = False) -> None:
    """Make the database what the file holds; its users see it change from one transaction to the next.

    Raises
    ------
    InvalidDatabase
        If this is not SQLite; the text names the command to use.
    NotFound, Corrupt, SchemaMismatch
        If the file is not there, not intact or no database of this version or an older one.
    Conflict
        If the database exists, without `force`, or if a worker is at work in it.
    """
    _refuse_other(database.url, f"pg_restore --clean --if-exists --dbname={_shown(database.url)} {file}")
    _check(file)
    target = file_of(database.url)
    _refuse_existing(target, force)
    if target.exists():
        _refuse_busy(database)
    make_folder(database.url)
    try:
        _copy(file, target)
    except Corrupt:
        _remove(target)
        _copy(file, target)


def _copy(source: Path, target: Path) -> None:
    with translated(), _opened(source, "rw") as one, _opened(target, "rwc") as other:
        one.backup(other)


def _make_single(file: Path) -> None:
    """Let nobody look for a ``-wal`` file beside it."""
    with translated(), _opened(file, "rw") as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def _check(file: Path) -> None:
    _refuse_missing(file)
    try:
        with _opened(file, "rw") as connection:
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
            found = _revision(connection)
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"{file} is no intact SQLite file: {error}") from error
    if said != "ok":
        raise Corrupt(f"{file} is damaged: {said}")
    if found is None:
        raise SchemaMismatch(f"{file} is no database of paretopath")
    schema.refuse_newer(found)


def _revision(connection: sqlite3.Connection) -> str | None:
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables[0] else None
    return None if row is None else str(row[0])


def _refuse_other(url: str, command: str) -> None:
    if not is_sqlite(url):
        raise InvalidDatabase(f"{_shown(url)} is no SQLite file; PostgreSQL has its own command: {command}")


def _refuse_existing(file: Path, force: bool) -> None:
    if file.exists() and not force:
        raise Conflict(f"{file} exists; --force replaces it")


def _refuse_missing(path: Path) -> None:
    if not path.exists():
        raise NotFound(f"there is no {path}")


def _refuse_busy(database: Database) -> None:
    """Refuse while a worker is at work; what is no readable database has none."""
    with suppress(Corrupt, SchemaMismatch), database.read() as connection:
        if ids := jobs.running(connection):
            raise Conflict(f"a worker is at work on job {ids[0]}; stop the service and its workers first")


def _remove(file: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)


def _shown(url: str) -> str:
    return make_url(url).set(drivername=make_url(url).get_backend_name()).render_as_string(hide_password=True)


@contextmanager
def _opened(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
        yield connection
