"""Waiting for a database that is away, locked, full or read-only, with what was computed kept in hand."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar, final

import structlog

from engine.front import Trail, Waypoint
from storage.errors import Unavailable
from storage.records import JobState, Lease
from storage.store import Store
from storage.uploads import Files

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_SECONDS, LONGEST_SECONDS = 0.05, 5.0


@final
class Patience:
    """Asks again, ever less often, while the database does not answer.

    Parameters
    ----------
    seconds : float
        How long to ask again; the last answer counts.
    wait : callable
        Lets so many seconds pass; what it raises ends the waiting, after one last question.
    """

    def __init__(self, seconds: float, wait: Callable[[float], None]) -> None:
        self._seconds, self._wait = seconds, wait

    def __call__(self, ask: Callable[[], T]) -> T:
        """The answer.

        Raises
        ------
        Unavailable
            If there was none for too long.
        """
        for delay in self._delays():
            try:
                return ask()
            except Unavailable as error:
                log.warning("waiting for the database", error=str(error), seconds=delay)
            try:
                self._wait(delay)
            except Exception:
                with suppress(Unavailable):
                    ask()
                raise
        return ask()

    def _delays(self) -> Iterator[float]:
        delay, until = FIRST_SECONDS, time.monotonic() + self._seconds
        while time.monotonic() < until:
            yield min(delay, until - time.monotonic())
            delay = min(2 * delay, LONGEST_SECONDS)


@final
class PatientStore:
    """What a worker asks of a store between claiming and ending a job; everything may be asked twice.

    Parameters
    ----------
    store : Store
    patience : Patience
    """

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store, self._patience = store, patience

    def append(self, lease: Lease, waypoint: Waypoint) -> int:
        """As `Store.append`."""
        return self._patience(lambda: self._store.append(lease, waypoint))

    def finish(self, lease: Lease, state: JobState, reason: str) -> None:
        """As `Store.finish`."""
        self._patience(lambda: self._store.finish(lease, state, reason))

    def log(self, lease: Lease, text: str) -> int:
        """As `Store.log`."""
        return self._patience(lambda: self._store.log(lease, text))

    def trail(self, job_id: int) -> Trail:
        """As `Store.trail`; waypoints are loaded patiently too."""
        front = self._patience(lambda: self._store.front(job_id))
        return Trail(front.points, lambda index: self._patience(lambda: self._store.waypoint(job_id, index)))

    @property
    def upload_bytes(self) -> Mapping[str, bytes]:
        """As `Store.upload_bytes`."""
        files = self._store.upload_bytes
        return Files(lambda: self._patience(lambda: tuple(files)), lambda name: self._patience(lambda: files[name]))
