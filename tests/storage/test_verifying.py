"""Damage is noticed, named, and told apart from absence."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, select, text, update

from storage import Corrupt, Damage, NotFound, Store, tables, weights
from storage.database import Database
from tests.storage.examples import stored


def damage(database: Database, job_id: int, index: int, part: str, payload: bytes) -> None:
    w, b = tables.weights.c, tables.blobs.c
    with database.write() as connection:
        digest = connection.execute(select(w[part]).where(w.job_id == job_id, w.index == index)).scalar_one()
        connection.execute(update(tables.blobs).where(b.digest == digest).values(payload=payload))


def without_foreign_keys(database: Database, *statements: object) -> None:
    """What only a fault beneath the database does."""
    off = "PRAGMA foreign_keys = OFF" if database.url.startswith("sqlite") else "SET session_replication_role = replica"
    on = "PRAGMA foreign_keys = ON" if database.url.startswith("sqlite") else "SET session_replication_role = origin"
    with database.alone() as connection:
        for statement in (text(off), *statements, text(on)):
            connection.execute(statement)
            connection.commit()


def test_what_is_sound_is_sound(store: Store) -> None:
    stored(store, 3)
    store.add_upload("mine", b"1,2", {})
    assert store.verify() == ()


@pytest.mark.parametrize("part", ["theta", "buffers", "memory"])
@pytest.mark.parametrize("payload", [b"", b"garbage", weights.encode(np.arange(3.0))])
def test_damaged_points_are_named(store: Store, database: Database, part: str, payload: bytes) -> None:
    job_id = stored(store, 4).job_id
    damage(database, job_id, 2, part, payload)
    name = {"theta": "weights", "buffers": "buffers", "memory": "method's memory"}[part]
    (found,) = store.verify()
    assert found.what == f"the {name} of point 2 of job {job_id}"
    assert "stored bytes" in found.why
    with pytest.raises(Corrupt, match=f"point 2 of job {job_id} is damaged: stored bytes"):
        store.waypoint(job_id, 2)
    with pytest.raises(NotFound, match=f"job {job_id} has no point 4"):
        store.waypoint(job_id, 4)
    assert store.waypoint(job_id, 1).point.index == 1


def test_shared_weights_name_every_point_that_is_hurt(store: Store, database: Database) -> None:
    first, second = stored(store, 2).job_id, stored(store, 2).job_id
    damage(database, first, 1, "theta", b"")
    assert {found.what for found in store.verify()} == {
        f"the weights of point 1 of job {first}",
        f"the weights of point 1 of job {second}",
    }


def test_missing_weights_are_damage_not_absence(store: Store, database: Database) -> None:
    job_id = stored(store, 2).job_id
    w, b = tables.weights.c, tables.blobs.c
    with database.read() as connection:
        digest = connection.execute(select(w.theta).where(w.job_id == job_id, w.index == 1)).scalar_one()
    without_foreign_keys(database, delete(tables.blobs).where(b.digest == digest))
    assert store.verify() == (Damage(f"the weights of point 1 of job {job_id}", "the stored bytes are missing"),)
    with pytest.raises(Corrupt, match=f"point 1 of job {job_id} is damaged: .*{digest} are missing"):
        store.waypoint(job_id, 1)
    with database.write() as connection:
        connection.execute(delete(tables.weights).where(w.job_id == job_id, w.index == 1))
    assert [found.what for found in store.verify()][:1] == [f"the weights of point 1 of job {job_id}"]
    with pytest.raises(Corrupt, match="are missing"):
        store.waypoint(job_id, 1)


def test_damage_that_hurts_nobody_is_named_too(store: Store, database: Database) -> None:
    with database.write() as connection:
        connection.execute(tables.blobs.insert().values(digest="0" * 64, size=1, payload=b"x"))
    (found,) = store.verify()
    assert found.what == f"the stored array {'0' * 64}, which no point refers to"


def test_damaged_uploads_are_named(store: Store, database: Database) -> None:
    store.add_upload("mine", b"1,2", {})
    store.add_upload("yours", b"1,2", {})
    with database.write() as connection:
        connection.execute(update(tables.uploads).where(tables.uploads.c.name == "mine").values(payload=b"1,3"))
    (found,) = store.verify()
    assert (found.what, "SHA-256" in found.why) == ("upload 'mine'", True)


def test_a_file_with_a_hole_is_damaged_and_the_rest_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
        job_id = stored(store, 3).job_id
        store.gc()
    content = bytearray(path.read_bytes())
    payload = weights.encode(np.arange(8, dtype=np.float32) * np.float32(2))
    place = content.find(payload)
    assert place > 0
    content[place + 20] ^= 1
    path.write_bytes(content)
    with Store(f"sqlite:///{path}") as store:
        assert [found.what for found in store.verify()] == [f"the weights of point 2 of job {job_id}"]


def test_a_broken_file_is_damage_not_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database" * 1000)
    with Store(f"sqlite:///{path}") as store:
        for ask in (store.ping, store.check_schema, store.migrate, store.jobs):
            with pytest.raises(Corrupt, match=r"the database itself is damaged.*restore a backup"):
                ask()


@pytest.mark.slow
def test_pages_that_were_overwritten_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
        for _ in range(4):
            stored(store, 20)
        store.gc()
    content = bytearray(path.read_bytes())
    content[4096 * 20 :] = b"\xff" * (len(content) - 4096 * 20)
    path.write_bytes(content)
    with Store(f"sqlite:///{path}") as store, pytest.raises(Corrupt, match="the database itself is damaged"):
        store.verify()
