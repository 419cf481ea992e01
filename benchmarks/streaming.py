"""``python -m benchmarks.streaming``: many jobs' events to as many clients at once, from one service.

Points are written by this process, a round of all jobs after the other; every client follows one job. Each has to be
shown all events of its job, once and in order.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np

from benchmarks import record
from benchmarks.installation import PATIENCE_SECONDS, Installation
from benchmarks.soak import doubled
from benchmarks.storage import DATABASES, claimed, points
from benchmarks.timing import cpu_seconds
from benchmarks.watching import Watcher
from engine.front import Waypoint
from storage.records import Lease
from storage.store import Store


@final
@dataclass(frozen=True)
class Streamed:
    """What the clients were shown, and what that took of the service.

    Parameters
    ----------
    missed, doubled : int
        Events that a client was not shown; that were shown twice or out of order.
    before, most : int
        Bytes of memory of the service: before the clients came, and at most.
    cpu_seconds, seconds : float
        CPU seconds of the service, and seconds on the clock, from the first point to the last client's end.
    """

    database: str
    jobs: int
    clients: int
    events: int
    missed: int
    doubled: int
    before: int
    most: int
    cpu_seconds: float
    seconds: float


def stream(name: str, n_jobs: int, n_points: int) -> Streamed:
    """Write, watch and count."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(DATABASES[name]()) as database,
        Installation(database, Path(folder), PARETOPATH_EXECUTOR="none") as installation,
        Store(database.url) as store,
    ):
        pid, leases = installation.server.pid, [claimed(store) for _ in range(n_jobs)]
        before, cpu, begun = resident(pid, "VmRSS"), cpu_seconds(pid), time.monotonic()
        watchers = [Watcher(installation.url, lease.job_id) for lease in leases]
        write(store, leases, n_points)
        wait(watchers)
        spent = cpu_seconds(pid) - cpu, time.monotonic() - begun
        there = [events_of(store, lease.job_id) for lease in leases]
        memory = before, resident(pid, "VmHWM")
    counts = sum(map(len, there)), missed(there, watchers), sum(doubled(w.events()) for w in watchers)
    return Streamed(name, n_jobs, len(watchers), *counts, *memory, *spent)


def wait(watchers: Sequence[Watcher]) -> None:
    """Until all have been shown the end of their job.

    Raises
    ------
    TimeoutError
        If that takes too long.
    """
    late = [watcher.job_id for watcher in watchers if not watcher.wait(PATIENCE_SECONDS)]
    if late:
        raise TimeoutError(f"{len(late)} clients were not shown the end of their job")


def missed(there: Sequence[Sequence[int]], watchers: Sequence[Watcher]) -> int:
    """How many events were not shown to the client that follows their job."""
    shown = ({event["seq"] for event in watcher.events()} for watcher in watchers)
    return sum(len(set(wanted) - found) for wanted, found in zip(there, shown, strict=True))


def write(store: Store, leases: list[Lease], n_points: int) -> None:
    """Append a point to every job, again and again; then end the jobs."""
    for point in points(n_points):
        for lease in leases:
            store.append(lease, Waypoint(point, np.full(1, lease.job_id, np.float32)))
    for lease in leases:
        store.finish(lease, "completed")


def events_of(store: Store, job_id: int) -> list[int]:
    """The numbers of all events of a job."""
    found: list[int] = []
    while some := store.events(job_id, after=found[-1] if found else 0):
        found.extend(event.seq for event in some)
    return found


def resident(pid: int, which: str) -> int:
    """Bytes of memory of a process: ``VmRSS`` now, ``VmHWM`` at most; Linux only."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[which].split()[0]) * 1024


def main() -> None:
    """Stream from both databases, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=main.__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--points", type=int, default=20, help="of each job")
    given = parser.parse_args()
    found = []
    for name in DATABASES:
        found.append(stream(name, given.jobs, given.points))
        print(_line(found[-1]), flush=True)
    print(record.store("streaming", {"rows": [asdict(s) for s in found]}))


def _line(s: Streamed) -> str:
    counts = f"{s.events} events of {s.jobs} jobs to {s.clients} clients, {s.missed} missed, {s.doubled} doubled"
    memory = f"memory {s.before / 2**20:.0f} MiB before, {s.most / 2**20:.0f} at most"
    return f"{s.database}: {counts}; {memory}; {s.cpu_seconds:.1f} CPU seconds in {s.seconds:.1f}"


if __name__ == "__main__":
    main()
