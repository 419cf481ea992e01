"""All rivals on one problem, seed by seed: the same data, network and start weights, each in a fresh problem."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from benchmarks import best_known, merit, refitting
from benchmarks.measuring import Cost, Run, race
from benchmarks.problems import Benchmark
from benchmarks.rivals import OURS, REFERENCE, RIVALS, SMOKE, Rival, Task, dense
from benchmarks.rivals.traced import Traced
from engine.front import Front
from engine.spec import JobSpec, shorthand

SMOKE_POINTS, SMOKE_PASSES = 4, 3


@final
@dataclass(frozen=True)
class Settings:
    """How rivals are compared.

    Parameters
    ----------
    rivals : sequence of str
        Names; the product's is always first where it is among them.
    ours : mapping of str to str
        More variants of the product: method in shorthand by name.
    points, seeds, first : int
        Points that each front is to have; runs of each rival; the seed of the first.
    device : str
    folder : Path
        Where data files are looked for.
    limit : float, optional
        CPU seconds of one rival's run.
    refit : str
        The product's refit in shorthand.
    quick : bool
        Only go through everything once: the figures mean nothing.
    """

    rivals: Sequence[str]
    ours: Mapping[str, str] = field(default_factory=dict)
    points: int = 40
    seeds: int = 3
    first: int = 0
    device: str = "cpu"
    folder: Path = Path("data")
    limit: float | None = None
    refit: str = refitting.METHOD
    quick: bool = False

    def entries(self, method: str) -> dict[str, tuple[Rival, str]]:
        """Rivals and the method of the task they are given, by name."""
        known = SMOKE if self.quick else RIVALS
        ours: dict[str, tuple[Rival, str]] = {name: (Traced(), text) for name, text in self.ours.items()}
        first: dict[str, tuple[Rival, str]] = {OURS: (Traced(), method)} if OURS in self.rivals else {}
        return first | ours | {name: (known[name], method) for name in self.rivals if name != OURS}


@final
@dataclass(frozen=True)
class Entry:
    """One rival's run on one seed, and its refit where it has one."""

    seed: int
    run: Run
    refit: Run | None

    @property
    def passes(self) -> float:
        """Of the run and its refit."""
        return self.run.cost.passes + (self.refit.cost.passes if self.refit else 0.0)


@final
@dataclass
class Outcome:
    """What is known of one problem when all have run.

    Parameters
    ----------
    units : list of Dense
        The unit of cost, by seed.
    entries : dict
        By rival, then by seed.
    refused : dict
        Why a rival did not run.
    refit : str
        How networks were refitted.
    """

    name: str
    benchmark: Benchmark
    units: list[dense.Dense] = field(default_factory=list)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    refit: str = refitting.METHOD

    @property
    def box(self) -> merit.Box:
        """The declared box; where none is declared, it is taken from what was found."""
        fronts = {name: [e.run.front.non_dominated() for e in entries] for name, entries in self.entries.items()}
        everyone = [p for found in fronts.values() for front in found for p in front]
        ours = [p.penalty for front in fronts.get(OURS, []) for p in front] or [p.penalty for p in everyone]
        worst = self.benchmark.worst_l1 or max(ours, default=1.0)
        loss = self.benchmark.worst_loss or max((p.loss for p in everyone), default=1.0)
        return merit.Box(worst, loss, self.benchmark.least_l1 or worst / 100)

    def figures(self) -> dict[str, list[dict[str, float]]]:
        """Figures of merit of every run, by rival."""
        box, known = self.box, best_known.front(self.name)
        return {
            name: [self._figures(place, entry, box, known) for place, entry in enumerate(entries)]
            for name, entries in self.entries.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        figures = self.figures()
        runs = {name: [_plain(e, figures[name][i]) for i, e in enumerate(es)] for name, es in self.entries.items()}
        about = {name: getattr(self.benchmark, name) for name in ("network", "data", "loss", "method", "setup")}
        measured = [{"metrics": d.metrics, "passes": d.passes, "seconds": d.seconds} for d in self.units]
        return {**about, "box": asdict(self.box), "dense": measured, "refused": self.refused, "runs": runs}

    def _figures(self, place: int, entry: Entry, box: merit.Box, known: Front | None) -> dict[str, float]:
        front, ours, reference = entry.run.front, self._of(OURS, place), self._of(REFERENCE, place)
        found = merit.alone(front, box)
        if known is not None:
            found["hypervolume / best known"] = box.share(front) / box.share(known)
        found |= self._costs(place, entry)
        if ours is not None and entry is not ours:
            found |= merit.beside(front, ours.run.front)
        if reference is not None and entry is not reference:
            found["no higher than the reference"] = merit.no_higher(front, reference.run.front)
        found |= merit.accuracies(front)
        return found | (merit.accuracies(entry.refit.front, ", refitted") if entry.refit else {})

    def _costs(self, place: int, entry: Entry) -> dict[str, float]:
        unit, reference = self.units[place], self._of(REFERENCE, place)
        passes, seconds = entry.run.cost.passes, entry.run.cost.seconds
        found = {"passes": passes, "CPU seconds": seconds, "seconds on the clock": entry.run.cost.elapsed}
        if entry.refit is not None:
            found |= {"refit passes": entry.refit.cost.passes, "refit CPU seconds": entry.refit.cost.seconds}
        found |= {"passes / dense": passes / unit.passes, "seconds / dense": seconds / unit.seconds}
        if reference is not None:
            whole = reference.run.cost
            found |= {"passes / reference": _ratio(passes, whole.passes)}
            found |= {"seconds / reference": _ratio(seconds, whole.seconds)}
        return found

    def _of(self, name: str, place: int) -> Entry | None:
        """None before its turn."""
        return next(iter(self.entries.get(name, [])[place:]), None)


def contest(name: str, benchmark: Benchmark, settings: Settings) -> Iterator[tuple[str, Outcome]]:
    """Run all rivals on all seeds.

    Yields
    ------
    done : str
        What has just been done, in a line.
    outcome : Outcome
        All that is known by then; always the same object.
    """
    outcome = Outcome(name, benchmark, refit=settings.refit)
    for seed in range(settings.first, settings.first + settings.seeds):
        for done in _raced(outcome, seed, settings):
            yield f"{name}, seed {seed}: {done}", outcome


def _raced(outcome: Outcome, seed: int, settings: Settings) -> Iterator[str]:
    """All rivals on one seed; yields what has been done."""
    benchmark = outcome.benchmark
    spec = benchmark.spec(settings.folder, settings.points, seed, settings.device)
    unit = benchmark.experiment(spec).problem.loss
    outcome.units.append(dense.trained(unit, seed, SMOKE_PASSES if settings.quick else dense.MOST_PASSES))
    yield f"dense, {_told(outcome.units[-1])}"
    passes = None
    for rival, (how, method) in settings.entries(benchmark.method).items():
        task = replace(_task(benchmark, spec, method, settings), passes=passes)
        entry = _entry(outcome, rival, how, task, settings)
        passes = entry.passes if rival == OURS and entry else passes
        yield f"{rival}, {_told(entry.run.cost) if entry else outcome.refused[rival]}"


def _told(cost: dense.Dense | Cost) -> str:
    return f"{cost.passes:.4g} passes, {cost.seconds:.3g} CPU seconds"


def _task(benchmark: Benchmark, spec: JobSpec, method: str, settings: Settings) -> Task:
    part = shorthand(method)
    shorter = {"epochs": 1, "anchor_epochs": 1} if settings.quick else {}
    chosen = replace(spec, method=replace(part, params={**part.params, **shorter}))
    return Task(chosen, benchmark.experiment(chosen), benchmark.setup)


def _entry(outcome: Outcome, name: str, rival: Rival, task: Task, settings: Settings) -> Entry | None:
    if reason := rival.refusal(task):
        outcome.refused[name] = reason
        return None
    run = race(rival, task, settings.limit)
    classified = task.experiment.dataset.task == "classification"
    refit = refitting.refitted(outcome.benchmark, task, run, settings.refit) if rival.shrinks and classified else None
    entry = Entry(task.seed, run, refit)
    outcome.entries.setdefault(name, []).append(entry)
    return entry


def _plain(entry: Entry, figures: dict[str, float]) -> dict[str, Any]:
    refit = entry.refit.to_dict() if entry.refit else None
    return {"seed": entry.seed, **entry.run.to_dict(), "refit": refit, "figures": figures}


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
