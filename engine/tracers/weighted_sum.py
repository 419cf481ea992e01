"""The weighted sum: ``loss + lam * penalty`` minimised for each strength of a grid, from dense to sparse.

What users write by hand, with exact zeros. A grid of strengths reaches the convex hull of the front and nothing else.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, final

import numpy as np
import torch
from annotated_types import Ge, Gt

from engine.correctors import Accelerated, ActiveSetNewton, AdaptiveProximal, Corrector, Pace, ProximalGradient
from engine.errors import Diverged, InvalidSpec
from engine.front import Array, ParetoPoint, Waypoint
from engine.predictors import state
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer
from engine.tracers.recording import Measured, draw, known, reached, recorded
from engine.tracers.refit import Support

Kind = Literal["auto", "adaptive", "accelerated", "newton", "proximal_gradient"]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]

TRAINING, TRAINING_STEPS = Pace(1e-2, trust=0.1), 240
RATE, STEPS, FIRST_STEPS = 1e-2, 120, 480
LARGE_BATCH_STEPS, FIRST_LARGE_BATCH_STEPS = 54, 216
EXACT_PASSES = 1000
SPAN = 1e-3
SCOUTS, GROWTH, NEAR = 10, 4.0, 1.5
NOTICEABLE = 0.02
FIRST_SHARE = 0.2
FAR = 10.0
RETRIES, SHORTENING = 3, 3


@dataclass(frozen=True, slots=True)
class Grid:
    """The strengths at which the weighted sum is minimised.

    Parameters
    ----------
    points : int
    spacing : str
        "log": equal ratios from `weakest` to `strongest`. "linear": equal steps of the loss's weight w from 1 down, the
        strength being ``(1 - w) / (w scale)``; w = 0, whose network is zero, is left out.
    strongest, weakest : float, optional
        Ends of the logarithmic grid; `weakest` is a thousandth of `strongest` if None.
    scale : float, optional
        What a linear grid divides the penalty by; the number of points if None.
    warm : bool
        Whether a strength starts from the network of the one before, else from the network's own start weights.

    References
    ----------
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025 (released code of the comparison: the linear
    grid, and the number of points as the scale).
    """

    points: int
    spacing: Literal["log", "linear"] = "log"
    strongest: float | None = None
    weakest: float | None = None
    scale: float | None = None
    warm: bool = True

    @property
    def scouted(self) -> bool:
        """Whether the strongest is still to be found."""
        return self.spacing == "log" and self.strongest is None

    def strengths(self, strongest: float) -> Array:
        """All strengths in increasing order.

        Parameters
        ----------
        strongest : float
            Where a logarithmic grid ends.
        """
        if self.spacing == "linear":
            weight = np.linspace(1, 0, self.points + 1)[:-1]
            scaled: Array = (1 - weight) / (weight * (self.scale or self.points))
            return scaled
        return np.geomspace(self.weakest or SPAN * strongest, strongest, self.points)


@dataclass(frozen=True, slots=True)
class Solvers:
    """Correctors that hold the strength: for networks far from the answer, and for near ones."""

    far: Corrector
    near: Corrector


@final
class WeightedSum(Tracer):
    """Minimise ``loss + lam * penalty`` for each strength of a grid, from weak to strong.

    Where the strongest is not given it is the least that leaves nothing: exact for convex losses; for others found by
    scouts that start from a network trained without the penalty. All else follows from the trail: the first waypoint's
    memory holds the strengths. The trace ends early where a network is zero.

    Parameters
    ----------
    grid : Grid
    smooth, convex : Solvers
        For losses that are not convex, and for those that are.
    seed : int
    budget : Budget, optional
        What is left of it is shared out evenly among the strengths.
    cleanup : bool
        Whether networks are cleaned before they are stored; the path goes on from the clean ones.

    References
    ----------
    Friedman, Hastie, Tibshirani, "Regularization paths for generalized linear models via coordinate descent", Journal
    of Statistical Software 33, 2010, section 2.5 (warm starts, the strongest strength).
    """

    def __init__(
        self,
        grid: Grid,
        smooth: Solvers,
        convex: Solvers,
        seed: int = 0,
        budget: Budget | None = None,
        cleanup: bool = True,
    ) -> None:
        self._grid, self._smooth, self._convex = grid, smooth, convex
        self._seed, self._budget, self.cleanup = seed, budget or Budget(), cleanup
        self.expected = grid.points

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock, points = Clock(problem, trail), [w.point for w in trail]
        strengths, start = self._begun(problem, clock, trail)
        for place in range(len(points), len(strengths)):
            if clock.exhausted(self._budget) or (points and points[-1].penalty == 0):
                break
            clock.allow(self._budget, 1 / (len(strengths) - place))
            waypoint = self._waypoint(problem, clock, strengths, (start, points))
            points.append(waypoint.point)
            start = state(problem, waypoint)
            yield waypoint
        self.ended = clock.exhausted(self._budget) or self._reached(points)

    def _begun(self, problem: Problem, clock: Clock, trail: Sequence[Waypoint]) -> tuple[Array, State]:
        """The strengths, and where the next of them starts."""
        if trail:
            return trail[0].memory["strengths"], state(problem, trail[-1])
        fresh = self._fresh(problem)
        needed = not problem.loss.convex and (self._grid.warm or self._grid.scouted)
        start = self._trained(problem, clock, fresh) if needed else fresh
        strongest = self._strongest(problem, clock, start) if self._grid.scouted else self._grid.strongest
        return self._grid.strengths(strongest or 0.0), start

    def _waypoint(
        self, problem: Problem, clock: Clock, strengths: Array, begin: tuple[State, Sequence[ParetoPoint]]
    ) -> Waypoint:
        """The next network, from a start and the points before it."""
        start, before = begin
        place, solvers = len(before), self._solvers(problem)
        lam, near = float(strengths[place]), self._grid.warm and place > 0
        at = replace(start if self._grid.warm else self._fresh(problem), lam=lam)
        bar = before[-1].loss + lam * before[-1].penalty if near else math.inf
        found = self._minimised(problem, at, bar, solvers.near if near else solvers.far, place)
        memory = {"step": found.at.step or math.nan, **({} if place else {"strengths": strengths})}
        return recorded(problem, clock, found, lam, index=place, parent=place - 1 if near else None, memory=memory)

    def _minimised(self, problem: Problem, start: State, bar: float, corrector: Corrector, place: int) -> Measured:
        """The network of a strength, with ever shorter steps as long as it is no better than `bar`."""
        guess, tried = start, list[Measured]()
        for attempt in range(RETRIES + 1):
            correction = corrector.correct(problem, guess, draw(self._seed, f"{place}/{attempt}"))
            tried.append(known(problem, problem.cleaned(correction.state)))
            if tried[-1].merit(problem) < bar or problem.loss.effort >= problem.loss.limit:
                break
            guess = replace(start, step=(correction.state.step or 1.0) / SHORTENING)
        best = min(tried, key=lambda found: found.merit(problem))
        if math.isfinite(best.loss):
            return best
        raise Diverged(
            f"The loss became {best.loss} at a strength of {start.lam:.6g}, also with steps {SHORTENING**RETRIES} "
            "times shorter; check the data's scale, or lower the method's 'rate'."
        )

    def _fresh(self, problem: Problem) -> State:
        return State(problem.loss.initial(), 0.0, math.inf, problem.loss.buffers)

    def _trained(self, problem: Problem, clock: Clock, fresh: State) -> State:
        """Trained without the penalty: from fresh weights penalised steps would end at zero."""
        clock.allow(self._budget, FIRST_SHARE)
        free = replace(problem, penalty=Support(torch.ones_like(fresh.theta, dtype=torch.bool)))
        trainer = AdaptiveProximal("strength", pace=TRAINING, steps=TRAINING_STEPS)
        trained = trainer.correct(free, fresh, draw(self._seed, "training")).state
        return replace(trained, step=None)

    def _strongest(self, problem: Problem, clock: Clock, start: State) -> float:
        theta, _ = problem.penalty.project(start.theta, 0.0)
        zero = known(problem, replace(start, theta=theta))
        if problem.loss.convex:
            return self._emptying_convex(problem, zero)
        clock.allow(self._budget, FIRST_SHARE)
        return self._emptying(problem, start, zero.loss)

    def _emptying_convex(self, problem: Problem, zero: Measured) -> float:
        """The least strength that keeps the penalised weights at zero when the others are at their best."""
        lam = problem.multiplier(zero.at.theta, zero.grad)
        if bool(problem.penalty.penalised.all()):
            return lam
        held = replace(zero.at, lam=FAR * lam)
        best = known(problem, self._convex.far.correct(problem, held, draw(self._seed, "zero")).state)
        return problem.multiplier(best.at.theta, best.grad)

    def _emptying(self, problem: Problem, trained: State, bar: float) -> float:
        """About the least strength that leaves a network hardly better than none, whose loss is `bar`.

        The search starts where the trained network and none are equally good.
        """
        first = known(problem, trained)
        bar -= NOTICEABLE * abs(bar - first.loss)
        lam = max(bar - first.loss, NOTICEABLE) / max(float(problem.penalty.value(trained.theta)), 1e-30)
        alive, dead = (0.0, trained), math.inf
        for scout in range(SCOUTS):
            if problem.loss.effort >= problem.loss.limit or dead <= NEAR * alive[0]:
                break
            found = self._scouted(problem, replace(alive[1], lam=lam), scout)
            left = found.loss < bar and bool(problem.penalty.value(found.at.theta) > 0)
            alive, dead = ((lam, found.at), dead) if left else (alive, lam)
            lam = _between(alive[0], dead)
        return lam if math.isinf(dead) else dead

    def _scouted(self, problem: Problem, start: State, scout: int) -> Measured:
        corrector = self._solvers(problem).near
        return known(problem, corrector.correct(problem, start, draw(self._seed, f"scout {scout}")).state)

    def _solvers(self, problem: Problem) -> Solvers:
        return self._convex if problem.loss.convex else self._smooth

    def _reached(self, points: Sequence[ParetoPoint]) -> str:
        if points[-1].penalty == 0 and len(points) < self.expected:
            return f"{reached(points)} Stronger penalties leave the same network, zero."
        return reached(points)


def _between(alive: float, dead: float) -> float:
    """The next strength to try, given one that leaves a network and one that does not."""
    if math.isinf(dead):
        return GROWTH * alive
    return math.sqrt(alive * dead) if alive else dead / GROWTH


def weighted_sum(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    grid: Literal["log", "linear"] = "log",
    start: Literal["warm", "cold"] = "warm",
    corrector: Kind = "auto",
    strongest: Positive | None = None,
    weakest: Positive | None = None,
    scale: Positive | None = None,
    epochs: Count | None = None,
    first_epochs: Count | None = None,
    batch: Count | None = None,
    rate: Positive | None = None,
    tolerance: Positive = 1e-6,
    cleanup: bool = True,
) -> Tracer:
    """Minimise loss plus strength times penalty for each strength of a grid: what is usually written by hand.

    Parameters
    ----------
    grid : str
        Strengths at equal ratios, or as in the continuation paper's comparison: those of equally spaced weights.
    start : str
        Each strength from the network of the weaker one before, or each from the network's start weights.
    corrector : str
        Exact Newton steps where the loss is convex and steps in Adam's metric elsewhere, or the same kind everywhere.
    strongest : float
        Strongest penalty of a log grid; by default about the least that leaves no network.
    weakest : float
        Weakest penalty of a log grid; a thousandth of the strongest by default.
    scale : float
        What a linear grid divides the penalty by; the number of points by default, as in the paper.
    epochs : int
        Passes over the training data per strength; by default as many as make up 120 mini-batch steps (adaptive) or 54
        (accelerated), more where there are fewer than 1,000 samples; 1,000 at most for exact steps.
    first_epochs : int
        The same for networks that do not start from a neighbour; four times as many steps by default.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Adam's highest learning rate (adaptive; 0.01 by default), or a share of the longest safe step (accelerated;
        0.5).
    tolerance : float
        Where exact steps stop, relative to the gradient.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    if strongest is not None and weakest is not None and weakest >= strongest:
        raise InvalidSpec(f"weakest {weakest:g} must be below strongest {strongest:g}")

    how = How((first_epochs, epochs), batch, rate, tolerance)
    smooth, convex = (usual if corrector == "auto" else corrector for usual in ("adaptive", "newton"))
    strengths = Grid(points, grid, strongest, weakest, scale, start == "warm")
    return WeightedSum(strengths, how.solvers(smooth), how.solvers(convex), seed, budget, cleanup)


@dataclass(frozen=True, slots=True)
class How:
    """A user's settings of the correctors.

    Parameters
    ----------
    epochs : (int or None, int or None)
        Passes for far and for near networks.
    """

    epochs: tuple[int | None, int | None]
    batch: int | None = None
    rate: float | None = None
    tolerance: float = 1e-6

    def solvers(self, kind: str) -> Solvers:
        """Correctors of one kind."""
        large = kind == "accelerated"
        steps = (FIRST_LARGE_BATCH_STEPS, LARGE_BATCH_STEPS) if large else (FIRST_STEPS, STEPS)
        return Solvers(*(self._corrector(kind, *each) for each in zip(self.epochs, steps, strict=True)))

    def _corrector(self, kind: str, epochs: int | None, steps: int) -> Corrector:
        match kind:
            case "accelerated":
                return Accelerated("strength", epochs, self.batch, self.rate or 0.5, steps)
            case "newton":
                return ActiveSetNewton("strength", epochs or EXACT_PASSES, self.tolerance)
            case "proximal_gradient":
                return ProximalGradient("strength", epochs or EXACT_PASSES, self.tolerance)
        return AdaptiveProximal("strength", epochs, self.batch, Pace(self.rate or RATE), steps=steps)
