"""Thinning a job: what stays, what goes, and what a thinned job can still do."""

import numpy as np
import pytest
from sqlalchemy import func, select

from engine.front import Front
from storage import Conflict, NotFound, Store, tables
from storage.database import Database
from tests.storage.examples import FACTS, SPEC, a_waypoint, claimed, plain, stored, submitted

KEPT = (0, 3, 5)


def keep(front: Front) -> Front:
    return Front(tuple(point for point in front if point.index in KEPT))


def thinned(store: Store, state: str = "completed") -> int:
    lease = stored(store, 6)
    store.finish(lease, state, "because")
    store.thin(lease.job_id, keep)
    return lease.job_id


def rows(database: Database, table: object) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_what_stays_is_as_it_was(store: Store) -> None:
    lease = stored(store, 6)
    store.finish(lease, "completed")
    before = [plain(p) for p in store.front(lease.job_id) if p.index in KEPT]
    store.thin(lease.job_id, keep)
    assert [plain(p) for p in store.front(lease.job_id)] == before
    for index in KEPT:
        found, expected = store.waypoint(lease.job_id, index), a_waypoint(index)
        assert found.theta.tobytes() == expected.theta.tobytes()
        assert found.memory["momentum"].tobytes() == expected.memory["momentum"].tobytes()
    assert [w.point.index for w in store.trail(lease.job_id)] == list(KEPT)


def test_what_goes_goes_with_weights_and_events(store: Store, database: Database) -> None:
    job_id = thinned(store)
    for index in (1, 2, 4):
        with pytest.raises(NotFound, match=f"job {job_id} has no point {index}"):
            store.waypoint(job_id, index)
    assert (rows(database, tables.weights), rows(database, tables.points)) == (3, 3)
    assert rows(database, tables.blobs) == 9
    events = store.events(job_id)
    assert [e.data["index"] for e in events if e.kind == "point"] == list(KEPT)
    assert events[-1].data == {"text": "thinned: 3 points went, 3 stayed"}
    assert (store.job(job_id).n_points, store.job(job_id).n_thinned) == (3, 3)


def test_weights_that_another_job_shares_stay(store: Store) -> None:
    job_id, other = thinned(store), stored(store, 6).job_id
    assert store.waypoint(other, 1).theta.tobytes() == a_waypoint(1).theta.tobytes()
    assert len(store.front(job_id)) == 3
    lease = stored(store, 6)
    store.finish(lease, "completed")
    assert store.thin(lease.job_id, keep).n_bytes == 0


@pytest.mark.parametrize("state", ["failed", "cancelled", "completed"])
def test_a_thinned_job_cannot_go_on(store: Store, state: str) -> None:
    job_id = thinned(store, state)
    before = store.job(job_id)
    with pytest.raises(Conflict, match=r"was thinned and cannot go on, as 3 of the points.*exported.*traced anew"):
        store.extend(job_id, SPEC, FACTS)
    with pytest.raises(Conflict, match="was thinned" if state != "completed" else "is completed"):
        store.request(job_id, "resume")
    assert store.job(job_id) == before
    assert store.waiting() == ()


def test_thinning_nothing_leaves_a_job_that_can_go_on(store: Store) -> None:
    lease = stored(store, 6)
    store.finish(lease, "failed")
    before = store.job(lease.job_id), store.events(lease.job_id)
    done = store.thin(lease.job_id, lambda front: front)
    assert (done.n_dropped, done.n_bytes) == (0, 0)
    assert (store.job(lease.job_id), store.events(lease.job_id)) == before
    assert store.request(lease.job_id, "resume").state == "queued"


def test_thinning_again_counts_on(store: Store) -> None:
    job_id = thinned(store)
    assert store.thin(job_id, keep).n_dropped == 0
    store.thin(job_id, lambda front: Front(front.points[:1]))
    assert (store.job(job_id).n_points, store.job(job_id).n_thinned) == (1, 5)
    store.delete(job_id)


def test_a_job_at_work_is_not_thinned(store: Store) -> None:
    lease = stored(store, 6)
    for state in ("running", "paused", "queued"):
        if state == "paused":
            store.request(lease.job_id, "pause")
            store.release(lease)
        if state == "queued":
            store.request(lease.job_id, "resume")
        with pytest.raises(Conflict, match=f"is {state}; completed, failed and cancelled jobs can be thinned"):
            store.thin(lease.job_id, keep)
    assert len(store.front(lease.job_id)) == 6


def test_a_job_whose_networks_are_needed_is_not_thinned(store: Store) -> None:
    lease = stored(store, 6)
    store.finish(lease, "completed")
    follower = store.submit(SPEC, {**FACTS, "follows": lease.job_id})
    with pytest.raises(Conflict, match=f"job {follower.id} still needs the networks of job {lease.job_id}"):
        store.thin(lease.job_id, keep)
    store.request(follower.id, "cancel")
    assert store.thin(lease.job_id, keep).n_dropped == 3


def test_a_front_is_never_thinned_to_nothing(store: Store) -> None:
    lease = claimed(store)
    store.append(lease, a_waypoint(0, loss=np.nan))
    store.finish(lease, "failed")
    with pytest.raises(Conflict, match=f"job {lease.job_id} has no points that could be kept"):
        store.thin(lease.job_id, Front.non_dominated)
    assert len(store.front(lease.job_id)) == 1
    with pytest.raises(NotFound, match="no job 99999999"):
        store.thin(99999999, keep)
    empty = submitted(store)
    store.request(empty.id, "cancel")
    with pytest.raises(Conflict, match="no points"):
        store.thin(empty.id, keep)


@pytest.mark.slow
def test_thousands_of_points_are_thinned(store: Store, database: Database) -> None:
    from storage import points
    from tests.storage.examples import a_point

    job_id = submitted(store).id
    store.request(job_id, "cancel")
    rows_ = [{"job_id": job_id, **points.pack(a_waypoint(i)).numbers} for i in range(2500)]
    with database.write() as connection:
        connection.execute(tables.points.insert(), rows_)
    store.thin(job_id, lambda front: front.spread(10))
    assert len(store.front(job_id)) == 10
    assert store.front(job_id).points[0] == a_point(0)
