"""Arrays as bytes: the bitmap of the words that are not zero, those words, and zstd over both.

A word is tested by its bits, so -0.0 and NaN payloads survive bit for bit. One frame holds any number of named arrays;
its SHA-256 before compression is its address.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from storage.errors import Corrupt, InvalidArray

Array = NDArray[Any]

MAGIC = b"PTW1"
LEVEL = 3
KINDS = "biufcSUmM"
WORDS = frozenset({1, 2, 4, 8})


def encode(array: Array) -> bytes:
    """One array as bytes.

    Parameters
    ----------
    array : ndarray, any shape
        Of numbers, booleans, dates or fixed-width text; float32 and float64 for weights.

    Raises
    ------
    InvalidArray
        If its elements are Python objects or records.
    """
    return encode_arrays({"": array})


def decode(payload: bytes, address: str | None = None) -> Array:
    """Inverse of `encode`: a new writable array, equal bit for bit.

    Parameters
    ----------
    payload : bytes
    address : str, optional
        The SHA-256 that the content must have.

    Raises
    ------
    Corrupt
        If `payload` is not what `encode` wrote.
    """
    arrays = decode_arrays(payload, address)
    if arrays.keys() != {""}:
        raise Corrupt(f"stored bytes hold the arrays {sorted(arrays)} instead of one")
    return arrays[""]


def encode_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Named arrays as bytes, their order kept.

    Raises
    ------
    InvalidArray
        If an array's elements are Python objects or records.
    """
    contiguous = {name: _plain(name, array) for name, array in arrays.items()}
    header = json.dumps([[name, a.dtype.str, a.shape] for name, a in contiguous.items()]).encode()
    bodies = [part for a in contiguous.values() for part in _sparse(_words(a))]
    frame = b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *bodies])
    return zstandard.compress(frame, LEVEL)


def decode_arrays(payload: bytes, address: str | None = None) -> dict[str, Array]:
    """Inverse of `encode_arrays`.

    Parameters
    ----------
    payload : bytes
    address : str, optional
        The SHA-256 that the content must have.

    Raises
    ------
    Corrupt
        If `payload` is not what `encode_arrays` wrote.
    """
    frame = _frame(payload)
    if address is not None:
        _check(frame, address)
    try:
        return dict(_arrays(frame))
    except (ValueError, TypeError, MemoryError) as error:
        raise Corrupt(f"stored bytes are damaged: {error}") from error


def digest(payload: bytes) -> str:
    """Address of encoded arrays: SHA-256 of their uncompressed form, in hexadecimal."""
    return hashlib.sha256(_frame(payload)).hexdigest()


def check(payload: bytes, address: str) -> None:
    """Do nothing where these are the bytes that were written under `address`.

    Raises
    ------
    Corrupt
        If they are not.
    """
    _check(_frame(payload), address)


def _check(frame: bytes, address: str) -> None:
    if hashlib.sha256(frame).hexdigest() != address:
        raise Corrupt(f"stored bytes do not have the SHA-256 {address} they were written with")


def _plain(name: str, array: Array) -> Array:
    if array.dtype.kind not in KINDS or array.dtype.hasobject:
        raise InvalidArray(f"array {name!r} of type {array.dtype} cannot be stored; numbers, dates and text can")
    return np.asarray(array, order="C")


def _words(array: Array) -> Array:
    size = array.dtype.itemsize if array.dtype.itemsize in WORDS else 1
    return np.frombuffer(array.tobytes(), dtype=f"<u{size}")


def _sparse(words: Array) -> tuple[bytes, bytes]:
    mask = words != 0
    return np.packbits(mask).tobytes(), words[mask].tobytes()


def _frame(payload: bytes) -> bytes:
    try:
        frame = zstandard.decompress(payload)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Corrupt(f"stored bytes are damaged: {error}") from error
    if frame[:4] != MAGIC:
        raise Corrupt(f"stored bytes begin with {frame[:4]!r} instead of {MAGIC!r}")
    return frame


def _arrays(frame: bytes) -> Iterator[tuple[str, Array]]:
    start = 8 + int.from_bytes(frame[4:8], "little")
    for name, code, shape in json.loads(frame[8:start]):
        array: Array = np.zeros(shape, dtype=code)
        start = _fill(array, frame, start)
        yield name, array
    if start != len(frame):
        raise ValueError(f"{len(frame) - start} bytes too many")


def _fill(array: Array, frame: bytes, start: int) -> int:
    size = array.dtype.itemsize if array.dtype.itemsize in WORDS else 1
    words = array.reshape(-1).view(f"<u{size}") if array.nbytes else np.zeros(0, dtype=np.uint8)
    bits = np.frombuffer(frame, np.uint8, (len(words) + 7) // 8, start)
    mask = np.unpackbits(bits, count=len(words)).view(bool)
    count = int(np.count_nonzero(mask))
    body = start + len(bits)
    words[mask] = np.frombuffer(frame, words.dtype, count, body)
    return body + count * words.itemsize
