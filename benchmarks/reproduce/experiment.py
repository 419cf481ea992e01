"""What an experiment is: a paper, what it claims, and studies on real data whose rows make a table."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from benchmarks.merit import chosen
from benchmarks.problems import own
from engine.front import Front, ParetoPoint, Trail, Waypoint
from engine.spec import Experiment as Built
from engine.spec import JobSpec, build, shorthand
from engine.tracers import Budget

Row = Mapping[str, str | float]
Uploads = Mapping[str, bytes]

QUICK_SAMPLES, QUICK_POINTS, QUICK_PASSES = 40, 2, 2.0


@final
@dataclass(frozen=True)
class Job:
    """A job in shorthand.

    Parameters
    ----------
    network, data, method, penalty : str
    points : int
    """

    network: str
    data: str
    method: str
    points: int
    penalty: str = "l1"


@final
@dataclass(frozen=True)
class Found:
    """What a job has found, and the CPU seconds of this process that it took."""

    waypoints: tuple[Waypoint, ...]
    seconds: float

    @property
    def points(self) -> tuple[ParetoPoint, ...]:
        return tuple(waypoint.point for waypoint in self.waypoints)

    @property
    def passes(self) -> float:
        """Over the training data, all in all."""
        return self.points[-1].effort

    def at(self, sparsity: float) -> Waypoint | None:
        """The network of best validation accuracy with at least so many zeros; None if there is none."""
        best = chosen(Front(self.points), sparsity)
        return None if best is None else next(w for w in self.waypoints if w.point is best)


@final
@dataclass(frozen=True)
class Setting:
    """Where data are, which seed is drawn, and whether to go through everything once only.

    Parameters
    ----------
    folder : Path
        Where data files are looked for.
    seed : int
    quick : bool
        Few samples, points and passes: the figures mean nothing.
    """

    folder: Path
    seed: int = 0
    quick: bool = False

    def traced(self, job: Job, source: Trail | None = None, uploads: Uploads | None = None) -> Found:
        """Run a job to its end.

        Parameters
        ----------
        source : Trail, optional
            The networks of job 1, for methods that go on from there.
        uploads : mapping of str to bytes, optional
            Data by name.
        """
        experiment = self.built(job, source, uploads)
        begun = time.process_time()
        waypoints = tuple(experiment.tracer.trace(experiment.problem))
        return Found(waypoints, time.process_time() - begun)

    def built(self, job: Job, source: Trail | None = None, uploads: Uploads | None = None) -> Built:
        """A job's problem, tracer and data."""
        trails = (lambda _: source) if source is not None else None
        return build(self.spec(job), uploads or {}, trails)

    def spec(self, job: Job) -> JobSpec:
        """A job in full."""
        asked = replace(own(job.network, job.data), method=job.method)
        spec = replace(asked.spec(self.folder, job.points, self.seed, "cpu"), penalty=shorthand(job.penalty))
        return self._shorter(spec) if self.quick else spec

    def _shorter(self, spec: JobSpec) -> JobSpec:
        data = replace(spec.data, params={**spec.data.params, "limit": QUICK_SAMPLES})
        return replace(spec, data=data, points=min(spec.points, QUICK_POINTS), budget=Budget(epochs=QUICK_PASSES))


@final
@dataclass(frozen=True)
class Study:
    """One table.

    Parameters
    ----------
    title : str
        What was trained on what, by which settings.
    rows : callable
        From a setting to the rows, as they are found.
    file : str
        The data file it needs; empty if none.
    """

    title: str
    rows: Callable[[Setting], Iterator[Row]]
    file: str = ""

    def missing(self, folder: Path) -> str:
        """The file that is not there; empty if none is missing."""
        file = folder / self.file
        return str(file) if self.file and not file.exists() else ""


@final
@dataclass(frozen=True)
class Experiment:
    """What is repeated of one paper.

    Parameters
    ----------
    paper : str
        Authors, title, venue, year.
    claim : str
        What it says, as far as it is looked at here.
    studies : tuple of Study
    seeds : int
        How many to run it with unless asked otherwise; more than one needs rows whose first entries name them.
    """

    paper: str
    claim: str
    studies: tuple[Study, ...] = field(default_factory=tuple)
    seeds: int = 1


def per_cent(waypoint: Waypoint | None, metric: str = "test_accuracy") -> str | float:
    """A metric in per cent, to a tenth; "none" where there is no network."""
    return "none" if waypoint is None else round(100 * waypoint.point.metrics[metric], 1)


def trail(waypoints: tuple[Waypoint, ...]) -> Trail:
    """Networks as another job's."""
    return Trail(tuple(waypoint.point for waypoint in waypoints), lambda index: waypoints[index])
