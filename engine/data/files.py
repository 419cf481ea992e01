"""Users' files: ``.npz`` (never a pickle), tables and texts to checked data, and the stored form back."""

import csv
import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from engine.data.texts import CONTEXT, parse_text, text_of, windows
from engine.data.values import Array, RawData, classify, guess_task, regress, renamed, retask
from engine.errors import InvalidData

TaskSetting = Literal["auto", "classification", "regression"]
Context = Annotated[int, Ge(1)]

MOST_BYTES = 3 * 2**30
TARGETS = ("target", "label", "y")
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, OSError, EOFError),
    *(RuntimeError, ValueError, TypeError, SyntaxError, MemoryError, OverflowError),
)


def parse_upload(filename: str, payload: bytes) -> RawData:
    """Checked data from the bytes of a file; the name's suffix tells the format.

    Raises
    ------
    InvalidData
        If the file is empty, truncated, pickled, of another format, or its data cannot be trained on.
    """
    suffix = Path(filename).suffix.lower()
    if suffix not in FORMATS:
        raise InvalidData(f"cannot read {filename!r}; known: files that end in {', '.join(FORMATS)}")
    if not payload:
        raise InvalidData(f"{filename!r} is empty")
    return FORMATS[suffix](filename, payload)


def uploaded(payload: bytes, *, task: TaskSetting = "auto", context: Context = CONTEXT) -> RawData:
    """An uploaded data set.

    Parameters
    ----------
    task : str
        ``classification`` or ``regression``; ``auto`` takes strings and at most 100 distinct whole numbers for classes.
    context : int
        Characters that a sample has, where the file is a text.
    """
    return _as_asked(parse_npz("upload.npz", payload), task, context)


def from_path(path: str, *, task: TaskSetting = "auto", context: Context = CONTEXT) -> RawData:
    """A file ``.npz``, ``.csv``, ``.parquet`` or ``.txt``.

    Parameters
    ----------
    task : str
        ``classification`` or ``regression``; ``auto`` takes strings and at most 100 distinct whole numbers for classes.
    context : int
        Characters that a sample has, where the file is a text.
    """
    try:
        payload = Path(path).read_bytes()
    except OSError as error:
        raise InvalidData(f"cannot read {path!r}: {error.strerror}") from error
    return _as_asked(parse_upload(path, payload), task, context)


def to_npz(raw: RawData) -> bytes:
    """The normal form that is stored; `parse_upload` reads it back the same."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_stored(raw))
    return buffer.getvalue()


def _stored(raw: RawData) -> dict[str, Any]:
    if raw.task == "language":
        return {"text": np.frombuffer(text_of(raw).encode(), np.uint8)}
    arrays: dict[str, Any] = {"X_train": raw.X_train, "y_train": raw.y_train, "task": np.array(raw.task)}
    if raw.X_test is not None and raw.y_test is not None:
        arrays |= {"X_test": raw.X_test, "y_test": raw.y_test}
    if raw.classes:
        arrays["classes"] = np.array(raw.classes)
    return arrays


def _as_asked(raw: RawData, task: str, context: int) -> RawData:
    asked = retask(raw, task)
    return windows(text_of(asked), context) if asked.task == "language" else asked


def parse_npz(filename: str, payload: bytes) -> RawData:
    """Data from an ``.npz`` with ``X_train, y_train`` (and ``X_test, y_test``), ``X, y``, or a ``text``'s bytes."""
    arrays = _npz_arrays(filename, payload)
    if arrays.keys() == {"text"}:
        return parse_text(filename, arrays["text"].tobytes())
    train = ("x", "y") if "x" in arrays and "x_train" not in arrays else ("x_train", "y_train")
    missing = [key for key in train if key not in arrays]
    if missing:
        known = "X_train, y_train (and X_test, y_test), or X, y"
        raise InvalidData(f"{filename!r} lacks {_listed(missing)}; it has {_listed(arrays)}; expected {known}")
    parts = (arrays[train[0]], arrays[train[1]], arrays.get("x_test"), arrays.get("y_test"))
    if "classes" in arrays:
        return renamed(classify(*parts), arrays["classes"].ravel().tolist())
    task = arrays["task"].item() if "task" in arrays else guess_task(arrays[train[1]])
    return regress(*parts) if task == "regression" else classify(*parts)


def parse_csv(filename: str, payload: bytes) -> RawData:
    """Data from a table of numbers with a header; the target is the column target, label or y, else the last."""
    try:
        text = payload.decode("utf-8-sig")
        first = text.split("\n", 1)[0]
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{filename!r} is not a text table: {error}") from error
    _check_rows(filename, rows)
    names = [name.strip() for name in rows[0]]
    target = _target(names)
    columns = list(zip(*rows[1:], strict=True))
    features = [_numbers(filename, name, columns[i]) for i, name in enumerate(names) if i != target]
    return _table(np.stack(features, axis=1), _any_column(columns[target], filename, names[target]))


def parse_parquet(filename: str, payload: bytes) -> RawData:
    """Data from a Parquet table of numbers; the target is the column target, label or y, else the last."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InvalidData(f"reading {filename!r} needs pyarrow: pip install 'paretopath[parquet]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(payload))
        _check_bytes(filename, 8 * file.metadata.num_rows * file.metadata.num_columns)
        table = file.read()
        names, columns = table.column_names, [column.to_numpy() for column in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidData(f"{filename!r} is truncated or not a Parquet file: {reason}") from error
    if len(names) < 2:
        raise InvalidData(f"{filename!r} has the columns {names}; expected at least one feature and the target")
    target = _target(names)
    features = [_typed(filename, n, c) for i, (n, c) in enumerate(zip(names, columns, strict=True)) if i != target]
    y = columns[target]
    return _table(np.stack(features, axis=1), _strings(filename, names[target], y) if y.dtype == object else y)


FORMATS: dict[str, Callable[[str, bytes], RawData]] = {
    ".npz": parse_npz,
    ".csv": parse_csv,
    ".parquet": parse_parquet,
    ".txt": parse_text,
}


def _npz_arrays(filename: str, payload: bytes) -> dict[str, Array]:
    if not payload.startswith(b"PK"):
        raise InvalidData(f"{filename!r} is not an .npz file (perhaps pickled, which is never loaded): see numpy.savez")
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            _check_bytes(filename, sum(entry.file_size for entry in archive.infolist()))
            return {Path(name).stem.lower(): _npy(filename, name, archive.read(name)) for name in archive.namelist()}
    except DAMAGE as error:
        raise InvalidData(f"{filename!r} is truncated or not an .npz file: {error}") from error


def _check_bytes(filename: str, size: int) -> None:
    if size > MOST_BYTES:
        raise InvalidData(f"{filename!r} unpacks to {size:,} bytes; at most {MOST_BYTES:,} are read")


def _npy(filename: str, name: str, payload: bytes) -> Array:
    try:
        with io.BytesIO(payload) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except DAMAGE as error:
        reason = "holds a pickle, which is never loaded" if "pickle" in str(error) else f"is damaged: {error}"
        raise InvalidData(f"the array {name!r} of {filename!r} {reason}; expected plain numbers") from error


def _table(X: Array, y: Array) -> RawData:
    return regress(X, y) if guess_task(y) == "regression" else classify(X, y)


def _check_rows(filename: str, rows: Sequence[Sequence[str]]) -> None:
    if len(rows) < 2:
        raise InvalidData(f"{filename!r} has {len(rows)} lines; expected a header and at least one sample")
    if len(rows[0]) < 2:
        raise InvalidData(f"{filename!r} has the one column {rows[0][0]!r}; expected a feature and the target")
    if all(_is_number(cell) for cell in rows[0]):
        raise InvalidData(f"{filename!r} starts with the numbers {rows[0][0]}, …; its first line must name the columns")
    for line, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise InvalidData(f"line {line} of {filename!r} has {len(row)} cells; the header has {len(rows[0])}")


def _target(names: Sequence[str]) -> int:
    lowered = [name.lower() for name in names]
    return next((lowered.index(name) for name in TARGETS if name in lowered), len(names) - 1)


def _any_column(cells: Sequence[str], filename: str, name: str) -> Array:
    if all(_is_number(cell) for cell in cells):
        return np.array([float(cell) for cell in cells])
    return _strings(filename, name, np.array([cell.strip() for cell in cells], dtype=object))


def _strings(filename: str, name: str, values: Array) -> Array:
    missing = [row for row, value in enumerate(values) if value is None or value == ""]
    if missing:
        raise InvalidData(f"the target {name!r} of {filename!r} is missing in row {missing[0]} (from 0)")
    return np.array([str(value) for value in values])


def _numbers(filename: str, name: str, cells: Sequence[str]) -> Array:
    for row, cell in enumerate(cells):
        if not _is_number(cell):
            raise InvalidData(f"column {name!r} of {filename!r} has {cell!r} in row {row} (from 0); expected a number")
    return np.array([float(cell) for cell in cells])


def _typed(filename: str, name: str, values: Array) -> Array:
    if values.dtype.kind not in "buif":
        raise InvalidData(f"column {name!r} of {filename!r} has the type {values.dtype}; expected numbers")
    return values.astype(np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
