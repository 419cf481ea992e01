"""Refit: as many weights as another job's networks have, trained without the penalty.

A penalty shrinks what it does not remove; refitting takes that bias away. It also removes what is small on the way to
ever larger strengths rather than what matters least; so the largest weights of denser networks compete.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from engine.correctors import Corrector
from engine.errors import InvalidSpec
from engine.front import Front, ParetoPoint, Trail, Waypoint
from engine.penalties.base import Penalty, Step
from engine.predictors import state
from engine.problem import Problem, State
from engine.shrinking import Parts
from engine.tracers.base import Budget, Clock, Tracer, measured

OBJECTIVES = ("n_nonzero", "loss")
SOURCE, PRUNED_FROM = "source", "pruned_from"
RATIO = 4.0
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Selection:
    """Which networks of a job are refitted.

    Parameters
    ----------
    job : int
        Number of the job.
    limit : int
        So many at most, at least 2; of more, evenly spread ones from the densest to the sparsest, and among them the
        densest with at least 50, 80, 90, 95, 98 and 99 % zeros as far as there is room.
    dominated : bool
        Also those that another beats in both nonzero weights and training loss.
    prune : bool
        Whether the largest weights of a denser network, and of the last one refitted, compete with the network's own.
    rewind : bool
        Whether the weights the network was made with are trained on the support instead, and nothing competes.
    """

    job: int
    limit: int
    dominated: bool = False
    prune: bool = True
    rewind: bool = False

    def of(self, points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
        """The chosen points, from dense to sparse."""
        kept = points if self.dominated else _front(points)
        ordered = sorted(kept, key=lambda p: (-p.n_nonzero, p.loss, p.index))
        if len(ordered) <= self.limit:
            return ordered
        spread = [round(i * (len(ordered) - 1) / (self.limit - 1)) for i in range(self.limit)]
        return [ordered[place] for place in sorted(_meeting(LEVELS, ordered, spread))]

    def denser(self, points: Sequence[ParetoPoint], chosen: ParetoPoint) -> ParetoPoint | None:
        """The undominated point whose largest weights compete: with about four times as many, if there is one."""
        target = RATIO * chosen.n_nonzero
        able = [p for p in _front(points) if p.n_nonzero > chosen.n_nonzero > 0] if self.prune else []
        return min(able, key=lambda p: abs(math.log(p.n_nonzero / target)), default=None)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A network, the index of that whose weights it began with, its loss and gradient on all data, and its worth.

    Parameters
    ----------
    judged : float
        The validation loss, or the training loss where there are no validation data.
    """

    at: State
    pruned_from: int
    known: tuple[float, Tensor]
    judged: float


@final
class Refit(Tracer):
    """Minimise the loss over as many weights as a network has, network by network, without the penalty.

    Networks come from dense to sparse. Of four the one of least validation loss is kept, or of least training loss
    where there are no validation data: the network as it is; its own weights, refitted; and no more than so many of
    the largest weights of a denser network, and of the network refitted last, refitted. Points have no strength and
    no certificate. Their metric ``source`` is the index of the network they stand for, ``pruned_from`` that of the
    network whose weights they began with, or that the refitted network stood for whose weights they began with; the
    two are the same where the zeros were kept.

    With `Selection.rewind` it trains winning tickets: the network's support from the weights that the network was made
    with. Support and start need not be of the same data.

    Parameters
    ----------
    selection : Selection
    corrector : Corrector
        Holds the strength; it minimises over the support because its penalty is the support's indicator.
    seed : int
    budget : Budget, optional
    cleanup : bool
        Whether refitted networks are cleaned before they are stored.

    References
    ----------
    Meinshausen, "Relaxed lasso", Computational Statistics & Data Analysis 52, 2007 (phi = 0).
    Belloni, Chernozhukov, "Least squares after model selection in high-dimensional sparse models", Bernoulli 19, 2013.
    Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks", NeurIPS 2015
    (training under a penalty, pruning by magnitude, training on).
    Frankle, Carbin, "The lottery ticket hypothesis", ICLR 2019 (rewinding).
    Fu et al., "DessiLBI: exploring structural sparsity of deep networks via differential inclusion paths", ICML 2020
    (tickets from early supports).
    """

    def __init__(
        self,
        selection: Selection,
        corrector: Corrector,
        seed: int = 0,
        budget: Budget | None = None,
        cleanup: bool = True,
    ) -> None:
        self._selection, self._corrector, self.cleanup = selection, corrector, cleanup
        self._seed, self._budget = seed, budget or Budget()
        self._source: Sequence[Waypoint] = ()
        self._places: dict[int, int] = {}
        self._points: Sequence[ParetoPoint] = ()
        self._chosen: list[ParetoPoint] = []
        self.follows = selection.job
        self.expected = selection.limit

    def follow(self, source: Trail) -> None:
        if not source.points:
            raise InvalidSpec(f"job {self.follows} has no points to refit")
        self._source, self._points = source, source.points
        self._places = {point.index: place for place, point in enumerate(source.points)}
        self._chosen = self._selection.of(source.points)
        self.expected = len(self._chosen)

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock = Clock(problem, trail)
        done = [int(waypoint.point.metrics[SOURCE]) for waypoint in trail]
        last = trail[-1] if trail else None
        for chosen in (p for p in self._chosen if p.index not in done):
            if reason := clock.exhausted(self._budget):
                self.ended = reason
                return
            last = self._waypoint(problem, clock, chosen, len(done), last)
            yield last
            done.append(chosen.index)
        self.ended = f"The {len(done)} networks of job {self.follows} were refitted."

    def _waypoint(
        self, problem: Problem, clock: Clock, chosen: ParetoPoint, index: int, last: Waypoint | None
    ) -> Waypoint:
        best = min(self._candidates(problem, chosen, last), key=lambda candidate: candidate.judged)
        problem.loss.load_buffers(best.at.buffers)
        found = measured(problem, clock, best.at, 0.0, best.known)
        metrics = {**found.point.metrics, SOURCE: float(chosen.index), PRUNED_FROM: float(best.pruned_from)}
        return replace(found, point=replace(found.point, index=index, lam=None, residual=None, metrics=metrics))

    def _candidates(self, problem: Problem, chosen: ParetoPoint, last: Waypoint | None) -> Iterator[_Candidate]:
        own, draw = self._network(problem, chosen), self._draw(chosen.index)
        if self._selection.rewind:
            yield self._ticket(problem, own, chosen.index, draw)
            return
        yield _judged(problem, own, chosen.index)
        yield self._refitted(problem, own, chosen.index, draw)
        for start, pruned_from in self._donors(problem, chosen, last):
            theta = pruned(problem.penalty, start.theta, chosen.n_nonzero)
            if int(theta.count_nonzero()) <= chosen.n_nonzero:
                yield self._refitted(problem, replace(start, theta=theta), pruned_from, draw)

    def _donors(self, problem: Problem, chosen: ParetoPoint, last: Waypoint | None) -> Iterator[tuple[State, int]]:
        """Networks whose largest weights compete, and the indices they go by."""
        denser = self._selection.denser(self._points, chosen)
        if denser is not None:
            yield self._network(problem, denser), denser.index
        if self._selection.prune and last is not None and last.point.n_nonzero > chosen.n_nonzero > 0:
            yield state(problem, last), int(last.point.metrics[SOURCE])

    def _network(self, problem: Problem, point: ParetoPoint) -> State:
        return state(problem, self._source[self._places[point.index]])

    def _ticket(self, problem: Problem, own: State, index: int, draw: int) -> _Candidate:
        support = Support(own.theta != 0)
        start = replace(own, theta=support.prox(problem.loss.initial(), 1.0))
        return self._trained(problem, support, start, index, draw)

    def _refitted(self, problem: Problem, start: State, pruned_from: int, draw: int) -> _Candidate:
        return self._trained(problem, Support(start.theta != 0), start, pruned_from, draw)

    def _trained(self, problem: Problem, support: "Support", start: State, pruned_from: int, draw: int) -> _Candidate:
        on_support = replace(problem, penalty=support)
        refitted = self._corrector.correct(on_support, replace(start, step=None), draw).state
        return _judged(problem, problem.cleaned(refitted), pruned_from)

    def _draw(self, source: int) -> int:
        """A seed of its own for every network."""
        digest = hashlib.sha256(f"{self._seed}/refit/{source}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@final
class Support(Penalty):
    """The indicator of a support: nothing on it, infinite off it; so the proximal operator is the projection on it.

    Parameters
    ----------
    mask : Tensor of bool, shape (n_params,)
    """

    def __init__(self, mask: Tensor) -> None:
        self.penalised = mask

    def among(self, parts: Parts) -> Penalty:
        return Support(parts.of(self.penalised))

    def value(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta[0])

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        return torch.where(self.penalised, theta, 0.0)

    def subgradient(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta)

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        return self.prox(theta, metric), torch.zeros_like(theta[0])


def pruned(penalty: Penalty, theta: Tensor, n_nonzero: int) -> Tensor:
    """The weights that the penalty's proximal operator keeps longest: at most so many, apart from unpenalised ones.

    Under the l1 norm these are the largest in magnitude; under a group norm they are whole groups.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
    n_nonzero : int
    """
    low, high = 0.0, float(theta.norm())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = int(penalty.prox(theta, middle).count_nonzero()) <= n_nonzero
        low, high = (low, middle) if enough else (middle, high)
    return torch.where(penalty.prox(theta, high) != 0, theta, 0.0)


def _meeting(levels: Sequence[float], ordered: Sequence[ParetoPoint], places: Sequence[int]) -> set[int]:
    """The places, of which those between the ends are moved to the nearest first place with so many zeros."""
    wanted = [next((i for i, p in enumerate(ordered) if p.sparsity >= level), 0) for level in levels]
    found = set(places)
    for place in sorted(set(wanted) - found):
        movable = found - {places[0], places[-1], *wanted}
        if movable:
            found ^= {place, min(movable, key=lambda i: (abs(i - place), i))}
    return found


def _front(points: Sequence[ParetoPoint]) -> Sequence[ParetoPoint]:
    return Front(tuple(points)).non_dominated(OBJECTIVES).points


def _judged(problem: Problem, at: State, pruned_from: int) -> _Candidate:
    problem.loss.load_buffers(at.buffers)
    value, grad = problem.loss.value_and_grad(at.theta)
    judged = problem.loss.validation(at.theta).get("loss", float(value))
    return _Candidate(at, pruned_from, (float(value), grad), judged)
