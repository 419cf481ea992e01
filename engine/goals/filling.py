"""Goals that make a front finer or longer: more points in its gaps, more points beyond its sparse end."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, final

from annotated_types import Ge, Gt, Lt

from engine.errors import InvalidSpec
from engine.front import ParetoPoint, Waypoint
from engine.goals.base import Goal, Search, asked, front, ratio
from engine.tracers.stride import LARGEST_STEP, SMALLEST_LOG_STEP, USUAL_SLOPE

MOST_TRIES = 2
FINAL_TRIES, FINAL_LOG_STEP = 12, 0.2


@final
class Fill(Goal):
    """More points in the widest gaps of the front, or of a stretch of it.

    Parameters
    ----------
    points : int
        How many more.
    ends : sequence of int
        Indices of the two points between which they are wanted; the whole front if empty.
    """

    def __init__(self, points: int, ends: Sequence[int] = ()) -> None:
        self._points, self._ends = points, ends
        self.expected = points

    def check(self, points: Sequence[ParetoPoint]) -> None:
        if self._ends and len(set(self._ends)) != 2:
            raise InvalidSpec(f"between {list(self._ends)} must be the indices of two different points")
        for index in self._ends:
            if not 0 <= index < len(points):
                raise InvalidSpec(f"there is no point {index}; this job has points 0 to {len(points) - 1}")
        if not self._gaps(points):
            raise InvalidSpec(self._without_gap(points))

    def next(self, search: Search) -> Waypoint | None:
        gained = self._gained(search.points, search.number)
        if gained >= self._points or len(search.own) >= MOST_TRIES * self._points:
            return None
        untried = [gap for gap in self._gaps(search.points) if not any(_inside(p, *gap) for p in search.own)]
        if not untried:
            return None
        sparser, denser = max(untried, key=lambda gap: ratio(*gap))
        level = math.sqrt(sparser.penalty * denser.penalty)
        found, parent = search.between(sparser, denser, level)
        return search.waypoint(found, None, parent)

    def told(self, points: Sequence[ParetoPoint], number: int) -> str:
        where = f" between points {self._ends[0]} and {self._ends[1]}" if self._ends else ""
        return (
            f"{self._gained(points, number)} of the {self._points} more points wanted{where} were found; "
            f"the front has {len(front(points))}."
        )

    def _gained(self, points: Sequence[ParetoPoint], number: int) -> int:
        """By how many points the front has grown, if at all: a new one may beat several old ones."""
        before = [p for p in points if asked(p) != number]
        return max(0, len(front(points)) - len(front(before)))

    def _gaps(self, points: Sequence[ParetoPoint]) -> list[tuple[ParetoPoint, ParetoPoint]]:
        """Neighbours (sparser, denser) with a penalty between theirs."""
        return [(a, b) for a, b in pairwise(front(self._stretch(points))) if 0 < a.penalty < b.penalty]

    def _stretch(self, points: Sequence[ParetoPoint]) -> Sequence[ParetoPoint]:
        if not self._ends:
            return points
        low, high = sorted(points[index].penalty for index in self._ends)
        return [p for p in points if low <= p.penalty <= high]

    def _without_gap(self, points: Sequence[ParetoPoint]) -> str:
        if not self._ends:
            return f"this front of {len(points)} points has no gap between two networks with a penalty above 0"
        at = " and ".join(f"{points[index].penalty:.6g}" for index in self._ends)
        return (
            f"nothing lies between points {self._ends[0]} and {self._ends[1]} with penalties of {at}: "
            "give two points of the front with different penalties above 0"
        )


@final
class Sparser(Goal):
    """More points beyond the sparse end of the front, up to a sparsity.

    Parameters
    ----------
    sparsity : float
        Where to end.
    points : int
        How many more, about evenly spread; some more where they do not reach as far.
    """

    def __init__(self, sparsity: float, points: int) -> None:
        self._end, self._points = sparsity, points
        self.expected = points

    def check(self, points: Sequence[ParetoPoint]) -> None:
        sparsest = _sparsest(points)
        if self._end <= sparsest.sparsity:
            raise InvalidSpec(
                f"end {self._end:g} is no further end: point {sparsest.index} has a sparsity of "
                f"{sparsest.sparsity:.6g} already; give one above that and below 1"
            )
        if (1 - self._end) * sparsest.n_params < 1:
            raise InvalidSpec(
                f"end {self._end:g} leaves none of {sparsest.n_params:,} weights; give at most "
                f"{math.floor(1e6 * (1 - 1 / sparsest.n_params)) / 1e6:g}"
            )

    def next(self, search: Search) -> Waypoint | None:
        n_done = len(search.own)
        here = search.own[-1] if n_done else _sparsest(search.points)
        if here.sparsity >= self._end or here.penalty <= 0 or n_done >= self._points + FINAL_TRIES:
            return None
        level = here.penalty * (1 - self._step(here, max(self._points - n_done, 0)))
        found = search.corrected("penalty", search.state(here, level=level))
        return search.waypoint(found, None, here)

    def told(self, points: Sequence[ParetoPoint], number: int) -> str:
        sparsest = _sparsest(points)
        reached = "reaches" if sparsest.sparsity >= self._end else "does not reach"
        best = f"point {sparsest.index} has a sparsity of {sparsest.sparsity:.6g} and a training loss of"
        return f"The front {reached} a sparsity of {self._end:g}: {best} {sparsest.loss:.4g}."

    def _step(self, here: ParetoPoint, remaining: int) -> float:
        """Share of the penalty to shed so that as many equal log-steps end at the sparsity; later ones are long."""
        distance = math.log(here.n_nonzero / ((1 - self._end) * here.n_params)) / USUAL_SLOPE
        least = SMALLEST_LOG_STEP if remaining else FINAL_LOG_STEP
        return min(1 - math.exp(-max(distance / max(remaining, 1), least)), LARGEST_STEP)


def fill(*, points: Annotated[int, Ge(1)], between: tuple[Annotated[int, Ge(0)], ...] = ()) -> Goal:
    """More points in the widest gaps.

    Parameters
    ----------
    points : int
        How many more.
    between : tuple of int
        Two points between which they are wanted; the whole front if empty.
    """
    return Fill(points, between)


def sparser(*, end: Annotated[float, Gt(0), Lt(1)], points: Annotated[int, Ge(1)]) -> Goal:
    """More points beyond the sparse end.

    Parameters
    ----------
    end : float
        Sparsity at which the front is to end.
    points : int
        How many more.
    """
    return Sparser(end, points)


def _inside(point: ParetoPoint, sparser: ParetoPoint, denser: ParetoPoint) -> bool:
    return sparser.penalty < point.penalty < denser.penalty


def _sparsest(points: Sequence[ParetoPoint]) -> ParetoPoint:
    return min(points, key=lambda p: (p.n_nonzero, p.loss, p.index))
