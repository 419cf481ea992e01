"""A client that follows a job's events through every loss of the connection, and remembers what it was shown."""

import threading
import time
from contextlib import suppress
from typing import Any, final

import httpx2

from app.client import Remote
from app.errors import Refused

Event = dict[str, Any]

AGAIN_SECONDS = 0.05


@final
class Watcher:
    """Follows a job in a thread, from its beginning to its end.

    Parameters
    ----------
    url : str
    job_id : int
    """

    def __init__(self, url: str, job_id: int) -> None:
        self._remote, self.job_id = Remote(url), job_id
        self._events: list[Event] = []
        self._news = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether the service said that there is nothing more to come."""
        return self._over

    def events(self) -> list[Event]:
        """What it was shown up to now, in the order in which it was shown."""
        with self._news:
            return list(self._events)

    def points(self) -> list[Event]:
        """The points among that, as they were shown."""
        return [event["data"] for event in self.events() if event["kind"] == "point"]

    def wait_for_more(self, than: int, seconds: float) -> bool:
        """Wait for more than so many points, or for the job's end; whether one of the two came in time."""
        with self._news:
            return self._news.wait_for(lambda: self._over or self._n_points() > than, seconds)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the job; whether it came in time."""
        self._thread.join(seconds)
        return self._over

    def _n_points(self) -> int:
        return sum(event["kind"] == "point" for event in self._events)

    def _watch(self) -> None:
        while not self._over:
            with suppress(httpx2.TransportError, Refused):
                self._follow()
            time.sleep(AGAIN_SECONDS)
        self._remote.close()

    def _follow(self) -> None:
        seen = self._events[-1]["seq"] if self._events else 0
        for event in self._remote.follow(self.job_id, seen):
            self._note(event)
        with self._news:
            self._over = True
            self._news.notify_all()

    def _note(self, event: Event) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()
