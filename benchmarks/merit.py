"""Figures of merit of a front, alone and beside another; l1 norm and training loss are the objectives."""

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.dense import score
from engine.front import Front, ParetoPoint

SPARSITIES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)

ROUNDING = 1e-9

Array = NDArray[Any]


@final
@dataclass(frozen=True, slots=True)
class Box:
    """What hypervolumes are a share of.

    Parameters
    ----------
    worst_l1, worst_loss : float
        The reference point.
    least_l1 : float
        Where the logarithmic box begins; sparser points count from there.
    """

    worst_l1: float
    worst_loss: float
    least_l1: float

    def share(self, front: Front) -> float:
        """Hypervolume of the front as a share of the box."""
        return _hypervolume(front, (self.worst_l1, self.worst_loss)) / (self.worst_l1 * self.worst_loss)

    def log_share(self, front: Front) -> float:
        """The same with the logarithm of the l1 norm."""
        logged = Front(tuple(replace(p, penalty=math.log(max(p.penalty, self.least_l1))) for p in front))
        shifted = Front(tuple(replace(p, penalty=p.penalty - math.log(self.least_l1)) for p in logged))
        width = math.log(self.worst_l1 / self.least_l1)
        return _hypervolume(shifted, (width, self.worst_loss)) / (width * self.worst_loss)


def _hypervolume(front: Front, worst: tuple[float, float]) -> float:
    inside = tuple(p for p in front if p.penalty <= worst[0] and p.loss <= worst[1])
    return Front(inside).hypervolume(worst)


def alone(front: Front, box: Box) -> dict[str, float]:
    """Figures of one front."""
    best = front.non_dominated()
    relative = [p.residual / p.lam if p.lam else math.inf for p in best if p.residual is not None]
    violations = [p.metrics["violation"] for p in best]
    return {
        "networks": len(front),
        "points on the front": len(best),
        "hypervolume": box.share(best),
        "hypervolume, log l1": box.log_share(best),
        "widest gap / median": _gap(best),
        "residual / lambda, median": _median(relative),
        "residual / lambda, worst": max(relative, default=math.nan),
        "violation / lambda, median": _median(violations),
        "violation / lambda, worst": max(violations, default=math.nan),
    }


def beside(front: Front, ours: Front) -> dict[str, float]:
    """Figures of a rival's front beside ours.

    "largest gap" is how far the line through our neighbouring points is above a rival's point at most, negative where
    it is below all of them; it leaves out points that are sparser than all of ours.
    """
    theirs, mine, gaps = _objectives(front), _objectives(ours), _gaps(ours, front)
    return {
        "dominated by ours": _dominated(theirs, mine),
        "dominates of ours": _dominated(mine, theirs),
        "ours no higher": no_higher(ours, front),
        "largest gap": float(gaps[np.isfinite(gaps)].max()) if np.isfinite(gaps).any() else math.nan,
    }


def no_higher(front: Front, other: Front) -> float:
    """Share of the other front's points at whose l1 norm this front is no higher.

    Between neighbouring points the front is a line; it is higher than a point that is sparser than all of its own.
    """
    gaps = _gaps(front, other)
    return float((gaps <= 0).mean()) if len(gaps) else math.nan


def _gaps(front: Front, other: Front) -> Array:
    """How far the front's line is above each point of the other."""
    line = _objectives(front)
    return np.array([_line(line, l1) - loss for l1, loss in _objectives(other)])


def _objectives(front: Front) -> Array:
    """Pairs of l1 norm and training loss that no other dominates, from sparse to dense."""
    return front.non_dominated().values(("penalty", "loss"))


def _dominated(those: Array, by: Array) -> float:
    """Share of those points that some point is at least as good as in both objectives."""
    if not len(those):
        return math.nan
    return float(np.mean([bool(((by <= point).all(axis=1)).any()) for point in those]))


def _line(front: Array, l1: float) -> float:
    """Loss at an l1 norm on the line through neighbouring points; beyond the dense end as there, infinite below."""
    if not len(front) or l1 < front[0, 0]:
        return math.inf
    return float(np.interp(l1, front[:, 0], front[:, 1]))


def accuracies(front: Front, after: str = "") -> dict[str, float]:
    """Validation and test accuracy of the network chosen at each sparsity; NaN where none is."""
    found: dict[str, float] = {}
    for sparsity in SPARSITIES:
        best = chosen(front, sparsity)
        metrics = best.metrics if best else {}
        for part in ("validation", "test"):
            found[f"{part} accuracy at {sparsity:.0%}{after}"] = metrics.get(f"{part}_accuracy", math.nan)
    return found


def chosen(front: Front, sparsity: float) -> ParetoPoint | None:
    """The network of best score among those at least that sparse: by validation data, never by test data."""
    allowed = [p for p in front if p.sparsity >= sparsity - ROUNDING]
    return max(allowed, key=lambda p: (score({**p.metrics, "train_loss": p.loss}), -p.loss), default=None)


def progress(front: Front, box: Box) -> list[tuple[float, float, float]]:
    """Passes, CPU seconds and hypervolume after each network."""
    steps = range(1, len(front) + 1)
    points = front.points
    return [(points[n - 1].effort, points[n - 1].seconds, box.share(Front(points[:n]))) for n in steps]


def _gap(front: Front) -> float:
    gaps = np.diff(np.log([p.penalty for p in front if p.penalty > 0]))
    return float(gaps.max() / np.median(gaps)) if len(gaps) else math.nan


def _median(values: list[float]) -> float:
    return median(values) if values else math.nan
