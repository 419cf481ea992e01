"""Goals with a target: so many nonzero weights, a strength of the penalty, a training loss."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, final

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from engine.correctors import ProximalGradient
from engine.correctors.adaptive import USUAL
from engine.errors import InvalidSpec
from engine.front import Front, ParetoPoint, Waypoint
from engine.goals.base import GENTLE, Goal, Search, own, ratio
from engine.problem import Problem
from engine.tracers.recording import Measured, known
from engine.tracers.stride import USUAL_SLOPE

BRACKETS = 3
SPREAD, ABOVE = 1.5, 1.1
RATIO = 4.0
ROUNDING = 1e-9
ROUNDS, GAINED, POLISHING = 3, 1e-3, 100
NARROW, MOST_TRIES = 0.02, 6
INWARD, GROWTH = 0.15, 1.6


@final
class Nonzeros(Goal):
    """A network with exactly so many nonzero weights, of as little training loss as found.

    Where the next denser network has many more weights, networks in between are found first, at penalties held between
    those of its neighbours. Then the largest weights of the next denser network, and of one about four times as dense,
    are kept as they are and trained on, without the penalty; the least loss wins.

    Parameters
    ----------
    count : int, optional
        So many exactly.
    sparsity : float, optional
        Instead: at least this share of zeros, so that fewer weights with less loss will do.

    References
    ----------
    Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks", NeurIPS 2015.
    """

    def __init__(self, count: int | None = None, sparsity: float | None = None) -> None:
        self._exactly, self._sparsity = count, sparsity
        self.expected = BRACKETS + 1

    def check(self, points: Sequence[ParetoPoint]) -> None:
        n_params = points[0].n_params
        if self._exactly is not None and self._exactly > n_params:
            raise InvalidSpec(f"nonzeros {self._exactly:,} is more than the network's {n_params:,} weights")
        if self._count(points) < 1:
            raise InvalidSpec(
                f"sparsity {self._sparsity:g} leaves none of {n_params:,} weights; give at most "
                f"{math.floor(1e6 * (1 - 1 / n_params)) / 1e6:g}"
            )

    def next(self, search: Search) -> Waypoint | None:
        count = self._count(search.points)
        if any(p.n_nonzero == count for p in search.own):
            return None
        return self._bracket(search, count) or self._exact(search, count)

    def told(self, points: Sequence[ParetoPoint], number: int) -> str:
        count, best = self._count(points), self._best(points)
        if best is None:
            nearest = min(points, key=lambda p: (abs(p.n_nonzero - count), p.loss))
            return (
                f"No network with {self._wanted(count)} was found; the nearest is point {nearest.index} with "
                f"{nearest.n_nonzero:,} and a training loss of {nearest.loss:.4g}."
            )
        already = "" if best in own(points, number) else " already, and no better one was found"
        return (
            f"Point {best.index} has {_weights(best.n_nonzero)}{already}: a sparsity of {best.sparsity:.6g} "
            f"at a training loss of {best.loss:.4g}."
        )

    def _wanted(self, count: int) -> str:
        return f"{'at most' if self._exactly is None else 'exactly'} {_weights(count)}"

    def _count(self, points: Sequence[ParetoPoint]) -> int:
        if self._exactly is not None:
            return self._exactly
        return math.floor((1 - (self._sparsity or 0.0)) * points[0].n_params + ROUNDING)

    def _best(self, points: Sequence[ParetoPoint]) -> ParetoPoint | None:
        """The point that answers best."""
        count, fewer = self._count(points), self._exactly is None
        able = [p for p in points if p.n_nonzero == count or (fewer and p.n_nonzero < count)]
        return min(able, key=lambda p: (p.loss, p.n_nonzero, p.index), default=None)

    def _bracket(self, search: Search, count: int) -> Waypoint | None:
        """A network with somewhat more weights, from the neighbours; None where there is one, or none is to be had."""
        denser, sparser = _denser(search.points, count), _sparser(search.points, count)
        if denser is None or denser.n_nonzero <= SPREAD * count or len(search.own) >= BRACKETS:
            return None
        found, parent = self._narrower(search, sparser, denser, ABOVE * count)
        gained = int(found.at.theta.count_nonzero()) < denser.n_nonzero
        return search.waypoint(found, None, parent) if gained else None

    def _narrower(
        self, search: Search, sparser: ParetoPoint | None, denser: ParetoPoint, wanted: float
    ) -> tuple[Measured, ParetoPoint]:
        """A network at the penalty where about so many weights are expected."""
        if sparser is None or not 0 < sparser.penalty < denser.penalty:
            level = denser.penalty * (wanted / denser.n_nonzero) ** (1 / USUAL_SLOPE)
            return search.corrected("penalty", search.state(denser, level=level)), denser
        share = math.log(wanted / sparser.n_nonzero) / math.log(denser.n_nonzero / sparser.n_nonzero)
        level = sparser.penalty * math.exp(min(share, 1 - INWARD) * ratio(sparser, denser))
        return search.between(sparser, denser, level)

    def _exact(self, search: Search, count: int) -> Waypoint | None:
        """The best network of exactly this size, where it is better than what there is."""
        able = [(m, p) for m, p in _of_size(search, count) if int(m.at.theta.count_nonzero()) == count]
        if not able:
            return None
        found, parent = min(able, key=lambda pair: _loss(pair[0]))
        best = self._best(search.points)
        if not math.isfinite(found.loss) or (best is not None and best.loss <= found.loss):
            return None
        waypoint = search.waypoint(found, 0.0, parent)
        return replace(waypoint, point=replace(waypoint.point, lam=None, residual=None))


@final
class Strength(Goal):
    """A network that is stationary at a strength of the penalty, as near as correcting comes.

    It starts from the stored network with the least ``loss + lam * penalty``.

    Parameters
    ----------
    lam : float
        The strength.
    """

    expected = 1

    def __init__(self, lam: float) -> None:
        self._lam = lam

    def check(self, points: Sequence[ParetoPoint]) -> None:
        pass

    def next(self, search: Search) -> Waypoint | None:
        if search.own:
            return None
        start = min(search.points, key=self._merit)
        found = search.corrected("strength", search.state(start, self._lam))
        for _ in range(ROUNDS - 1):
            before = found.merit(search.problem)
            found = search.corrected("strength", replace(found.at, step=None))
            if found.merit(search.problem) > (1 - GAINED) * before:
                break
        found = min(found, _polished(search, found), key=lambda f: f.merit(search.problem))
        return search.waypoint(found, self._lam, start)

    def told(self, points: Sequence[ParetoPoint], number: int) -> str:
        found = own(points, number)[-1]
        return (
            f"Point {found.index} holds the strength {self._lam:g} at a training loss of {found.loss:.4g} and a "
            f"penalty of {found.penalty:.4g}; its residual is {(found.residual or 0.0) / self._lam:.3g} times that."
        )

    def _merit(self, point: ParetoPoint) -> float:
        value = point.loss + self._lam * point.penalty
        return value if math.isfinite(value) else math.inf


@final
class LossAtMost(Goal):
    """A network whose training loss is at most so much, of as small a penalty as found.

    The penalty is held ever closer between that of the best network that will do and that of the next sparser one.
    Where none will do, ever larger penalties are held.

    Parameters
    ----------
    loss : float
    """

    expected = MOST_TRIES

    def __init__(self, loss: float) -> None:
        self._most = loss

    def check(self, points: Sequence[ParetoPoint]) -> None:
        pass

    def next(self, search: Search) -> Waypoint | None:
        denser = self._best(search.points)
        if len(search.own) >= MOST_TRIES:
            return None
        if denser is None:
            return self._lower(search)
        sparser = self._too_sparse(search.points, denser)
        if denser.penalty <= 0 or (sparser is not None and ratio(sparser, denser) <= NARROW):
            return None
        return self._closer(search, sparser, denser)

    def told(self, points: Sequence[ParetoPoint], number: int) -> str:
        best = self._best(points)
        if best is None:
            least = min(points, key=lambda p: p.loss)
            return (
                f"No network with a training loss of at most {self._most:g} was found; the least is {least.loss:.6g}, "
                f"of point {least.index}."
            )
        return (
            f"Point {best.index} has the smallest penalty found at a training loss of at most {self._most:g}: "
            f"{best.penalty:.6g}, with {_weights(best.n_nonzero)} and a loss of {best.loss:.6g}."
        )

    def _lower(self, search: Search) -> Waypoint | None:
        """A network of less loss than all, from the best of them; None where a larger penalty gains nothing."""
        start = min(search.points, key=lambda p: (p.loss, p.index))
        guess = search.state(start, level=GROWTH * max(start.penalty, 1e-30))
        found = min((search.corrected("penalty", guess, pace) for pace in (GENTLE, USUAL)), key=_loss)
        return search.waypoint(found, None, start) if found.loss < start.loss else None

    def _closer(self, search: Search, sparser: ParetoPoint | None, denser: ParetoPoint) -> Waypoint:
        if sparser is None or sparser.penalty <= 0:
            level = denser.penalty / GROWTH
            return search.waypoint(search.corrected("penalty", search.state(denser, level=level)), None, denser)
        span = math.log(sparser.loss / max(denser.loss, 1e-300))
        share = min(max(math.log(self._most / max(denser.loss, 1e-300)) / span, INWARD), 1 - INWARD)
        found, parent = search.between(sparser, denser, denser.penalty * math.exp(-share * ratio(sparser, denser)))
        return search.waypoint(found, None, parent)

    def _best(self, points: Sequence[ParetoPoint]) -> ParetoPoint | None:
        able = [p for p in points if p.loss <= self._most]
        return min(able, key=lambda p: (p.penalty, p.loss, p.index), default=None)

    def _too_sparse(self, points: Sequence[ParetoPoint], best: ParetoPoint) -> ParetoPoint | None:
        """The densest of the points that are sparser and lose more."""
        return max((p for p in points if p.penalty < best.penalty), key=lambda p: (p.penalty, p.index), default=None)


def nonzeros(*, count: Annotated[int, Ge(1)]) -> Goal:
    """Exactly so many nonzero weights.

    Parameters
    ----------
    count : int
        How many.
    """
    return Nonzeros(count=count)


def sparsity(*, least: Annotated[float, Gt(0), Lt(1)]) -> Goal:
    """At least this share of zeros.

    Parameters
    ----------
    least : float
        Share of exact zeros.
    """
    return Nonzeros(sparsity=least)


def strength(*, lam: Annotated[float, Gt(0)]) -> Goal:
    """Stationary at a strength of the penalty.

    Parameters
    ----------
    lam : float
        The strength.
    """
    return Strength(lam)


def loss(*, most: Annotated[float, Gt(0)]) -> Goal:
    """At most this training loss.

    Parameters
    ----------
    most : float
        The loss.
    """
    return LossAtMost(most)


def _of_size(search: Search, count: int) -> Iterator[tuple[Measured, ParetoPoint]]:
    """Networks of about this size, each with the point whose weights it began with."""
    denser = _denser(search.points, count)
    if denser is None:
        yield from _grown(search, count)
        return
    for source in dict.fromkeys((denser.index, _much_denser(search.points, count).index)):
        start, point = search.state(search.points[source]), search.points[source]
        mask = largest(start.theta, count, search.problem.penalty.penalised)
        kept = search.known(replace(start, theta=torch.where(mask, start.theta, 0.0)))
        yield kept, point
        yield _cleaned(search.problem, search.on_support(kept.at, mask), count), point


def _grown(search: Search, count: int) -> Iterator[tuple[Measured, ParetoPoint]]:
    """The densest network with the zeros that the loss pulls at most, trained on."""
    densest = max(search.points, key=lambda p: (p.n_nonzero, -p.loss))
    start = search.known(search.state(densest))
    pull = torch.where(start.at.theta == 0, start.grad.abs(), torch.inf)
    mask = torch.zeros_like(pull, dtype=torch.bool)
    mask[pull.topk(count).indices] = True
    yield _cleaned(search.problem, search.on_support(start.at, mask), count), densest


def _cleaned(problem: Problem, found: Measured, count: int) -> Measured:
    """The network with less penalty and as many weights, where cleaning leaves as many."""
    at = problem.cleaned(found.at)
    return known(problem, at) if int(at.theta.count_nonzero()) == count else found


def largest(theta: Tensor, count: int, penalised: Tensor) -> Tensor:
    """Mask of so many of the weights: those that are not penalised, then the largest.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
        With at least so many that are not zero.
    count : int
    penalised : Tensor of bool, shape (n_params,)
    """
    free = ~penalised.to(theta.device) & (theta != 0)
    mask = torch.zeros_like(theta, dtype=torch.bool)
    mask[torch.where(free, torch.inf, theta.abs()).topk(count).indices] = True
    return mask


def _polished(search: Search, found: Measured) -> Measured:
    """Exact steps on all data bring a network closer to where it is stationary."""
    if search.problem.loss.convex:
        return found
    exact = ProximalGradient("strength", POLISHING).correct(search.problem, replace(found.at, step=None), 0)
    return search.known(exact.state)


def _denser(points: Sequence[ParetoPoint], count: int) -> ParetoPoint | None:
    """The next denser point."""
    able = [p for p in points if p.n_nonzero > count]
    return min(able, key=lambda p: (p.n_nonzero, p.loss, p.index), default=None)


def _sparser(points: Sequence[ParetoPoint], count: int) -> ParetoPoint | None:
    """The next sparser point that is not the zero network."""
    able = [p for p in points if 0 < p.n_nonzero < count]
    return max(able, key=lambda p: (p.n_nonzero, -p.loss, p.index), default=None)


def _much_denser(points: Sequence[ParetoPoint], count: int) -> ParetoPoint:
    """Of the denser points that none beats in size and loss, that with about four times as many weights."""
    able = Front(tuple(p for p in points if p.n_nonzero > count)).non_dominated(("n_nonzero", "loss"))
    return min(able, key=lambda p: abs(math.log(p.n_nonzero / (RATIO * count))))


def _loss(found: Measured) -> float:
    return found.loss if math.isfinite(found.loss) else math.inf


def _weights(count: int) -> str:
    return f"{count:,} nonzero weight{'' if count == 1 else 's'}"
