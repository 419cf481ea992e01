"""What every goal promises: something asked of a job that has points already, and found from those.

A goal decides from the job's points alone, those that it found itself included, so a search that was stopped goes on as
if it never had been.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from torch import Tensor

from engine.correctors import ActiveSetNewton, AdaptiveProximal, Corrector, Pace
from engine.correctors.adaptive import USUAL
from engine.front import Front, ParetoPoint, Trail, Waypoint
from engine.penalties import Penalty
from engine.predictors import state
from engine.problem import Problem, State
from engine.tracers.base import Clock
from engine.tracers.recording import Measured, draw, known, recorded
from engine.tracers.refit import Support

Held = Literal["penalty", "strength"]

GOAL = "goal"
STEPS, TRIM = 160, 0.05
SUPPORT_STEPS, SUPPORT_PACE = 240, Pace(rate=1e-2)
GENTLE = Pace(trust=0.05)
PASSES, TOLERANCE = 1000, 1e-8
TRIES, SHORTENING, WORSE = 3, 3, 1.25
HALVINGS = 40


class Goal(ABC):
    """Something asked of a job that has points.

    Attributes
    ----------
    expected : int
        How many points it stores at most.
    """

    expected: int

    @abstractmethod
    def check(self, points: Sequence[ParetoPoint]) -> None:
        """Refuse what these points show to be impossible.

        Parameters
        ----------
        points : sequence of ParetoPoint
            At least one: all that the job has.

        Raises
        ------
        InvalidSpec
            Naming the value and what would work.
        """

    @abstractmethod
    def next(self, search: "Search") -> Waypoint | None:
        """The next point on the way to the goal; None where there is nothing more to store."""

    @abstractmethod
    def told(self, points: Sequence[ParetoPoint], number: int) -> str:
        """What came of it, in one sentence; where it was not reached, with the best that was.

        Parameters
        ----------
        points : sequence of ParetoPoint
            All that the job has.
        number : int
            Which of the job's goals this is.
        """


@final
class Record:
    """The points of a job in the order in which they were found; their networks are loaded when asked for.

    Parameters
    ----------
    trail : sequence of Waypoint
    """

    def __init__(self, trail: Sequence[Waypoint]) -> None:
        self._trail, self._added = trail, list[Waypoint]()
        self.points = list(trail.points if isinstance(trail, Trail) else [w.point for w in trail])

    def __getitem__(self, index: int) -> Waypoint:
        return self._trail[index] if index < len(self._trail) else self._added[index - len(self._trail)]

    def __len__(self) -> int:
        return len(self.points)

    def add(self, waypoint: Waypoint) -> Waypoint:
        """Append, and hand back."""
        self._added.append(waypoint)
        self.points.append(waypoint.point)
        return waypoint


@final
@dataclass(frozen=True, slots=True)
class Search:
    """What a goal goes on from, and how it finds networks.

    Parameters
    ----------
    problem : Problem
    clock : Clock
    record : Record
    number : int
        Which of the job's goals this is, from 1.
    seed : int
    """

    problem: Problem
    clock: Clock
    record: Record
    number: int
    seed: int

    @property
    def points(self) -> Sequence[ParetoPoint]:
        """All points of the job."""
        return self.record.points

    @property
    def own(self) -> list[ParetoPoint]:
        """The points that this goal found."""
        return own(self.points, self.number)

    def state(self, point: ParetoPoint, lam: float = 0.0, level: float | None = None) -> State:
        """A stored network as the start of a correction at this strength, and at this penalty instead of its own."""
        found = state(self.problem, self.record[point.index])
        return replace(found, lam=lam, step=None, level=found.level if level is None else level)

    def known(self, at: State) -> Measured:
        """Loss and gradient at these weights, with the buffers that belong to them."""
        self.problem.loss.load_buffers(at.buffers)
        self.problem.loss.calibrate(at.theta)
        return known(self.problem, replace(at, buffers=self.problem.loss.buffers))

    def corrected(self, held: Held, guess: State, pace: Pace = USUAL) -> Measured:
        """The best of a guess, brought to what is held, and of what correcting makes of it, in ever shorter steps."""
        first = self.known(self.problem.cleaned(_feasible(self.problem.penalty, guess, held)))
        tried, corrector = [first], _corrector(self.problem, held, pace)
        for attempt in range(TRIES):
            found = corrector.correct(self.problem, guess, self._draw(attempt)).state
            tried.append(known(self.problem, self.problem.cleaned(found)))
            if tried[-1].merit(self.problem) <= WORSE * first.merit(self.problem) < math.inf:
                break
            guess = replace(guess, step=(found.step or 1.0) / SHORTENING)
        return min(tried, key=lambda measured: measured.merit(self.problem))

    def on_support(self, guess: State, mask: Tensor) -> Measured:
        """The loss lowered over the weights of a mask, without the penalty; other weights are zero.

        References
        ----------
        Meinshausen, "Relaxed lasso", Computational Statistics & Data Analysis 52, 2007 (phi = 0).
        """
        open_ = replace(self.problem, penalty=Support(mask))
        exact = ActiveSetNewton("strength", PASSES, TOLERANCE)
        usual = AdaptiveProximal("strength", pace=SUPPORT_PACE, steps=SUPPORT_STEPS)
        corrector: Corrector = exact if self.problem.loss.convex else usual
        return known(self.problem, corrector.correct(open_, guess, self._draw(0)).state)

    def between(self, sparser: ParetoPoint, denser: ParetoPoint, level: float) -> tuple[Measured, ParetoPoint]:
        """A network of this penalty, and where it began: as their mean, or where that is stuck at the denser one.

        Stuck is a network no better than the sparser one: the two belong to different parts of the front.
        """
        found = self.corrected("penalty", self._mean(sparser, denser, level), GENTLE)
        if found.loss >= sparser.loss:
            found = min(found, self.corrected("penalty", self.state(denser, level=level)), key=lambda f: f.loss)
        return found, denser

    def waypoint(self, found: Measured, lam: float | None, parent: ParetoPoint) -> Waypoint:
        """The next point of the job; `lam` is the strength that was held, its weights' multiplier if None.

        Metrics that only the job's method measures are NaN.
        """
        numbers = {"index": len(self.record), "parent": parent.index, "sweep": self.points[-1].sweep}
        waypoint = recorded(self.problem, self.clock, found, lam, **numbers)
        unknown = dict.fromkeys(self.points[0].metrics, math.nan)
        metrics = {**unknown, **waypoint.point.metrics, GOAL: float(self.number)}
        return replace(waypoint, point=replace(waypoint.point, metrics=metrics))

    def _mean(self, sparser: ParetoPoint, denser: ParetoPoint, level: float) -> State:
        """The weighted mean of two networks that has a penalty between theirs."""
        near, far = self.state(sparser).theta, self.state(denser, level=level)
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            share = (low + high) / 2
            inside = float(self.problem.penalty.value(near.lerp(far.theta, share))) <= level
            low, high = (share, high) if inside else (low, share)
        return replace(far, theta=near.lerp(far.theta, low))

    def _draw(self, attempt: int) -> int:
        return draw(self.seed, f"goal/{self.number}/{len(self.record)}") + attempt


def own(points: Sequence[ParetoPoint], number: int) -> list[ParetoPoint]:
    """The points that a goal found, by its number."""
    return [p for p in points if asked(p) == number]


def asked(point: ParetoPoint) -> int:
    """The number of the goal that a point was found for; 0 where the job's own method found it."""
    return int(point.metrics.get(GOAL, 0))


def front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """The points that no other beats, from sparse to dense."""
    return list(Front(tuple(points)).non_dominated())


def ratio(sparser: ParetoPoint, denser: ParetoPoint) -> float:
    """How far apart two penalties are, as a logarithm."""
    return math.log(denser.penalty / max(sparser.penalty, 1e-300))


def _corrector(problem: Problem, held: Held, pace: Pace) -> Corrector:
    if problem.loss.convex:
        return ActiveSetNewton(held, PASSES, TOLERANCE)
    return AdaptiveProximal(held, pace=pace, trim=TRIM, steps=STEPS)


def _feasible(penalty: Penalty, guess: State, held: Held) -> State:
    """The guess with its penalty no larger than what is held."""
    return replace(guess, theta=penalty.project(guess.theta, guess.level)[0]) if held == "penalty" else guess
