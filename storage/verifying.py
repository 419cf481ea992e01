"""Looking at everything stored: is it what was written?"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import Select, select, text

from storage import points, tables, uploads, weights
from storage.database import Database, is_sqlite
from storage.errors import Corrupt, NotFound
from storage.records import Damage

PART_NAMES = {"theta": "the weights", "buffers": "the buffers", "memory": "the method's memory"}


def damages(database: Database) -> Iterator[Damage]:
    """All that is damaged; each blob is read in a transaction of its own, so that nobody waits."""
    yield from _structure(database)
    yield from _blobs(database)
    yield from _missing(database)
    yield from _uploads(database)


def _structure(database: Database) -> Iterator[Damage]:
    if not is_sqlite(database.url):
        return
    with database.read() as connection:
        found = connection.execute(text("PRAGMA quick_check")).scalars().all()
    yield from (Damage("the database file", why) for why in found if why != "ok")


def _blobs(database: Database) -> Iterator[Damage]:
    with database.read() as connection:
        digests = connection.execute(select(tables.blobs.c.digest).order_by(tables.blobs.c.digest)).scalars().all()
    for digest in digests:
        if why := _complaint(partial(_check, database, digest)):
            yield from (Damage(owner, why) for owner in _owners(database, digest))


def _check(database: Database, digest: str) -> None:
    with database.read() as connection:
        blobs = tables.blobs.c
        payload = connection.execute(select(blobs.payload).where(blobs.digest == digest)).scalar_one_or_none()
    if payload is not None:
        weights.check(bytes(payload), digest)


def _owners(database: Database, digest: str) -> list[str]:
    w = tables.weights.c
    with database.read() as connection:
        owners = [
            _named(part, *row)
            for part in points.PARTS
            for row in connection.execute(select(w.job_id, w.index).where(w[part] == digest))
        ]
    return owners or [f"the stored array {digest}, which no point refers to"]


def _missing(database: Database) -> Iterator[Damage]:
    with database.read() as connection:
        lost = [("theta", *row) for row in connection.execute(_bare())]
        lost += [(part, *row) for part in points.PARTS for row in connection.execute(_dangling(part))]
    yield from (Damage(_named(*place), "the stored bytes are missing") for place in lost)


def _bare() -> Select[Any]:
    """Points without weights."""
    p = tables.points.c
    referring = select(tables.weights.c.theta).where(tables.weights.c.job_id == p.job_id)
    return select(p.job_id, p.index).where(~referring.where(tables.weights.c.index == p.index).exists())


def _dangling(part: str) -> Select[Any]:
    """Points whose arrays are not stored."""
    w = tables.weights.c
    return select(w.job_id, w.index).where(
        ~select(tables.blobs.c.size).where(tables.blobs.c.digest == w[part]).exists()
    )


def _uploads(database: Database) -> Iterator[Damage]:
    with database.read() as connection:
        names = [upload.name for upload in uploads.listed(connection)]
    for name in names:
        if why := _complaint(partial(_read, database, name)):
            yield Damage(f"upload {name!r}", why)


def _read(database: Database, name: str) -> None:
    with database.read() as connection:
        uploads.payload(connection, name)


def _complaint(look: Callable[[], None]) -> str:
    """What is damaged; nothing where it is sound or was deleted meanwhile."""
    try:
        look()
    except Corrupt as error:
        return str(error)
    except NotFound:
        pass
    return ""


def _named(part: str, job_id: int, index: int) -> str:
    return f"{PART_NAMES[part]} of point {index} of job {job_id}"
