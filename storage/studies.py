"""Studies: jobs that are asked for, steered and deleted together."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, select

from storage import jobs, tables
from storage.database import add_unless_there
from storage.errors import Conflict, NotFound
from storage.events import instant
from storage.records import Draft, Job, Request, Study

S = tables.studies.c
COLUMNS = (S.id, S.name, S.spec, S.created_at)
DONE = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


def submit(connection: Connection, values: Mapping[str, Any], drafts: Sequence[Draft], key: str | None) -> Study:
    """Queue the jobs of a new study, or find the study submitted with the same idempotency key."""
    row = {**values, "created_at": tables.now(), "idempotency_key": key}
    added = add_unless_there(tables.studies, connection, **row)
    if added is None:
        return _submitted_before(connection, key, values["spec"])
    for draft in drafts:
        wanted = {"spec": dict(draft.spec), "facts": dict(draft.facts), "name": draft.name, "study_id": added.id}
        jobs.submit(connection, wanted, draft.tags, None)
    return find(connection, added.id)


def find(connection: Connection, study_id: int, lock: bool = False) -> Study:
    """One study; locked, it and its jobs stay as they are until the transaction ends.

    Raises
    ------
    NotFound
        If there is no such study.
    """
    query = select(*COLUMNS).where(S.id == tables.key(study_id))
    found = _read(connection, query.with_for_update() if lock else query, lock)
    if not found:
        raise NotFound(f"there is no study {study_id}")
    return found[0]


def listed(connection: Connection, before: int | None, limit: int) -> tuple[Study, ...]:
    """Studies, newest first."""
    query = select(*COLUMNS).order_by(S.id.desc()).limit(limit)
    if before is not None:
        query = query.where(S.id < max(0, min(before, tables.MAX_ID)))
    return _read(connection, query)


def request(connection: Connection, study_id: int, what: Request, facts: Mapping[str, Any]) -> Study:
    """Cancel, pause or resume those jobs of a study whose states allow it.

    Raises
    ------
    Conflict
        If none allows it.
    """
    study = find(connection, study_id, lock=True)
    refusals = [_refusal(connection, job, what, facts) for job in study.jobs]
    if all(refusals):
        why = next((f": {refusal}" for refusal in refusals if refusal), "")
        raise Conflict(f"no job of study {study_id} can be {DONE.get(what, what)}{why}")
    return find(connection, study_id)


def remove(connection: Connection, study_id: int) -> None:
    """Delete a study with its jobs, and the blobs that only they refer to."""
    study = find(connection, study_id, lock=True)
    running = [str(job.id) for job in study.jobs if jobs.is_worked_on(job)]
    if running:
        raise Conflict(f"jobs of study {study_id} are running ({', '.join(running)}); cancel it before deleting it")
    for job in study.jobs:
        jobs.remove(connection, job.id)
    connection.execute(delete(tables.studies).where(S.id == study_id))


def _refusal(connection: Connection, job: Job, what: Request, facts: Mapping[str, Any]) -> str:
    """Why the job does not do what is asked; empty where it does."""
    try:
        jobs.request(connection, job.id, what, facts)
    except Conflict as error:
        return str(error)
    return ""


def _submitted_before(connection: Connection, key: str | None, spec: Mapping[str, Any]) -> Study:
    study_id: int = connection.execute(select(S.id).where(S.idempotency_key == key)).scalar_one()
    study = find(connection, study_id)
    if jobs.canonical(study.spec) != jobs.canonical(spec):
        raise Conflict(f"idempotency key {key!r} was used for study {study_id}, which has another specification")
    return study


def _read(connection: Connection, query: Select[Any], lock: bool = False) -> tuple[Study, ...]:
    rows = connection.execute(query).all()
    found = jobs.of_studies(connection, [row.id for row in rows], lock)
    return tuple(_study(row, tuple(job for job in found if job.study_id == row.id)) for row in rows)


def _study(row: Any, members: tuple[Job, ...]) -> Study:
    return Study(row.id, row.name, row.spec, instant(row.created_at), members)
