"""What is deleted leaves the disk: by the size of the SQLite file and of PostgreSQL's tables."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, select, text

from engine.front import Front, Waypoint
from storage import Conflict, Reclaimed, Store, space, tables, weights
from storage.database import Database
from tests.storage.conftest import new_database
from tests.storage.examples import a_point, claimed

HEAVY = 200_000


def heavy(index: int) -> np.ndarray:
    """Weights that nothing compresses."""
    bits = np.random.default_rng(index).integers(0, 2**32, HEAVY // 4, np.uint32)
    bits[bits >> 23 & 0xFF == 0xFF] ^= 1 << 23
    return bits.view(np.float32)


def finished(store: Store, *seeds: int) -> int:
    """A completed job with heavy points."""
    lease = claimed(store)
    for index, seed in enumerate(seeds):
        store.append(lease, Waypoint(a_point(index), heavy(seed)))
    store.finish(lease, "completed")
    return lease.job_id


@pytest.fixture
def url(empty_url: str) -> str:
    return empty_url


@pytest.fixture
def own(url: str) -> Iterator[Store]:
    """A store in a database of its own."""
    with Store(url) as store:
        store.migrate()
        yield store


def size(store: Store) -> int:
    return space.size(store._database)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def on_file(file: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{file}") as store:
        store.migrate()
        yield store


def test_deleting_a_job_shrinks_the_sqlite_file(on_file: Store, file: Path) -> None:
    finished(on_file, 0)
    big = finished(on_file, *range(10))
    on_file.gc()
    before = file.stat().st_size
    assert before > 9 * HEAVY
    on_file.delete(big)
    assert file.stat().st_size < before - 8 * HEAVY
    assert on_file.waypoint(1, 0).theta.tobytes() == heavy(0).tobytes()


def test_a_file_that_could_not_shrink_is_rewritten_once(file: Path) -> None:
    with sqlite3.connect(file) as old:
        old.execute("CREATE TABLE before (x)")
    old.close()
    with Store(f"sqlite:///{file}") as store:
        store.migrate()
        store.delete(finished(store, *range(5)))
        big = file.stat().st_size
        assert big > 4 * HEAVY
        assert store.gc().disk_bytes > 4 * HEAVY
        assert file.stat().st_size < HEAVY
        store.delete(finished(store, *range(5)))
        assert file.stat().st_size < HEAVY


def test_pages_are_given_back_while_another_connection_reads(on_file: Store, file: Path) -> None:
    job = finished(on_file, *range(5))
    with Database(f"sqlite:///{file}").read() as reader:
        assert len(reader.execute(select(tables.blobs.c.digest)).all()) == 6
        on_file.delete(job)
    on_file.gc()
    assert file.stat().st_size < HEAVY


@pytest.mark.slow
def test_garbage_collection_shrinks_postgresql(postgresql_server: str) -> None:
    with new_database(postgresql_server) as url, Store(url) as store:
        store.migrate()
        kept, gone = finished(store, 99), finished(store, *range(10))
        finished(store, 100)
        before = size(store)
        store.delete(gone)
        found = store.gc(full=True)
        assert found.disk_bytes > 8 * HEAVY
        assert size(store) < before - 8 * HEAVY
        assert store.waypoint(kept, 0).theta.tobytes() == heavy(99).tobytes()


@pytest.mark.slow
def test_garbage_collection_lets_postgresql_use_the_space_again(postgresql_server: str) -> None:
    with new_database(postgresql_server) as url, Store(url) as store:
        store.migrate()
        store.delete(finished(store, *range(10)))
        store.gc()
        before = size(store)
        finished(store, *range(10, 19))
        assert size(store) < before + 10 * HEAVY
        engine = create_engine(url)
        with engine.connect() as connection:
            blobs = connection.execute(text("SELECT pg_total_relation_size('blobs')")).scalar_one()
        engine.dispose()
        assert blobs < 12 * HEAVY


def test_a_dry_run_tells_and_changes_nothing(own: Store) -> None:
    job = finished(own, 0)
    payload = weights.encode(heavy(1))
    with own._database.write() as connection:
        row = {"digest": weights.digest(payload), "size": len(payload), "payload": payload}
        connection.execute(tables.blobs.insert().values(row))
    told = own.gc(dry_run=True)
    assert (told.n_blobs, told.n_bytes) == (1, len(payload))
    assert told.disk_bytes >= len(payload)
    assert own.gc(dry_run=True) == told
    done = own.gc(full=True)
    assert (done.n_blobs, done.n_bytes) == (1, len(payload))
    assert done.disk_bytes > 0.9 * len(payload)
    assert (own.gc(dry_run=True).n_blobs, own.gc().n_bytes) == (0, 0)
    assert own.waypoint(job, 0).theta.tobytes() == heavy(0).tobytes()


def test_a_dry_run_tells_the_empty_pages_of_an_old_file(file: Path) -> None:
    with sqlite3.connect(file) as old:
        old.execute("CREATE TABLE before (x)")
    old.close()
    with Store(f"sqlite:///{file}") as store:
        store.migrate()
        store.delete(finished(store, 0, 1))
        told, before = store.gc(dry_run=True), file.stat().st_size
        assert told.n_blobs == 0
        assert told.disk_bytes > 1.5 * HEAVY
        assert file.stat().st_size == before
        assert store.gc().disk_bytes >= 0.9 * told.disk_bytes


@pytest.mark.slow
def test_garbage_collection_and_a_worker_at_the_same_time(own: Store, together: object) -> None:
    lease = claimed(own)

    def work() -> int:
        for index in range(30):
            own.append(lease, Waypoint(a_point(index), np.full(4, index)))
        return 0

    def collect() -> int:
        return sum(own.gc().n_blobs for _ in range(10))

    assert together(work, collect)[1] == 0  # type: ignore[operator]
    assert [waypoint.theta[0] for waypoint in own.trail(lease.job_id)] == list(range(30))


def test_thinning_shrinks_the_file_by_the_weights_that_go(on_file: Store, file: Path) -> None:
    job = finished(on_file, *range(10))
    on_file.gc()
    before = file.stat().st_size
    thinned = on_file.thin(job, lambda front: Front(front.points[:2]))
    assert (thinned.n_dropped, thinned.job.n_points) == (8, 2)
    assert thinned.n_bytes > 7 * HEAVY * 0.9
    assert file.stat().st_size < before - 7 * HEAVY


def test_nothing_collected_is_nothing_freed(own: Store) -> None:
    own.gc(full=True)
    assert own.gc() == Reclaimed(0, 0, own.gc().disk_bytes)
    with pytest.raises(Conflict):
        own.thin(finished(own), lambda front: front)
