"""How numbers, times and certificates are said to people: one place for the plots, the pages and the command line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.front import ParetoPoint

LABELS = {
    "penalty": "penalty",
    "l1": "l1 norm of the weights",
    "n_nonzero": "nonzero weights",
    "sparsity": "sparsity",
    "multiply_adds": "multiply-adds per sample",
    "bytes": "bytes of a sparse file",
    "loss": "training loss",
    "validation_loss": "validation loss",
    "test_loss": "test loss",
    "train_accuracy": "training accuracy",
    "validation_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "train_bits_per_character": "training bits per character",
    "validation_bits_per_character": "validation bits per character",
    "test_bits_per_character": "test bits per character",
    "lam": "trade-off λ",
    "residual": "residual",
    "effort": "effort in epochs",
    "seconds": "seconds of work",
    "index": "order of discovery",
    "sweep": "sweep",
    "penalty_saved": "penalty saved by the clean-up",
    "source": "refitted from point",
    "pruned_from": "pruned from point",
    "goal": "asked for by goal",
    "leading": "leading",
    "share": "hypervolume",
    "epsilon": "epsilon",
    "igd_plus": "IGD+",
}
SHORT = {
    "n_nonzero": "nonzero",
    "lam": "λ",
    "loss": "train loss",
    "validation_loss": "valid. loss",
    "validation_accuracy": "valid. acc.",
    "test_accuracy": "test acc.",
}
GROUPS = {
    "Size": ("penalty", "l1", "n_nonzero", "sparsity"),
    "Quality": ("loss", "validation_loss", "test_loss", "train_accuracy", "validation_accuracy", "test_accuracy"),
    "Path": ("lam", "residual", "effort", "seconds", "index"),
}
MERITS = ("leading", "share", "epsilon", "igd_plus")
SHARES = frozenset({"sparsity", "share", "coverage"})
WHOLE = frozenset({"n_nonzero", "n_params", "index", "sweep", "goal", "multiply_adds", "bytes", "leading"})
TIGHT, FAIR = 0.01, 1.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """How near a point is to being Pareto critical.

    Parameters
    ----------
    grade : str
        ``exact``, ``tight`` (residual at most 1 % of lambda), ``fair`` (at most lambda), ``loose`` or ``none``.
    relative : float or None
        Residual over lambda, where both exist and lambda is positive.
    sentence : str
        The explanation shown to users.
    """

    grade: str
    relative: float | None
    sentence: str


def label(name: str) -> str:
    """What users call the quantity `name`."""
    return LABELS.get(name, name.replace("_", " "))


def short(name: str) -> str:
    """`label` for narrow columns."""
    return SHORT.get(name) or label(name)


def show(name: str, value: float | None) -> str:
    """`value` of the quantity `name` in a few characters; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if name in SHARES or name.endswith("accuracy"):
        return percent(value)
    return f"{value:,.0f}" if name in WHOLE else number(value)


def number(value: float) -> str:
    """Four significant digits, with thousands apart and powers of ten where they are shorter."""
    if value == 0 or 1e-3 <= abs(value) < 1e3 or not math.isfinite(value):
        return f"{value:.4g}".replace("inf", "∞")
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else _scientific(value)


def _scientific(value: float) -> str:
    digits, _, power = f"{value:.3e}".partition("e")
    return f"{digits}e{int(power)}"


def percent(fraction: float) -> str:
    """A fraction in percent; never rounded up to 100 % or down to 0 % unless it is exactly that."""
    text = f"{100 * fraction:.1f}"
    if text in {"100.0", "0.0"} and fraction not in {0.0, 1.0}:
        text = f"{100 * fraction:.3g}" if fraction < 0.5 else "> 99.9"
    return f"{text.removesuffix('.0')} %"


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s"


def ago(then: datetime, now: datetime) -> str:
    """How long before `now` the moment `then` was, in one unit."""
    seconds = max(0.0, (now - then).total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def counts(states: Mapping[str, int]) -> str:
    """How many jobs are in which state."""
    return ", ".join(f"{n} {state}" for state, n in states.items()) or "no jobs"


def scale(comparison: Mapping[str, Any]) -> str:
    """The scale of a comparison document in one sentence."""
    names, reference = comparison["objectives"], comparison["reference"]
    if reference is None:
        return "None of these jobs has a point yet."
    ends = zip(names, comparison["ideal"], reference, strict=True)
    said = " and ".join(f"{label(name)} from {show(name, best)} to {show(name, worst)}" for name, best, worst in ends)
    return f"Best to worst of all fronts: {said}."


def part(value: Mapping[str, Any] | str) -> str:
    """A network, data set, penalty or method in one short phrase, such as ``mlp (hidden 32)``."""
    if isinstance(value, str):
        return value
    params = value.get("params") or {}
    settings = ", ".join(f"{k.replace('_', ' ')} {_setting(v)}" for k, v in params.items())
    return f"{value['name']} ({settings})" if settings else str(value["name"])


def certificate(point: ParetoPoint) -> Certificate:
    """What the point's residual says, in a sentence."""
    if point.residual is None or point.lam is None:
        return Certificate("none", None, "This method gives its points no trade-off λ, so there is nothing to certify.")
    if not math.isfinite(point.residual):
        return Certificate("none", None, "The residual of this point is not a finite number: nothing is certified.")
    if point.residual == 0:
        return Certificate("exact", 0.0, _EXACT)
    if point.lam <= 0:
        return Certificate("fair", None, _at_zero(point.residual))
    return _graded(point.residual, point.lam)


_EXACT = "The residual is exactly 0: these weights are Pareto critical, no small change lowers both loss and penalty."


def _graded(residual: float, lam: float) -> Certificate:
    relative = residual / lam
    grade, verdict = next(entry for limit, *entry in _VERDICTS if relative <= limit)
    moved = f"At λ = {number(lam)} one more proximal step would move the weights by {number(residual)} in all"
    return Certificate(grade, relative, f"{moved}, {number(relative)} times λ: {verdict}")


_VERDICTS = (
    (TIGHT, "tight", "for practical purposes no small change lowers both loss and penalty."),
    (FAIR, "fair", "close to a Pareto critical network, as mini-batch training gets."),
    (math.inf, "loose", "more work at this λ could still lower loss or penalty."),
)


def _at_zero(residual: float) -> str:
    return f"λ is 0 here: this end of the path only minimises the loss; its gradient has length {number(residual)}."


def _setting(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(str(x) for x in value)
    return str(value)
