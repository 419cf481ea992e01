"""A real service, its worker and its database, killed: nothing is lost, nothing comes twice. `make soak` kills more."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from app.schemas import JobIn
from app.service import Service
from app.worker import Worker
from benchmarks.installation import PostgreSQL, SQLite
from benchmarks.soak import JOB, KILL, Undisturbed, doubled, same, tormented
from engine.front import Waypoint
from storage.store import Store
from tests.storage.examples import a_waypoint

SHORT = {**JOB, "points": 40}


@pytest.fixture(scope="module")
def undisturbed() -> Undisturbed:
    with closing(SQLite()) as database, Store(database.url) as store:
        store.migrate()
        job_id = Service(store).submit(JobIn.model_validate(SHORT))["id"]
        worker = Worker(store)
        lease = worker.claim(job_id)
        assert lease is not None
        assert len(list(worker.work(lease))) > 2 * len(KILL)
        return Undisturbed(SHORT, list(store.trail(job_id)))


@pytest.mark.slow
def test_killed_by_kill_9_one_after_the_other_nothing_is_lost(undisturbed: Undisturbed) -> None:
    with closing(PostgreSQL()) as database:
        verdict = tormented(list(KILL), database, len(KILL), [0], undisturbed)
    assert verdict.kills == len(KILL), "the job was over too soon"
    assert verdict.points == len(undisturbed.waypoints)
    assert (verdict.lost, verdict.doubled, verdict.missed) == (0, 0, 0)
    assert verdict.identical
    assert verdict.good


# The judge


def shown(*indices: int) -> list[dict]:
    return [{"seq": 3 + i, "kind": "point", "data": {"index": index}} for i, index in enumerate(indices)]


def test_events_told_of_twice_or_out_of_order_are_counted() -> None:
    events = shown(0, 1, 2)
    assert doubled(events) == 0
    assert doubled([*events, events[-1]]) == 2
    assert doubled([events[1], events[0], events[2]]) == 3
    assert doubled(shown(0, 1, 1, 2)) == 2


def test_waypoints_are_the_same_but_for_wall_seconds() -> None:
    one = a_waypoint(3)
    later = replace(one, point=replace(one.point, seconds=99.0))
    assert same(one, later)
    changed: list[Waypoint] = [
        replace(one, point=replace(one.point, loss=np.nextafter(one.point.loss, 1))),
        replace(one, theta=np.nextafter(one.theta, np.float32(9))),
        replace(one, theta=one.theta.astype(np.float64)),
        replace(one, buffers={}),
        replace(one, memory={"momentum": -one.memory["momentum"]}),
        replace(one, memory={"other": one.memory["momentum"]}),
    ]
    assert not any(same(one, other) for other in changed)
