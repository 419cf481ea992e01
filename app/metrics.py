"""Numbers for Prometheus: requests by route, and what stands in the store."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage.records import JobState
from storage.store import Store

LIMIT = 1000


class StoreCollector(Collector):
    """Jobs by state and the number of the newest event, read when asked.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: keeps the registry from asking the store before its tables exist."""
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        jobs = GaugeMetricFamily("paretopath_jobs", f"Jobs by state, up to {LIMIT} of each", labels=["state"])
        for state in JobState:
            jobs.add_metric([str(state)], len(self._store.jobs(state=state, limit=LIMIT)))
        yield jobs
        running = self._store.jobs(state=JobState.RUNNING, limit=LIMIT)
        stale = sum(job.stale for job in running)
        yield GaugeMetricFamily("paretopath_jobs_stale", "Running jobs whose worker is silent", value=stale)
        yield GaugeMetricFamily("paretopath_last_event", "Number of the newest event", value=self._store.last_seq())


class Measured:
    """Counts and times requests by route, method and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        labels = ["method", "route", "status"]
        self._requests = Counter("paretopath_http_requests", "Requests answered", labels, registry=registry)
        self._seconds = Histogram(
            "paretopath_http_seconds", "Time to the response's head", labels[:2], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.monotonic() - started)
            await send(message)

        await self._app(scope, receive, measured)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._requests.labels(scope["method"], route, str(status)).inc()
        self._seconds.labels(scope["method"], route).observe(seconds)
