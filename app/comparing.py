"""Fronts of several jobs on one scale: what may be compared, which jobs are seeds of one, and the document of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, final

from app.documents import Document, check_objectives, job_document, plain, point_documents
from app.lineages import NO_PART, Lineage, labels
from app.wording import label, part
from engine.comparison import Attainment, Comparison, Merit, attainment, attainment_difference, compare, sparse_bytes
from engine.errors import InvalidSpec
from engine.front import Array, Front, ParetoPoint, is_maximised
from storage.records import Job

COMPARED = ("l1", "loss")
ACCURACIES = ("test_accuracy", "validation_accuracy", "train_accuracy")
SIZES = ("n_nonzero", "multiply_adds", "bytes")
FEWEST_SEEDS = 3
Count = Callable[[ParetoPoint], float]


@final
@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seeds only.

    Parameters
    ----------
    label : str
        What sets them apart from the other groups.
    jobs : tuple of Job
    fronts : tuple of Front
        Of these jobs.
    """

    label: str
    jobs: tuple[Job, ...]
    fronts: tuple[Front, ...]

    @property
    def runs(self) -> tuple[Front, ...]:
        """Fronts that have points."""
        return tuple(front for front in self.fronts if len(front))


@final
@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle that one group of seeds attains more often than another.

    Parameters
    ----------
    best, worst : (float, float)
        Its corners in the objectives' own units; the worst one is infinite where it has no end.
    share : float
        Share of the first group's runs that attain it, minus that of the second's; never 0.
    """

    best: tuple[float, float]
    worst: tuple[float, float]
    share: float


@final
@dataclass(frozen=True)
class Compared:
    """Jobs whose fronts are on one scale.

    Parameters
    ----------
    lineages : tuple of Lineage
        The jobs with what they build on.
    fronts : tuple of Front
        Their non-dominated points, with sizes among the metrics where they were asked for.
    objectives : tuple of str
    groups : tuple of Group
    """

    lineages: tuple[Lineage, ...]
    fronts: tuple[Front, ...]
    objectives: tuple[str, str]
    groups: tuple[Group, ...]

    @cached_property
    def figures(self) -> Comparison:
        """Figures of merit, by the order of the jobs."""
        return compare(self.fronts, self.objectives)

    def surfaces(self, group: Group) -> Attainment | None:
        """What the seeds of a group attain, in the objectives' own units; None where there are too few."""
        if len(group.runs) < FEWEST_SEEDS:
            return None
        found = attainment(group.runs, self.objectives)
        return Attainment(*(surface * self.signs for surface in (found.best, found.median, found.worst)))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The numbers of any two groups with seeds enough to tell where one attains more often."""
        enough = [i for i, group in enumerate(self.groups) if len(group.runs) >= FEWEST_SEEDS]
        return tuple(combinations(enough, 2))

    def regions(self, first: int, second: int) -> tuple[Region, ...]:
        """Where the groups of these numbers attain unequally often."""
        rectangles = attainment_difference(self.groups[first].runs, self.groups[second].runs, self.objectives)
        return tuple(_region(row, self.signs) for row in rectangles)

    @property
    def signs(self) -> tuple[float, ...]:
        """-1 for objectives of which more is better."""
        return tuple(-1.0 if is_maximised(name) else 1.0 for name in self.objectives)


def compared(lineages: Sequence[Lineage], fronts: Mapping[int, Front], objectives: Sequence[str]) -> Compared:
    """The non-dominated points of jobs, checked that they can be compared in `objectives`.

    Raises
    ------
    InvalidSpec
        If the jobs have different data, or the objectives are no two numbers that mean the same in all jobs.
    """
    jobs = [found.job for found in lineages]
    _check_alike(jobs, objectives)
    measured = [_with_sizes(job, fronts.get(job.id, Front(())), objectives) for job in jobs]
    for front in measured:
        check_objectives(front, objectives)
    best = tuple(front.non_dominated(objectives) for front in measured)
    return Compared(tuple(lineages), best, (objectives[0], objectives[1]), _groups(lineages, best))


def axes(fronts: Iterable[Front]) -> dict[str, str]:
    """The pairs of objectives that all of `fronts` have, as in a query, with what people call them."""
    filled = [front.points[0].metrics for front in fronts if len(front)]
    accuracy = next((name for name in ACCURACIES if all(name in metrics for metrics in filled)), None)
    pairs = [COMPARED, ("n_nonzero", "loss"), *((size, accuracy) for size in SIZES if accuracy)]
    return {",".join(pair): f"{label(pair[1])} over {label(pair[0])}" for pair in pairs}


def compare_document(found: Compared) -> Document:
    """Figures of merit, points and cost of every front, every front against every other, and groups of seeds."""
    figures = found.figures
    document = {
        "objectives": found.objectives,
        "ideal": _in_units(figures.ideal, found),
        "reference": _in_units(figures.reference, found),
        "fronts": [_front(found, position) for position in range(len(found.lineages))],
        "coverage": figures.coverage,
        "epsilon": figures.epsilon,
        "groups": [_group(found, group) for group in found.groups],
        "differences": [_difference(found, *pair) for pair in found.pairs],
    }
    return dict(plain(document))


def _front(found: Compared, position: int) -> Document:
    lineage, merit = found.lineages[position], found.figures.merits[position]
    return {
        "job": job_document(lineage.job),
        "group": next(i for i, group in enumerate(found.groups) if lineage.job in group.jobs),
        "points": point_documents(found.fronts[position].points),
        **_merit(merit),
        "cost": {
            "effort": lineage.effort,
            "seconds": lineage.seconds,
            "jobs": [job.id for job in lineage.jobs],
        },
    }


def _merit(merit: Merit) -> Document:
    names = ("hypervolume", "share", "leading", "epsilon", "igd_plus")
    return {name: getattr(merit, name) for name in names}


def _group(found: Compared, group: Group) -> Document:
    surfaces = found.surfaces(group)
    levels = ("best", "median", "worst")
    attained = surfaces and {level: getattr(surfaces, level).tolist() for level in levels}
    return {"label": group.label, "jobs": [job.id for job in group.jobs], "attainment": attained}


def _difference(found: Compared, first: int, second: int) -> Document:
    regions = [{"from": r.best, "to": r.worst, "share": r.share} for r in found.regions(first, second)]
    return {"groups": [first, second], "regions": regions}


def _region(row: Array, signs: Sequence[float]) -> Region:
    best, worst = (tuple((row[start : start + 2] * signs).tolist()) for start in (0, 2))
    return Region(best, worst, float(row[4]))


def _in_units(values: Sequence[float], found: Compared) -> list[float] | None:
    return [sign * value for sign, value in zip(found.signs, values, strict=True)] if values else None


def _with_sizes(job: Job, front: Front, objectives: Sequence[str]) -> Front:
    """The front with the sizes that `objectives` name among its points' metrics."""
    counts = {name: counter(job) for name, counter in COUNTERS.items() if name in objectives and len(front)}
    return Front(tuple(_measured(point, counts) for point in front)) if counts else front


def _measured(point: ParetoPoint, counts: Mapping[str, Count]) -> ParetoPoint:
    return replace(point, metrics={**point.metrics, **{name: count(point) for name, count in counts.items()}})


def _bytes(job: Job) -> Count:  # noqa: ARG001 - all jobs store weights alike
    return sparse_bytes


def _multiply_adds(job: Job) -> Count:
    from engine.multiply_adds import multiply_adds
    from engine.spec import JobSpec, weight_uses

    uses = weight_uses(JobSpec.from_dict(job.spec), job.facts)
    return lambda point: multiply_adds(point, uses)


COUNTERS: Mapping[str, Callable[[Job], Count]] = {"bytes": _bytes, "multiply_adds": _multiply_adds}


def _check_alike(jobs: Sequence[Job], objectives: Sequence[str]) -> None:
    """Refuse jobs whose numbers do not mean the same, saying which jobs have what."""
    _check("fronts on different data", jobs, _digest, _named(jobs))
    if any(name.endswith("loss") for name in objectives):
        _check("values of different losses", jobs, _loss, lambda job: str(_loss(job)))
    if "penalty" in objectives:
        _check("values of different penalties", jobs, _penalty, lambda job: part(_penalty(job)))


def _check(what: str, jobs: Sequence[Job], key: Callable[[Job], Any], said: Callable[[Job], str]) -> None:
    alike: list[list[Job]] = []
    for job in jobs:
        fitting = next((found for found in alike if key(found[0]) == key(job)), None)
        alike.append([job]) if fitting is None else fitting.append(job)
    if len(alike) > 1:
        parties = "; ".join(f"{_numbered(party)} {said(party[0])}" for party in alike)
        raise InvalidSpec(f"{what} cannot be compared: {parties}")


def _numbered(jobs: Sequence[Job]) -> str:
    ids = [str(job.id) for job in jobs]
    return f"job {ids[0]} has" if len(ids) == 1 else f"jobs {', '.join(ids[:-1])} and {ids[-1]} have"


def _digest(job: Job) -> Any:
    return job.facts.get("data_digest")


def _named(jobs: Sequence[Job]) -> Callable[[Job], str]:
    """How to name the data of a job, with its digest where the name alone does not tell them apart."""
    names = {part(job.spec["data"]) for job in jobs}
    told_apart = len(names) == len({_digest(job) for job in jobs})
    return lambda job: part(job.spec["data"]) + ("" if told_apart else f" (digest {str(_digest(job))[:8]})")


def _loss(job: Job) -> Any:
    return job.facts.get("loss")


def _penalty(job: Job) -> Any:
    return job.spec.get("penalty", NO_PART)


def _groups(lineages: Sequence[Lineage], fronts: Sequence[Front]) -> tuple[Group, ...]:
    members: dict[str, list[int]] = {}
    for position, found in enumerate(lineages):
        members.setdefault(found.recipe, []).append(position)
    texts = labels([lineages[positions[0]] for positions in members.values()])
    return tuple(
        Group(text, tuple(lineages[i].job for i in positions), tuple(fronts[i] for i in positions))
        for text, positions in zip(texts, members.values(), strict=True)
    )
