"""``python -m benchmarks.soak``: kill a real installation at random moments, and see whether anything is lost.

Every job is traced over REST while one kind of process is killed again and again. What a client was shown before a kill
has to be there afterwards, once, and the front has to be that of an undisturbed run to the bit, wall seconds apart.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from typing import Any, final

import numpy as np

from app.client import Remote
from benchmarks import record
from benchmarks.installation import PATIENCE_SECONDS, Database, Installation, PostgreSQL, SQLite
from benchmarks.watching import Event, Watcher
from engine.front import Waypoint
from storage.store import Store

JOB = {
    "network": "mlp:4",
    "data": "iris",
    "points": 80,
    "method": "continuation:end=0.9,sweeps=2,epochs=8,anchor_epochs=15",
}
KILLS_PER_JOB = 13
LONGEST_DELAY, LONGEST_EARLY = 0.6, 4.0
EARLY = 0.25

KILL: dict[str, Callable[[Installation], None]] = {
    "worker": Installation.kill_worker,
    "server": Installation.kill_server,
    "both": Installation.kill_both,
    "database": Installation.kill_database,
}
DATABASES: dict[str, tuple[type[Database], ...]] = {
    "worker": (SQLite, PostgreSQL),
    "server": (SQLite, PostgreSQL),
    "both": (SQLite, PostgreSQL),
    "database": (PostgreSQL,),
}


@final
@dataclass(frozen=True)
class Undisturbed:
    """A job, and the waypoints that it has where nobody disturbs it."""

    job: Mapping[str, Any]
    waypoints: Sequence[Waypoint]


@final
@dataclass(frozen=True)
class Verdict:
    """What became of one job.

    Parameters
    ----------
    kind : str
        What was killed.
    database : str
    kills : int
    points : int
        Of the finished front.
    lost : int
        Points and other events shown to the client that are not there afterwards as they were shown.
    doubled : int
        Events shown twice or not in order, and points told of twice.
    missed : int
        Events that are there and were not shown.
    identical : bool
        Whether all waypoints are those of the undisturbed run, to the bit.
    seconds : tuple of float
        From each kill to the next new point.
    """

    kind: str
    database: str
    kills: int
    points: int
    lost: int
    doubled: int
    missed: int
    identical: bool
    seconds: tuple[float, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, missed or other."""
        return self.identical and not (self.lost or self.doubled or self.missed)


@final
class Tormentor:
    """Kills processes while a job runs.

    Parameters
    ----------
    kinds : iterator of str
        What to kill, each time.
    random : numpy.random.Generator
        Draws the moments.
    """

    def __init__(self, kinds: Iterator[str], random: np.random.Generator) -> None:
        self._kinds, self._random = kinds, random
        self._early = False
        self.kills = 0
        self.seconds: list[float] = []

    def torment(self, installation: Installation, watcher: Watcher, kills: int) -> None:
        """Kill so many times, or until the job has ended."""
        self._await(watcher, 0)
        for _ in range(kills):
            time.sleep(self._delay())
            if watcher.over:
                return
            self._kill(installation, watcher)

    def _kill(self, installation: Installation, watcher: Watcher) -> None:
        KILL[next(self._kinds)](installation)
        begun, seen = time.monotonic(), n_stored(installation, watcher)
        self.kills += 1
        self._early = not self._early and self._random.random() < EARLY
        if not self._early:
            self._await(watcher, seen)
            self.seconds.append(time.monotonic() - begun)

    def _delay(self) -> float:
        """Somewhere in a few points; early: somewhere in the start of what was killed last, never twice in a row."""
        return float(self._random.uniform(0, LONGEST_EARLY if self._early else LONGEST_DELAY))

    def _await(self, watcher: Watcher, seen: int) -> None:
        if not watcher.wait_for_more(seen, PATIENCE_SECONDS):
            raise TimeoutError(f"no new point within {PATIENCE_SECONDS:g} s after {self.kills} kills")


def n_stored(installation: Installation, watcher: Watcher) -> int:
    """Points in the database by now."""
    with Store(installation.database.url) as store:
        return store.job(watcher.job_id).n_points


def undisturbed(job: Mapping[str, Any], folder: Path) -> Undisturbed:
    """What a job finds where nobody disturbs it."""
    with closing(SQLite()) as database, Installation(database, folder) as installation:
        watcher = submitted(installation, job)
        watcher.wait(PATIENCE_SECONDS)
        return Undisturbed(job, waypoints(database.url, watcher.job_id))


def submitted(installation: Installation, job: Mapping[str, Any]) -> Watcher:
    """A watcher of a new job."""
    with closing(Remote(installation.url)) as remote:
        return Watcher(installation.url, remote.submit(job)["id"])


def waypoints(url: str, job_id: int) -> list[Waypoint]:
    """All waypoints of a job, from the database."""
    with Store(url) as store:
        return list(store.trail(job_id))


def tormented(
    kinds: Sequence[str], database: Database, kills: int, seed: Sequence[int], reference: Undisturbed
) -> Verdict:
    """Trace a job, kill so many times meanwhile, the kinds in turn, and judge what is there at its end."""
    with tempfile.TemporaryDirectory() as folder, Installation(database, Path(folder)) as installation:
        watcher = submitted(installation, reference.job)
        tormentor = Tormentor(cycle(kinds), np.random.default_rng(seed))
        tormentor.torment(installation, watcher, kills)
        if not watcher.wait(PATIENCE_SECONDS):
            raise TimeoutError(f"the job did not end within {PATIENCE_SECONDS:g} s after its last kill")
        found = judged(installation, watcher, reference.waypoints)
    what, where = ", ".join(kinds), type(database).__name__
    return replace(found, kind=what, database=where, kills=tormentor.kills, seconds=tuple(tormentor.seconds))


def judged(installation: Installation, watcher: Watcher, reference: Sequence[Waypoint]) -> Verdict:
    """Compare what was shown with what is there, and what is there with the undisturbed run."""
    with closing(Remote(installation.url)) as remote:
        there = list(remote.follow(watcher.job_id))
    found = waypoints(installation.database.url, watcher.job_id)
    shown = watcher.events()
    n_lost = sum(event not in there for event in shown)
    n_missed = sum(event not in shown for event in there)
    identical = len(found) == len(reference) and all(map(same, found, reference))
    return Verdict("", "", 0, len(found), n_lost, doubled(shown) + doubled(there), n_missed, identical, ())


def doubled(events: Sequence[Event]) -> int:
    """How many events come again or out of order, and how many points do not have the next index."""
    seqs: list[int] = [event["seq"] for event in events]
    indices: list[int] = [event["data"]["index"] for event in events if event["kind"] == "point"]
    backwards = sum(later <= before for before, later in pairwise(seqs))
    return backwards + sum(index != place for place, index in enumerate(indices))


def same(a: Waypoint, b: Waypoint) -> bool:
    """Equal to the bit, wall seconds apart."""
    numbers = [replace(waypoint.point, seconds=0.0).to_dict() for waypoint in (a, b)]
    arrays = [{"theta": w.theta, **_named("buffer", w.buffers), **_named("memory", w.memory)} for w in (a, b)]
    if repr(numbers[0]) != repr(numbers[1]) or arrays[0].keys() != arrays[1].keys():
        return False
    pairs = [(arrays[0][name], arrays[1][name]) for name in arrays[0]]
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def _named(what: str, arrays: Any) -> dict[str, Any]:
    return {f"{what} {name}": array for name, array in arrays.items()}


def soak(kinds: Sequence[str], kills: int, seed: int, reference: Undisturbed) -> Iterator[Verdict]:
    """Kill so often in all, the kinds in equal shares; a verdict for each job."""
    for place, kind in enumerate(kinds):
        left = kills // len(kinds) + (place < kills % len(kinds))
        for number, make in enumerate(cycle(DATABASES[kind])):
            if left <= 0:
                break
            with closing(make()) as database:
                draw = [seed, list(KILL).index(kind), number]
                verdict = tormented([kind], database, min(left, KILLS_PER_JOB), draw, reference)
            left -= verdict.kills
            yield verdict


def main() -> None:
    """Kill, judge, print a line for each job and a table of the kinds, and store them."""
    given = _arguments()
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        reference = undisturbed(JOB, Path(folder))
    print(f"undisturbed: {len(reference.waypoints)} points", flush=True)
    for verdict in soak(given.kind or list(KILL), given.kills, given.seed, reference):
        print(_line(verdict), flush=True)
        verdicts.append(verdict)
    print(table(verdicts))
    content = {"seed": given.seed, "job": JOB, "verdicts": [asdict(verdict) for verdict in verdicts]}
    print(record.store("soak", content))
    raise SystemExit(0 if all(verdict.good for verdict in verdicts) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=KILL, help="may be repeated; all by default")
    return parser.parse_args()


def _line(v: Verdict) -> str:
    seconds = ", ".join(f"{s:.1f}" for s in v.seconds)
    counts = f"{v.kills} kills, {v.points} points, {v.lost} lost, {v.doubled} doubled, {v.missed} missed"
    return f"{v.kind} ({v.database}): {counts}, {'identical' if v.identical else 'DIFFERENT'}; took over in {seconds} s"


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown, a row per kind."""
    lines = [
        "| killed | kills | jobs | points | lost | doubled | missed | identical | seconds to take over, median, most |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in KILL:
        some = [verdict for verdict in verdicts if verdict.kind == kind]
        if some:
            lines.append(_row(kind, some))
    return "\n".join(lines)


def _row(kind: str, some: Sequence[Verdict]) -> str:
    sums = [sum(getattr(v, name) for v in some) for name in ("kills", "points", "lost", "doubled", "missed")]
    seconds = [s for v in some for s in v.seconds] or [float("nan")]
    identical = f"{sum(v.identical for v in some)} of {len(some)}"
    cells = [kind, sums[0], len(some), *sums[1:], identical, f"{median(seconds):.1f}, {max(seconds):.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
