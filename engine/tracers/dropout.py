"""Adaptive dropout, swept from dense to sparse: networks at ever larger strengths, each trained from the one before."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from engine.dropout import VARIANTS, Descent, Spot, Variant
from engine.errors import Diverged, InvalidSpec
from engine.front import ParetoPoint, Waypoint
from engine.predictors import state
from engine.problem import Problem, State
from engine.registry import lookup
from engine.tracers.base import Budget, Clock, Tracer, measured

LEAST_KEPT = 0.05
STRENGTH = "strength"
STEPS, FIRST_STEPS, FIRST_SHARE = 160, 720, 0.3
LEAST_GROWTH, MOST_GROWTH, STEEPEST, FITTED = 0.02, 0.7, 3.0, 4
LOG_RANGE = 9.0
FINAL_TRIES, FINAL_LEAST, FINAL_MOST = 16, 1.3, 2.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which networks are trained.

    Parameters
    ----------
    points : int
        At most so many, at least 2.
    strength : float
        Of the first.
    end : float
        Sparsity at which the sweep ends, in (0, 1].
    epochs, first_epochs : int, optional
        Passes over the data for each network, and for the first; STEPS and FIRST_STEPS steps if None.
    """

    points: int
    strength: float
    end: float = 0.99
    epochs: int | None = None
    first_epochs: int | None = None

    def following(self, points: Sequence[ParetoPoint]) -> float:
        """The next strength: nonzeros are to fall evenly, on a log scale, to those of `end` at the last point."""
        here, remaining = points[-1], self.points - len(points)
        fall = math.log(max(self.missed(here.n_nonzero, here.n_params), 1.0)) / max(remaining, 1)
        most = max(MOST_GROWTH, LOG_RANGE / self.points)
        growth = min(max(fall * _growth_per_fall(points), LEAST_GROWTH), most)
        return here.metrics[STRENGTH] * math.exp(growth)

    def missed(self, n_nonzero: int, n_params: int) -> float:
        """How many times as many nonzeros as `end` leaves there are."""
        return n_nonzero / max((1 - self.end) * n_params, 1.0)


def _growth_per_fall(points: Sequence[ParetoPoint]) -> float:
    """By how much the log strength grew per fall of the log nonzeros, over the last points."""
    if len(points) < 2:
        return 1.0
    first, last = points[-min(len(points), FITTED)], points[-1]
    fall = math.log(first.n_nonzero / max(last.n_nonzero, 1))
    grown = math.log(last.metrics[STRENGTH] / first.metrics[STRENGTH])
    return min(grown / fall, STEEPEST) if fall > 0 else STEEPEST


@final
class AdaptiveDropout(Tracer):
    """Train at ever larger strengths of an adaptive dropout, each network from the one before.

    Stored networks are deterministic: what has a chance of less than 5 % to be kept is zero, and nothing is noisy. The
    sweep goes on from them. A point's metric ``strength`` is the dropout's; `lam` and the certificate are those of the
    problem's own penalty, which is measured and not what is minimised.

    Parameters
    ----------
    variant : Variant
    sweep : Sweep
    descent : Descent
    seed : int
    budget : Budget, optional
    cleanup : bool
        Whether networks are cleaned before they are stored.

    References
    ----------
    LeJeune, Javadi, Baraniuk, "The flip side of the reweighted coin: duality of adaptive dropout and regularization",
    NeurIPS 2021.
    """

    def __init__(
        self,
        variant: Variant,
        sweep: Sweep,
        descent: Descent,
        seed: int = 0,
        budget: Budget | None = None,
        cleanup: bool = True,
    ) -> None:
        self._variant, self._sweep, self._descent = variant, sweep, descent
        self._seed, self._budget, self.cleanup = seed, budget or Budget(), cleanup
        self.expected = sweep.points

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock = Clock(problem, trail)
        points = [waypoint.point for waypoint in trail]
        last = trail[-1] if trail else None
        while not self._over(clock, points):
            last = self._first(problem, clock) if last is None else self._next(problem, clock, points, last)
            points.append(last.point)
            yield last

    def _over(self, clock: Clock, points: Sequence[ParetoPoint]) -> bool:
        """Whether the sweep has ended; if so, why is noted."""
        reached = bool(points) and (len(points) >= self._sweep.points or points[-1].sparsity >= self._sweep.end)
        reason = f"{len(points)} networks, down to a sparsity of {points[-1].sparsity:.4g}." if reached else ""
        self.ended = reason or (clock.exhausted(self._budget) if points else "")
        return bool(self.ended)

    def _first(self, problem: Problem, clock: Clock) -> Waypoint:
        theta = problem.loss.initial()
        strength = self._sweep.strength
        start = _Found(State(theta, strength, math.nan, problem.loss.buffers), self._variant.fresh(theta, strength))
        clock.allow(self._budget, FIRST_SHARE)
        found = self._trained(problem, start, strength, self._draw(0, 0), first=True)
        return self._waypoint(problem, clock, found, None)

    def _next(self, problem: Problem, clock: Clock, points: Sequence[ParetoPoint], last: Waypoint) -> Waypoint:
        strength, place = self._sweep.following(points), len(points)
        dual = torch.as_tensor(last.memory.get(self._variant.memory, last.theta[:0])).to(problem.loss.device)
        start = _Found(state(problem, last), dual.clone())
        found = self._trained(problem, start, strength, self._draw(place, 0))
        if place + 1 == self._sweep.points:
            found = self._sparse_enough(problem, found, place)
        return self._waypoint(problem, clock, found, last)

    def _sparse_enough(self, problem: Problem, found: "_Found", place: int) -> "_Found":
        """Go on to higher strengths until the end is reached."""
        for attempt in range(1, FINAL_TRIES):
            missed = self._sweep.missed(int(found.at.theta.count_nonzero()), len(found.at.theta))
            if missed <= 1 or problem.loss.effort >= problem.loss.limit:
                break
            growth = min(max(missed, FINAL_LEAST), FINAL_MOST)
            found = self._trained(problem, found, found.at.lam * growth, self._draw(place, attempt))
        return found

    def _trained(self, problem: Problem, start: "_Found", strength: float, draw: int, first: bool = False) -> "_Found":
        """From weights and the variant's own parameters to those at a strength."""
        loss, sweep = problem.loss, self._sweep
        epochs, steps = (sweep.first_epochs, FIRST_STEPS) if first else (sweep.epochs, STEPS)
        loss.load_buffers(start.at.buffers)
        generator = torch.Generator(loss.device).manual_seed(draw)
        dropped = problem.penalty.penalised.to(loss.device)
        spot = Spot(loss, dropped, strength, start.at.theta.clone(), start.dual.clone(), generator)
        self._descent(self._variant, spot, draw, epochs, steps)
        idle = dropped & (self._variant.odds(spot) < LEAST_KEPT / (1 - LEAST_KEPT))
        theta = spot.theta.masked_fill(idle, 0.0)
        loss.calibrate(theta)
        at = State(theta, strength, float(problem.penalty.value(theta)), loss.buffers)
        return _Found(problem.cleaned(at), spot.dual)

    def _waypoint(self, problem: Problem, clock: Clock, found: "_Found", last: Waypoint | None) -> Waypoint:
        problem.loss.load_buffers(found.at.buffers)
        value, grad = problem.loss.value_and_grad(found.at.theta)
        if not math.isfinite(value):
            raise Diverged(f"The loss became {float(value)} at a strength of {found.at.lam:.6g}; lower 'rate'.")
        waypoint = measured(problem, clock, found.at, None, (float(value), grad))
        parent = None if last is None else last.point.index
        metrics = {**waypoint.point.metrics, STRENGTH: found.at.lam}
        point = replace(waypoint.point, index=0 if parent is None else parent + 1, parent=parent, metrics=metrics)
        memory = {self._variant.memory: found.dual.cpu().numpy()} if self._variant.memory else {}
        return replace(waypoint, point=point, memory=memory)

    def _draw(self, place: int, attempt: int) -> int:
        """A seed of its own for every descent."""
        digest = hashlib.sha256(f"{self._seed}/dropout/{place}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True, slots=True)
class _Found:
    """A network, and the variant's own parameters there."""

    at: State
    dual: Tensor


def dropout(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    variant: Literal[
        "ada_prox",
        "ada_tikhonov",
        "eta_trick",
        "log_sum",
        "variational",
        "variational_local",
        "variational_local_additive",
    ] = "ada_prox",
    epsilon: Annotated[float, Gt(0)] = 0.1,
    strength: Annotated[float, Gt(0)] = 1e-5,
    end: Annotated[float, Gt(0), Le(1)] = 0.99,
    epochs: Annotated[int, Ge(1)] | None = None,
    first_epochs: Annotated[int, Ge(1)] | None = None,
    batch: Annotated[int, Ge(1)] | None = None,
    rate: Annotated[float, Gt(0)] | None = None,
    dual_rate: Annotated[float, Gt(0)] | None = None,
    cleanup: bool = True,
) -> Tracer:
    """Train with adaptive dropout at ever larger strengths, from a dense network to a sparse one.

    Parameters
    ----------
    variant : str
        How weights adapt their dropout: by an effective penalty (AdaProx, AdaTikhonov, the eta trick, or the log-sum
        penalty itself), or variational dropout with noise on weights or, locally, on outputs.
    epsilon : float
        Of the effective penalty log(1 + |w| / epsilon), which all but variational dropout have.
    strength : float
        Of the first network, per weight and relative to the mean loss.
    end : float
        Sparsity at which the sweep ends.
    epochs : int
        Passes over the training data per network.
    first_epochs : int
        Passes over the training data for the first network.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Adam's learning rate for the weights, which falls to nothing for every network; by default a tenth of the mean
        size of the weights that are not zero, 3 % of it in variational dropout.
    dual_rate : float
        That for the eta or the noise of every weight, on a log scale; by default 0.05, or 0.01 for additive noise.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    made = lookup("variant", VARIANTS, variant)(epsilon)
    sweep = Sweep(points, strength, end, epochs, first_epochs)
    return AdaptiveDropout(made, sweep, Descent(rate, dual_rate, batch), seed, budget, cleanup)
