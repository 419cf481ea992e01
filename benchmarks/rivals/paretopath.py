"""The product, as its users run it."""

from collections.abc import Iterator
from typing import final

import torch

from benchmarks.rivals.base import Network, Rival, Task


@final
class Paretopath(Rival):
    """The tracer that the task's spec describes; all that it yields counts, and all the time it takes."""

    shrinks = True

    def networks(self, task: Task) -> Iterator[Network]:
        for waypoint in task.experiment.tracer.trace(task.problem):
            buffers = {name: torch.from_numpy(array).to(task.loss.device) for name, array in waypoint.buffers.items()}
            yield Network(torch.from_numpy(waypoint.theta).to(task.loss.device), buffers)
