"""Leases: who may work on a job. The fence, raised at every claim, shuts out a worker that was replaced."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, ScalarSelect, Update, and_, case, func, select, update

from storage import events, jobs, points, tables
from storage.errors import Conflict, LeaseLost
from storage.jobs import ATTEMPTS, CLAIMABLE, DOOMED, RUNNING, J
from storage.records import ENDED, JobState, Lease, Wanted

DIED = f"the worker died {ATTEMPTS} times in a row without a new point"
WANTED_STATE = {"run": JobState.QUEUED, "pause": JobState.PAUSED, "cancel": JobState.CANCELLED}
WANTED_REASON = {"run": "", "pause": "paused on request", "cancel": "cancelled on request"}


def claim(
    connection: Connection, worker: str, lease_seconds: float, job_id: int | None, but_not: Collection[int]
) -> Lease | None:
    """Take the oldest job that is queued or whose lease is stale, or only `job_id`; None where there is none.

    All rows are locked before the first event is written, so that no transaction waits for a row with the counter in
    its hand. A named job that is locked is waited for; among many, a locked one is passed over.
    """
    doomed = _doomed(connection)
    row = connection.execute(
        _taking(worker, lease_seconds, _free(job_id, but_not)).returning(J.id, J.fence)
    ).one_or_none()
    _bury(connection, doomed)
    return None if row is None else _lease(connection, row.id, worker, row.fence)


def settle(connection: Connection) -> None:
    """End the jobs whose worker died while asked to stop, or died too often without a new point."""
    _bury(connection, _doomed(connection))


def renew(connection: Connection, lease: Lease, lease_seconds: float) -> Wanted:
    """Keep the lease, and learn what the worker is asked to do."""
    wanted: Wanted = _hold(connection, lease, lease_until=tables.now() + lease_seconds)
    return wanted


def release(connection: Connection, lease: Lease) -> None:
    """Give the job back: queued again, or where the worker was asked to stop, stopped. This was no death."""
    wanted = _hold(connection, lease, attempts=case((J.attempts > 0, J.attempts - 1), else_=0))
    jobs.move(connection, lease.job_id, WANTED_STATE[wanted], WANTED_REASON[wanted])


def expire(connection: Connection, worker: str) -> bool:
    """Make the leases of a worker known to be dead stale; whether it had any."""
    held = connection.execute(update(tables.jobs).where(RUNNING, J.worker == worker).values(lease_until=0.0)).rowcount
    settle(connection)
    return held > 0


def append(connection: Connection, lease: Lease, packed: points.Packed) -> int:
    """Store a waypoint; the sequence number of its event."""
    progress = {name: packed.numbers[name] for name in ("effort", "seconds") if packed.numbers[name] is not None}
    _hold(connection, lease, attempts=0, n_points=J.n_points + 1, **progress)
    points.add(connection, lease.job_id, packed)
    return events.add(connection, lease.job_id, "point", {}, packed.numbers["index"])


def finish(connection: Connection, lease: Lease, state: str, reason: str) -> None:
    """End the job."""
    if state not in ENDED:
        raise Conflict(f"a job cannot finish as {state!r}; completed, failed and cancelled work")
    _hold(connection, lease)
    jobs.move(connection, lease.job_id, JobState(state), reason)


def log(connection: Connection, lease: Lease, text: str) -> int:
    """Write a line to the job's events."""
    _hold(connection, lease)
    return events.add(connection, lease.job_id, "log", {"text": text})


def _free(job_id: int | None, but_not: Collection[int]) -> ScalarSelect[Any]:
    oldest = select(J.id).where(CLAIMABLE, J.id.not_in(but_not)).order_by(J.id).limit(1).correlate(None)
    if job_id is not None:
        oldest = oldest.where(J.id == tables.key(job_id))
    return oldest.with_for_update(skip_locked=job_id is None).scalar_subquery()


def _taking(worker: str, lease_seconds: float, free: ScalarSelect[Any]) -> Update:
    taken = {"state": str(JobState.RUNNING), "wanted": "run", "worker": worker, "reason": "", "ended_at": None}
    counted = {"fence": J.fence + 1, "attempts": J.attempts + 1, "lease_until": tables.now() + lease_seconds}
    started = func.coalesce(J.started_at, tables.now())
    return update(tables.jobs).where(J.id == free).values(**taken, **counted, started_at=started)


def _doomed(connection: Connection) -> Sequence[Any]:
    query = select(J.id, J.wanted).where(DOOMED).order_by(J.id)
    return connection.execute(query.with_for_update(skip_locked=True)).all()


def _bury(connection: Connection, doomed: Sequence[Any]) -> None:
    for job_id, wanted in doomed:
        state = JobState.FAILED if wanted == "run" else WANTED_STATE[wanted]
        jobs.move(connection, job_id, state, WANTED_REASON[wanted] or DIED)


def _lease(connection: Connection, job_id: int, worker: str, fence: int) -> Lease:
    events.add_state(connection, job_id, JobState.RUNNING)
    return Lease(job_id, worker, fence, jobs.find(connection, job_id))


def _hold(connection: Connection, lease: Lease, **values: Any) -> Any:
    """Update the job under the lease and return what is wanted; the row stays locked, so nobody can take it over."""
    mine = and_(J.id == lease.job_id, J.fence == lease.fence, RUNNING)
    statement = update(tables.jobs).where(mine).values({"fence": lease.fence, **values}).returning(J.wanted)
    wanted = connection.execute(statement).scalar_one_or_none()
    if wanted is None:
        raise LeaseLost(f"worker {lease.worker!r} has lost job {lease.job_id}: it ended, or another worker has it")
    return wanted
