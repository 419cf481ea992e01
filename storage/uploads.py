"""Uploaded data files; listing them never touches their bytes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, delete, select

from storage import tables
from storage.database import add_unless_there
from storage.errors import Conflict, Corrupt, NotFound
from storage.events import instant
from storage.records import Upload

U = tables.uploads.c
COLUMNS = (U.name, U.digest, U.size, U.shapes, U.created_at)


class Files(Mapping[str, bytes]):
    """Files by name, each read when asked for."""

    def __init__(self, names: Callable[[], tuple[str, ...]], load: Callable[[str], bytes]) -> None:
        self._names = names
        self._load = load

    def __getitem__(self, name: str) -> bytes:
        try:
            return self._load(name)
        except NotFound as error:
            raise KeyError(name) from error

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


def add(connection: Connection, name: str, payload: bytes, shapes: Mapping[str, Any]) -> Upload:
    """Store a file, or find it stored already under that name."""
    digest = hashlib.sha256(payload).hexdigest()
    row = {"name": name, "digest": digest, "size": len(payload), "shapes": dict(shapes), "payload": payload}
    add_unless_there(tables.uploads, connection, **row, created_at=tables.now())
    stored = find(connection, name)
    if stored.digest != digest:
        raise Conflict(f"an upload {name!r} with other content exists; delete it or choose another name")
    return stored


def find(connection: Connection, name: str) -> Upload:
    """One upload.

    Raises
    ------
    NotFound
        If there is no upload of that name.
    """
    row = connection.execute(select(*COLUMNS).where(U.name == name)).one_or_none()
    if row is None:
        raise _missing(name)
    return _upload(row)


def listed(connection: Connection) -> tuple[Upload, ...]:
    """All uploads by name."""
    return tuple(_upload(row) for row in connection.execute(select(*COLUMNS).order_by(U.name)))


def payload(connection: Connection, name: str) -> bytes:
    """An upload's bytes.

    Raises
    ------
    NotFound
        If there is no upload of that name.
    Corrupt
        If the bytes are not those that were uploaded.
    """
    row = connection.execute(select(U.payload, U.digest).where(U.name == name)).one_or_none()
    if row is None:
        raise _missing(name)
    content = bytes(row.payload)
    if hashlib.sha256(content).hexdigest() != row.digest:
        raise Corrupt(f"upload {name!r} does not have the SHA-256 {row.digest} it was stored with")
    return content


def remove(connection: Connection, name: str) -> None:
    """Delete an upload.

    Raises
    ------
    NotFound
        If there is no upload of that name.
    """
    if connection.execute(delete(tables.uploads).where(U.name == name)).rowcount == 0:
        raise _missing(name)


def _upload(row: Any) -> Upload:
    return Upload(row.name, row.digest, row.size, row.shapes, instant(row.created_at))


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no upload {name!r}")
