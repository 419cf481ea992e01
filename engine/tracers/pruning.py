"""Gradual magnitude pruning: train densely, drop ever more of the smallest weights, train on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from engine.correctors import AdaptiveProximal, Pace
from engine.correctors.adaptive import BATCH_SHARE, LARGEST_BATCH
from engine.correctors.base import FEW_SAMPLES, batch_size
from engine.errors import Diverged, InvalidSpec
from engine.front import Array, Waypoint
from engine.losses import Loss
from engine.predictors import state
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer
from engine.tracers.recording import draw, known, reached, recorded
from engine.tracers.refit import Support, pruned

Retraining = Literal["fine_tuning", "weight_rewinding", "rate_rewinding"]
Positive = Annotated[float, Gt(0)]

POWER = 3
DENSE_STEPS, REWOUND_SHARE = 720, 0.1
STEPS = {"fine_tuning": 120, "rate_rewinding": 120, "weight_rewinding": 480}
RUN_STEPS = 1000
GRADUAL_SHARE, PRUNINGS = 0.6, 20
RATE, LAST_SHARE, USUAL_WINDOW = 3e-3, 0.1, 10
TRAINED = "trained"
DENSE_BUDGET = 0.3
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which sparsities are reached, and how gently.

    Parameters
    ----------
    sparsities : tuple of float
        In increasing order, each in (0, 1); every one gives a point.
    apart : bool
        Whether each is reached by a run of its own from the dense network, else by one run through all.

    References
    ----------
    Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv 1710.01878,
    2017, equation 1.
    """

    sparsities: tuple[float, ...]
    apart: bool = False

    def stage(self, place: int) -> list[float]:
        """The sparsities to which weights are dropped one after the other on the way to a point, from 1 up.

        One run follows the cubic schedule through all its stages; a run of its own follows all of it.
        """
        last = self.sparsities[-1] if not self.apart else self.sparsities[place - 1]
        begun = 0.0 if self.apart or place == 1 else done(self.sparsities[place - 2] / last)
        ended = done(self.sparsities[place - 1] / last)
        count = max(1, round((ended - begun) * PRUNINGS))
        steps: Array = np.linspace(begun, ended, count + 1)[1:]
        return [*(last * cubic(t) for t in steps[:-1].tolist()), self.sparsities[place - 1]]


def cubic(t: float) -> float:
    """Share of the final sparsity after this share of the time: ``1 - (1 - t)^3`` (Zhu, Gupta 2017, equation 1)."""
    return 1 - (1 - t) ** POWER


def done(share: float) -> float:
    """Share of the time after which this share of the final sparsity is reached; the inverse of `cubic`."""
    return float(1 - (1 - share) ** (1 / POWER))


def evenly(points: int, end: float) -> tuple[float, ...]:
    """So many sparsities at equal steps of the cubic schedule, the last being `end`."""
    return tuple(end * cubic((i + 1) / points) for i in range(points))


@dataclass(frozen=True, slots=True)
class Training:
    """How networks are trained, with Adam on the weights that are left.

    Parameters
    ----------
    how : str
        What follows the pruning: "fine_tuning" goes on with the last, low learning rate; "rate_rewinding" repeats the
        schedule of the learning rate; "weight_rewinding" also sets the weights that are left to what they were early in
        the dense training.
    epochs, dense_epochs : float, optional
        Passes over the data per point and for the dense network.
    steps : int
        Mini-batch steps per point where `epochs` is not given; more where the samples are few.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    rate : float
        Adam's highest learning rate; the last is a tenth of it.

    References
    ----------
    Renda, Frankle, Carbin, "Comparing rewinding and fine-tuning in neural network pruning", ICLR 2020.
    """

    how: Retraining = "rate_rewinding"
    epochs: float | None = None
    dense_epochs: float | None = None
    steps: int = STEPS["rate_rewinding"]
    batch: int | None = None
    rate: float = RATE

    @property
    def full(self) -> Pace:
        """The highest learning rate throughout."""
        return Pace(self.rate, decay=1.0, window=USUAL_WINDOW)

    @property
    def falling(self) -> Pace:
        """The learning rate's whole schedule."""
        return Pace(self.rate, decay=LAST_SHARE, window=USUAL_WINDOW)

    @property
    def after(self) -> Pace:
        """The pace after the last pruning."""
        return (
            Pace(LAST_SHARE * self.rate, decay=1.0, window=USUAL_WINDOW) if self.how == "fine_tuning" else self.falling
        )

    def dense(self, loss: Loss) -> float:
        """Steps of the dense training."""
        return self._nominal(loss, self.dense_epochs, DENSE_STEPS)

    def each(self, loss: Loss) -> float:
        """Steps of a point."""
        return self._nominal(loss, self.epochs, self.steps)

    def trained(self, problem: Problem, at: State, pace: Pace, steps: float, seed: int) -> State:
        """Trained for so many steps; zeros of penalised weights stay zero."""
        free = (at.theta != 0) | ~problem.penalty.penalised.to(at.theta.device)
        adam = AdaptiveProximal("strength", None, self.batch, pace, steps=max(1, round(steps)))
        return adam.correct(replace(problem, penalty=Support(free)), replace(at, step=None), seed).state

    def _nominal(self, loss: Loss, epochs: float | None, usual: int) -> float:
        """As a number of steps to ask of a corrector, which takes more where samples are few; what is left at most."""
        size = self.batch or batch_size(loss, BATCH_SHARE, LARGEST_BATCH)
        per_pass = loss.n_samples / size / max(1.0, math.sqrt(FEW_SAMPLES / loss.n_samples))
        wanted = usual if epochs is None else epochs * per_pass
        return min(wanted, max(0.0, loss.limit - loss.effort) * per_pass)


@final
class Pruning(Tracer):
    """Train the dense network, then prune it to one sparsity after the other.

    On the way to a sparsity the smallest of the weights are dropped in steps of the cubic schedule, by as much as the
    penalty's proximal operator lets go of first: single weights under the l1 norm, whole groups under a group norm.
    Between the steps the rest is trained at the highest learning rate; after the last step it is retrained. What was
    dropped stays zero. The first point is the dense network. A point depends on the one before, or on the dense one.

    Parameters
    ----------
    schedule : Schedule
    training : Retrained
    seed : int
    budget : Budget, optional
        Up to a third for the dense network; the rest is shared out evenly among the others.
    cleanup : bool
        Whether networks are cleaned before they are stored; pruning goes on from the weights as they were trained.

    References
    ----------
    Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv 1710.01878,
    2017.
    Renda, Frankle, Carbin, "Comparing rewinding and fine-tuning in neural network pruning", ICLR 2020.
    """

    def __init__(
        self,
        schedule: Schedule,
        training: Training,
        seed: int = 0,
        budget: Budget | None = None,
        cleanup: bool = True,
    ) -> None:
        self._schedule, self._training, self.cleanup = schedule, training, cleanup
        self._seed, self._budget = seed, budget or Budget()
        self.expected = 1 + len(schedule.sparsities)

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock, known_so_far = Clock(problem, trail), list(trail)
        if not known_so_far:
            known_so_far.append(self._dense(problem, clock))
            yield known_so_far[0]
        for place in range(len(known_so_far), self.expected):
            if clock.exhausted(self._budget):
                break
            clock.allow(self._budget, 1 / (self.expected - place))
            parent = known_so_far[0 if self._schedule.apart else -1]
            known_so_far.append(self._sparser(problem, clock, (known_so_far[0], parent), place))
            yield known_so_far[-1]
        self.ended = clock.exhausted(self._budget) or reached([w.point for w in known_so_far])

    def _dense(self, problem: Problem, clock: Clock) -> Waypoint:
        clock.allow(self._budget, DENSE_BUDGET)
        theta, training = problem.loss.initial(), self._training
        open_ = replace(problem, penalty=Support(torch.ones_like(theta, dtype=torch.bool)))
        steps, fresh = training.dense(problem.loss), State(theta, 0.0, math.inf, problem.loss.buffers)
        early = training.trained(open_, fresh, training.full, REWOUND_SHARE * steps, draw(self._seed, "early"))
        last = training.trained(open_, early, training.falling, (1 - REWOUND_SHARE) * steps, draw(self._seed, "dense"))
        memory = {"early": early.theta.cpu().numpy()} if training.how == "weight_rewinding" else {}
        return self._recorded(problem, clock, last, index=0, memory=memory)

    def _sparser(self, problem: Problem, clock: Clock, begin: tuple[Waypoint, Waypoint], place: int) -> Waypoint:
        """The next network, from the dense one and the one it is made of."""
        dense, parent = begin
        at, training, stage = _trained(problem, parent), self._training, self._schedule.stage(place)
        steps = training.each(problem.loss)
        gradual = GRADUAL_SHARE * steps * (len(stage) > 1)
        for i, sparsity in enumerate(stage[:-1]):
            at = replace(at, theta=sparser(problem, at.theta, sparsity))
            seed = draw(self._seed, f"{place}/{i}")
            at = training.trained(problem, at, training.full, gradual / (len(stage) - 1), seed)
        at = replace(at, theta=sparser(problem, at.theta, stage[-1]))
        if training.how == "weight_rewinding":
            early = torch.from_numpy(dense.memory["early"].copy()).to(at.theta)
            at = replace(at, theta=torch.where(at.theta != 0, early, 0.0))
        at = training.trained(problem, at, training.after, steps - gradual, draw(self._seed, f"{place}/last"))
        return self._recorded(problem, clock, at, index=place, parent=parent.point.index)

    def _recorded(self, problem: Problem, clock: Clock, at: State, **where: Any) -> Waypoint:
        """A waypoint of the clean network, whose memory has the weights as trained where those are others."""
        found = known(problem, problem.cleaned(at))
        if not math.isfinite(found.loss):
            raise Diverged(f"The loss became {found.loss}; check the data's scale, or lower the method's 'rate'.")
        memory = {**where.pop("memory", {}), **({TRAINED: at.theta.cpu().numpy()} if problem.cleanup else {})}
        return recorded(problem, clock, found, None, memory=memory, **where)


def _trained(problem: Problem, waypoint: Waypoint) -> State:
    """The network as it was trained, before it was cleaned."""
    at = state(problem, waypoint)
    kept = waypoint.memory.get(TRAINED)
    return at if kept is None else replace(at, theta=torch.from_numpy(kept.copy()).to(at.theta))


def sparser(problem: Problem, theta: Tensor, sparsity: float) -> Tensor:
    """The weights with at least this share of zeros, as far as the penalty lets them go; none comes back."""
    kept = math.floor((1 - sparsity) * theta.numel() + ROUNDING)
    return theta if int(theta.count_nonzero()) <= kept else pruned(problem.penalty, theta, kept)


def pruning(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    sparsities: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (),
    end: Annotated[float, Gt(0), Lt(1)] = 0.99,
    retraining: Retraining = "rate_rewinding",
    runs: Literal["one", "apart"] = "one",
    epochs: Positive | None = None,
    dense_epochs: Positive | None = None,
    batch: Annotated[int, Ge(1)] | None = None,
    rate: Positive = RATE,
    cleanup: bool = True,
) -> Tracer:
    """Train densely, then drop ever more of the smallest weights and train on: gradual magnitude pruning.

    Parameters
    ----------
    sparsities : tuple of float
        Sparsities of the points beside the dense one, such as 0.8, 0.9, 0.95; by default as many as there are to be
        points, at equal steps of the cubic schedule.
    end : float
        The last of the sparsities where they are not given.
    retraining : str
        What follows each pruning: the last, low learning rate; the learning rate's schedule once more; or that and the
        values the weights had early in the dense training.
    runs : str
        One run through all sparsities, or for each sparsity a longer one from the dense network.
    epochs : float
        Passes over the training data per point; by default as many as make up 120 mini-batch steps, 480 where weights
        are rewound, 1,000 in runs apart; more where there are fewer than 1,000 samples.
    dense_epochs : float
        Passes over the training data for the dense network; by default as many as make up 720 steps.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Adam's highest learning rate.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    if len(sparsities) >= points:
        raise InvalidSpec(f"{len(sparsities)} sparsities and the dense network need {len(sparsities) + 1} points")

    asked = tuple(sorted(set(sparsities))) or evenly(points - 1, end)
    steps = RUN_STEPS if runs == "apart" else STEPS[retraining]
    training = Training(retraining, epochs, dense_epochs, steps, batch, rate)
    return Pruning(Schedule(asked, runs == "apart"), training, seed, budget, cleanup)
