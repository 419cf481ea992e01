"""From a user's settings to tracers with all their parts."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le

from engine.correctors import (
    Accelerated,
    AdaptiveProximal,
    Corrector,
    MultiobjectiveProximalGradient,
    ProximalGradient,
)
from engine.correctors.multiobjective import Solver
from engine.errors import InvalidSpec, UnknownName
from engine.predictors import PREDICTORS
from engine.registry import OneOf, lookup
from engine.tracers.base import Budget, Tracer
from engine.tracers.continuation import Continuation, Rules

Kind = Literal["accelerated", "adaptive", "multiobjective", "proximal_gradient"]
Choice = Literal["penalty", "strength"]
Share = Annotated[float, Gt(0), Le(1)]
Count = Annotated[int, Ge(1)]


def continuation(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    predictor: Annotated[str, OneOf(PREDICTORS)] = "shrinkage",
    corrector: Kind = "accelerated",
    held: Choice = "penalty",
    epochs: Count = 3,
    sweeps: Count = 2,
    end: Share = 0.99,
    start: Literal["dense", "network"] = "dense",
    anchor_epochs: Count = 20,
    strength: Annotated[float, Gt(0)] = 1e-3,
    floor: Share = 0.01,
    batch: Count | None = None,
    rate: Annotated[float, Gt(0)] | None = None,
    solver: Solver = "exact",
    tolerance: Annotated[float, Gt(0)] = 1e-6,
) -> Tracer:
    """Predict and correct along the path, point by point, in several sweeps of which the best is kept.

    Parameters
    ----------
    predictor : str
        How the next point is guessed.
    corrector : str
        How a guess is brought back to the front: accelerated mini-batch steps, Adam's metric, multiobjective steps, or
        exact steps on all data.
    held : str
        What a correction holds still: the penalty (no gaps, even spacing) or the strength.
    epochs : int
        Passes over the training data per correction.
    sweeps : int
        Passes along the path; the first finds the points, the others improve them in turns from both ends.
    end : float
        Sparsity at which the path ends; 1 is the zero network.
    start : str
        Train a dense network first, or start from the weights that the network was made with.
    anchor_epochs : int
        Passes over the training data for the first, dense network.
    strength : float
        Strength of the penalty at the first network.
    floor : float
        When starting from the network's own weights: share of the first loss at which the dense end is reached.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Step size: a share of the longest safe one (accelerated, multiobjective; 0.5 by default) or Adam's learning rate
        (adaptive; 0.003).
    solver : str
        How a multiobjective step finds its trade-off: exactly, or by the ten bisections of the authors' code.
    tolerance : float
        Where exact steps stop, relative to the gradient.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")

    steps = _Steps(batch, rate, solver, tolerance)
    anchor = _corrector("accelerated" if corrector == "multiobjective" else corrector, "strength", anchor_epochs, steps)
    return Continuation(
        lookup("predictor", PREDICTORS, predictor)(),
        _corrector(corrector, held, epochs, steps),
        anchor,
        Rules(points, sweeps, end, floor, start, strength),
        seed,
        budget,
        "nothing" if corrector == "multiobjective" else held,
    )


@dataclass(frozen=True, slots=True)
class _Steps:
    batch: int | None
    rate: float | None
    solver: Solver
    tolerance: float


def _corrector(kind: Kind, held: Choice, epochs: int, steps: _Steps) -> Corrector:
    match kind:
        case "accelerated":
            return Accelerated(held, epochs, steps.batch, steps.rate or 0.5)
        case "adaptive":
            return AdaptiveProximal(held, epochs, steps.batch, steps.rate or 3e-3)
        case "multiobjective":
            return MultiobjectiveProximalGradient(epochs, steps.batch, steps.rate or 0.5, solver=steps.solver)
        case "proximal_gradient":
            return ProximalGradient(held, epochs, steps.tolerance)
    raise UnknownName("corrector", kind, get_args(Kind))
