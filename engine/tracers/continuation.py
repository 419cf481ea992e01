"""Predictor-corrector continuation: a few networks along the path, more between them, then sweeps that keep the best.

Every decision follows from the trail, so a resumed trace goes on as if it had never stopped.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, final

import numpy as np
from torch import Tensor

from engine.correctors import Corrector
from engine.correctors.adaptive import TRIM
from engine.errors import Diverged
from engine.front import Waypoint
from engine.losses import Batch
from engine.predictors import Predictor, state
from engine.problem import Problem, State
from engine.tracers import endings, stride
from engine.tracers.base import Budget, Clock, Tracer, measured
from engine.tracers.slots import Slots

Held = Literal["penalty", "strength", "nothing"]

EXPLORED_SHARE, FEWEST_EXPLORED, COVERED = 0.1, 6, 2.7
USUAL_END, LOST, ALL_LOST, FEWER = 0.99, 0.85, 0.97, 3
FROM_NETWORK_SHARE, DENSER_SHARE = 0.8, 0.6
MOST_TRIES = 2
MOST_BEYOND = 2
RETRIES, SHORTENING = 4, 3
WORSE = 1.25
FINAL_STEP = 0.2
FINAL_TRIES = 12
RELAXED, LEAST = 1e-2, 1e-6
NARROWING = 1 - 1e-6
HALVINGS = 24
MOST_SAVED, WIDE = 0.1, 4.0
JUDGING_SHARE, FEWEST_JUDGING = 1 / 8, 512
FIRST_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Rules:
    """How far and how densely a continuation goes.

    Parameters
    ----------
    points : int
        Places on the path, at least 2.
    sweeps : int
        Passes along the path: the first founds the places, further ones improve them all, in turns towards lower loss
        and towards higher sparsity.
    end : float, optional
        Sparsity at which the path ends, in (0, 1]; if None, where 99 % of the weights are zero and 85 % of the zero
        network's loss is reached, or with the zero network where so many zeros are out of reach.
    floor : float
        Where the path starts from given weights: the share of the first loss at which its dense end is reached.
    start : str
        "dense": train an anchor first; "network": start from the weights the network was made with.
    strength : float
        Strength of the penalty at the first point.
    slack : float
        The mean of two networks stands between them as it is where its excess over the denser one's loss is at most so
        many times that of the straight line between the two; never where 0, and never under group penalties.
    cleanup : bool
        Whether networks are stored clean; the search goes on from the clean ones.
    """

    points: int = 40
    sweeps: int = 1
    end: float | None = None
    floor: float = 0.01
    start: Literal["dense", "network"] = "dense"
    strength: float = 1e-3
    slack: float = 0.0
    cleanup: bool = True


@dataclass(frozen=True, slots=True)
class Parts:
    """What a continuation is put together from.

    Parameters
    ----------
    predictor : Predictor
        Guesses the networks that exploring corrects.
    corrector : Corrector
        Corrects them.
    refiner : Corrector
        Corrects guesses that are good already; gentle.
    trainer, anchor : Corrector
        Find the first point: the one trains nearly without the penalty, the other goes on with it. Both hold the
        strength.
    """

    predictor: Predictor
    corrector: Corrector
    refiner: Corrector
    trainer: Corrector
    anchor: Corrector


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the trace a waypoint is found."""

    stage: int
    place: int
    slot: int
    gap: tuple[int, int] = (-1, -1)


@dataclass(frozen=True, slots=True)
class _Found:
    """Weights and what was measured there: the loss on all data, the gradient of corrected ones; and repetitions.

    `judged` is what a judge says of it, NaN where none was asked.
    """

    state: State
    loss: float
    penalty: float
    parent: int | None
    grad: Tensor | None = None
    repeats: int = 0
    judged: float = math.nan

    def known(self, problem: Problem) -> tuple[float, Tensor]:
        """Loss and gradient on all data; the network's buffers are put in place."""
        problem.loss.load_buffers(self.state.buffers)
        if self.grad is not None:
            return self.loss, self.grad
        return self.loss, problem.loss.value_and_grad(self.state.theta)[1]

    def merit(self, lam: float, held: Held) -> float:
        """What the corrector lowers; a loss that is no number has the worst."""
        value = self.loss if held == "penalty" else self.loss + lam * self.penalty
        return value if math.isfinite(value) else math.inf


@dataclass(frozen=True, slots=True)
class _Judge:
    """What the loss of a mean is compared with, by some of the samples, or by all where `batch` is None."""

    sparser: Waypoint
    denser: Waypoint
    slack: float
    batch: Batch | None

    def loss(self, problem: Problem, at: State) -> float:
        """What a network is judged by."""
        return _value(problem, at, self.batch)

    def lets_stay(self, problem: Problem, mean: State, loss: float) -> bool:
        """Whether a front through the mean, of that loss, would bend as fronts do, and fall."""
        high, low = (self._known(problem, waypoint) for waypoint in (self.sparser, self.denser))
        between, span = float(problem.penalty.value(mean.theta)), self.denser.point.penalty - self.sparser.point.penalty
        share = self.slack * (self.denser.point.penalty - between) / span
        return loss - low <= min(share, 1.0) * (high - low)

    def _known(self, problem: Problem, waypoint: Waypoint) -> float:
        if self.batch is None:
            return waypoint.point.loss
        judged = float(waypoint.memory.get("judged", math.nan))
        return self.loss(problem, state(problem, waypoint)) if math.isnan(judged) else judged


@dataclass(frozen=True, slots=True)
class _By:
    """A corrector, what it holds still, and whether what it finds is only a start, which needs no gradient."""

    corrector: Corrector
    held: Held
    starting: bool = False


@final
class Continuation(Tracer):
    """Trace the path by predictions and corrections from one point to the next.

    Exploring founds a few places along the path with long corrections. Filling founds the others in the widest gaps:
    a network between two others is a good guess as it stands. Later sweeps replace a place's network by a better one: a
    place only ever improves, so the front is the envelope of all sweeps.

    Parameters
    ----------
    parts : Parts
    rules : Rules
    seed : int
    budget : Budget, optional
    held : str
        What `corrector` holds still: "penalty", "strength" or "nothing".

    References
    ----------
    Amakor, Sonntag, Peitz, "A multiobjective continuation method to compute the regularization path of deep neural
    networks", Machine Learning with Applications 19, 2025, Algorithm 2.
    """

    def __init__(
        self,
        parts: Parts,
        rules: Rules,
        seed: int = 0,
        budget: Budget | None = None,
        held: Held = "penalty",
    ) -> None:
        self._parts, self._rules, self._seed, self._budget = parts, rules, seed, budget or Budget()
        self._held: Held = held
        self._worst = math.inf
        self._sample: Batch | None = None
        self.expected, self.cleanup = rules.points * rules.sweeps, rules.cleanup

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        slots, clock = Slots(trail), Clock(problem, trail)
        self._worst = _zero_loss(problem) if self._rules.end is None else math.inf
        self._sample = _sample(problem, self._draw(-1, 0))
        if not slots.trail:
            yield slots.add(self._first(problem, clock))
        directions = (1,) if self._rules.start == "dense" else (-1, 1)
        for stage, direction in enumerate(directions, 1):
            yield from self._explore(problem, slots, clock, stage, direction)
        yield from self._fill(problem, slots, clock, len(directions) + 1)
        for sweep in range(1, self._rules.sweeps):
            yield from self._improve(problem, slots, clock, sweep, len(directions) + 1 + sweep)
        self.ended = self._ending(slots, clock)

    def _first(self, problem: Problem, clock: Clock) -> Waypoint:
        theta = problem.loss.initial()
        level = float(problem.penalty.value(theta))
        guess = State(theta, self._rules.strength, level, problem.loss.buffers)
        dense = self._rules.start == "dense"
        clock.allow(self._budget, FIRST_SHARE)
        found = self._dense(problem, clock, guess) if dense else self._correct(problem, guess, None, self._draw(0, 0))
        return self._waypoint(problem, clock, found, _Place(0, 0, 0), 0, 0)

    def _dense(self, problem: Problem, clock: Clock, guess: State) -> _Found:
        """Train nearly without the penalty first: from a fresh network the penalised steps would end at zero."""
        if problem.loss.convex:
            return self._correct(problem, guess, None, self._draw(0, 1), _By(self._parts.anchor, "strength"))
        fresh, lam = _value(problem, guess, self._sample), guess.lam
        trained = self._trained(problem, guess, lam)
        while trained.penalty == 0 and lam > guess.lam * LEAST:
            lam /= 10
            trained = self._trained(problem, guess, lam)
        found = self._penalised(problem, clock, trained, lam, (trained.loss + fresh) / 2)
        return replace(found, state=replace(found.state, step=None))

    def _trained(self, problem: Problem, guess: State, lam: float) -> _Found:
        start, by = replace(guess, lam=lam * RELAXED), _By(self._parts.trainer, "strength", starting=True)
        return self._correct(problem, start, None, self._draw(0, 0), by)

    def _penalised(self, problem: Problem, clock: Clock, trained: _Found, lam: float, bar: float) -> _Found:
        """Go on with the penalty; where it costs most of what was learnt, with a lower strength."""
        by, least, start = _By(self._parts.anchor, "strength"), lam * RELAXED, replace(trained.state, step=None)
        clock.allow(self._budget, FIRST_SHARE)
        found = self._correct(problem, replace(start, lam=lam), None, self._draw(0, 1), by)
        while found.loss > bar and lam > least:
            lam /= 10
            clock.allow(self._budget, FIRST_SHARE)
            found = self._correct(problem, replace(start, lam=lam), None, self._draw(0, 1), by)
        return found

    def _explore(self, problem: Problem, slots: Slots, clock: Clock, stage: int, direction: int) -> Iterator[Waypoint]:
        """Found places in one direction from the first point, up to this direction's end."""
        while not slots.passed(stage + 1, 0) and not clock.exhausted(self._budget):
            branch = slots.branch(stage)
            remaining = self._remaining(slots, direction)
            bounded = direction < 0 or self._rules.end is not None
            if (bounded and remaining < 1) or self._at_end(branch, direction):
                return
            found = self._next(problem, branch, stage, direction, remaining)
            index = len(slots.trail)
            place = _Place(stage, len(branch), index)
            yield slots.add(self._waypoint(problem, clock, found, place, index, 0))

    def _next(self, problem: Problem, branch: Sequence[Waypoint], stage: int, direction: int, remaining: int) -> _Found:
        draw = self._draw(stage, len(branch))
        if direction < 0:
            return self._predicted(problem, branch, stride.denser(branch, self._rules.points), draw)
        if self._rules.end is None:
            return self._onwards(problem, branch, remaining, draw)
        if remaining == 1:
            return self._sparse_end(problem, branch, self._rules.end, draw)
        return self._predicted(problem, branch, stride.sparser(branch, self._rules.end, remaining), draw)

    def _onwards(self, problem: Problem, branch: Sequence[Waypoint], remaining: int, draw: int) -> _Found:
        """The next sparser network where no end was asked for."""
        if remaining <= -MOST_BEYOND * self._explored or branch[-1].point.loss >= ALL_LOST * self._worst:
            return self._zero(problem, state(problem, branch[-1]), branch[-1].point.index, draw)
        step = stride.sparser(branch, self._target(branch[-1]), max(remaining, 1), self._least(remaining))
        return self._predicted(problem, branch, step, draw)

    def _zero(self, problem: Problem, sparsest: State, parent: int, draw: int) -> _Found:
        """The zero network, where so many zeros as wanted are out of reach; what is not penalised is trained."""
        zero = _zeroed(problem, sparsest)
        if self._held != "penalty" or bool(problem.penalty.penalised.all()):
            return _measured(problem, zero, parent)
        return self._correct(problem, zero, parent, draw)

    def _least(self, remaining: int) -> float:
        """The shortest log-step of exploring where no end was asked for; twice as long beyond what was planned."""
        if remaining > 0 and self._rules.start == "network":
            return stride.SMALLEST_LOG_STEP
        return COVERED / self._explored * (1 if remaining > 0 else 2)

    def _predicted(self, problem: Problem, branch: Sequence[Waypoint], step: float, draw: int) -> _Found:
        guess = self._parts.predictor.predict(problem, branch, step, draw)
        guess = replace(guess, level=_aimed(guess.level, branch[-1]))
        return self._correct(problem, guess, branch[-1].point.index, draw)

    def _sparse_end(self, problem: Problem, branch: Sequence[Waypoint], end: float, draw: int) -> _Found:
        """Step on until the network is as sparse as asked; the zero network where no other is that knows something."""
        parent, lost = branch[-1].point.index, ALL_LOST * _zero_loss(problem)
        found = self._predicted(problem, branch, stride.sparser(branch, end, 1), draw)
        for attempt in range(FINAL_TRIES):
            if _sparsity(found.state.theta) >= end:
                return found
            if found.loss >= lost:
                break
            here = self._bare(problem, found, branch[-1])
            found = self._predicted(problem, [here], FINAL_STEP, draw + attempt)
            found = replace(found, parent=parent)
        return self._zero(problem, found.state, parent, draw)

    def _target(self, last: Waypoint) -> float:
        """The sparsity to reach by steps that begin there, where none was asked for."""
        here = last.point
        return USUAL_END if here.sparsity < USUAL_END else 1 - here.n_nonzero // FEWER / here.n_params

    def _fill(self, problem: Problem, slots: Slots, clock: Clock, stage: int) -> Iterator[Waypoint]:
        """Found places in the middle of the front's widest gaps until it has as many points as asked."""
        while not slots.passed(stage + 1, 0) and not clock.exhausted(self._budget):
            gap, index = slots.widest_gap(), len(slots.trail)
            if gap is None or len(slots.front()) >= self._rules.points or index >= MOST_TRIES * self._rules.points:
                return
            found = self._between(problem, *gap, self._wide(slots, gap), self._draw(stage, index))
            ends = (gap[0].point.index, gap[1].point.index)
            yield slots.add(self._waypoint(problem, clock, found, _Place(stage, index, index, ends), index, 0))

    def _between(self, problem: Problem, sparser: Waypoint, denser: Waypoint, wide: bool, draw: int) -> _Found:
        """The mean of two networks where it will do, else the first correction that does; the best where none does."""
        mean = _calibrated(problem, self._mean(problem, sparser, denser))
        judge = self._judge(problem, sparser, denser)
        least = judge.loss(problem, mean) if judge else math.inf
        if judge and judge.lets_stay(problem, mean, least):
            return replace(_measured(problem, mean, denser.point.index), judged=least)
        found: list[_Found] = []
        for attempt in self._attempts(problem, mean, sparser, denser, draw):
            found.append(attempt)
            if attempt.loss < sparser.point.loss or not wide:
                break
        best = min(found, key=lambda f: f.loss)
        if judge is None:
            return best
        reached = judge.loss(problem, best.state) if judge.batch is not None else best.loss
        if least < reached:
            return replace(_measured(problem, mean, denser.point.index), judged=least)
        return replace(best, judged=reached)

    def _judge(self, problem: Problem, sparser: Waypoint, denser: Waypoint) -> _Judge | None:
        """Who says whether means stay as they are."""
        return _Judge(sparser, denser, self._rules.slack, self._sample) if self._judges(problem) else None

    def _judges(self, problem: Problem) -> bool:
        """Whether means may stay as they are: not where weights become zero in groups, as they have both's units."""
        return self._rules.slack > 0 and not problem.penalty.joint

    def _attempts(
        self, problem: Problem, mean: State, sparser: Waypoint, denser: Waypoint, draw: int
    ) -> Iterator[_Found]:
        """The mean corrected; then, where that is stuck, corrections from either end, the last gentle.

        Stuck is a network no better than the sparser one: the two belong to different parts of the front.
        """
        yield self._correct(problem, mean, denser.point.index, draw, _By(self._parts.refiner, self._held))
        different = dict.fromkeys((self._parts.corrector, self._parts.refiner))
        for waypoint, corrector in [(denser, self._parts.corrector), *((sparser, by) for by in different)]:
            start = replace(state(problem, waypoint), level=_aimed(mean.level, waypoint), lam=mean.lam)
            yield self._correct(problem, start, waypoint.point.index, draw, _By(corrector, self._held))

    def _mean(self, problem: Problem, sparser: Waypoint, denser: Waypoint) -> State:
        """The weighted mean of two networks, trimmed, that has the penalty halfway between theirs, on a log scale."""
        level, lam = _middle(sparser, denser)
        near, far = state(problem, sparser).theta, state(problem, denser)
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            share = (low + high) / 2
            inside = float(problem.penalty.value(near.lerp(far.theta, share))) <= level / (1 - TRIM)
            low, high = (share, high) if inside else (low, share)
        theta = problem.penalty.trim(near.lerp(far.theta, low), TRIM)
        return replace(far, theta=theta, level=level, lam=lam)

    def _wide(self, slots: Slots, gap: tuple[Waypoint, Waypoint]) -> bool:
        """Whether a gap is twice as wide as gaps would be if all points asked for were evenly spread."""
        front = slots.front()
        spread = _log_ratio(front[0], front[-1]) / (self._rules.points - 1)
        return _log_ratio(*gap) > WIDE * spread

    def _improve(self, problem: Problem, slots: Slots, clock: Clock, sweep: int, stage: int) -> Iterator[Waypoint]:
        """Visit the places in order, towards lower loss in odd sweeps, and keep what is better than what was there."""
        order = slots.order()
        ordered = order if sweep % 2 else order[::-1]
        for place, slot in enumerate(ordered):
            networks = slots.networks()
            if slots.passed(stage, place) or clock.exhausted(self._budget):
                continue
            here, around = networks[slot], [networks[s] for s in ordered[max(place - 1, 0) : place + 2]]
            found = self._improved(problem, here, around, self._draw(stage, place))
            if self._accepted(found, networks[slot], slot == order[0]):
                index = len(slots.trail)
                yield slots.add(self._waypoint(problem, clock, found, _Place(stage, place, slot), index, sweep))

    def _improved(self, problem: Problem, here: Waypoint, around: Sequence[Waypoint], draw: int) -> _Found:
        """A correction at this place's penalty and strength from whichever network around is the best start."""
        level, lam = here.point.penalty * NARROWING, here.point.lam or 0.0
        starts = [self._start(problem, waypoint, level, lam) for waypoint in around]
        _, guess, parent = min(starts, key=lambda start: start[0])
        return self._correct(problem, guess, parent, draw)

    def _start(self, problem: Problem, waypoint: Waypoint, level: float, lam: float) -> tuple[float, State, int]:
        """How good a network is for a trade-off, as a guess, and its index."""
        guess, here = replace(state(problem, waypoint), level=level, lam=lam), waypoint.point
        if self._held == "strength":
            return here.loss + lam * here.penalty, guess, here.index
        if here.penalty * NARROWING <= level:
            return here.loss, guess, here.index
        theta, _ = problem.penalty.project(guess.theta, level)
        problem.loss.load_buffers(guess.buffers)
        return float(problem.loss.value(theta)), replace(guess, theta=theta), here.index

    def _accepted(self, found: _Found, here: Waypoint, sparsest: bool) -> bool:
        """Whether the new network is better than the place's, and still sparse enough at the sparse end."""
        nonzeros = int(found.state.theta.count_nonzero())
        sparse_enough = _sparsity(found.state.theta) >= (self._rules.end or USUAL_END)
        if sparsest and nonzeros > here.point.n_nonzero and not sparse_enough:
            return False
        if self._held == "strength":
            lam = here.point.lam or 0.0
            return found.loss + lam * found.penalty < here.point.loss + lam * here.point.penalty
        return found.loss < here.point.loss and found.penalty <= here.point.penalty

    def _correct(self, problem: Problem, guess: State, parent: int | None, draw: int, by: _By | None = None) -> _Found:
        """Correct the guess, with ever shorter steps as long as that only makes it worse."""
        by = by or _By(self._parts.corrector, self._held)
        before: list[_Found] = []
        tried: list[_Found] = []
        for attempt in range(RETRIES + 1):
            correction = by.corrector.correct(problem, guess, draw + attempt)
            tried.append((_begun if by.starting else _measured)(problem, correction.state, parent))
            spent = problem.loss.effort >= problem.loss.limit
            if (correction.fell or spent) and math.isfinite(tried[-1].loss):
                return replace(tried[-1], repeats=attempt)
            before = before or [_guessed(problem, _feasible(problem, guess, by.held), parent)]
            if tried[-1].merit(guess.lam, by.held) <= WORSE * before[0].merit(guess.lam, by.held) < math.inf:
                return replace(tried[-1], repeats=attempt)
            guess = replace(guess, step=(correction.state.step or 1.0) / SHORTENING)
        return replace(_least_bad([*before, *tried], guess, by.held), repeats=RETRIES)

    def _waypoint(
        self, problem: Problem, clock: Clock, found: _Found, place: _Place, index: int, sweep: int
    ) -> Waypoint:
        anchored = index == 0 and self._rules.start == "dense"
        lam = found.state.lam if self._held == "strength" or anchored else None
        judged = self._judged(problem, found) if sweep == 0 else math.nan
        memory = {**asdict(place), "step": found.state.step or math.nan, "judged": judged}
        waypoint = measured(problem, clock, found.state, lam, found.known(problem))
        repeats = {"repeats": float(found.repeats)} if found.repeats else {}
        metrics = {**waypoint.point.metrics, **repeats}
        named = replace(waypoint.point, index=index, parent=found.parent, sweep=sweep, metrics=metrics)
        return replace(waypoint, point=named, memory={name: np.asarray(value) for name, value in memory.items()})

    def _judged(self, problem: Problem, found: _Found) -> float:
        """What means beside a network will be compared with; NaN where that is its loss, or nothing."""
        if self._sample is None or not self._judges(problem):
            return math.nan
        return found.judged if math.isfinite(found.judged) else _value(problem, found.state, self._sample)

    def _bare(self, problem: Problem, found: _Found, like: Waypoint) -> Waypoint:
        """What a prediction needs of a network that is not kept."""
        theta = found.state.theta
        lam = found.state.lam if self._held == "strength" else problem.multiplier(theta, found.known(problem)[1])
        point = replace(like.point, loss=found.loss, penalty=found.penalty, lam=lam)
        buffers = {name: tensor.cpu().numpy() for name, tensor in found.state.buffers.items()}
        return replace(like, point=point, theta=theta.cpu().numpy(), buffers=buffers)

    @property
    def _explored(self) -> int:
        """Networks to explore from a dense start."""
        points = self._rules.points
        return min(max(math.ceil(EXPLORED_SHARE * points), FEWEST_EXPLORED), points)

    def _remaining(self, slots: Slots, direction: int) -> int:
        """How many more places this direction may found; from a sparse start most lie towards lower loss."""
        share, points = FROM_NETWORK_SHARE, self._rules.points
        if self._rules.start == "dense":
            return self._explored - len(slots.networks())
        if direction < 0:
            share = DENSER_SHARE if slots.trail[0].point.sparsity >= 0.5 else FROM_NETWORK_SHARE - DENSER_SHARE
        return max(2, math.ceil(share * points)) - len(slots.networks())

    def _at_end(self, branch: Sequence[Waypoint], direction: int) -> bool:
        first, last = branch[0].point, branch[-1].point
        if direction < 0:
            return endings.stalled(branch) or last.loss <= self._rules.floor * first.loss
        if self._rules.end is not None or last.penalty == 0:
            return last.sparsity >= (self._rules.end or 0.0)
        return last.sparsity >= USUAL_END and last.loss >= LOST * self._worst

    def _reached(self, slots: Slots) -> str:
        sparsest = slots.networks()[slots.order()[0]].point
        return f"The front has {len(slots.front())} points, down to a sparsity of {sparsest.sparsity:.4g}."

    def _ending(self, slots: Slots, clock: Clock) -> str:
        dense = self._rules.start == "dense"
        end = self._rules.end or USUAL_END
        remarks = list(endings.remarks(slots.trail, self._rules.strength if dense else 0.0, end))
        if not dense and endings.stalled(slots.branch(1)):
            remarks.append(
                "Towards lower loss the path ends on a plateau, where further steps lowered the loss no more."
            )
        return " ".join([clock.exhausted(self._budget) or self._reached(slots), *remarks])

    def _draw(self, stage: int, place: int) -> int:
        """A seed of its own for every place of every stage."""
        digest = hashlib.sha256(f"{self._seed}/{stage}/{place}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _feasible(problem: Problem, guess: State, held: Held) -> State:
    """The guess with its penalty no larger than what is held."""
    if held != "penalty":
        return guess
    return replace(guess, theta=problem.penalty.project(guess.theta, guess.level)[0])


def _calibrated(problem: Problem, at: State) -> State:
    """With the buffers that belong to its weights."""
    problem.loss.load_buffers(at.buffers)
    problem.loss.calibrate(at.theta)
    return replace(at, buffers=problem.loss.buffers)


def _value(problem: Problem, at: State, batch: Batch | None = None) -> float:
    problem.loss.load_buffers(at.buffers)
    return float(problem.loss.value(at.theta, batch))


def _sample(problem: Problem, draw: int) -> Batch | None:
    """The samples that means are judged by; None for all of them, where an eighth are few."""
    size = round(JUDGING_SHARE * problem.loss.n_samples)
    return next(problem.loss.batches(draw, size)) if size >= FEWEST_JUDGING else None


def _zero_loss(problem: Problem) -> float:
    """The loss without what is penalised; not counted as effort, so that a trace that goes on counts as one."""
    loss, effort, buffers = problem.loss, problem.loss.effort, problem.loss.buffers
    theta = problem.penalty.project(loss.initial(), 0.0)[0]
    loss.calibrate(theta)
    value = float(loss.value(theta))
    loss.load_buffers(buffers)
    loss.effort = effort
    return value


def _zeroed(problem: Problem, at: State) -> State:
    return replace(at, theta=problem.penalty.project(at.theta, 0.0)[0], level=0.0)


def _sparsity(theta: Tensor) -> float:
    return 1 - int(theta.count_nonzero()) / theta.numel()


def _guessed(problem: Problem, at: State, parent: int | None) -> _Found:
    return _Found(at, _value(problem, at), float(problem.penalty.value(at.theta)), parent)


def _begun(problem: Problem, at: State, parent: int | None) -> _Found:
    problem.loss.load_buffers(at.buffers)
    return _guessed(problem, problem.cleaned(at), parent)


def _measured(problem: Problem, at: State, parent: int | None) -> _Found:
    problem.loss.load_buffers(at.buffers)
    at = problem.cleaned(at)
    value, grad = problem.loss.value_and_grad(at.theta)
    return _Found(at, float(value), float(problem.penalty.value(at.theta)), parent, grad)


def _least_bad(tried: Sequence[_Found], guess: State, held: Held) -> _Found:
    """The best of what was tried where no correction improved on the guess, the guess included."""
    finite = [found for found in tried if math.isfinite(found.loss)]
    if not finite:
        raise Diverged(
            f"The loss became {tried[-1].loss} at a penalty of about {guess.level:.6g}, also with steps "
            f"{SHORTENING**RETRIES} times shorter; check the data's scale, or lower the method's 'rate'."
        )
    return min(finite, key=lambda found: found.merit(guess.lam, held))


def _aimed(level: float, start: Waypoint) -> float:
    """What to hold for a clean network of this penalty, as far as cleaning saves what it saved at the start."""
    saved = start.point.metrics.get("penalty_saved", 0.0)
    return level / (1 - min(MOST_SAVED, saved / max(saved + start.point.penalty, 1e-300)))


def _log_ratio(sparser: Waypoint, denser: Waypoint) -> float:
    return math.log(denser.point.penalty / max(sparser.point.penalty, 1e-300))


def _middle(sparser: Waypoint, denser: Waypoint) -> tuple[float, float]:
    """Penalty and strength halfway between two points, on log scales."""
    level = math.sqrt(sparser.point.penalty * denser.point.penalty)
    return level, math.sqrt((sparser.point.lam or 0.0) * (denser.point.lam or 0.0))
