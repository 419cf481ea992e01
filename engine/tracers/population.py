"""Many members traced at once: every level of the penalty has several, and rounds pass weights on between levels.

Rounds start from the stored points alone, so a resumed trace goes on as if it had never stopped.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from engine.correctors.population import Balls, PopulationDescent, Strengths
from engine.errors import Diverged
from engine.front import Array, Waypoint
from engine.losses import Loss
from engine.penalties.rows import Rows, rows
from engine.population import PopulationLoss, population_loss
from engine.predictors import state
from engine.problem import Problem, State
from engine.tracers import levels as grid
from engine.tracers.base import Budget, Clock, Tracer, measured
from engine.tracers.slots import Slots

AT_ONCE = 2**25
FITTING, MOST = 2**15, 16
WEAKER = (1.0, 0.1, 0.01)
SCOUTS, SCOUT_RATIO = 24, 0.75
NOTICEABLE = 0.02
NARROWING = 1 - 4e-6
BETTER = 1 - 1e-4
OFFSETS = np.array([0, -1, 1, -2, 2])
EXCHANGED = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How many members are traced, where and for how long.

    Parameters
    ----------
    points : int
        Levels of the penalty, at least 2.
    levels : tuple of float
        Values of the penalty, above 0, that are to be among them.
    starts : int, optional
        Members per level; as many as small networks allow if None.
    rounds : int
        Descents of all members, with an exchange between levels before each but the first.
    end : float
        Sparsity at which the levels end, in (0, 1].
    strength : float
        Strength of the penalty at the first network, whose penalty is the highest level.
    """

    points: int = 40
    levels: tuple[float, ...] = ()
    starts: int | None = None
    rounds: int = 3
    end: float = 0.99
    strength: float = 3e-4

    def members(self, n_params: int) -> int:
        """Members per level."""
        return self.starts or min(max(round(FITTING / (self.points * n_params)), 1), MOST)


@dataclass(frozen=True, slots=True)
class _Work:
    """A problem, prepared for many weight vectors at once."""

    problem: Problem
    loss: PopulationLoss
    rows: Rows
    clock: Clock

    def feasible(self, thetas: Tensor, radii: Tensor) -> Tensor:
        """The nearest members in their balls; `radii` has shape (n_members, 1)."""
        return self.rows.project(thetas, radii * NARROWING, torch.ones_like(thetas))[0]

    def losses(self, thetas: Tensor) -> Tensor:
        """Losses on all data, infinite where they are no numbers, shape (n_members,)."""
        return self.loss.value(thetas).nan_to_num(math.inf, math.inf)

    def zero(self, theta: Tensor) -> Tensor:
        """`theta` with its penalised weights at zero."""
        return self.problem.penalty.project(theta, 0.0)[0]


@dataclass(frozen=True, slots=True)
class _Found:
    """The best that a round found for a slot, and the index of the point it was made from."""

    theta: Tensor
    loss: float
    slot: int
    parent: int | None


@final
class Population(Tracer):
    """Trace all levels of the penalty at once, with several members each, in rounds.

    The first round starts from the first network and from fresh ones; the balls that hold the members shrink around
    them, so that none is caught at zero. Every later round starts a level's members from the best of its own network
    and its neighbours', from its neighbours on both sides, and from fresh ones. A level only ever improves, so the
    front is the envelope of all that the work found.

    Parameters
    ----------
    descent : PopulationDescent
    plan : Plan
    seed : int
    budget : Budget, optional
    """

    def __init__(self, descent: PopulationDescent, plan: Plan, seed: int = 0, budget: Budget | None = None) -> None:
        self._descent, self._plan = descent, plan
        self._seed, self._budget = seed, budget or Budget()
        self.expected = 1 + plan.points * plan.rounds

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        slots, clock = Slots(trail), Clock(problem, trail)
        work = _Work(problem, population_loss(problem.loss), rows(problem.penalty), clock)
        if not slots.trail:
            yield slots.add(self._first(work))
        last = slots.trail[-1].memory
        for turn in range(int(last["round"]) + (not last["left"]), self._last_round(slots) + 1):
            if not last["left"] and clock.exhausted(self._budget):
                break
            yield from self._round(work, slots, turn)
            last = slots.trail[-1].memory
        self.ended = clock.exhausted(self._budget) or _reached(slots)

    def _last_round(self, slots: Slots) -> int:
        """As many as planned; none where the first network is zero already."""
        return self._plan.rounds if slots.trail[0].point.penalty > 0 else 0

    def _first(self, work: _Work) -> Waypoint:
        """The best of the network and fresh ones, trained with the strongest penalty that leaves most to be learnt."""
        own = work.problem.loss.initial().unsqueeze(0)
        fresh = torch.cat([own, self._fresh(work, self._starts(work) - 1, 0)])
        strengths = self._plan.strength * torch.tensor(WEAKER).to(fresh).repeat_interleave(len(fresh)).unsqueeze(1)
        hold = Strengths(work.rows, strengths)
        thetas = self._descent.descend(work.loss, hold, fresh.repeat(len(WEAKER), 1), self._draw("first"))
        losses = work.losses(thetas)
        merits = losses + strengths[:, 0] * work.rows.value(thetas)
        best = merits.view(len(WEAKER), -1).argmin(dim=1) + len(fresh) * torch.arange(len(WEAKER)).to(losses.device)
        bar = (losses.min() + work.losses(own)) / 2
        chosen = best[(losses[best] <= bar).int().argmax()]
        found = _Found(thetas[chosen], float(losses[chosen]), self._plan.points - 1, None)
        return _waypoint(work, found, {"index": 0, "round": 0, "left": 0})

    def _round(self, work: _Work, slots: Slots, turn: int) -> Iterator[Waypoint]:
        """Let all members descend from the points of the rounds before, and hand out what became better."""
        before = Slots([w for w in slots.trail if w.memory["round"] < turn])
        done = len(slots.trail) - len(before.trail)
        levels = self._levels(work, before)
        found = _improved(before.networks(), self._descended(work, before.networks(), levels, turn))
        if done:
            work.problem.loss.effort = slots.trail[-1].point.effort
        for place in range(done, len(found)):
            memory = {"index": len(slots.trail), "round": turn, "left": len(found) - 1 - place, "levels": levels}
            yield slots.add(_waypoint(work, found[place], memory))

    def _levels(self, work: _Work, before: Slots) -> Array:
        """The slots' levels, from sparse to dense: found by scouts in the first round, then stored with its points."""
        known = before.trail[-1].memory.get("levels")
        if known is not None:
            return known
        high = before.trail[0].point.penalty
        scouted = high * SCOUT_RATIO ** np.arange(1, SCOUTS + 1)
        last, sparse = self._scouted(work, state(work.problem, before.trail[0]).theta, scouted)
        return grid.levels(float(scouted[last]), high, self._plan.points, self._plan.levels, zero=not sparse)

    def _scouted(self, work: _Work, first: Tensor, levels: Array) -> tuple[int, bool]:
        """The first level where a network is as sparse as asked or hardly better than none, and which of the two."""
        scouts = self._descend(work, first.expand(len(levels), -1), levels, self._draw("scouts"))
        *losses, dense, none = work.losses(torch.stack([*scouts, first, work.zero(first)])).tolist()
        sparse = self._sparse_enough(scouts).tolist()
        bar = none - NOTICEABLE * (none - dense)
        last = next((i for i in range(len(levels)) if sparse[i] or not losses[i] < bar), len(levels) - 1)
        return last, sparse[last]

    def _descended(self, work: _Work, networks: Mapping[int, Waypoint], levels: Array, turn: int) -> list[_Found]:
        """The best member of each slot after a descent, from sparse to dense; the first is as sparse as asked."""
        places = np.flatnonzero(levels > 0)
        thetas, parents = self._members(work, networks, levels, places, turn)
        n_starts = len(thetas) // len(places)
        thetas = self._descend(work, thetas, levels[places].repeat(n_starts), self._draw(f"round {turn}"))
        losses = work.losses(thetas).view(len(places), n_starts)
        if places[0] == 0:
            losses[0].masked_fill_(~self._sparse_enough(thetas[:n_starts]), math.inf)
        least = losses.min(dim=1)
        chosen = [i * n_starts + k for i, k in enumerate(least.indices.tolist())]
        best = zip(chosen, least.values.tolist(), places.tolist(), strict=True)
        found = [_Found(thetas[k], loss, slot, parents[k]) for k, loss, slot in best]
        if places[0] == 0 and math.isfinite(found[0].loss):
            return found
        return [_at_zero(work, networks), *(each for each in found if each.slot > 0)]

    def _members(
        self, work: _Work, networks: Mapping[int, Waypoint], levels: Array, places: Array, turn: int
    ) -> tuple[Tensor, list[int | None]]:
        """Starts of a round, slot by slot, and the indices of the points they are taken from."""
        donors = [networks[slot] for slot in sorted(networks) if networks[slot].point.penalty > 0]
        stored = torch.stack([state(work.problem, donor).theta for donor in donors])
        near = _nearest([int(donor.memory["slot"]) for donor in donors], places)
        if turn == 1:
            near = near[:, :1]
        else:
            near = _exchanged(work, stored, near, levels[places], turn)[:, : self._starts(work)]
        n_fresh = self._starts(work) - near.shape[1]
        fresh = self._fresh(work, len(places) * n_fresh, turn).view(len(places), n_fresh, stored.shape[1])
        parents = [[*(donors[k].point.index for k in row), *[None] * n_fresh] for row in near]
        thetas = torch.cat([stored[torch.from_numpy(near)], fresh], dim=1)
        return thetas.flatten(0, 1), [parent for each in parents for parent in each]

    def _descend(self, work: _Work, thetas: Tensor, levels: Array, draw: int) -> Tensor:
        """The members in their balls after a descent; as many at once as memory is meant for."""
        size, radii = max(1, AT_ONCE // thetas.shape[1]), _column(levels, thetas)
        ended = [
            self._descent.descend(work.loss, Balls(work.rows, balls, starts), starts, draw)
            for starts, balls in zip(torch.split(thetas, size), torch.split(radii, size), strict=True)
        ]
        return work.feasible(torch.cat(ended), radii)

    def _sparse_enough(self, thetas: Tensor) -> Tensor:
        return 1 - thetas.count_nonzero(dim=1) / thetas.shape[1] >= self._plan.end

    def _fresh(self, work: _Work, count: int, turn: int) -> Tensor:
        return shuffled(work.problem.loss, count, self._draw(f"fresh {turn}"))

    def _starts(self, work: _Work) -> int:
        return self._plan.members(work.problem.loss.n_params)

    def _draw(self, what: str) -> int:
        """A seed of its own for every purpose."""
        digest = hashlib.sha256(f"{self._seed}/{what}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def shuffled(loss: Loss, count: int, seed: int) -> Tensor:
    """Fresh start weights, shape (count, n_params): the network's own, shuffled within tensors, their signs drawn."""
    generator = torch.Generator().manual_seed(seed)
    start, parts = loss.initial().cpu(), []
    for block in loss.layout:
        order = torch.rand(count, block.size, generator=generator).argsort(dim=1)
        signs = torch.randint(0, 2, order.shape, generator=generator) * 2 - 1
        values = start[block.start : block.stop][order]
        parts.append(values * signs if block.kind == "weight" else values)
    return torch.cat(parts, dim=1).to(loss.device)


def _improved(networks: Mapping[int, Waypoint], found: Sequence[_Found]) -> list[_Found]:
    """What is better than its slot's network and than all sparser ones, from sparse to dense."""
    kept, bar = [], math.inf
    for candidate in found:
        known = networks[candidate.slot].point.loss if candidate.slot in networks else math.inf
        if candidate.loss < BETTER * min(known, bar):
            kept.append(candidate)
        bar = min(bar, known, candidate.loss)
    return kept


def _exchanged(work: _Work, stored: Tensor, near: Array, levels: Array, turn: int) -> Array:
    """Each slot's donors: the best of its own and its neighbours', then those on either side, in turns."""
    candidates = stored[torch.from_numpy(near[:, :EXCHANGED])].flatten(0, 1)
    feasible = work.feasible(candidates, _column(levels.repeat(EXCHANGED), candidates))
    best = work.losses(feasible).view(-1, EXCHANGED).argmin(dim=1).cpu().numpy()
    sides = near[:, [1, 2, 3, 4]] if turn % 2 else near[:, [2, 1, 4, 3]]
    return np.column_stack([near[np.arange(len(near)), best], sides])


def _nearest(slots: Sequence[int], places: Array) -> Array:
    """Where in `slots` each place and its neighbours on both sides are, shape (n_places, 5); at the ends the last."""
    at = np.searchsorted(slots, places)
    near: Array = (at[:, None] + OFFSETS).clip(0, len(slots) - 1)
    return near


def _at_zero(work: _Work, networks: Mapping[int, Waypoint]) -> _Found:
    sparsest = networks[min(networks)]
    theta = work.zero(state(work.problem, sparsest).theta)
    return _Found(theta, float(work.losses(theta.unsqueeze(0))), 0, sparsest.point.index)


def _waypoint(work: _Work, found: _Found, memory: Mapping[str, Any]) -> Waypoint:
    loss = work.problem.loss
    loss.calibrate(found.theta)
    value, grad = loss.value_and_grad(found.theta)
    if not math.isfinite(value):
        raise Diverged(f"The loss became {float(value)}; check the data's scale, or lower the method's 'rate'.")
    at = State(found.theta, 0.0, 0.0, loss.buffers)
    waypoint = measured(work.problem, work.clock, at, None, (float(value), grad))
    named = replace(waypoint.point, index=memory["index"], parent=found.parent, sweep=memory["round"])
    kept = {"slot": found.slot, **{name: value for name, value in memory.items() if name != "index"}}
    return replace(waypoint, point=named, memory={name: np.asarray(value) for name, value in kept.items()})


def _column(levels: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(levels).to(like).unsqueeze(1)


def _reached(slots: Slots) -> str:
    sparsest = slots.networks()[min(slots.networks())].point
    return f"The front has {len(slots.front())} points, down to a sparsity of {sparsest.sparsity:.4g}."
