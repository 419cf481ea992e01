"""Arrays as bytes: where their nonzero words are, those words byte plane by byte plane, and zstd over both.

The places are the gaps between them, or a bitmap where that is shorter. Places and planes are coded apart from each
other, each with statistics of its own. A word is tested by its bits, so -0.0 and NaN payloads survive bit for bit. One
frame holds any number of named arrays; its SHA-256 before compression is its address. Frames of the first kind (bitmap
and whole words) are read too.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from storage.errors import Corrupt, InvalidArray

Array = NDArray[Any]

FIRST_MAGIC, MAGIC = b"PTW1", b"PTW2"
LEVEL, SMALLEST_BLOCK = 1, 1024
FULL = 255
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
    parts = [(name, array, *_sections(array)) for name, array in _plain(arrays)]
    facts = [[name, a.dtype.str, a.shape, count, len(sections[0])] for name, a, count, sections in parts]
    header = json.dumps(facts).encode()
    bodies = [section for *_, sections in parts for section in sections]
    return _compressed([MAGIC + len(header).to_bytes(4, "little") + header, *bodies])


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
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
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


def _plain(arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS or array.dtype.hasobject:
            raise InvalidArray(f"array {name!r} of type {array.dtype} cannot be stored; numbers, dates and text can")
        yield name, np.asarray(array, order="C")


def _size(array: Array) -> int:
    """Bytes of a word."""
    return array.dtype.itemsize if array.dtype.itemsize in WORDS else 1


def _sections(array: Array) -> tuple[int, list[bytes]]:
    """How many words are not zero; where they are, and their byte planes."""
    words = np.frombuffer(array.tobytes(), dtype=f"<u{_size(array)}")
    mask = words != 0
    kept = words[mask]
    planes = kept.view(np.uint8).reshape(-1, kept.itemsize).T
    return len(kept), [_places(mask), *(plane.tobytes() for plane in planes)]


def _places(mask: Array) -> bytes:
    """The gaps before the true entries, or a bitmap where that is shorter."""
    if np.count_nonzero(mask) < _bitmap_size(len(mask)):
        gaps = _gaps(np.flatnonzero(mask))
        if len(gaps) < _bitmap_size(len(mask)):
            return gaps.tobytes()
    return np.packbits(mask).tobytes()


def _bitmap_size(n_words: int) -> int:
    return (n_words + 7) // 8


def _gaps(places: Array) -> Array:
    """How many entries are left out before each place: so many full bytes, and one that is not full."""
    gaps = np.diff(places, prepend=-1) - 1
    n_full = gaps // FULL
    coded = np.full(len(gaps) + int(n_full.sum()), FULL, np.uint8)
    coded[np.cumsum(n_full + 1) - 1] = gaps % FULL
    return coded


def _gaps_inverted(coded: Array) -> Array:
    ends = coded < FULL
    left_out = np.cumsum(coded, dtype=np.int64)[ends]
    return left_out + np.arange(len(left_out))


def _compressed(sections: Iterable[bytes]) -> bytes:
    """One zstd frame; a section that is not small ends its block, as blocks have statistics of their own."""
    parts = list(sections)
    compressor = zstandard.ZstdCompressor(LEVEL).compressobj(size=sum(map(len, parts)))
    done = []
    for part in parts:
        done.append(compressor.compress(part))
        if len(part) >= SMALLEST_BLOCK:
            done.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join([*done, compressor.flush()])


def _frame(payload: bytes) -> bytes:
    try:
        frame = zstandard.decompress(payload)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Corrupt(f"stored bytes are damaged: {error}") from error
    if frame[:4] not in (FIRST_MAGIC, MAGIC):
        raise Corrupt(f"stored bytes begin with {frame[:4]!r} instead of {MAGIC!r}")
    return frame


def _arrays(frame: bytes) -> Iterator[tuple[str, Array]]:
    start = 8 + int.from_bytes(frame[4:8], "little")
    for name, code, shape, *lengths in json.loads(frame[8:start]):
        array: Array = np.zeros(shape, dtype=code)
        fill = _fill_first if frame[:4] == FIRST_MAGIC else _fill
        start = fill(_words_of(array), frame, start, *lengths)
        yield name, array
    if start != len(frame):
        raise ValueError(f"{len(frame) - start} bytes too many")


def _words_of(array: Array) -> Array:
    return array.reshape(-1).view(f"<u{_size(array)}") if array.nbytes else np.zeros(0, dtype=np.uint8)


def _fill(words: Array, frame: bytes, start: int, count: int, length: int) -> int:
    coded, body = np.frombuffer(frame, np.uint8, length, start), start + length
    whole = length == _bitmap_size(len(words))
    places = _bits(coded, len(words)) if whole else _gaps_inverted(coded)
    planes = np.frombuffer(frame, np.uint8, count * words.itemsize, body).reshape(words.itemsize, count)
    words[places] = np.ascontiguousarray(planes.T).view(words.dtype).reshape(-1)
    return body + count * words.itemsize


def _fill_first(words: Array, frame: bytes, start: int) -> int:
    """As `_fill`, of the first kind: a bitmap, then whole words."""
    coded = np.frombuffer(frame, np.uint8, _bitmap_size(len(words)), start)
    mask = _bits(coded, len(words))
    count, body = int(np.count_nonzero(mask)), start + len(coded)
    words[mask] = np.frombuffer(frame, words.dtype, count, body)
    return body + count * words.itemsize


def _bits(coded: Array, count: int) -> Array:
    return np.unpackbits(coded, count=count).view(bool)
