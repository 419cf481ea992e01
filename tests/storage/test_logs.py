"""What is written about a job, and which jobs a worker leaves to others, over both databases."""

import pytest

from storage import JobState, NotFound, Store
from tests.storage.examples import a_waypoint, claimed, stored, submitted

LONG = 60.0


def texts(store: Store, job_id: int, **which: int) -> list[str]:
    return [str(event.data["text"]) for event in store.logs(job_id, **which)]


def test_the_log_has_the_lines_of_workers_and_of_others_and_nothing_else(store: Store) -> None:
    lease, other = stored(store, 2), claimed(store)
    first = store.log(lease, "one")
    store.log(other, "of another job")
    store.append(lease, a_waypoint(2))
    store.remark(lease.job_id, "two")
    assert texts(store, lease.job_id) == ["one", "two"]
    assert [event.kind for event in store.logs(lease.job_id)] == ["log", "log"]
    assert texts(store, lease.job_id, after=first) == ["two"]


def test_of_many_lines_the_newest_are_shown_in_order(store: Store) -> None:
    job = submitted(store)
    for line in "abcde":
        store.remark(job.id, line)
    assert texts(store, job.id, limit=3) == ["c", "d", "e"]


def test_a_job_that_is_not_there_has_no_log(store: Store) -> None:
    for ask in (store.logs, lambda job_id: store.remark(job_id, "hello")):
        with pytest.raises(NotFound, match="there is no job 99"):
            ask(99)


def test_jobs_left_to_others_are_passed_over(store: Store) -> None:
    first, second = submitted(store), submitted(store)
    assert store.claim("w", LONG, but_not={first.id}).job_id == second.id
    assert store.claim("w", LONG, but_not={first.id}) is None
    assert store.claim("w", LONG, first.id, but_not={first.id}) is None
    assert store.claim("other", LONG).job_id == first.id


def test_a_resumed_job_takes_the_new_facts(store: Store) -> None:
    job = submitted(store)
    new = {"versions": {"torch": "9.9"}}
    assert store.request(job.id, "pause", new).facts == job.facts
    resumed = store.request(job.id, "resume", new)
    assert (resumed.state, resumed.facts) == (JobState.QUEUED, {**job.facts, **new})


def test_who_held_nothing_has_nothing_to_expire(store: Store) -> None:
    lease = claimed(store, "w")
    assert not store.expire("someone else")
    assert store.expire("w")
    store.claim("heir", LONG, lease.job_id)
    assert not store.expire("w")
