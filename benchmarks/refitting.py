"""The product's refit, applied to a run as to a job; its cost is a cost of its own."""

from dataclasses import replace

from benchmarks.measuring import Run, race
from benchmarks.problems import Benchmark
from benchmarks.rivals import Task
from benchmarks.rivals.traced import Traced
from engine.front import Trail, Waypoint
from engine.registry import checked_settings, parameters
from engine.spec import Part, shorthand
from engine.tracers import TRACERS

METHOD, NETWORKS = "refit", 12
SMOKE = f"{METHOD}:epochs=1"
MADE_UP_JOB = 1


def check(method: str) -> None:
    """Refuse settings that the refit does not have, or not so.

    Raises
    ------
    InvalidSpec
    """
    checked_settings("method", METHOD, parameters(TRACERS[METHOD]), _part(method).params)


def refitted(benchmark: Benchmark, task: Task, run: Run, method: str = METHOD) -> Run | None:
    """Refit a dozen of a run's networks, evenly spread from the sparsest to the densest.

    Parameters
    ----------
    method : str
        The product's refit in shorthand, without a job.

    Returns
    -------
    run : Run or None
        None where the run has no network.
    """
    if not run.front.points:
        return None
    trail = _trail(run)
    spec = replace(task.spec, method=_part(method), points=NETWORKS)
    experiment = benchmark.experiment(spec, lambda _: trail)
    return race(Traced(), replace(task, spec=spec, experiment=experiment))


def _part(method: str) -> Part:
    part = shorthand(method)
    return replace(part, params={"job": MADE_UP_JOB, **part.params})


def _trail(run: Run) -> Trail:
    waypoints = []
    for place, point in enumerate(run.front.points):
        network = run.networks[point.index]
        buffers = {name: tensor.cpu().numpy() for name, tensor in network.buffers.items()}
        waypoints.append(Waypoint(replace(point, index=place), network.theta.cpu().numpy(), buffers))
    return Trail(tuple(w.point for w in waypoints), waypoints.__getitem__)
