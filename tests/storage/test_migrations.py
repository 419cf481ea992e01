"""The revisions make the tables that the code declares, also when several processes run them at once."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from storage import JobState, SchemaMismatch, Store, schema, tables
from storage.database import Database
from tests.storage.examples import a_waypoint, submitted

# A job with one point and an upload, as the first version wrote them.
THETA = "cd03c5c11b7222bed277aaafac955bf5608f5386cbe03a953641a6efbdcf85c4"
BUFFERS = "e2bb6b0da3dc29a05c388b37338414e8b7d732827aecea480fabaccdffaddf7f"
MEMORY = "1d42fb06ca6cb48e5d202b64c1dc28eeb333e88842499fc604eb740a8c0c42b2"
UPLOAD = "17f8af97ad4a7f7639a4c9171d5185cbafb85462877a4746c21bdb0a4f940ca0"
PAYLOADS = {
    THETA: "28b52ffd202739010050545731120000005b5b22222c20223c6634222c205b385d5d5d510000c03f000010c000004040",
    BUFFERS: "28b52ffd202319010050545731160000005b5b226d65616e222c20223c6634222c205b325d5d5d800000003f",
    MEMORY: "28b52ffd202631010050545731150000005b5b2273746570222c20223c6938222c205b5d5d5d800700000000000000",
}
FIRST_ROWS = (
    "INSERT INTO jobs (state, wanted, spec, facts, name, reason, created_at, started_at, ended_at, fence, attempts,"
    " n_points, effort, seconds, idempotency_key) VALUES ('failed', 'run', '{\"seed\": 7}', '{\"n_params\": 8}',"
    " 'first', 'the network broke', 1.5, 2.5, 3.5, 4, 0, 1, 12.5, 0.25, 'monday')",
    "INSERT INTO tags (job_id, place, tag) VALUES (1, 0, 'old')",
    'INSERT INTO points (job_id, "index", parent, sweep, loss, penalty, lam, residual, n_nonzero, n_params, effort,'
    " seconds, metrics, layers, odd) VALUES (1, 0, NULL, 0, 0.75, 6.75, NULL, NULL, 3, 8, 12.5, 0.25,"
    " '{\"l1\": 6.75}', '[[\"0.weight\", [4, 2], 3, 2, 4]]', '{\"residual\": NaN}')",
    *(
        f"INSERT INTO blobs (digest, size, payload) VALUES ('{d}', {len(p) // 2}, {{{i}}})"
        for i, (d, p) in enumerate(PAYLOADS.items())
    ),
    'INSERT INTO weights (job_id, "index", theta, buffers, memory) '
    f"VALUES (1, 0, '{THETA}', '{BUFFERS}', '{MEMORY}')",
    "INSERT INTO events (seq, job_id, kind, \"index\", data, at) VALUES (1, 1, 'point', 0, '{}', 3.0)",
    "UPDATE counter SET seq = 1",
    f"INSERT INTO uploads (name, digest, size, shapes, created_at, payload) VALUES ('mine', '{UPLOAD}', 3,"
    " '{\"X_train\": [1, 1]}', 1.0, {3})",
)


@pytest.fixture
def first_url(empty_url: str) -> str:
    """A database that the first version made and filled."""
    database = Database(empty_url)
    hexadecimal = "X'{0}'" if empty_url.startswith("sqlite") else "decode('{0}', 'hex')"
    literals = [hexadecimal.format(payload) for payload in (*PAYLOADS.values(), b"1,2".hex())]
    with database.rebuild() as connection:
        command.upgrade(schema.config(connection), "0001")
        for statement in FIRST_ROWS:
            filled = statement
            for place, literal in enumerate(literals):
                filled = filled.replace(f"{{{place}}}", literal)
            connection.exec_driver_sql(filled)
    database.close()
    return empty_url


def test_the_revisions_make_the_declared_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, tables.metadata) == []


def test_migrating_makes_a_database_usable(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()
        store.check_schema()
        assert submitted(store).id == 1


def test_migrating_again_keeps_the_rows(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()
        job = submitted(store)
        store.migrate()
        assert store.job(job.id) == job


def test_going_down_and_up_again(empty_url: str) -> None:
    database = Database(empty_url)
    with database.rebuild() as connection:
        schema.migrate(connection)
        command.downgrade(schema.config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        schema.migrate(connection)
        schema.check(connection)
    database.close()


def test_an_empty_database_says_what_to_run(empty_url: str) -> None:
    with Database(empty_url).rebuild():
        pass
    with Store(empty_url) as store:
        with pytest.raises(SchemaMismatch, match=r"is empty.*run `paretopath migrate`"):
            store.check_schema()
        with pytest.raises(SchemaMismatch, match="run `paretopath migrate`"):
            store.jobs()


def test_a_newer_database_is_left_alone(empty_url: str) -> None:
    with Store(empty_url) as store:
        store.migrate()
        database = Database(empty_url)
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(SchemaMismatch, match=r"9999.*upgrade paretopath"):
            store.check_schema()
        with pytest.raises(SchemaMismatch, match="upgrade paretopath"):
            store.migrate()


@pytest.mark.slow
def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    program = "import sys; from storage import Store; store = Store(sys.argv[1]); store.migrate(); store.check_schema()"
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", program, empty_url]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]


def test_what_the_first_version_stored_is_still_there(first_url: str) -> None:
    with Store(first_url) as store:
        store.migrate()
        store.check_schema()
        job = store.job(1)
        assert (job.state, job.name, job.reason, job.tags) == (JobState.FAILED, "first", "the network broke", ("old",))
        assert (job.spec, job.facts, job.n_points, job.n_thinned) == ({"seed": 7}, {"n_params": 8}, 1, 0)
        found = store.waypoint(1, 0)
        assert found.theta.tolist() == [0, 1.5, 0, -2.25, 0, 0, 0, 3.0]
        assert (found.buffers["mean"].tolist(), int(found.memory["step"])) == ([0.5, 0.0], 7)
        assert (found.point.loss, found.point.lam, np.isnan(found.point.residual)) == (0.75, None, True)
        assert (found.point.layers[0].name, found.point.metrics) == ("0.weight", {"l1": 6.75})
        assert store.events(1)[0].data["penalty"] == 6.75
        assert dict(store.upload_bytes) == {"mine": b"1,2"}
        assert store.verify() == ()


def test_a_job_of_the_first_version_goes_on(first_url: str) -> None:
    with Store(first_url) as store:
        store.migrate()
        assert store.submit({"seed": 7}, {}, idempotency_key="monday").id == 1
        store.request(1, "resume")
        lease = store.claim("w", 60.0)
        assert lease is not None
        assert lease.fence == 5
        assert store.append(lease, a_waypoint(1)) == 4
        store.finish(lease, "completed")
        assert submitted(store).id > 1
        store.thin(1, lambda front: front)
        store.delete(1)
        assert store.gc().n_blobs == 0


def test_an_older_database_says_what_to_run(first_url: str) -> None:
    with Store(first_url) as store, pytest.raises(SchemaMismatch, match=r"at revision 0001.*run `paretopath migrate`"):
        store.check_schema()


def test_an_older_database_that_is_used_says_what_to_run(first_url: str) -> None:
    with Store(first_url) as store:
        for use in (store.jobs, store.waiting, lambda: submitted(store)):
            with pytest.raises(SchemaMismatch, match="run `paretopath migrate`"):
                use()


def test_an_upgrade_that_fails_leaves_everything_as_it_was(first_url: str) -> None:
    database = Database(first_url)

    def fail() -> None:
        with database.rebuild() as connection:
            schema.migrate(connection)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with database.read() as connection:
        assert schema.revision(connection) == "0001"
    database.close()
    with Store(first_url) as store:
        store.migrate()
        assert store.job(1).n_points == 1


def test_a_backup_of_an_older_version_is_upgraded(tmp_path: Path) -> None:
    old = Database(f"sqlite:///{tmp_path}/old.db")
    with old.rebuild() as connection:
        command.upgrade(schema.config(connection), "0001")
    old.close()
    with Store(f"sqlite:///{tmp_path}/old.db") as store:
        store.back_up(tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    connection.close()
    with Store(f"sqlite:///{tmp_path}/new.db") as store:
        store.restore(tmp_path / "copy.db")
        store.check_schema()
        assert submitted(store).id == 1
