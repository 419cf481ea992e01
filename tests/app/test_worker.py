"""The worker: stores each waypoint, obeys wishes, and survives networks that break."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app.schemas import JobIn
from app.service import Service
from app.worker import Interrupted, Interruptions, Wish, Worker
from storage.records import Job, Lease
from storage.store import Store
from tests.app.conftest import TINY, work_off

LONG = {"data": "digits", "network": "mlp:32", "points": 200, "method": "continuation:quality=thorough"}


def submit(store: Store, **change: Any) -> Job:
    job = Service(store, allow_paths=True).submit(JobIn.model_validate({**TINY, **change}))
    return store.job(job["id"])


def leased(store: Store, **change: Any) -> tuple[Worker, Lease]:
    worker = Worker(store, heartbeat_seconds=0.05)
    lease = worker.claim(submit(store, **change).id)
    assert lease is not None
    return worker, lease


def test_a_job_is_traced_to_its_end(store: Store) -> None:
    job = submit(store)
    n_points = work_off(store, job.id)
    done = store.job(job.id)
    assert (done.state, done.n_points) == ("completed", n_points)
    assert done.reason
    assert len(store.front(job.id)) == n_points


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_wish_is_obeyed_and_the_points_stay(store: Store, wish: Any, state: str) -> None:
    worker, lease = leased(store, **LONG)
    points = worker.work(lease)
    next(points)
    store.request(lease.job_id, wish)
    n_points = 1 + len(list(points))
    job = store.job(lease.job_id)
    assert job.state == state
    assert job.n_points == n_points == len(store.front(job.id))
    assert n_points < 200


def test_a_signal_to_stop_gives_the_job_back(store: Store) -> None:
    worker, lease = leased(store, **LONG)
    points = worker.work(lease)
    next(points)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(points) == []
    assert store.job(lease.job_id).state == "queued"


def test_stopping_and_going_on_changes_nothing(store: Store) -> None:
    whole, parts = submit(store, points=8), submit(store, points=8)
    work_off(store, whole.id)
    worker = Worker(store)
    lease = worker.claim(parts.id)
    assert lease is not None
    points = worker.work(lease)
    stop_after(points, 2)
    assert store.job(parts.id).state == "queued"
    work_off(store, parts.id)
    for index in range(len(store.front(whole.id))):
        one, other = store.waypoint(whole.id, index), store.waypoint(parts.id, index)
        assert one.theta.tobytes() == other.theta.tobytes()
        assert one.point.loss == other.point.loss


def stop_after(points: Iterator[Any], n: int) -> None:
    for _ in range(n):
        next(points)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(points) == []


def test_a_lost_lease_ends_the_work_without_a_trace(store: Store) -> None:
    worker, lease = leased(store, **LONG)
    points = worker.work(lease)
    next(points)
    store.expire(worker.name)
    other = store.claim("another", 60.0, lease.job_id)
    assert other is not None
    assert len(list(points)) < 199
    job = store.job(lease.job_id)
    assert (job.state, job.worker) == ("running", "another")


def test_a_loss_that_turns_nan_fails_the_job_with_the_reason(store: Store) -> None:
    job = submit(store, network={"name": "tests.app.parts:faulty", "params": {"after": 600}}, points=40)
    work_off(store, job.id)
    failed = store.job(job.id)
    assert failed.state == "failed"
    assert "nan" in failed.reason.lower()
    assert len(store.front(job.id)) == failed.n_points


def test_a_network_that_breaks_fails_the_job_and_leaves_its_traceback_in_the_log(store: Store) -> None:
    faulty = {"name": "tests.app.parts:faulty", "params": {"after": 50, "fault": "crash"}}
    job = submit(store, network=faulty)
    work_off(store, job.id)
    failed = store.job(job.id)
    assert failed.state == "failed"
    assert failed.reason == "RuntimeError: the network broke"
    logged = [str(e.data["text"]) for e in store.events(job.id) if e.kind == "log"]
    assert any("Traceback" in text and "in its second line" in text for text in logged)


def test_a_pull_worker_takes_the_oldest_job_until_it_is_stopped(store: Store) -> None:
    first, second = submit(store), submit(store)
    thread = threading.Thread(target=stop_when_over, args=(store, second.id))
    thread.start()
    Worker(store).forever(poll_seconds=0.02)
    thread.join()
    assert [store.job(job.id).state for job in (first, second)] == ["completed", "completed"]


def test_a_pull_worker_stopped_at_work_gives_its_job_back_and_takes_no_other(store: Store) -> None:
    first, second = (submit(store, **LONG) for _ in range(2))
    thread = threading.Thread(target=stop_at_first_point, args=(store, first.id))
    thread.start()
    Worker(store).forever(poll_seconds=0.02)
    thread.join()
    assert [store.job(job.id).state for job in (first, second)] == ["queued", "queued"]
    assert store.job(second.id).n_points == 0


def stop_at_first_point(store: Store, job_id: int) -> None:
    events = Service(store, poll_seconds=0.02).follow(job_id)
    next(event for event in events if event["kind"] == "point")
    os.kill(os.getpid(), signal.SIGTERM)


def stop_when_over(store: Store, job_id: int) -> None:
    list(Service(store, poll_seconds=0.02).follow(job_id))
    os.kill(os.getpid(), signal.SIGTERM)


def test_data_that_changed_since_is_refused(store: Store, tmp_path: Any) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(40)]
    path.write_text("\n".join(["a,b,y", *rows]))
    job = submit(store, data=str(path))
    path.write_text("\n".join(["a,b,y", *rows[::-1], "1,1,yes"]))
    work_off(store, job.id)
    assert store.job(job.id).state == "failed"
    assert "changed" in store.job(job.id).reason


def test_a_wish_interrupts_the_computation_and_nothing_else() -> None:
    reached: list[str] = []
    with Interruptions() as interruptions:
        threading.Thread(target=interruptions.wish, args=(Wish.PAUSE,)).start()
        reached.append("outside")
        with pytest.raises(Interrupted) as caught, interruptions.computing():
            threading.Event().wait(60)
    assert reached == ["outside"]
    assert caught.value.wish is Wish.PAUSE


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruptions([(signal.SIGTERM, Wish.RELEASE)]):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
