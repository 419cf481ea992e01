"""Files from the data folder, fetched over https and checked by SHA-256 when missing."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidData

FOLDER_VARIABLE = "PARETOPATH_DATA_DIR"
PATIENCE_SECONDS = 30
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Remote:
    """Where a data set's files are, and their SHA-256 sums by name."""

    url: str
    files: Mapping[str, str]


def data_folder() -> Path:
    """The folder of ``PARETOPATH_DATA_DIR``, ``data`` by default."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "data")


def obtain(name: str, file: str, remote: Remote) -> Path:
    """Path of `file` of the data set `name`, fetched if it is missing.

    Raises
    ------
    InvalidData
        If it is missing and cannot be fetched; says what to put where.
    """
    path = data_folder() / name / file
    if not path.exists():
        try:
            _fetch(remote.url + file, remote.files[file], path)
        except (OSError, http.client.HTTPException, InvalidData) as error:
            wanted = f"put {remote.url + file} there by hand, or set {FOLDER_VARIABLE}"
            raise InvalidData(f"{str(path)!r} is missing and was not fetched ({error}); {wanted}") from error
    return path


def _fetch(url: str, sha256: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as target:
            found = _copy(url, target.write)
        if found != sha256:
            raise InvalidData(f"its SHA-256 is {found}, not {sha256}")
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _copy(url: str, write: Callable[[bytes], int]) -> str:
    sha = hashlib.sha256()
    with _opened(url) as response:
        while chunk := response.read(CHUNK_BYTES):
            sha.update(chunk)
            write(chunk)
    return sha.hexdigest()


def _opened(url: str) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(url, timeout=PATIENCE_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    return response
