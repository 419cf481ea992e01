"""Events: what happened, in an order that a reader can resume from.

Sequence numbers come from a counter row that stays locked until its transaction ends, so they become visible in order:
who has seen N has been shown every number below N. Write events last in a transaction, so that the lock is short and
always the innermost one.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, select, update

from storage import points, tables
from storage.records import Event, JobState, Kind


def instant(seconds: float) -> datetime:
    """Aware UTC time of a column that holds seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def add(connection: Connection, job_id: int, kind: Kind, data: Mapping[str, Any], index: int | None = None) -> int:
    """Write an event, the last thing in its transaction; its sequence number."""
    raised = update(tables.counter).values(seq=tables.counter.c.seq + 1).returning(tables.counter.c.seq)
    seq: int = connection.execute(raised).scalar_one()
    values = {"seq": seq, "job_id": job_id, "kind": kind, "index": index, "data": dict(data), "at": tables.now()}
    connection.execute(tables.events.insert().values(values))
    return seq


def add_state(connection: Connection, job_id: int, state: JobState, wanted: str = "run", reason: str = "") -> int:
    """Write that a job changed its state, or is wanted to."""
    return add(connection, job_id, "state", {"state": str(state), "wanted": wanted, "reason": reason})


def read(connection: Connection, job_id: int | None, after: int, limit: int) -> tuple[Event, ...]:
    """Events later than `after` in order; those of points carry the point's numbers."""
    e, p = tables.events.c, tables.points.c
    of_point = and_(p.job_id == e.job_id, p.index == e.index)
    query = select(e.seq, e.job_id, e.kind, e.data, e.at, *points.COLUMNS)
    query = query.select_from(tables.events.outerjoin(tables.points, of_point))
    query = query.where(e.seq > max(0, min(after, tables.MAX_SEQ))).order_by(e.seq).limit(limit)
    if job_id is not None:
        query = query.where(e.job_id == tables.key(job_id))
    return tuple(_event(row) for row in connection.execute(query))


def logs(connection: Connection, job_id: int, after: int, limit: int) -> tuple[Event, ...]:
    """The newest `limit` log lines of a job later than `after`, in order."""
    e = tables.events.c
    query = select(e.seq, e.job_id, e.kind, e.data, e.at).order_by(e.seq.desc()).limit(limit)
    query = query.where(e.job_id == tables.key(job_id), e.kind == "log", e.seq > max(0, min(after, tables.MAX_SEQ)))
    rows = reversed(connection.execute(query).all())
    return tuple(Event(seq, job_id, kind, data, instant(at)) for seq, job_id, kind, data, at in rows)


def last_seq(connection: Connection) -> int:
    """The newest sequence number, 0 in a new database."""
    seq: int = connection.execute(select(tables.counter.c.seq)).scalar_one()
    return seq


def _event(row: Any) -> Event:
    seq, job_id, kind, data, at, *numbers = row
    if kind == "point":
        data = points.decoded([numbers])[0].to_dict()
    return Event(seq, job_id, kind, data, instant(at))
