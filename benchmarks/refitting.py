"""The product's refit, applied to the networks that count at each sparsity; its cost is a cost of its own."""

from dataclasses import replace
from typing import Any

from benchmarks.measuring import Run, race
from benchmarks.merit import SPARSITIES, chosen, nearest
from benchmarks.problems import Benchmark
from benchmarks.rivals import Task
from benchmarks.rivals.paretopath import Paretopath
from engine.front import ParetoPoint, Trail, Waypoint
from engine.spec import Part

MADE_UP_JOB = 1


def refitted(benchmark: Benchmark, task: Task, run: Run, settings: dict[str, Any]) -> Run | None:
    """Refit a run's networks at the sparsities of the table: the one chosen there, and the densest one allowed.

    Parameters
    ----------
    settings : dict
        Of the product's refit.

    Returns
    -------
    run : Run or None
        None where no network is that sparse.
    """
    wanted = _wanted(run)
    if not wanted:
        return None
    trail = _trail(run, wanted)
    method = Part("refit", {"job": MADE_UP_JOB, "dominated": True, **settings})
    spec = replace(task.spec, method=method, points=max(2, len(wanted)))
    experiment = benchmark.experiment(spec, lambda _: trail)
    return race(Paretopath(), replace(task, spec=spec, experiment=experiment))


def _wanted(run: Run) -> list[ParetoPoint]:
    found = [choose(run.front, s) for s in SPARSITIES if s > 0 for choose in (chosen, nearest)]
    return sorted({p.index: p for p in found if p is not None}.values(), key=lambda p: p.index)


def _trail(run: Run, wanted: list[ParetoPoint]) -> Trail:
    waypoints = []
    for place, point in enumerate(wanted):
        network = run.networks[point.index]
        buffers = {name: tensor.cpu().numpy() for name, tensor in network.buffers.items()}
        waypoints.append(Waypoint(replace(point, index=place), network.theta.cpu().numpy(), buffers))
    return Trail(tuple(w.point for w in waypoints), waypoints.__getitem__)
