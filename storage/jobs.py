"""Jobs: submitting, finding, steering and deleting them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, exists, or_, select, update

from storage import events, points, tables
from storage.database import add_unless_there
from storage.errors import Conflict, NotFound
from storage.events import instant
from storage.records import ENDED, Job, JobState, Request, Wanted

J = tables.jobs.c
RUNNING = J.state == str(JobState.RUNNING)
STALE = and_(RUNNING, J.lease_until <= tables.now())
ATTEMPTS = 3
DOOMED = and_(STALE, or_(J.wanted != "run", J.attempts >= ATTEMPTS))
CLAIMABLE = or_(J.state == str(JobState.QUEUED), and_(STALE, J.wanted == "run", J.attempts < ATTEMPTS))
NEW = {"wanted": "run", "fence": 0, "attempts": 0, "n_points": 0, "effort": 0.0, "seconds": 0.0, "reason": ""}
NAMES = (
    *("id", "state", "spec", "facts", "name", "reason", "created_at", "started_at", "ended_at", "attempts"),
    *("n_points", "n_thinned", "effort", "seconds", "wanted", "worker", "study_id"),
)
COLUMNS = (*(J[name] for name in NAMES), STALE.label("stale"))
TIMES = ("created_at", "started_at", "ended_at")


def submit(connection: Connection, values: Mapping[str, Any], tags: Iterable[str], key: str | None) -> Job:
    """Queue a job, or find the one that was submitted with the same idempotency key."""
    row = {**NEW, **values, "state": str(JobState.QUEUED), "created_at": tables.now(), "idempotency_key": key}
    added = add_unless_there(tables.jobs, connection, **row)
    if added is None:
        return _submitted_before(connection, key, values["spec"])
    _add_tags(connection, added.id, tags)
    events.add_state(connection, added.id, JobState.QUEUED)
    return find(connection, added.id)


def find(connection: Connection, job_id: int, lock: bool = False) -> Job:
    """One job; locked, it stays as it is until the transaction ends.

    Raises
    ------
    NotFound
        If there is no such job.
    """
    query = select(*COLUMNS).where(J.id == tables.key(job_id))
    found = _read(connection, query.with_for_update() if lock else query)
    if not found:
        raise NotFound(f"there is no job {job_id}")
    return found[0]


def listed(
    connection: Connection, state: str | None, tag: str | None, before: int | None, limit: int
) -> tuple[Job, ...]:
    """Jobs, newest first."""
    query = select(*COLUMNS).order_by(J.id.desc()).limit(limit)
    if state is not None:
        query = query.where(J.state == str(state))
    if tag is not None:
        t = tables.tags.c
        query = query.where(exists().where(t.job_id == J.id, t.tag == tag))
    if before is not None:
        query = query.where(J.id < max(0, min(before, tables.MAX_ID)))
    return _read(connection, query)


def waiting(connection: Connection, limit: int, study_id: int | None) -> tuple[Job, ...]:
    """Jobs that a worker could claim now, oldest first."""
    query = select(*COLUMNS).where(CLAIMABLE).order_by(J.id).limit(limit)
    return _read(connection, query if study_id is None else query.where(J.study_id == tables.key(study_id)))


def of_studies(connection: Connection, study_ids: Sequence[int], lock: bool = False) -> tuple[Job, ...]:
    """Jobs of several studies, oldest first; locked, they stay as they are until the transaction ends."""
    query = select(*COLUMNS).where(J.study_id.in_(study_ids)).order_by(J.id)
    return _read(connection, query.with_for_update() if lock else query)


def remove(connection: Connection, job_id: int) -> None:
    """Delete a job and the blobs that only it refers to."""
    job = find(connection, job_id, lock=True)
    if is_worked_on(job):
        raise Conflict(f"job {job_id} is running; cancel it before deleting it")
    blobs = points.digests(connection, job_id)
    connection.execute(delete(tables.jobs).where(J.id == job_id))
    points.free(connection, blobs)


def is_worked_on(job: Job) -> bool:
    """Whether a live worker has it."""
    return job.state is JobState.RUNNING and not job.stale


def running(connection: Connection) -> tuple[int, ...]:
    """Jobs that a live worker has."""
    return tuple(connection.execute(select(J.id).where(RUNNING, ~STALE).order_by(J.id)).scalars())


def followers(connection: Connection, job_id: int) -> tuple[int, ...]:
    """Jobs that have not ended and need the networks of this one."""
    waiting = connection.execute(select(J.id, J.facts).where(J.state.not_in(map(str, ENDED))).order_by(J.id))
    return tuple(row.id for row in waiting if row.facts.get("follows") == job_id)


def request(connection: Connection, job_id: int, what: Request, facts: Mapping[str, Any]) -> Job:
    """Cancel, pause or resume a job: at once, or by asking its worker; one that is queued again gets new `facts`."""
    steps: Mapping[str, Callable[[Connection, Job], None]] = {
        "cancel": _cancel,
        "pause": _pause,
        "resume": partial(_resume, facts=facts),
    }
    if what not in steps:
        raise Conflict(f"request {what!r} is unknown; cancel, pause and resume are known")
    steps[what](connection, find(connection, job_id, lock=True))
    return find(connection, job_id)


def extend(connection: Connection, job_id: int, spec: Mapping[str, Any], facts: Mapping[str, Any]) -> Job:
    """Queue a job again under a new spec; its trail stays."""
    job = find(connection, job_id, lock=True)
    if job.state not in ENDED | {JobState.PAUSED}:
        raise Conflict(f"job {job_id} is {job.state}; jobs that have ended or are paused can be extended")
    _refuse_thinned(job)
    move(connection, job_id, JobState.QUEUED, attempts=0, spec=dict(spec), facts=dict(facts))
    return find(connection, job_id)


def move(connection: Connection, job_id: int, state: JobState, reason: str = "", **values: Any) -> None:
    """Put a job into a state in which nobody works on it, and say so in an event."""
    rest = {"wanted": "run", "worker": None, "lease_until": None, "reason": reason}
    ended = {"ended_at": tables.now() if state in ENDED else None}
    connection.execute(update(tables.jobs).where(J.id == job_id).values(state=str(state), **rest, **ended, **values))
    events.add_state(connection, job_id, state, reason=reason)


def _cancel(connection: Connection, job: Job) -> None:
    if job.state in ENDED:
        raise Conflict(f"job {job.id} is {job.state}; queued, running and paused jobs can be cancelled")
    if is_worked_on(job):
        _want(connection, job, "cancel")
    else:
        move(connection, job.id, JobState.CANCELLED, "cancelled on request")


def _pause(connection: Connection, job: Job) -> None:
    if job.state not in {JobState.QUEUED, JobState.RUNNING}:
        raise Conflict(f"job {job.id} is {job.state}; queued and running jobs can be paused")
    if job.wanted == "cancel":
        raise Conflict(f"job {job.id} is being cancelled")
    if is_worked_on(job):
        _want(connection, job, "pause")
    else:
        move(connection, job.id, JobState.PAUSED, "paused on request")


def _resume(connection: Connection, job: Job, facts: Mapping[str, Any]) -> None:
    if job.state is JobState.RUNNING and job.wanted == "pause":
        _want(connection, job, "run")
    elif job.state in {JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}:
        _refuse_thinned(job)
        move(connection, job.id, JobState.QUEUED, attempts=0, facts={**job.facts, **facts})
    else:
        raise Conflict(f"job {job.id} is {_described(job)}; paused, failed and cancelled jobs can be resumed")


def _refuse_thinned(job: Job) -> None:
    if job.n_thinned:
        raise Conflict(
            f"job {job.id} was thinned and cannot go on, as {job.n_thinned} of the points it would need are gone;"
            " it can be selected from, exported, compared and refitted, or traced anew as another job"
        )


def _described(job: Job) -> str:
    return "being cancelled" if job.wanted == "cancel" else job.state


def _want(connection: Connection, job: Job, wanted: Wanted) -> None:
    if job.wanted != wanted:
        connection.execute(update(tables.jobs).where(J.id == job.id).values(wanted=wanted))
        events.add_state(connection, job.id, job.state, wanted)


def _submitted_before(connection: Connection, key: str | None, spec: Mapping[str, Any]) -> Job:
    job_id: int = connection.execute(select(J.id).where(J.idempotency_key == key)).scalar_one()
    job = find(connection, job_id)
    if canonical(job.submitted) != canonical(spec):
        raise Conflict(f"idempotency key {key!r} was used for job {job_id}, which has another specification")
    return job


def canonical(spec: Mapping[str, Any]) -> str:
    """Equal texts are equal specs."""
    return json.dumps(spec, sort_keys=True)


def _add_tags(connection: Connection, job_id: int, tags: Iterable[str]) -> None:
    rows = [{"job_id": job_id, "place": i, "tag": tag} for i, tag in enumerate(dict.fromkeys(tags))]
    if rows:
        connection.execute(tables.tags.insert(), rows)


def _read(connection: Connection, query: Select[Any]) -> tuple[Job, ...]:
    rows = connection.execute(query).mappings().all()
    tags = _tags(connection, [row["id"] for row in rows])
    return tuple(_job(row, tags.get(row["id"], ())) for row in rows)


def _tags(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    t = tables.tags.c
    found: dict[int, tuple[str, ...]] = {}
    for job_id, tag in connection.execute(select(t.job_id, t.tag).where(t.job_id.in_(ids)).order_by(t.job_id, t.place)):
        found[job_id] = (*found.get(job_id, ()), tag)
    return found


def _job(row: Mapping[Any, Any], tags: tuple[str, ...]) -> Job:
    times = {name: None if row[name] is None else instant(row[name]) for name in TIMES}
    return Job(**{**row, **times, "state": JobState(row["state"]), "stale": bool(row["stale"])}, tags=tags)
