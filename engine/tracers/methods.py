"""From a user's settings to tracers with all their parts."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le

from engine.correctors import (
    Accelerated,
    ActiveSetNewton,
    AdaptiveProximal,
    Corrector,
    MultiobjectiveProximalGradient,
    Pace,
    ProximalGradient,
)
from engine.correctors.adaptive import USUAL, Fineness
from engine.correctors.multiobjective import Solver
from engine.correctors.population import PopulationDescent
from engine.errors import InvalidSpec, UnknownName
from engine.predictors import PREDICTORS, Shrinkage, WarmStart
from engine.registry import OneOf, lookup
from engine.tracers.base import Budget, Tracer
from engine.tracers.continuation import Continuation, Parts, Rules
from engine.tracers.population import Plan, Population
from engine.tracers.refit import Refit, Selection

Kind = Literal["accelerated", "adaptive", "multiobjective", "newton", "proximal_gradient"]
Choice = Literal["penalty", "strength"]
Share = Annotated[float, Gt(0), Le(1)]
Count = Annotated[int, Ge(1)]

LARGE_BATCH_STEPS, TRAINING_STEPS = 54, 240
TRAINING = Pace(trust=0.1, fineness=Fineness(0.75, rate=0))
ANCHORING = Pace(trust=0.3, window=100, pressure=10)
REFIT_STEPS, REFIT_RATE, REWIND_STEPS = 120, 1e-2, 960
POPULATION_STEPS = 400
EXACT_PASSES = 1000
EXACT: dict[str, type[ActiveSetNewton | ProximalGradient]] = {
    "newton": ActiveSetNewton,
    "proximal_gradient": ProximalGradient,
}


@dataclass(frozen=True, slots=True)
class Effort:
    """Mini-batch steps of the parts of a continuation.

    Parameters
    ----------
    anchor : int
        For the first network.
    steps : int
        For each network that is explored.
    refining : int
        For guesses that are good already, where they are corrected at all.
    trust : float
        Highest learning rate of a layer as a share of the mean size of its weights, in those.
    slack : float
        How far above the straight line between its neighbours a mean stays as it is; see `Rules`.
    trim : float
        Share of the penalty that is taken from the smallest weights of every network but the first: what noise keeps
        from zero.
    fineness : tuple of two Fineness
        What smaller mini-batches change: for the first network, for the others.
    """

    anchor: int
    steps: int
    refining: int
    trust: float
    slack: float
    trim: float
    fineness: tuple[Fineness, Fineness]


QUALITIES = {
    "draft": Effort(720, 120, 40, 0.12, 2.0, 0.05, (Fineness(0), Fineness(0))),
    "balanced": Effort(900, 150, 60, 0.12, 1.15, 0.05, (Fineness(1), Fineness(0.75))),
    "thorough": Effort(3600, 480, 96, 0.05, 0.0, 0.02, (Fineness(1), Fineness(0.75))),
}


def continuation(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    predictor: Annotated[str | None, OneOf(PREDICTORS)] = None,
    corrector: Kind = "adaptive",
    held: Choice = "penalty",
    quality: Literal["draft", "balanced", "thorough"] = "balanced",
    epochs: Count | None = None,
    sweeps: Count = 1,
    end: Share | None = None,
    start: Literal["dense", "network"] = "dense",
    anchor_epochs: Count | None = None,
    strength: Annotated[float, Gt(0)] = 1.5e-4,
    floor: Share = 0.01,
    batch: Count | None = None,
    rate: Annotated[float, Gt(0)] | None = None,
    solver: Solver = "exact",
    tolerance: Annotated[float, Gt(0)] = 1e-6,
    cleanup: bool = True,
) -> Tracer:
    """Predict and correct along the path, point by point, in several sweeps of which the best is kept.

    Parameters
    ----------
    predictor : str
        How the next point is guessed; by default `adaptive` starts from the last network as it is (warm_start) and
        eases the penalty, other correctors from that network shrunk (shrinkage).
    corrector : str
        How a guess is brought back to the front: steps in Adam's metric, accelerated steps, multiobjective steps, or
        exact steps on all data: Newton's for linear and smooth networks, proximal gradient steps for others.
    held : str
        What a correction holds still: the penalty (no gaps, even spacing) or the strength.
    quality : str
        How long networks are trained (adaptive): the first for 720, 900 or 3,600 mini-batch steps, a tenth of the
        others (at least six) for 120, 150 or 480, those between them, where their mean will not do, for 40, 60 or 96;
        more where there are fewer than 1,000 samples, or where mini-batches are smaller than a sixtieth of the data
        (not with `draft`). `draft` takes most means as they are, `thorough` none. A certificate says how far that went.
    epochs : int
        Passes over the training data per network, for those that `quality` gives 80 to 480 steps; by default 54 steps
        with the accelerated and the multiobjective corrector.
    sweeps : int
        Passes along the path: the first finds the points, further ones improve them all, in turns from both ends.
    end : float
        Sparsity at which the path ends; 1 is the zero network. By default where at least 99 % of the weights are zero
        and the loss is 85 % of the zero network's, or with the zero network where so many zeros are out of reach.
    start : str
        Train a dense network first, or start from the weights that the network was made with.
    anchor_epochs : int
        Passes over the training data for the first network.
    strength : float
        Strength of the penalty at the first network.
    floor : float
        When starting from the network's own weights: share of the first loss at which the dense end is reached.
    batch : int
        Samples in a mini-batch. By default `adaptive` takes a sixtieth of the data, at least 32 and at most 256, and up
        to four times fewer where a sample multiplies each weight several times, as in convolutions; fewer than a
        sixtieth come with more steps (not with `draft`) and lower rates at first.
    rate : float
        Step size: a share of the longest safe one (accelerated, multiobjective; 0.5 by default) or Adam's highest
        learning rate (adaptive; 0.1).
    solver : str
        How a multiobjective step finds its trade-off: exactly, or by the ten bisections of the authors' code.
    tolerance : float
        Where exact steps stop, relative to the gradient.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer: units without an effect and,
        under the l1 norm, scale that the next layer can carry at less.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")

    how = _Steps(LARGE_BATCH_STEPS, batch, rate, solver, tolerance)
    parts = _parts(corrector, held, (epochs, anchor_epochs), QUALITIES[quality], how)
    return Continuation(
        replace(parts, predictor=lookup("predictor", PREDICTORS, predictor)()) if predictor else parts,
        Rules(
            points,
            sweeps,
            end,
            floor,
            start,
            strength,
            QUALITIES[quality].slack if corrector == "adaptive" else 0.0,
            cleanup,
        ),
        seed,
        budget,
        "nothing" if corrector == "multiobjective" else held,
    )


def _parts(kind: Kind, held: Choice, epochs: tuple[int | None, int | None], effort: Effort, how: "_Steps") -> Parts:
    """The correctors of a continuation; exact ones find the first network too, all others leave it to `adaptive`."""
    if kind in EXACT:
        exact = _corrector(kind, held, epochs[0], how)
        first = _corrector(kind, "strength", epochs[1], how)
        return Parts(Shrinkage(), exact, exact, first, first)
    trim, (of_anchor, of_others) = effort.trim, effort.fineness
    trainer = AdaptiveProximal("strength", None, how.batch, TRAINING, 0.0, TRAINING_STEPS)
    anchoring = replace(ANCHORING, fineness=of_anchor)
    anchor = AdaptiveProximal("strength", epochs[1], how.batch, anchoring, 0.0, effort.anchor)
    if kind != "adaptive":
        corrector = _corrector(kind, held, epochs[0], how)
        return Parts(Shrinkage(), corrector, corrector, trainer, anchor)
    pace = replace(USUAL, rate=how.rate or USUAL.rate, fineness=of_others)
    corrector = AdaptiveProximal(held, epochs[0], how.batch, pace, trim, effort.steps)
    refiner = AdaptiveProximal(held, None, how.batch, replace(pace, trust=effort.trust), trim, effort.refining)
    return Parts(WarmStart(), corrector, refiner, trainer, anchor)


def refit(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    job: Count,
    epochs: Count | None = None,
    corrector: Literal["adaptive", "newton", "proximal_gradient"] = "adaptive",
    rate: Annotated[float, Gt(0)] | None = None,
    batch: Count | None = None,
    tolerance: Annotated[float, Gt(0)] = 1e-6,
    dominated: bool = False,
    prune: bool = True,
    rewind: bool = False,
    cleanup: bool = True,
) -> Tracer:
    """Train as many weights as another job's networks have, without the penalty: their own or a denser network's.

    Parameters
    ----------
    job : int
        Number of the job whose networks are refitted; network and data must be its own, but for `rewind`.
    epochs : int
        Passes over the training data per descent, of which there are one to three per network; by default as many as
        make up 120 mini-batch steps, with `rewind` 960, more where there are fewer than 1,000 samples.
    corrector : str
        Steps in Adam's metric, or exact steps on all data, Newton's or proximal gradient steps.
    rate : float
        Adam's learning rate; 0.01 by default.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    tolerance : float
        Where exact steps stop, relative to the gradient.
    dominated : bool
        Refit those networks too that another beats in both nonzero weights and training loss.
    prune : bool
        Whether the largest weights of a denser network, and of the network refitted last, no more of them, compete with
        a network's own: what has the least validation loss in the end is kept (training loss where there are no
        validation data). Otherwise the zeros stay zero.
    rewind : bool
        Whether a network's support is trained from the weights that the network was made with (winning tickets): the
        seed must be the job's, the data may be others of the same shape. Nothing is pruned.
    cleanup : bool
        Whether refitted networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")

    steps = _Steps(REWIND_STEPS if rewind else REFIT_STEPS, batch, rate or REFIT_RATE, "exact", tolerance)
    trained = _corrector(corrector, "strength", epochs, steps)
    return Refit(Selection(job, points, dominated, prune, rewind), trained, seed, budget, cleanup)


def population(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    levels: tuple[Annotated[float, Gt(0)], ...] = (),
    starts: Count | None = None,
    rounds: Count = 3,
    epochs: Count | None = None,
    end: Share = 0.99,
    strength: Annotated[float, Gt(0)] = 3e-4,
    batch: Count | None = None,
    rate: Annotated[float, Gt(0)] = 0.1,
) -> Tracer:
    """Trace all points at once, several small networks for each, in rounds that pass weights on between neighbours.

    Parameters
    ----------
    levels : tuple of float
        Values of the penalty that must be among the points, such as 5, 10, 20; the others lie evenly in between.
    starts : int
        Networks per point that are trained at once, of which the best is kept; by default 1 to 16, the more the smaller
        the network.
    rounds : int
        Times that all networks are trained, each but the first from the best of the neighbours and from fresh starts.
    epochs : int
        Passes over the training data per round; by default as many as make up 400 mini-batch steps, more where there
        are fewer than 1,000 samples.
    end : float
        Sparsity at which the points end; where no network is that sparse, the last one is the zero network.
    strength : float
        Strength of the penalty at the first network, whose penalty is the largest of all.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Adam's highest learning rate as a share of the mean size of a network's nonzero weights.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    if len(levels) > points - 3:
        raise InvalidSpec(f"{len(levels)} levels leave no room for others among {points} points")

    plan = Plan(points, levels, starts, rounds, end, strength)
    return Population(PopulationDescent(epochs, POPULATION_STEPS, batch, rate), plan, seed, budget)


@dataclass(frozen=True, slots=True)
class _Steps:
    steps: int
    batch: int | None
    rate: float | None
    solver: Solver
    tolerance: float


def _corrector(kind: Kind, held: Choice, epochs: int | None, how: _Steps) -> Corrector:
    match kind:
        case "accelerated":
            return Accelerated(held, epochs, how.batch, how.rate or 0.5, how.steps)
        case "adaptive":
            return AdaptiveProximal(
                held, epochs, how.batch, replace(USUAL, rate=how.rate or USUAL.rate), steps=how.steps
            )
        case "multiobjective":
            return MultiobjectiveProximalGradient(
                epochs, how.batch, how.rate or 0.5, solver=how.solver, steps=how.steps
            )
        case "newton" | "proximal_gradient":
            return EXACT[kind](held, epochs or EXACT_PASSES, how.tolerance)
    raise UnknownName("corrector", kind, get_args(Kind))
