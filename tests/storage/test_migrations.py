"""The revisions make the tables that the code declares, also when several processes run them at once."""

import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from storage import SchemaMismatch, Store, schema, tables
from storage.database import Database
from tests.storage.examples import submitted


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


def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    program = "import sys; from storage import Store; store = Store(sys.argv[1]); store.migrate(); store.check_schema()"
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", program, empty_url]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
