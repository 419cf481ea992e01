"""Thinning: of a job that has ended, some points stay and the others go with their weights."""

from collections.abc import Callable

from sqlalchemy import Connection, update

from engine.front import Front
from storage import events, jobs, points, tables
from storage.errors import Conflict
from storage.records import ENDED, Job, Thinned

Keep = Callable[[Front], Front]


def thin(connection: Connection, job_id: int, keep: Keep) -> Thinned:
    """Delete the points that `keep` leaves out, with their weights and events."""
    job = jobs.find(connection, job_id, lock=True)
    _check(connection, job)
    front = points.fronts(connection, (job_id,), layers=False)[job_id]
    kept = {point.index for point in keep(front)}
    if not kept:
        raise Conflict(f"job {job_id} has no points that could be kept")
    dropped = [point.index for point in front if point.index not in kept]
    return _dropped(connection, job_id, dropped, len(kept)) if dropped else Thinned(job, 0, 0)


def _check(connection: Connection, job: Job) -> None:
    if job.state not in ENDED:
        raise Conflict(f"job {job.id} is {job.state}; completed, failed and cancelled jobs can be thinned")
    if followers := jobs.followers(connection, job.id):
        raise Conflict(f"job {followers[0]} still needs the networks of job {job.id}; let it end before thinning")


def _dropped(connection: Connection, job_id: int, indices: list[int], n_kept: int) -> Thinned:
    n_bytes = points.drop(connection, job_id, indices)
    j = tables.jobs.c
    counts = {"n_points": n_kept, "n_thinned": j.n_thinned + len(indices)}
    connection.execute(update(tables.jobs).where(j.id == job_id).values(counts))
    events.add(connection, job_id, "log", {"text": f"thinned: {len(indices)} points went, {n_kept} stayed"})
    return Thinned(jobs.find(connection, job_id), len(indices), n_bytes)
