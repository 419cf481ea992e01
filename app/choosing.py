"""Picking one network from a front by what it must fulfil."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.errors import InvalidSpec
from engine.front import OBJECTIVES, Front, ParetoPoint

PREFIXES = ("train_", "validation_", "test_")


@dataclass(frozen=True)
class Choice:
    """Exactly one criterion.

    Parameters
    ----------
    sparsity : float, optional
        At least this fraction of zeros, then the least training loss.
    max_nonzero : int, optional
        At most so many nonzero weights, then the least training loss.
    max_loss : float, optional
        At most this training loss, then the fewest nonzero weights.
    min_metric : str, optional
        ``accuracy:0.9``: at least as good in this metric (on the validation data unless the name starts with
        ``train_`` or ``test_``), then the fewest nonzero weights.
    knee : bool
        The point furthest below the chord between the front's ends.
    weights : str, optional
        ``0.7,0.3``: how much each objective matters.
    """

    sparsity: float | None = None
    max_nonzero: int | None = None
    max_loss: float | None = None
    min_metric: str | None = None
    knee: bool = False
    weights: str | None = None


def choose(front: Front, choice: Choice, objectives: Sequence[str] = OBJECTIVES) -> ParetoPoint:
    """The point that `choice` picks; knee and weights look at the objectives.

    Raises
    ------
    InvalidSpec
        If none or several criteria are given, one of them cannot be, or no point fulfils it.
    """
    given = [name for name in _CRITERIA if getattr(choice, name) not in (None, False)]
    if len(given) != 1:
        raise InvalidSpec(f"exactly one of {', '.join(_CRITERIA)} is needed, not {' and '.join(given) or 'none'}")
    return _CRITERIA[given[0]](front, choice, objectives)


def _by_sparsity(front: Front, choice: Choice, _: Sequence[str]) -> ParetoPoint:
    return front.at_sparsity(choice.sparsity or 0.0)


def _by_nonzeros(front: Front, choice: Choice, _: Sequence[str]) -> ParetoPoint:
    return front.at_nonzeros(choice.max_nonzero or 0)


def _by_loss(front: Front, choice: Choice, _: Sequence[str]) -> ParetoPoint:
    return front.at_loss(choice.max_loss or 0.0)


def _by_metric(front: Front, choice: Choice, _: Sequence[str]) -> ParetoPoint:
    name, _, level = (choice.min_metric or "").rpartition(":")
    full = name if name.startswith(PREFIXES) else f"validation_{name}"
    return front.at_metric(full, _number(level, f"min_metric {choice.min_metric!r}", "accuracy:0.9"))


def _by_knee(front: Front, _: Choice, objectives: Sequence[str]) -> ParetoPoint:
    return front.knee(objectives)


def _by_weights(front: Front, choice: Choice, objectives: Sequence[str]) -> ParetoPoint:
    text = choice.weights or ""
    values = [_number(x, f"weights {text!r}", "0.7,0.3") for x in text.split(",")]
    return front.weighted(values, objectives)


_Criterion = Callable[[Front, Choice, Sequence[str]], ParetoPoint]
_CRITERIA: dict[str, _Criterion] = {
    "sparsity": _by_sparsity,
    "max_nonzero": _by_nonzeros,
    "max_loss": _by_loss,
    "min_metric": _by_metric,
    "knee": _by_knee,
    "weights": _by_weights,
}


def _number(text: str, what: str, example: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidSpec(f"{what} cannot be read; expected something like {example}")
    return value
