"""Inverse scale space: weights enter one after another while the network trains; the path is what has entered.

From sparse to dense, in one run: a point is stored whenever the support has grown by its share, or time has passed.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from typing import Annotated, Literal, final

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from engine.correctors.base import FEW_SAMPLES, batch_size
from engine.errors import Diverged, InvalidSpec
from engine.front import Array, Waypoint
from engine.losses import Batch, Loss
from engine.optim import AdaBreg, AdaDessiLBI, DessiLBI, LinBreg, PenalisedOptimizer, SplitBregman
from engine.penalties.base import Penalty
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer, measured

Make = Callable[[Tensor, Problem], PenalisedOptimizer]
Share = Annotated[float, Gt(0), Le(1)]
Sparsity = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]

WEIGHTS, DONE, SIZE = "weights", "done", "size"
BATCH_SHARE, LARGEST_BATCH = 48, 256
STEPS = 9600
FIRST_SHARE = 0.5
HALVINGS = 40
RATE, NU, STRENGTH = 5e-2, 2.0, 4.0
ADAM_RATE, ADAM_NU, ADAM_STRENGTH = 1e-3, 0.1, 3.0
NU_SHARE, ENTRY_SHARE = 0.12, 0.9


@dataclass(frozen=True, slots=True)
class Course:
    """How far a path goes and where its points lie.

    Parameters
    ----------
    points : int
        At most, at least 2.
    end, dense : float
        Sparsity that the first point has at least, unless very much enters at once, and that of the last one;
        ``1 >= end > dense >= 0``.
    epochs : int, optional
        Passes over the data; as many as make up 9,600 mini-batches if None, more where there are few samples.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    """

    points: int
    end: float = 0.99
    dense: float = 0.5
    epochs: int | None = None
    batch: int | None = None

    def batches(self, loss: Loss, seed: int) -> Iterator[Batch]:
        """All mini-batches of the path, in order."""
        size = self._size(loss)
        passes = (loss.batches(_draw(seed, epoch), size) for epoch in count())
        return islice(chain.from_iterable(passes), self.steps(loss))

    def steps(self, loss: Loss) -> int:
        """How many mini-batches that is."""
        if self.epochs is None:
            return math.ceil(STEPS * max(1.0, math.sqrt(FEW_SAMPLES / loss.n_samples)))
        return self.epochs * max(1, round(loss.n_samples / self._size(loss)))

    def due(self, run: "_Run", left: int) -> bool:
        """Whether it is time for the next of `left` points: the support has grown, or much time has passed.

        Both up to the dense end, the one in equal ratios and the other in equal steps, from the last point on.
        """
        size = run.size()
        if not run.stored_size:
            return size >= max(FIRST_SHARE * (1 - self.end) * run.n_params, 1)
        ratio = self._largest(run) / run.stored_size
        late = run.since_stored * left >= self.steps(run.loss) - run.stored_at
        return late or size >= run.stored_size * ratio ** (1 / left)

    def over(self, run: "_Run") -> bool:
        """Whether the dense end is reached."""
        return run.stored_size >= self._largest(run)

    def _largest(self, run: "_Run") -> float:
        return (1 - self.dense) * run.n_params

    def _size(self, loss: Loss) -> int:
        return self.batch or batch_size(loss, BATCH_SHARE, LARGEST_BATCH)


@final
class InverseScaleSpace(Tracer):
    """Train with an optimiser whose weights enter one after another, and store what has entered.

    The network of a point is the trained weights where the support is, and zero elsewhere. Points come from sparse to
    dense; the first is a network that beats the zero network, whose answers are constant, and the last is the network
    at the end. They have no strength and no certificate.

    Parameters
    ----------
    make : callable
        From the flat weights and the problem to the optimiser.
    course : Course
    density : float
        Share of the weights of each matrix to begin with, in (0, 1]; linear models begin with none.
    seed : int
    budget : Budget, optional
    cleanup : bool
        Whether stored networks are cleaned; training goes on from the network as it was.

    References
    ----------
    Fu et al., "DessiLBI: exploring structural sparsity of deep networks via differential inclusion paths", ICML 2020.
    Bungert, Roith, Tenbrinck, Burger, "A Bregman learning framework for sparse neural networks", JMLR 23, 2022.
    """

    def __init__(
        self,
        make: Make,
        course: Course,
        density: float = 1.0,
        seed: int = 0,
        budget: Budget | None = None,
        cleanup: bool = True,
    ) -> None:
        self._make, self._course, self._density = make, course, density
        self._seed, self._budget, self.cleanup = seed, budget or Budget(), cleanup
        self.expected = course.points

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock, index = Clock(problem, trail), len(trail)
        run = self._resumed(problem, trail[-1]) if trail else self._begun(problem)
        bar = math.inf if trail else float(problem.loss.value(torch.zeros_like(problem.loss.initial())))
        for _ in self._steps(problem, clock, run):
            if self._course.due(run, self._course.points - index):
                waypoint = self._waypoint(problem, clock, run, index)
                if index or waypoint.point.loss < bar:
                    yield waypoint
                    index += 1
        if not index or (run.since_stored and not self._course.over(run)):
            yield self._waypoint(problem, clock, run, index)
        self.ended = clock.exhausted(self._budget) or run.said()

    def _begun(self, problem: Problem) -> "_Run":
        theta = problem.loss.initial()
        if self._density < 1:
            theta = sparsified(problem, theta, self._density)
        return _Run(problem, self._make, theta)

    def _resumed(self, problem: Problem, last: Waypoint) -> "_Run":
        device = problem.loss.device
        problem.loss.load_buffers({name: _tensor(buffer, device) for name, buffer in last.buffers.items()})
        run = _Run(problem, self._make, _tensor(last.memory[WEIGHTS], device))
        run.recall(last.memory)
        return run

    def _steps(self, problem: Problem, clock: Clock, run: "_Run") -> Iterator[None]:
        """Step on, up to the dense end, or the end of the course or of the budget."""
        for batch in islice(self._course.batches(problem.loss, self._seed), run.done, None):
            spent = clock.exhausted(self._budget) or (run.since_stored and problem.loss.effort >= problem.loss.limit)
            if spent or self._course.over(run):
                return
            run.step(batch)
            yield

    def _waypoint(self, problem: Problem, clock: Clock, run: "_Run", index: int) -> Waypoint:
        """What has entered, measured; training goes on with this point's buffers."""
        at = problem.cleaned(_calibrated(problem, run.entered()))
        value, grad = problem.loss.value_and_grad(at.theta)
        if not math.isfinite(value):
            raise Diverged(
                f"The loss became {float(value)} after {run.done:,} steps; check the data's scale, or lower "
                "the method's 'rate'."
            )
        found = measured(problem, clock, at, 0.0, (float(value), grad))
        parent = index - 1 if index else None
        point = replace(found.point, index=index, parent=parent, lam=None, residual=None)
        return replace(found, point=point, memory=run.store())


@final
class _Run:
    """Weights in training, their optimiser, and how far they are.

    Parameters
    ----------
    problem : Problem
    make : callable
    theta : Tensor, shape (n_params,)
        The weights to begin with.
    """

    def __init__(self, problem: Problem, make: Make, theta: Tensor) -> None:
        self.loss, self._theta = problem.loss, theta
        self._optimizer = make(theta, problem)
        self.done, self.stored_at, self.stored_size = 0, 0, 0

    @property
    def n_params(self) -> int:
        return self._theta.numel()

    @property
    def since_stored(self) -> int:
        """Steps since the last point."""
        return self.done - self.stored_at

    def step(self, batch: Batch) -> None:
        _, self._theta.grad = self.loss.value_and_grad_(self._theta, batch)
        self._optimizer.step()
        self.done += 1

    def support(self) -> Tensor:
        """Mask of what has entered, shape (n_params,)."""
        if isinstance(self._optimizer, SplitBregman):
            return next(self._optimizer.supports())[1]
        return self._theta != 0

    def size(self) -> int:
        return int(self.support().count_nonzero())

    def entered(self) -> Tensor:
        """The weights where the support is, zero elsewhere."""
        return torch.where(self.support(), self._theta, 0.0)

    def store(self) -> dict[str, Array]:
        """All that training goes on from: weights, the optimiser's state, the place on the path."""
        self.stored_at, self.stored_size = self.done, self.size()
        place = {DONE: np.asarray(self.done), SIZE: np.asarray(self.stored_size)}
        state = self._optimizer.state[self._theta].items()
        return {**place, WEIGHTS: _array(self._theta), **{name: _array(value) for name, value in state}}

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Go on from what `store` gave."""
        self.done = self.stored_at = int(memory[DONE])
        self.stored_size = int(memory[SIZE])
        for name, value in memory.items():
            if name in (DONE, SIZE, WEIGHTS):
                continue
            self._optimizer.state[self._theta][name] = _tensor(value, self._theta.device) if value.ndim else int(value)

    def said(self) -> str:
        share = 1 - self.size() / self._theta.numel()
        return f"After {self.done:,} steps the support has a sparsity of {share:.4g}."


def sparsified(problem: Problem, theta: Tensor, density: float) -> Tensor:
    """Start weights with few nonzeros, from which gradients still reach every layer; none in linear models.

    Of every weight matrix those weights are kept that the penalty's proximal operator keeps longest, under a group norm
    one group at least, scaled to the norm of the whole matrix. Biases and norm layers stay.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
    density : float
        Share of the weights of each matrix, in (0, 1].

    References
    ----------
    Bungert, Roith, Tenbrinck, Burger, "A Bregman learning framework for sparse neural networks", JMLR 23, 2022 (there
    the weights are drawn).
    """
    if problem.loss.convex:
        return torch.zeros_like(theta)
    found = theta.clone()
    for block in (b for b in problem.loss.layout if b.kind == "weight"):
        part = torch.zeros_like(theta)
        part[block.start : block.stop] = theta[block.start : block.stop]
        kept = _longest_kept(problem.penalty, part, math.ceil(density * block.size))
        kept *= part.norm() / kept.norm().clamp_min(1e-30)
        found[block.start : block.stop] = kept[block.start : block.stop]
    return found


def _longest_kept(penalty: Penalty, theta: Tensor, n_nonzero: int) -> Tensor:
    """The weights that the penalty's proximal operator keeps longest: at least so many."""
    strength = _strongest(penalty, theta, n_nonzero)
    return torch.where(penalty.prox(theta, strength) != 0, theta, 0.0) if strength else theta.clone()


def _strongest(penalty: Penalty, theta: Tensor, n_nonzero: int) -> float:
    """The largest strength at which the penalty's proximal operator keeps so many weights; 0 if none does."""
    low, high = 0.0, float(theta.norm())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = int(penalty.prox(theta, middle).count_nonzero()) >= n_nonzero
        low, high = (middle, high) if enough else (low, middle)
    return low


def _calibrated(problem: Problem, theta: Tensor) -> State:
    problem.loss.calibrate(theta)
    return State(theta, 0.0, float(problem.penalty.value(theta)), problem.loss.buffers)


def _array(value: Tensor | int) -> Array:
    return value.detach().cpu().numpy().copy() if isinstance(value, Tensor) else np.asarray(value)


def _tensor(values: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(values.copy()).to(device)


def _draw(seed: int, epoch: int) -> int:
    """A seed of its own for every pass over the data."""
    digest = hashlib.sha256(f"{seed}/inverse scale space/{epoch}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _course(points: int, end: float, dense: float, epochs: int | None, batch: int | None) -> Course:
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    if dense >= end:
        raise InvalidSpec(
            f"dense {dense} is the sparsity of the last point, it must be below the first one's, end {end}"
        )
    return Course(points, end, dense, epochs, batch)


def loosest(loss: Loss) -> float:
    """The tie that costs as much in every network: in proportion to the squared norm of its start weights, at least 2.

    While nothing has entered the tie is a weight decay. It holds a network at zero for good where it costs more than
    the loss can fall.
    """
    return NU if loss.convex else max(NU, NU_SHARE * float(loss.initial().square().sum()))


def timely(problem: Problem, time: float) -> float:
    """The strength at which half of the weights would have entered by `time`, the learning rates' sum over the tie.

    That is if they stayed as large as they start; under a group norm, if half of the groups did.
    """
    acts = problem.penalty.penalised.to(problem.loss.device)
    drift = time * torch.where(acts, problem.loss.initial(), 0.0)
    found = 0.0 if problem.loss.convex else _strongest(problem.penalty, drift, int(acts.sum()) // 2)
    return ENTRY_SHARE * found or STRENGTH


def dessilbi(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    form: Literal["momentum", "adam"] = "momentum",
    rate: Positive | None = None,
    nu: Positive | None = None,
    kappa: Positive = 1.0,
    strength: Positive | None = None,
    end: Share = 0.99,
    dense: Sparsity = 0.5,
    epochs: Count | None = None,
    batch: Count | None = None,
    cleanup: bool = True,
) -> Tracer:
    """Inverse scale space: train once, and let weights or groups enter a sparse twin network one after another.

    Parameters
    ----------
    form : str
        Steps along the gradient with a momentum of 0.9, or along Adam's direction.
    rate : float
        Learning rate; 0.05 by default and less where the default of `nu` is above 2, with the inverse of its root; with
        Adam's direction 0.001.
    nu : float
        How loosely the trained weights are tied to their sparse twin: tight ties make good sparse networks, ties that
        are too tight hold all weights at zero; by default 0.12 times the squared norm of the start weights and at least
        2, with Adam's direction 0.1.
    kappa : float
        Size of the twin's weights as they enter; steps are longer by as much.
    strength : float
        How long weights take to enter: of higher values the path is better and takes more steps; by default such that
        weights as large as the median start weight enter after nine tenths of the steps, with Adam's direction 3.
    end : float
        Sparsity that the first point has at least.
    dense : float
        Sparsity at which the path ends; where the epochs are used up before, it ends there.
    epochs : int
        Passes over the training data; by default as many as make up 9,600 mini-batch steps, more where there are fewer
        than 1,000 samples.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """

    course = _course(points, end, dense, epochs, batch)

    def make(theta: Tensor, problem: Problem) -> PenalisedOptimizer:
        penalty = problem.penalty
        if form == "adam":
            step, tie, entry = rate or ADAM_RATE, nu or ADAM_NU, strength or ADAM_STRENGTH
            return AdaDessiLBI([theta], step, penalty=penalty, strength=entry, kappa=kappa, nu=tie)
        loose = loosest(problem.loss)
        step, tie = rate or RATE * math.sqrt(NU / loose), nu or loose
        entry = strength or timely(problem, course.steps(problem.loss) * step / tie)
        return DessiLBI([theta], step, penalty=penalty, strength=entry, kappa=kappa, nu=tie)

    return InverseScaleSpace(make, course, 1.0, seed, budget, cleanup)


def linbreg(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    rate: Positive = 0.3,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    delta: Positive = 1.0,
    strength: Positive = 1.0,
    density: Share = 0.003,
    end: Share = 0.99,
    dense: Sparsity = 0.5,
    epochs: Count | None = None,
    batch: Count | None = None,
    cleanup: bool = True,
) -> Tracer:
    """Linearised Bregman iterations: begin with few weights, and let others enter as they are needed.

    Parameters
    ----------
    rate : float
        Learning rate.
    momentum : float
        Share of the average of gradients that a new one leaves.
    delta : float
        How far a weight moves as its dual does.
    strength : float
        How far a weight's dual must go before the weight enters: of higher values the path is sparser and slower.
    density : float
        Share of the weights of each layer to begin with.
    end : float
        Sparsity that the first point has at least, unless the start has less.
    dense : float
        Sparsity at which the path ends; where the epochs are used up before, it ends there.
    epochs : int
        Passes over the training data; by default as many as make up 9,600 mini-batch steps, more where there are fewer
        than 1,000 samples.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """

    def make(theta: Tensor, problem: Problem) -> PenalisedOptimizer:
        return LinBreg([theta], rate, penalty=problem.penalty, strength=strength, delta=delta, momentum=momentum)

    course = _course(points, end, dense, epochs, batch)
    return InverseScaleSpace(make, course, density, seed, budget, cleanup)


def adabreg(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    rate: Positive = 1e-3,
    delta: Positive = 1.0,
    strength: Positive = 1.0,
    density: Share = 0.003,
    end: Share = 0.99,
    dense: Sparsity = 0.5,
    epochs: Count | None = None,
    batch: Count | None = None,
    cleanup: bool = True,
) -> Tracer:
    """Linearised Bregman iterations along Adam's direction.

    Parameters
    ----------
    rate : float
        Learning rate.
    delta : float
        How far a weight moves as its dual does.
    strength : float
        How far a weight's dual must go before the weight enters: of higher values the path is sparser and slower.
    density : float
        Share of the weights of each layer to begin with.
    end : float
        Sparsity that the first point has at least, unless the start has less.
    dense : float
        Sparsity at which the path ends; where the epochs are used up before, it ends there.
    epochs : int
        Passes over the training data; by default as many as make up 9,600 mini-batch steps, more where there are fewer
        than 1,000 samples.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """

    def make(theta: Tensor, problem: Problem) -> PenalisedOptimizer:
        return AdaBreg([theta], rate, penalty=problem.penalty, strength=strength, delta=delta)

    course = _course(points, end, dense, epochs, batch)
    return InverseScaleSpace(make, course, density, seed, budget, cleanup)
