"""What every rival promises: networks, one by one; what they cost and how good they are is measured by others."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from engine.losses import Buffers, Loss
from engine.problem import Problem
from engine.spec import Experiment, JobSpec

Setup = Literal["iris", "mnist", "cifar"]


@final
@dataclass(frozen=True, slots=True)
class Network:
    """Weights, shape (n_params,), and what the network carries beside them."""

    theta: Tensor
    buffers: Buffers


@final
@dataclass(frozen=True, slots=True)
class Task:
    """What a rival is given: the same problem, freshly made, for each.

    Parameters
    ----------
    spec : JobSpec
        Network, data, loss, seed, and the points the front is to have.
    experiment : Experiment
        Nobody else's: the effort of its loss is the rival's.
    setup : str
        Which of the reference paper's experiments it is closest to.
    passes : float, optional
        Compute to spend in all, for rivals that can take any.
    """

    spec: JobSpec
    experiment: Experiment
    setup: Setup
    passes: float | None = None

    @property
    def problem(self) -> Problem:
        return self.experiment.problem

    @property
    def loss(self) -> Loss:
        return self.experiment.problem.loss

    @property
    def seed(self) -> int:
        return self.spec.seed

    @property
    def points(self) -> int:
        return self.spec.points


class Rival(ABC):
    """A way to a front.

    Attributes
    ----------
    shrinks : bool
        Whether its penalty biases the weights it keeps, so that refitting them pays.
    """

    shrinks: bool = False

    @abstractmethod
    def networks(self, task: Task) -> Iterator[Network]:
        """Yield networks in the order in which they are found; all work is done while iterating."""

    def refusal(self, task: Task) -> str:
        """Why it cannot run on this task, as a clause; empty where it can."""
        return ""


def stored(loss: Loss, theta: Tensor) -> Network:
    """The network with these weights, its buffers recomputed for them."""
    loss.calibrate(theta)
    return Network(theta, loss.buffers)
