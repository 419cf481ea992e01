"""The product's methods, as its users run them: the one under test, and the baselines it brings."""

from collections.abc import Iterator
from typing import Any, final

import torch

from benchmarks.rivals.base import Network, Rival, Task
from engine.errors import InvalidSpec
from engine.tracers import TRACERS, Budget, Tracer

RUN_SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
DENSE_SHARE, MEASURING = 0.15, 1.0


@final
class Traced(Rival):
    """All that a tracer yields counts, and all the time it takes.

    Parameters
    ----------
    method : str, optional
        A registered method; the tracer of the task's spec if None.
    shrinks : bool
    **settings
        Of the method.
    """

    def __init__(self, method: str | None = None, shrinks: bool = True, **settings: Any) -> None:
        self._method, self.shrinks, self._settings = method, shrinks, settings

    def refusal(self, task: Task) -> str:
        try:
            self._tracer(task).check(task.loss.layout)
        except InvalidSpec as reason:
            return str(reason)
        return ""

    def networks(self, task: Task) -> Iterator[Network]:
        return found(self._tracer(task), task)

    def _tracer(self, task: Task) -> Tracer:
        if self._method is None:
            return task.experiment.tracer
        return TRACERS[self._method](task.points, task.seed, Budget(), **self._settings)


@final
class Pruned(Rival):
    """The method `pruning` for the compute that the task gives, part of it for the dense network.

    Parameters
    ----------
    sparsities : tuple of float
        Each with a run of its own; one run through as many as there are points where there are none.
    **settings
        Of the method.
    """

    def __init__(self, sparsities: tuple[float, ...] = (), **settings: Any) -> None:
        self._sparsities, self._settings = sparsities, settings

    def networks(self, task: Task) -> Iterator[Network]:
        points = len(self._sparsities) + 1 if self._sparsities else task.points
        runs = {"sparsities": self._sparsities, "runs": "apart"} if self._sparsities else {}
        spent = {} if task.passes is None else spending(task.passes, points)
        settings = {**runs, **self._settings, **spent}
        return found(TRACERS["pruning"](points, task.seed, Budget(task.passes), **settings), task)


def spending(passes: float, points: int) -> dict[str, float]:
    """Passes for the dense network and for each of the others; every network is measured for one more."""
    each = ((1 - DENSE_SHARE) * passes - MEASURING * points) / (points - 1)
    return {"dense_epochs": DENSE_SHARE * passes, "epochs": max(each, MEASURING)}


def found(tracer: Tracer, task: Task) -> Iterator[Network]:
    """The networks that a tracer yields."""
    for waypoint in tracer.trace(task.problem):
        buffers = {name: torch.from_numpy(array).to(task.loss.device) for name, array in waypoint.buffers.items()}
        yield Network(torch.from_numpy(waypoint.theta).to(task.loss.device), buffers)
