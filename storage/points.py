"""Points and their weights: numbers in columns, weights as blobs that a front never touches."""

import json
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple, TypeVar

from pydantic_core import from_json
from sqlalchemy import Column, Connection, FromClause, Select, and_, delete, exists, or_, select

from engine.front import Front, Layer, ParetoPoint, Waypoint
from storage import tables, weights
from storage.database import add_and_lock, add_unless_there
from storage.errors import Conflict, Corrupt, NotFound

T = TypeVar("T")

FLOATS = ("loss", "penalty", "lam", "residual", "effort", "seconds")
INTEGERS = ("index", "sweep", "n_nonzero", "n_params")
FIELDS = (
    "index",
    "parent",
    "sweep",
    "loss",
    "penalty",
    "lam",
    "residual",
    "n_nonzero",
    "n_params",
    "effort",
    "seconds",
)
STORED = (*FIELDS, "metrics", "layers", "odd")
COLUMNS = [tables.points.c[name] for name in STORED]
PARTS = ("theta", "buffers", "memory")
UNREFERENCED = ~exists().where(or_(*(tables.weights.c[part] == tables.blobs.c.digest for part in PARTS)))


class Packed(NamedTuple):
    """A waypoint as rows, made before its transaction begins."""

    numbers: dict[str, Any]
    blobs: dict[str, bytes]


def pack(waypoint: Waypoint) -> Packed:
    """Encode a waypoint.

    Raises
    ------
    InvalidArray
        If an array cannot be stored.
    """
    arrays = weights.encode_arrays
    payloads = (weights.encode(waypoint.theta), arrays(waypoint.buffers), arrays(waypoint.memory))
    return Packed(_numbers(waypoint.point), dict(zip(PARTS, payloads, strict=True)))


def add(connection: Connection, job_id: int, packed: Packed) -> None:
    """Store a point and its weights.

    Raises
    ------
    Conflict
        If the job has a point with that index.
    """
    if add_unless_there(tables.points, connection, job_id=job_id, **packed.numbers) is None:
        raise Conflict(f"job {job_id} has a point {packed.numbers['index']} already")
    digests = {part: weights.digest(payload) for part, payload in packed.blobs.items()}
    for digest, payload in sorted(zip(digests.values(), packed.blobs.values(), strict=True)):
        add_and_lock(tables.blobs, connection, tables.blobs.c.digest, digest=digest, size=len(payload), payload=payload)
    connection.execute(tables.weights.insert().values(job_id=job_id, index=packed.numbers["index"], **digests))


def fronts(connection: Connection, ids: Iterable[int], layers: bool) -> dict[int, Front]:
    """The fronts of several jobs in one query; jobs that are not there are left out."""
    p, wanted = tables.points.c, [tables.key(i) for i in ids]
    read = [p.job_id, *(column for column in COLUMNS if layers or column is not p.layers)]
    query = select(*read).where(p.job_id.in_(wanted)).order_by(p.job_id, p.index).execution_options(binary=True)
    columns = _columns([column.name for column in read], connection.execute(query).all())
    points = iter(_points(columns))
    found = {job_id: Front(tuple(islice(points, n))) for job_id, n in Counter(columns["job_id"]).items()}
    empty = set(wanted) - set(found)
    return found | {job_id: Front(()) for job_id in (_there(connection, empty) if empty else ())}


def _there(connection: Connection, ids: Iterable[int]) -> Sequence[int]:
    """Those of the jobs that exist."""
    return connection.execute(select(tables.jobs.c.id).where(tables.jobs.c.id.in_(sorted(ids)))).scalars().all()


def waypoint(connection: Connection, job_id: int, index: int) -> Waypoint:
    """A point with its weights.

    Raises
    ------
    NotFound
        If there is no such point.
    Corrupt
        If its stored bytes are damaged.
    """
    both = tables.points.outerjoin(tables.weights)
    row = connection.execute(_one(job_id, index, both, *(tables.weights.c[part] for part in PARTS))).one_or_none()
    if row is None:
        raise _missing(job_id, index)
    try:
        theta, buffers, memory = _blobs(connection, row[len(COLUMNS) :])
        arrays = weights.decode(*theta), weights.decode_arrays(*buffers), weights.decode_arrays(*memory)
    except Corrupt as error:
        raise Corrupt(f"point {index} of job {job_id} is damaged: {error}") from error
    return Waypoint(decoded([row])[0], *arrays)


def point(connection: Connection, job_id: int, index: int) -> ParetoPoint:
    """One point's numbers.

    Raises
    ------
    NotFound
        If there is no such point.
    """
    row = connection.execute(_one(job_id, index, tables.points)).one_or_none()
    if row is None:
        raise _missing(job_id, index)
    return decoded([row])[0]


def number(connection: Connection, job_id: int, packed: Packed) -> int | None:
    """The sequence number of the event that told of just this waypoint; None where it is not stored."""
    e, w, p = tables.events.c, tables.weights.c, tables.points.c
    index, digests = packed.numbers["index"], {part: weights.digest(blob) for part, blob in packed.blobs.items()}
    query = select(e.seq, *COLUMNS).select_from(tables.points.join(tables.weights))
    query = query.join(tables.events, and_(e.job_id == p.job_id, e.index == p.index, e.kind == "point"))
    mine = [p.job_id == job_id, p.index == index, *(w[part] == digest for part, digest in digests.items())]
    for seq, *numbers in connection.execute(query.where(*mine)):
        if all(value == packed.numbers[column.name] for value, column in zip(numbers, COLUMNS, strict=True)):
            return int(seq)
    return None


def digests(connection: Connection, job_id: int, indices: Sequence[int] | None = None) -> set[str]:
    """Addresses of the blobs of a job, or of some of its points."""
    w = tables.weights.c
    query = select(*(w[part] for part in PARTS)).where(w.job_id == job_id)
    rows = connection.execute(query if indices is None else query.where(w.index.in_(indices)))
    return {digest for row in rows for digest in row}


def drop(connection: Connection, job_id: int, indices: Sequence[int]) -> int:
    """Delete points of a job with their weights and events; how many bytes of weights that freed."""
    blobs: set[str] = set()
    for some in batches(indices):
        p, e = tables.points.c, tables.events.c
        blobs |= digests(connection, job_id, some)
        connection.execute(delete(tables.events).where(e.job_id == job_id, e.kind == "point", e.index.in_(some)))
        connection.execute(delete(tables.points).where(p.job_id == job_id, p.index.in_(some)))
    return sum(free(connection, blobs))


def free(connection: Connection, candidates: Iterable[str]) -> list[int]:
    """Delete those blobs that no waypoint refers to; the size of each.

    The blobs are locked before they are judged: a worker that is just now storing a reference finishes first.
    """
    freed: list[int] = []
    for some in batches(sorted(candidates)):
        b = tables.blobs.c
        connection.execute(select(b.digest).where(b.digest.in_(some)).order_by(b.digest).with_for_update())
        orphaned = delete(tables.blobs).where(b.digest.in_(some), UNREFERENCED)
        freed.extend(connection.execute(orphaned.returning(b.size)).scalars())
    return freed


def unreferenced(connection: Connection) -> dict[str, int]:
    """Blobs that no waypoint refers to, with their sizes."""
    b = tables.blobs.c
    return {row.digest: row.size for row in connection.execute(select(b.digest, b.size).where(UNREFERENCED))}


def decoded(rows: Sequence[Sequence[Any]]) -> tuple[ParetoPoint, ...]:
    """Rows that begin with `COLUMNS` as points."""
    return _points(_columns(STORED, rows))


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """What the rows hold under these names, their first, with the numbers that the database could not hold."""
    values = zip(*rows, strict=True) if rows else repeat(())
    columns = dict(zip(names, map(list, values), strict=False))
    for place, odd in enumerate(columns["odd"]):
        for name, value in from_json(odd).items() if odd else ():
            columns[name][place] = value
    return columns


def _points(columns: Mapping[str, list[Any]]) -> tuple[ParetoPoint, ...]:
    """Points, filled column by column past the ``__init__`` of the frozen class, which takes twice as long."""
    points = tuple([ParetoPoint.__new__(ParetoPoint) for _ in columns["index"]])
    layers = map(_layers, _parsed(columns["layers"])) if "layers" in columns else repeat(())
    fields = {name: columns[name] for name in FIELDS} | {"metrics": _parsed(columns["metrics"]), "layers": layers}
    for name, values in fields.items():
        deque(map(getattr(ParetoPoint, name).__set__, points, values), maxlen=0)
    return points


def _parsed(texts: Iterable[str]) -> list[Any]:
    """JSON texts, parsed in one go."""
    values: list[Any] = from_json(f"[{','.join(texts)}]")
    return values


def _layers(values: list[Any]) -> tuple[Layer, ...]:
    return tuple([Layer(name, tuple(shape), *counts) for name, shape, *counts in values])


def _numbers(point: ParetoPoint) -> dict[str, Any]:
    floats = {name: _float(getattr(point, name)) for name in FLOATS}
    odd = {name: value for name, value in floats.items() if _is_odd(value)}
    return {
        **{name: int(getattr(point, name)) for name in INTEGERS},
        **{name: None if name in odd else value for name, value in floats.items()},
        "parent": None if point.parent is None else int(point.parent),
        "metrics": json.dumps({name: float(value) for name, value in point.metrics.items()}),
        "layers": json.dumps([_layer_row(layer) for layer in point.layers]),
        "odd": json.dumps(odd) if odd else None,
    }


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _is_odd(value: float | None) -> bool:
    """NaN and -0.0, which SQLite's number columns turn into NULL and 0.0."""
    return value is not None and (math.isnan(value) or (value == 0.0 and math.copysign(1.0, value) < 0.0))


def _layer_row(layer: Layer) -> list[Any]:
    return [layer.name, [int(n) for n in layer.shape], int(layer.n_nonzero), int(layer.units_alive), int(layer.units)]


def _one(job_id: int, index: int, source: FromClause, *more: Column[Any]) -> Select[Any]:
    p = tables.points.c
    mine = and_(p.job_id == tables.key(job_id), p.index == tables.key(index))
    return select(*COLUMNS, *more).select_from(source).where(mine)


def _blobs(connection: Connection, addresses: Sequence[str]) -> list[tuple[bytes, str]]:
    b = tables.blobs.c
    rows = connection.execute(select(b.digest, b.payload).where(b.digest.in_(addresses)))
    payloads = {row.digest: bytes(row.payload) for row in rows}
    if lost := [address or "of this point" for address in addresses if address not in payloads]:
        raise Corrupt(f"the stored bytes {lost[0]} are missing")
    return [(payloads[address], address) for address in addresses]


def batches(values: Sequence[T], size: int = 1000) -> Iterator[Sequence[T]]:
    """The values, as many at a time as a statement may name."""
    return (values[i : i + size] for i in range(0, len(values), size))


def _missing(job_id: int, index: int) -> NotFound:
    return NotFound(f"job {job_id} has no point {index}")
