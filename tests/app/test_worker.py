"""The worker: stores each waypoint, obeys wishes, and survives networks that break."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.errors import Lacking
from app.limits import limit_memory
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("later", "state"), [("resume", "queued"), ("cancel", "cancelled")])
def test_what_is_wanted_after_a_worker_has_heard_of_a_pause_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch, later: Any, state: str
) -> None:
    worker, lease = leased(store, **LONG)
    renew = store.renew

    def heard(lease: Lease, lease_seconds: float) -> str:
        wanted = renew(lease, lease_seconds)
        if wanted == "pause":
            store.request(lease.job_id, later)
        return wanted

    monkeypatch.setattr(store, "renew", heard)
    points = worker.work(lease)
    next(points)
    store.request(lease.job_id, "pause")
    assert len(list(points)) < 199
    assert (store.job(lease.job_id).state, store.job(lease.job_id).wanted) == (state, "run")


@pytest.mark.slow
def test_a_signal_to_stop_gives_the_job_back(store: Store) -> None:
    worker, lease = leased(store, **LONG)
    points = worker.work(lease)
    next(points)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(points) == []
    assert store.job(lease.job_id).state == "queued"


@pytest.mark.slow
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


def taken_over(store: Store, worker: str, job: int) -> None:
    """Give the job to another; a sign of life between the two calls lets the worker keep its own."""
    for _ in range(100):
        store.expire(worker)
        if store.claim("another", 60.0, job):
            return
    pytest.fail("the job is never given away")


@pytest.mark.slow
def test_a_lost_lease_ends_the_work_without_a_trace(store: Store) -> None:
    worker, lease = leased(store, **LONG)
    points = worker.work(lease)
    next(points)
    taken_over(store, worker.name, lease.job_id)
    assert len(list(points)) < 199
    job = store.job(lease.job_id)
    assert (job.state, job.worker) == ("running", "another")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_pull_worker_takes_the_oldest_job_until_it_is_stopped(store: Store) -> None:
    first, second = submit(store), submit(store)
    thread = threading.Thread(target=stop_when_over, args=(store, second.id))
    thread.start()
    Worker(store).pull(poll_seconds=0.02)
    thread.join()
    assert [store.job(job.id).state for job in (first, second)] == ["completed", "completed"]


@pytest.mark.slow
def test_a_pull_worker_stopped_at_work_gives_its_job_back_and_takes_no_other(store: Store) -> None:
    first, second = (submit(store, **LONG) for _ in range(2))
    thread = threading.Thread(target=stop_at_first_point, args=(store, first.id))
    thread.start()
    Worker(store).pull(poll_seconds=0.02)
    thread.join()
    assert [store.job(job.id).state for job in (first, second)] == ["queued", "queued"]
    assert store.job(second.id).n_points == 0


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "n_done"), [({"until_idle": True}, 3), ({"max_jobs": 2}, 2)])
def test_a_pull_worker_for_a_batch_system_ends_by_itself(store: Store, limit: Any, n_done: int) -> None:
    for _ in range(3):
        submit(store)
    Worker(store).pull(**limit)
    assert [job.state for job in store.jobs()].count("completed") == n_done


@pytest.mark.slow
def test_a_patient_worker_begins_no_other_point(store: Store) -> None:
    job = submit(store, **LONG)
    worker = Worker(store, finishing_seconds=200)
    lease = worker.claim(job.id)
    assert lease is not None
    points = worker.work(lease)
    next(points)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(points) == []
    assert (store.job(job.id).state, store.job(job.id).n_points) == ("queued", 1)


def test_patience_is_for_the_stretch_that_the_signal_meets() -> None:
    reached = []
    with Interruptions([(signal.SIGTERM, Wish.RELEASE)], finishing_seconds=60) as interruptions:
        with interruptions.computing():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the end of it")
        with pytest.raises(Interrupted) as caught, interruptions.computing():
            reached.append("another")
    assert reached == ["the end of it"]
    assert caught.value.wish is Wish.RELEASE


@pytest.mark.parametrize(("patience", "n_signals"), [(0.05, 1), (60, 2)])
def test_patience_ends(patience: float, n_signals: int) -> None:
    with Interruptions([(signal.SIGTERM, Wish.RELEASE)], finishing_seconds=patience) as interruptions:
        assert wish_met(interruptions, n_signals) is Wish.RELEASE


def wish_met(interruptions: Interruptions, n_signals: int) -> Wish | None:
    try:
        with interruptions.computing():
            for _ in range(n_signals):
                os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(60)
    except Interrupted as interrupted:
        return interrupted.wish
    return None


# What a worker must leave to others


def foreign(store: Store, **facts: Any) -> Job:
    job = submit(store)
    made = store.submit(job.spec, {**job.facts, **facts})
    store.delete(job.id)
    return made


def logged(store: Store, job_id: int) -> list[str]:
    return [str(event.data["text"]) for event in store.logs(job_id)]


OTHERS = [{"paretopath": "0.0.9", "torch": "2.13"}, {"paretopath": "0.1.0", "torch": "1.99"}]


@pytest.mark.slow
@pytest.mark.parametrize("made_with", OTHERS)
def test_a_job_of_other_versions_is_left_to_others(store: Store, made_with: dict[str, str]) -> None:
    old, new = foreign(store, versions=made_with), submit(store)
    worker = Worker(store)
    worker.pull(until_idle=True)
    worker.pull(until_idle=True)
    assert (store.job(old.id).state, store.job(old.id).attempts) == ("queued", 0)
    assert store.job(new.id).state == "completed"
    (line,) = logged(store, old.id)
    for versions in (made_with, new.facts["versions"]):
        assert all(f"{name} {number}" in line for name, number in versions.items())


@pytest.mark.slow
def test_a_job_of_other_versions_goes_on_once_it_is_resumed_here(store: Store) -> None:
    old = foreign(store, versions=OTHERS[0])
    worker = Worker(store)
    assert worker.claim() is None
    for what in ("pause", "resume"):
        Service(store).request(old.id, what)
    worker.pull(until_idle=True)
    worker.pull(until_idle=True)
    assert store.job(old.id).state == "completed"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"network": {"name": "not_here.nets:small", "params": {}}}, "'not_here.nets:small' is code"),
        ({"device": "cuda:99"}, "'cuda:99', which is not here"),
    ],
)
def test_a_job_that_needs_what_is_not_here_is_left_to_others(store: Store, change: Any, told: str) -> None:
    usual = submit(store)
    job = store.submit({**usual.spec, **change}, usual.facts)
    assert Worker(store).claim(job.id) is None
    assert store.job(job.id).state == "queued"
    assert told in logged(store, job.id)[0]


# Memory


@contextmanager
def limited(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        limit_memory(n_bytes)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.slow
def test_a_job_that_needs_too_much_memory_fails_and_its_worker_goes_on(store: Store) -> None:
    hoarder = submit(store, network={"name": "tests.app.parts:faulty", "params": {"fault": "hoard"}})
    modest = submit(store)
    with limited(8 * 1024**3):
        Worker(store).pull(until_idle=True)
    failed = store.job(hoarder.id)
    assert failed.state == "failed"
    assert "8,192 MiB of PARETOPATH_MAX_MEMORY_BYTES" in failed.reason
    assert "raise that limit" in failed.reason
    assert store.job(modest.id).state == "completed"


def test_a_limit_that_leaves_no_room_to_begin_is_refused() -> None:
    told = r"PARETOPATH_MAX_MEMORY_BYTES is 1 MiB, but a worker needs [\d,]+ MiB"
    with pytest.raises(Lacking, match=told), limited(2**20):
        pass


def stop_at_first_point(store: Store, job_id: int) -> None:
    events = Service(store, poll_seconds=0.02).follow(job_id)
    next(event for event in events if event["kind"] == "point")
    os.kill(os.getpid(), signal.SIGTERM)


def stop_when_over(store: Store, job_id: int) -> None:
    list(Service(store, poll_seconds=0.02).follow(job_id))
    os.kill(os.getpid(), signal.SIGTERM)


ROWS = [f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(40)]


@pytest.mark.slow
def test_a_file_reaches_a_worker_that_cannot_see_it(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "my own.csv"
    path.write_text("\n".join(["a,b,y", *ROWS]))
    job, same = (submit(store, data=str(path)) for _ in range(2))
    path.unlink()
    work_off(store, job.id)
    assert store.job(job.id).state == "completed", store.job(job.id).reason
    assert job.spec["data"]["name"] == same.spec["data"]["name"] == store.uploads()[0].name
    assert job.spec["data"]["name"].startswith("my_own-")
    assert len(store.uploads()) == 1


def test_files_of_one_name_are_told_apart_by_what_they_hold(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    names = set()
    for rows in (ROWS, ROWS[::-1]):
        path.write_text("\n".join(["a,b,y", *rows]))
        names.add(submit(store, data=str(path)).spec["data"]["name"])
    assert len(names) == 2


def test_data_that_changed_since_is_refused(store: Store) -> None:
    service = Service(store)
    service.upload("mine.csv", "\n".join(["a,b,y", *ROWS]).encode())
    job = submit(store, data="mine")
    store.delete_upload("mine")
    service.upload("mine.csv", "\n".join(["a,b,y", *ROWS[::-1], "1,1,yes"]).encode())
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
