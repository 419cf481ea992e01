"""Studies: their jobs are stored together or not at all, steered together, and deleted together."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import StatementError

from storage import Conflict, Draft, JobState, NotFound, Store, Study, tables
from storage.database import Database
from tests.storage.examples import FACTS, SPEC, a_waypoint, submitted

ASKED = {"seeds": [0, 1, 2]}


def drafts(n: int = 3) -> list[Draft]:
    return [Draft({**SPEC, "seed": seed}, FACTS, f"seed {seed}", ("a", "b")) for seed in range(n)]


def studied(store: Store, n: int = 3, **options: Any) -> Study:
    return store.submit_study(ASKED, drafts(n), **options)


def test_the_jobs_of_a_study_are_queued_in_their_order(store: Store) -> None:
    study = studied(store, name="three")
    assert (study.name, study.spec, study.state) == ("three", ASKED, JobState.QUEUED)
    assert [(job.spec["seed"], job.name, job.tags) for job in study.jobs] == [
        (seed, f"seed {seed}", ("a", "b")) for seed in range(3)
    ]
    assert {job.study_id for job in study.jobs} == {study.id}
    assert study == store.study(study.id)
    assert store.jobs() == study.jobs[::-1]
    assert submitted(store).study_id is None


def test_a_study_is_stored_as_a_whole_or_not_at_all(store: Store, database: Database) -> None:
    seen = store.last_seq()
    with pytest.raises(StatementError, match="not JSON"):
        store.submit_study(ASKED, [*drafts(), Draft({"seed": object()}, FACTS)])
    assert (store.studies(), store.jobs(), store.last_seq()) == ((), (), seen)
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.tags)).scalar_one() == 0


def test_the_same_key_gives_the_same_study(store: Store) -> None:
    study = studied(store, idempotency_key="monday")
    assert studied(store, idempotency_key="monday") == study
    assert len(store.jobs()) == 3
    with pytest.raises(Conflict, match=f"'monday' was used for study {study.id}"):
        store.submit_study({"seeds": [4]}, drafts(1), idempotency_key="monday")
    assert store.submit(SPEC, FACTS, idempotency_key="monday").study_id is None


def test_the_same_key_at_the_same_time_gives_one_study(store: Store, together: Callable[..., list[object]]) -> None:
    one, other = together(*[lambda: studied(store, idempotency_key="now")] * 2)
    assert one == other
    assert len(store.jobs()) == 3


def test_studies_are_listed_newest_first_in_pages(store: Store) -> None:
    found = [studied(store, n) for n in (1, 2, 3)]
    assert store.studies(limit=2) == (found[2], found[1])
    assert store.studies(before=found[1].id) == (found[0],)
    assert store.studies(before=10**30, limit=1) == (found[2],)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("completed completed", "completed"),
        ("completed cancelled", "cancelled"),
        ("cancelled failed completed", "failed"),
        ("paused failed", "paused"),
        ("queued paused completed", "queued"),
        ("completed running queued", "running"),
    ],
)
def test_a_study_is_in_the_state_that_tells_most(store: Store, states: str, expected: str) -> None:
    study = studied(store, len(states.split()))
    for job, state in zip(study.jobs, states.split(), strict=True):
        lead(store, job.id, state)
    assert store.study(study.id).state == expected


def lead(store: Store, job_id: int, state: str) -> None:
    """Bring a queued job into a state."""
    if state == "queued":
        return
    lease = store.claim("w", 60.0, job_id)
    assert lease is not None
    if state == "paused":
        store.request(job_id, "pause")
        store.release(lease)
    elif state != "running":
        store.finish(lease, JobState(state), "")


def test_a_request_reaches_all_jobs_that_can_follow_it(store: Store) -> None:
    study = studied(store, 3)
    for job, state in zip(study.jobs, ("completed", "running", "queued"), strict=True):
        lead(store, job.id, state)
    paused = store.request_study(study.id, "pause")
    assert [(job.state, job.wanted) for job in paused.jobs] == [
        ("completed", "run"),
        ("running", "pause"),
        ("paused", "run"),
    ]
    resumed = store.request_study(study.id, "resume", {"again": True})
    assert [(job.state, job.wanted) for job in resumed.jobs][1:] == [("running", "run"), ("queued", "run")]
    assert resumed.jobs[2].facts["again"]
    cancelled = store.request_study(study.id, "cancel")
    assert [(job.state, job.wanted) for job in cancelled.jobs][1:] == [("running", "cancel"), ("cancelled", "run")]


def test_a_request_that_no_job_can_follow_is_refused(store: Store) -> None:
    study = studied(store, 2)
    for job in study.jobs:
        lead(store, job.id, "completed")
    for what, done in (("pause", "paused"), ("cancel", "cancelled"), ("resume", "resumed")):
        with pytest.raises(Conflict, match=f"no job of study {study.id} can be {done}: job {study.jobs[0].id} is"):
            store.request_study(study.id, what)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="no study 99"):
        store.request_study(99, "pause")


def test_deleting_a_study_deletes_its_jobs_and_leaves_the_others(store: Store, database: Database) -> None:
    other = submitted(store)
    study = studied(store, 2)
    for job in study.jobs:
        lease = store.claim("w", 60.0, job.id)
        assert lease is not None
        store.append(lease, a_waypoint(1))
        store.finish(lease, "completed")
    store.delete_study(study.id)
    assert [job.id for job in store.jobs()] == [other.id]
    assert store.studies() == ()
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.blobs)).scalar_one() == 0
    with pytest.raises(NotFound, match=f"no study {study.id}"):
        store.study(study.id)
    assert studied(store).id > study.id


def test_a_study_with_a_running_job_is_not_deleted(store: Store) -> None:
    study = studied(store, 2)
    lead(store, study.jobs[1].id, "running")
    with pytest.raises(Conflict, match=rf"running \({study.jobs[1].id}\)"):
        store.delete_study(study.id)
    assert len(store.study(study.id).jobs) == 2


def test_a_job_may_leave_its_study(store: Store) -> None:
    study = studied(store, 1)
    store.delete(study.jobs[0].id)
    left = store.study(study.id)
    assert (left.jobs, left.state) == ((), JobState.COMPLETED)
    with pytest.raises(Conflict, match=f"no job of study {study.id} can be cancelled"):
        store.request_study(study.id, "cancel")
    store.delete_study(study.id)


def test_waiting_jobs_of_one_study(store: Store) -> None:
    submitted(store)
    study = studied(store, 2)
    assert store.waiting(study_id=study.id) == study.jobs
    assert len(store.waiting()) == 3
