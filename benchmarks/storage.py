"""``python -m benchmarks.storage``: what a stored point takes, in bytes beside the entropy bound and in time.

Weights are those of a network after one corrector phase, the largest kept. Sizes and speeds are of the codec; a commit
is a whole `Store.append`; a listing is a whole front read back, by the store and over REST.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar, final

import httpx2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.installation import Database, Installation, PostgreSQL, SQLite
from benchmarks.measuring import Cost, measured
from benchmarks.refusal import in_a_line
from benchmarks.rivals import Network
from benchmarks.timing import cpu_seconds, timed
from engine.correctors import AdaptiveProximal
from engine.data.download import data_folder
from engine.front import Layer, ParetoPoint, Waypoint
from engine.problem import Problem, State
from engine.spec import JobSpec, build, shorthand
from storage import tables, weights
from storage.database import Database as Door
from storage.points import pack
from storage.records import Lease
from storage.store import Store

Weights = NDArray[np.float32]
Row = TypeVar("Row", "Size", "Commit", "Listing")

SPARSITIES = (0.5, 0.9, 0.99)
STRENGTH, STEPS = 1e-4, 160
ROUNDS, COMMITS, LISTINGS, POINTS = 15, 10, 15, 10_000
DATABASES: Mapping[str, type[Database]] = {"sqlite": SQLite, "postgresql": PostgreSQL}
WAYS = {"REST": "", "REST, with layers": "layers=true", "REST, as columns": "orient=columns"}
METRICS = ("l1", "train_accuracy", "validation_accuracy", "test_accuracy")


@final
@dataclass(frozen=True)
class Size:
    """The codec on weights of one sparsity; MB are those of the dense weights, per CPU second."""

    sparsity: float
    bytes: int
    bound: float
    encoded: float
    decoded: float

    @property
    def both(self) -> float:
        """MB per CPU second, encoded and decoded again."""
        return 1 / (1 / self.encoded + 1 / self.decoded)


@final
@dataclass(frozen=True)
class Commit:
    """`Store.append` as a share of a corrector phase, medians; CPU seconds are those of the worker."""

    database: str
    sparsity: float
    seconds: float
    cpu_seconds: float
    share: float
    cpu_share: float


@final
@dataclass(frozen=True)
class Listing:
    """One way to read a front of many points, seconds on the clock and CPU seconds of who answers, medians."""

    database: str
    way: str
    seconds: float
    cpu_seconds: float


def bound(theta: Weights) -> float:
    """Bytes of the nonzero weights and of the entropy of their places.

    References
    ----------
    Shannon, "A mathematical theory of communication", Bell System Technical Journal 27, 1948, section 6.
    """
    share = np.count_nonzero(theta) / theta.size
    entropy = -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
    return float(theta.itemsize * np.count_nonzero(theta) + theta.size * entropy / 8)


def largest(theta: Weights, sparsity: float) -> Weights:
    """The weights with all but the largest set to zero."""
    kept = theta.copy()
    kept[np.argsort(np.abs(theta), kind="stable")[: round(sparsity * theta.size)]] = 0
    return kept


def size(theta: Weights, sparsity: float) -> Size:
    """Encode and decode again and again."""
    kept = largest(theta, sparsity)
    payload = weights.encode(kept)
    megabytes = kept.nbytes / 1e6
    encoded = megabytes / median(timed(weights.encode, kept)[1] for _ in range(ROUNDS))
    decoded = megabytes / median(timed(weights.decode, payload)[1] for _ in range(ROUNDS))
    return Size(sparsity, len(payload), bound(kept), encoded, decoded)


@final
class Phase:
    """A corrector phase on a network, and what it finds as a waypoint to store."""

    def __init__(self, spec: JobSpec) -> None:
        self.problem: Problem = build(spec, {}).problem
        self._start = self.problem.loss.initial()

    def run(self, seed: int) -> State:
        """The phase: so many mini-batch steps."""
        guess = State(self._start, STRENGTH, math.inf, self.problem.loss.buffers)
        return AdaptiveProximal("strength", steps=STEPS).correct(self.problem, guess, seed).state

    def waypoint(self, found: State) -> Waypoint:
        """The network it found."""
        spent = Cost(1.0, 1.0, 1.0)
        point = measured(self.problem, Network(found.theta, found.buffers), 0, spent)
        layers = tuple(Layer(b.name, tuple(b.shape), 0, 0, 0) for b in self.problem.loss.layout)
        buffers = {name: value.numpy() for name, value in found.buffers.items()}
        return Waypoint(replace(point, layers=layers), found.theta.numpy(), buffers, {"step": np.asarray(0.01)})


def commits(phase: Phase, rounds: int) -> Iterator[Commit]:
    """Phases and commits in turn, in this process."""
    found = phase.run(0)
    spent = [_taken(phase.run, seed) for seed in range(1, 1 + rounds)]
    waypoint = phase.waypoint(found)
    for name, make in DATABASES.items():
        with closing(make()) as database, Store(database.url) as store:
            store.migrate()
            for sparsity in SPARSITIES:
                theta = largest(waypoint.theta, sparsity)
                yield _commit(store, name, sparsity, replace(waypoint, theta=theta), spent)


def _commit(store: Store, name: str, sparsity: float, waypoint: Waypoint, spent: list[tuple[float, float]]) -> Commit:
    lease, taken = claimed(store), []
    for index in range(1 + COMMITS):
        theta = waypoint.theta.copy()
        theta[np.flatnonzero(theta)[0]] = 1 + index
        one = replace(waypoint, point=replace(waypoint.point, index=index), theta=theta)
        taken.append(_taken(store.append, lease, one))
    seconds, cpu = (median(values) for values in zip(*taken[1:], strict=True))
    phase_seconds, phase_cpu = (median(values) for values in zip(*spent, strict=True))
    return Commit(name, sparsity, seconds, cpu, seconds / phase_seconds, cpu / phase_cpu)


def claimed(store: Store) -> Lease:
    """A new job, in this process's hands."""
    lease = store.claim("benchmark", 3600.0, store.submit({"points": POINTS}, {}).id)
    if lease is None:
        raise LookupError("the new job could not be claimed")
    return lease


def _taken(work: Callable[..., Any], *given: Any) -> tuple[float, float]:
    """Seconds on the clock and CPU seconds."""
    begun = time.perf_counter()
    _, cpu = timed(work, *given)
    return time.perf_counter() - begun, cpu


def points(n: int) -> Iterator[ParetoPoint]:
    """Points of a network of six layers."""
    layers = tuple(Layer(f"{i}.{kind}", (32, 32), 7 * i, 3, 32) for i in range(3) for kind in ("weight", "bias"))
    for i in range(n):
        metrics = dict.fromkeys(METRICS, 1 / (2 + i))
        yield ParetoPoint(
            *(i, None, 0, 1 / (1 + i), 0.1 * i, 1 / (2 + i), 1e-3 / (1 + i)), i, n, i, i, metrics=metrics, layers=layers
        )


def listings(n_points: int) -> Iterator[Listing]:
    """Read a long front on both databases, in every way."""
    for name, make in DATABASES.items():
        with closing(make()) as database, Store(database.url) as store:
            store.migrate()
            job_id = claimed(store).job_id
            _fill(database.url, job_id, n_points)
            for way, layers in (("the store, without layers", False), ("the store", True)):
                yield _listing(name, way, os.getpid(), partial(store.front, job_id, layers))
            yield from _served(database, name, job_id)


def _served(database: Database, name: str, job_id: int) -> Iterator[Listing]:
    """Read the front over HTTP from a service of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(database, Path(folder), PARETOPATH_EXECUTOR="none") as service,
        httpx2.Client(base_url=service.url, timeout=60.0) as client,
    ):
        for way, query in WAYS.items():
            read = partial(client.get, f"/api/v1/jobs/{job_id}/front?{query}")
            yield _listing(name, way, service.server.pid, read)


def _listing(database: str, way: str, pid: int, read: Callable[[], Any]) -> Listing:
    """Read again and again; the CPU time is that of a process."""
    taken = []
    for _ in range(1 + LISTINGS):
        begun, cpu = time.perf_counter(), cpu_seconds(pid)
        read()
        taken.append((time.perf_counter() - begun, cpu_seconds(pid) - cpu))
    return Listing(database, way, *(median(values) for values in zip(*taken[1:], strict=True)))


def _fill(url: str, job_id: int, n_points: int) -> None:
    """Write points without weights, all at once."""
    packed = (pack(Waypoint(point, np.zeros(1, np.float32))) for point in points(n_points))
    rows = [{"job_id": job_id, **numbers} for numbers, _ in packed]
    with Door(url).write() as connection:
        connection.execute(tables.points.insert(), rows)


@in_a_line
def main() -> None:
    """Measure sizes and speeds, commits and listings; print and store them."""
    given = _arguments()
    torch.set_num_threads(1)
    data = shorthand(given.data.format(folder=given.data_folder))
    phase = Phase(JobSpec(shorthand(given.network), data, device="cpu"))
    theta = phase.run(0).theta.numpy()
    print(f"{given.network}, {theta.size} weights")
    sizes = _told((size(theta, sparsity) for sparsity in SPARSITIES), _size_line)
    taken = _told(commits(phase, given.rounds), _commit_line)
    listed = _told(listings(given.points), _listing_line)
    print(record.store("storage", {"sizes": sizes, "commits": taken, "points": given.points, "listings": listed}))


def _told(rows: Iterable[Row], line: Callable[[Row], str]) -> list[dict[str, Any]]:
    """Print a line for each row as it comes; the rows as plain values."""
    found = []
    for row in rows:
        print(line(row), flush=True)
        found.append(asdict(row))
    return found


def _size_line(s: Size) -> str:
    speeds = f"{s.encoded:.0f} MB/s encoded, {s.decoded:.0f} decoded, {s.both:.0f} both"
    return f"{s.sparsity:.0%} zeros: {s.bytes} bytes, {s.bytes / s.bound:.3f} of the bound; {speeds}"


def _commit_line(c: Commit) -> str:
    milliseconds = f"{1e3 * c.seconds:.1f} ms ({1e3 * c.cpu_seconds:.1f} of CPU)"
    shares = f"{c.share:.2%} of a corrector phase ({c.cpu_share:.2%} of its CPU)"
    return f"{c.database}, {c.sparsity:.0%} zeros: a commit takes {milliseconds}, {shares}"


def _listing_line(r: Listing) -> str:
    return f"{r.database}, {r.way}: {1e3 * r.seconds:.0f} ms ({1e3 * r.cpu_seconds:.0f} of CPU)"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=main.__doc__)
    parser.add_argument("--network", default="cifar_cnn")
    parser.add_argument("--data", default="{folder}/cifar12k.npz:limit=2000")
    parser.add_argument("--data-folder", type=Path, default=data_folder())
    parser.add_argument("--rounds", type=int, default=2, help="corrector phases")
    parser.add_argument("--points", type=int, default=POINTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
