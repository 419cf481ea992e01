"""Who may work on a job: claims, leases, fences, deaths and requests, over both databases."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from storage import Conflict, Job, JobState, Lease, LeaseLost, NotFound, Store
from tests.storage.examples import FACTS, SPEC, a_waypoint, claimed, stored, submitted

GONE = 0.0
LONG = 60.0


def writes(store: Store, lease: Lease) -> list[Callable[[], object]]:
    """Everything that a worker may write."""
    return [
        lambda: store.renew(lease, LONG),
        lambda: store.append(lease, a_waypoint(50)),
        lambda: store.log(lease, "still here"),
        lambda: store.finish(lease, "completed"),
        lambda: store.release(lease),
    ]


def assert_shut_out(store: Store, lease: Lease) -> None:
    """Every write is refused and leaves no trace."""
    before = store.jobs(), store.events()
    for write in writes(store, lease):
        with pytest.raises(LeaseLost, match=f"worker '{lease.worker}' has lost job {lease.job_id}"):
            write()
    assert (store.jobs(), store.events()) == before


def in_state(store: Store, situation: str) -> Job:
    """A job in each of the situations that requests tell apart."""
    lease = claimed(store, lease_seconds=GONE if situation == "stale" else LONG)
    job_id = lease.job_id
    if situation == "queued":
        store.release(lease)
    if situation in {"pausing", "paused", "cancelling"}:
        store.request(job_id, "cancel" if situation == "cancelling" else "pause")
    if situation == "paused":
        store.release(lease)
    if situation in {"completed", "failed", "cancelled"}:
        store.finish(lease, situation, "because")
    return store.job(job_id)


# Claims


def test_the_oldest_job_is_claimed_first(store: Store) -> None:
    first, second = submitted(store), submitted(store)
    assert [job.id for job in store.waiting()] == [first.id, second.id]
    lease = store.claim("w", LONG)
    assert (lease.job_id, lease.worker, lease.job) == (first.id, "w", store.job(first.id))
    assert (lease.job.state, lease.job.worker, lease.job.attempts) == (JobState.RUNNING, "w", 1)
    assert lease.job.started_at >= lease.job.created_at
    assert store.claim("w", LONG).job_id == second.id
    assert store.claim("w", LONG) is None
    assert store.waiting() == ()


def test_a_named_job_or_none(store: Store) -> None:
    first, second = submitted(store), submitted(store)
    assert store.claim("w", LONG, second.id).job_id == second.id
    assert store.claim("w", LONG, second.id) is None
    assert store.claim("w", LONG, 10**30) is None
    assert store.job(first.id).state is JobState.QUEUED


def test_every_job_is_claimed_exactly_once(store: Store, together: Callable) -> None:
    ids = [submitted(store).id for _ in range(20)]

    def work() -> list[int]:
        return [lease.job_id for lease in iter(lambda: store.claim("w", LONG), None)]

    found = together(*[work] * 4)
    assert sorted(job_id for ids_of_one in found for job_id in ids_of_one) == ids


def test_one_job_is_claimed_by_one_of_many(store: Store, together: Callable) -> None:
    for _ in range(5):
        job = submitted(store)
        found = together(*[lambda i=job.id: store.claim("w", LONG, i)] * 4)
        assert [lease.job_id for lease in found if lease] == [job.id]


def test_a_renewed_lease_stays(store: Store) -> None:
    lease = claimed(store, lease_seconds=GONE)
    assert store.job(lease.job_id).stale
    assert store.renew(lease, LONG) == "run"
    assert not store.job(lease.job_id).stale
    assert store.claim("other", LONG) is None


def test_a_stale_lease_is_taken_over_and_the_zombie_shut_out(store: Store) -> None:
    zombie = claimed(store, lease_seconds=GONE)
    store.append(zombie, a_waypoint(0))
    assert [job.id for job in store.waiting()] == [zombie.job_id]
    lease = store.claim("heir", LONG)
    assert (lease.job_id, lease.job.worker) == (zombie.job_id, "heir")
    assert lease.fence > zombie.fence
    assert_shut_out(store, zombie)
    store.append(lease, a_waypoint(1))
    assert [point.index for point in store.front(lease.job_id)] == [0, 1]


def test_the_same_worker_after_a_restart_shuts_out_its_former_self(store: Store) -> None:
    zombie = claimed(store, "w", GONE)
    assert store.claim("w", LONG).job_id == zombie.job_id
    assert_shut_out(store, zombie)


def test_a_takeover_and_a_write_at_the_same_time(store: Store, together: Callable) -> None:
    def attempt(lease: Lease) -> bool:
        try:
            store.append(lease, a_waypoint(0))
        except LeaseLost:
            return False
        return True

    for _ in range(8):
        zombie = claimed(store, "zombie", GONE)
        wrote, heir = together(lambda z=zombie: attempt(z), lambda z=zombie: store.claim("heir", LONG, z.job_id))
        assert heir.fence == zombie.fence + 1
        assert len(store.front(zombie.job_id)) == int(wrote)
        assert_shut_out(store, zombie)


def test_finished_and_deleted_jobs_shut_their_workers_out(store: Store) -> None:
    lease = claimed(store)
    store.finish(lease, "completed", "all points found")
    assert_shut_out(store, lease)
    store.delete(lease.job_id)
    assert_shut_out(store, lease)


def test_a_forged_fence_is_refused(store: Store) -> None:
    lease = claimed(store)
    assert_shut_out(store, replace(lease, fence=lease.fence + 1))


def test_the_leases_of_a_dead_worker_expire_at_once(store: Store) -> None:
    dead, alive = claimed(store, "dead"), claimed(store, "alive")
    store.expire("dead")
    assert [job.id for job in store.waiting()] == [dead.job_id]
    assert store.claim("heir", LONG).job_id == dead.job_id
    assert store.renew(alive, LONG) == "run"
    assert_shut_out(store, dead)


# Deaths


def test_three_deaths_without_progress_are_a_failure(store: Store) -> None:
    job = submitted(store)
    for attempt in (1, 2, 3):
        assert store.claim("w", GONE).job.attempts == attempt
    assert store.claim("w", GONE) is None
    found = store.job(job.id)
    assert (found.state, found.reason) == (JobState.FAILED, "the worker died 3 times in a row without a new point")
    assert found.ended_at is not None
    assert store.events(job.id)[-1].data == {"state": "failed", "wanted": "run", "reason": found.reason}


def test_looking_for_work_ends_the_hopeless(store: Store) -> None:
    hopeless, cancelled = submitted(store), claimed(store)
    store.request(cancelled.job_id, "cancel")
    store.renew(cancelled, GONE)
    for _ in range(3):
        store.claim("w", GONE, hopeless.id)
    assert store.waiting() == ()
    assert [job.state for job in store.jobs()] == ["cancelled", "failed"]


def test_a_new_point_forgives_the_deaths(store: Store) -> None:
    job = submitted(store)
    for index in range(6):
        lease = store.claim("w", GONE, job.id)
        if index % 2:
            store.append(lease, a_waypoint(index))
    assert store.claim("w", GONE, job.id) is not None


def test_stopping_gracefully_is_no_death(store: Store) -> None:
    job = submitted(store)
    for _ in range(5):
        lease = store.claim("w", LONG)
        store.release(lease)
        assert_shut_out(store, lease)
    found = store.job(job.id)
    assert (found.state, found.attempts, found.worker) == (JobState.QUEUED, 0, None)


def test_a_failed_job_does_not_keep_others_waiting(store: Store) -> None:
    broken, sound = submitted(store), submitted(store)
    for _ in range(3):
        store.claim("w", GONE, broken.id)
    assert store.claim("w", LONG).job_id == sound.id


def test_a_resumed_job_has_its_attempts_back(store: Store) -> None:
    job = submitted(store)
    for _ in range(4):
        store.claim("w", GONE)
    store.request(job.id, "resume")
    assert store.claim("w", LONG).job.attempts == 1


@pytest.mark.parametrize(("what", "state"), [("cancel", "cancelled"), ("pause", "paused")])
@pytest.mark.parametrize("how", ["stale", "expired", "released"])
def test_who_dies_while_asked_to_stop_has_stopped(store: Store, what: str, state: str, how: str) -> None:
    lease = claimed(store, "w")
    store.request(lease.job_id, what)
    if how == "stale":
        store.renew(lease, GONE)
        assert store.claim("heir", LONG) is None
    elif how == "expired":
        store.expire("w")
    else:
        store.release(lease)
    job = store.job(lease.job_id)
    assert (job.state, job.reason, job.wanted) == (state, f"{state} on request", "run")
    assert_shut_out(store, lease)


# Requests

EXPECTED = {
    ("queued", "cancel"): ("cancelled", "run"),
    ("queued", "pause"): ("paused", "run"),
    ("running", "cancel"): ("running", "cancel"),
    ("running", "pause"): ("running", "pause"),
    ("stale", "cancel"): ("cancelled", "run"),
    ("stale", "pause"): ("paused", "run"),
    ("pausing", "cancel"): ("running", "cancel"),
    ("pausing", "pause"): ("running", "pause"),
    ("pausing", "resume"): ("running", "run"),
    ("cancelling", "cancel"): ("running", "cancel"),
    ("paused", "cancel"): ("cancelled", "run"),
    ("paused", "resume"): ("queued", "run"),
    ("failed", "resume"): ("queued", "run"),
    ("cancelled", "resume"): ("queued", "run"),
}
SITUATIONS = ["queued", "running", "stale", "pausing", "cancelling", "paused", "completed", "failed", "cancelled"]


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_requests(store: Store, situation: str, what: str) -> None:
    before = in_state(store, situation)
    if (situation, what) not in EXPECTED:
        with pytest.raises(Conflict, match=f"job {before.id} is "):
            store.request(before.id, what)
        assert store.job(before.id) == before
        return
    after = store.request(before.id, what)
    assert (after.state, after.wanted) == EXPECTED[situation, what]
    assert after == store.job(before.id)
    assert (after.ended_at is not None) == (after.state == "cancelled")


def test_an_unknown_request_names_those_known(store: Store) -> None:
    with pytest.raises(Conflict, match="request 'stop' is unknown; cancel, pause and resume are known"):
        store.request(submitted(store).id, "stop")


def test_a_worker_learns_what_is_wanted(store: Store) -> None:
    lease = claimed(store)
    heard = [store.renew(lease, LONG)]
    for what in ("pause", "resume", "pause", "cancel"):
        store.request(lease.job_id, what)
        heard.append(store.renew(lease, LONG))
    assert heard == ["run", "pause", "run", "pause", "cancel"]


def test_asking_twice_is_told_once(store: Store) -> None:
    lease = claimed(store)
    store.request(lease.job_id, "pause")
    said = store.last_seq()
    store.request(lease.job_id, "pause")
    assert store.last_seq() == said


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_finishing(store: Store, state: str) -> None:
    lease = stored(store, 2)
    store.finish(lease, state, "for a reason")
    job = store.job(lease.job_id)
    assert (job.state, job.reason, job.worker, job.n_points) == (state, "for a reason", None, 2)
    assert job.ended_at is not None
    assert len(store.front(job.id)) == 2


@pytest.mark.parametrize("state", ["queued", "running", "paused", "done"])
def test_a_job_cannot_finish_in_other_states(store: Store, state: str) -> None:
    lease = claimed(store)
    with pytest.raises(Conflict, match=f"cannot finish as '{state}'"):
        store.finish(lease, state)
    assert store.renew(lease, LONG) == "run"


def test_a_paused_job_goes_on_from_its_trail(store: Store) -> None:
    first = stored(store, 2)
    store.request(first.job_id, "pause")
    store.release(first)
    assert (store.job(first.job_id).n_points, store.job(first.job_id).ended_at) == (2, None)
    store.request(first.job_id, "resume")
    second = store.claim("w", LONG)
    assert (second.job.reason, second.job.started_at) == ("", first.job.started_at)
    assert [waypoint.point.index for waypoint in store.trail(second.job_id)] == [0, 1]
    store.append(second, a_waypoint(2))
    assert store.job(second.job_id).n_points == 3
    assert_shut_out(store, first)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_extending(store: Store, situation: str) -> None:
    before = in_state(store, situation)
    if situation not in {"completed", "failed", "cancelled", "paused"}:
        with pytest.raises(Conflict, match="can be extended"):
            store.extend(before.id, SPEC, FACTS)
        return
    after = store.extend(before.id, {**SPEC, "points": 80}, {**FACTS, "expected": 80})
    assert (after.state, after.spec["points"], after.facts["expected"]) == ("queued", 80, 80)
    assert (after.reason, after.ended_at) == ("", None)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_deleting(store: Store, situation: str) -> None:
    job = in_state(store, situation)
    if situation in {"running", "pausing", "cancelling"}:
        with pytest.raises(Conflict, match="cancel it before deleting it"):
            store.delete(job.id)
        assert store.job(job.id) == job
        return
    store.delete(job.id)
    with pytest.raises(NotFound):
        store.job(job.id)
