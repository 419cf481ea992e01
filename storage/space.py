"""Space on disk: deleting rows leaves empty pages, which are given back here.

New SQLite files can give pages back one by one (``auto_vacuum = INCREMENTAL``), so that others write between. Not FULL,
which moves all pages within the commit that deletes, when the disk may be full; not VACUUM, which rewrites the whole
file under a lock and needs as much room again. A file made before this was set is rewritten once, by `reclaim`.
PostgreSQL reuses the space by itself; plain VACUUM gives back what lies at the end of a table, FULL all of it.
"""

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, text

from storage import points, tables
from storage.database import Database, file_of, is_sqlite
from storage.errors import Unavailable
from storage.records import Reclaimed

PAGES_AT_A_TIME = 200


def collect(database: Database, full: bool = False) -> Reclaimed:
    """Delete the blobs that no point refers to, and give back empty pages."""
    before = size(database)
    with database.write() as connection:
        freed = points.free(connection, points.unreferenced(connection))
    reclaim(database, full)
    return Reclaimed(len(freed), sum(freed), max(0, before - size(database)))


def collectable(database: Database) -> Reclaimed:
    """What `collect` would free."""
    with database.read() as connection:
        found = points.unreferenced(connection)
        empty = _empty_bytes(connection)
    return Reclaimed(len(found), sum(found.values()), empty + sum(found.values()))


def reclaim(database: Database, full: bool = False) -> None:
    """Give empty pages back to the file system; with `full`, rewrite the tables, which others wait for."""
    with database.alone() as connection:
        if not is_sqlite(database.url):
            names = ", ".join(tables.metadata.tables)
            connection.execute(text(f"VACUUM {'(FULL)' if full else ''} {names}"))
            return
        if full or not _pragma(connection, "auto_vacuum"):
            connection.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")
            connection.exec_driver_sql("VACUUM")
        _give_back(connection)
        _pragma(connection, "wal_checkpoint(TRUNCATE)")


def give_back(database: Database) -> None:
    """Give SQLite's empty pages back after a deletion, as far as that works now: nobody is waited for."""
    if is_sqlite(database.url):
        with suppress(Unavailable), database.alone() as connection:
            _give_back(connection)


def size(database: Database) -> int:
    """Bytes that the database takes on disk."""
    if is_sqlite(database.url):
        file = file_of(database.url)
        parts = (file, file.with_name(f"{file.name}-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())
    with database.read() as connection:
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _give_back(connection: Connection) -> None:
    # The pragma frees a page for each of its rows, which have no columns: only a script goes through them all.
    driver: Any = connection.connection.cursor()
    for _ in range(0, _pragma(connection, "freelist_count"), PAGES_AT_A_TIME):
        driver.executescript(f"PRAGMA incremental_vacuum({PAGES_AT_A_TIME})")
        _pragma(connection, "wal_checkpoint(PASSIVE)")


def _empty_bytes(connection: Connection) -> int:
    if connection.dialect.name != "sqlite":
        return 0
    return _pragma(connection, "freelist_count") * _pragma(connection, "page_size")


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").all()[0][0])
