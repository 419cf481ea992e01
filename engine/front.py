"""Pareto points and fronts as plain numbers: the vocabulary of the whole system.

Numbers (`ParetoPoint`) travel through storage, the API and plots; weights stay behind in `Waypoint`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, overload

import moocore
import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidSpec, UnknownName

Array = NDArray[Any]

OBJECTIVES = ("penalty", "loss")
NUMBERS = (
    *("index", "sweep", "loss", "penalty", "lam", "residual"),
    *("n_nonzero", "n_params", "effort", "seconds", "sparsity"),
)
MAXIMISED = frozenset({"sparsity"})


@dataclass(frozen=True, slots=True)
class Layer:
    """Sparsity of one parameter tensor; a unit is an output neuron or filter, alive while any of its weights is."""

    name: str
    shape: tuple[int, ...]
    n_nonzero: int
    units_alive: int
    units: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{**values, "shape": tuple(values["shape"])})


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """One network on the path, as numbers.

    Parameters
    ----------
    index : int
        Order of discovery in the job, from 0.
    parent : int or None
        Index of the point whose weights the search started from.
    sweep : int
        Number of the sweep that found it, from 0.
    loss, penalty : float
        The two objectives on the full training set, at the stored weights, in eval mode.
    lam : float or None
        Trade-off: the strength at which the weights are stationary for ``loss + lam * penalty``;
        None where the method has none.
    residual : float or None
        Certificate ``||theta - prox(theta - grad, lam)||_2`` on full data; 0 exactly at Pareto critical weights.
    n_nonzero, n_params : int
        Weights that are not exactly zero, and all weights.
    effort : float
        Gradient evaluations since the job began, in full passes over the training data.
    seconds : float
        Seconds of work since the job began (pauses and restarts not counted).
    metrics : mapping of str to float
        ``l1`` of all parameters, and as available ``train_accuracy, validation_loss, validation_accuracy,
        test_loss, test_accuracy``; ``penalty_saved``, what the clean-up took off the penalty, where it was tried.
    layers : tuple of Layer
        Sparsity by parameter tensor, in the network's order.
    """

    index: int
    parent: int | None
    sweep: int
    loss: float
    penalty: float
    lam: float | None
    residual: float | None
    n_nonzero: int
    n_params: int
    effort: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros, in [0, 1]."""
        return 1.0 - self.n_nonzero / self.n_params

    def value(self, name: str) -> float:
        """The number called `name`: a field, a metric or ``sparsity``.

        Raises
        ------
        UnknownName
            If the point has no such number.
        """
        if name not in self.metrics and name not in NUMBERS:
            raise UnknownName("quantity", name, self.names())
        found = self.metrics[name] if name in self.metrics else getattr(self, name)
        return math.nan if found is None else float(found)

    def names(self) -> list[str]:
        """Names of all numbers of this point."""
        return [*NUMBERS, *self.metrics]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ``sparsity`` included, ready for JSON."""
        return {**asdict(self), "sparsity": self.sparsity}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, whose layers may be left out."""
        known = {k: v for k, v in values.items() if k != "sparsity"}
        return cls(**{**known, "layers": tuple(Layer.from_dict(x) for x in values.get("layers", ()))})


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A point with all that a tracer needs to go on from it.

    Parameters
    ----------
    point : ParetoPoint
    theta : ndarray, shape (n_params,)
        The flat weights, float32 or float64.
    buffers : mapping of str to ndarray
        What the network carries beside its weights (batch-norm statistics).
    memory : mapping of str to ndarray
        The method's own state; opaque to everybody else.
    """

    point: ParetoPoint
    theta: Array
    buffers: Mapping[str, Array] = field(default_factory=dict)
    memory: Mapping[str, Array] = field(default_factory=dict)


class Trail(Sequence[Waypoint]):
    """Waypoints in the order of their indices, as they stood when the trail was read; each loaded when asked for.

    Parameters
    ----------
    points : tuple of ParetoPoint
        The numbers, at hand without loading any weights.
    load : callable
        Reads the waypoint of a point's index.
    """

    def __init__(self, points: tuple[ParetoPoint, ...], load: Callable[[int], Waypoint]) -> None:
        self.points = points
        self._load = load

    def __len__(self) -> int:
        return len(self.points)

    @overload
    def __getitem__(self, place: int) -> Waypoint: ...

    @overload
    def __getitem__(self, place: slice) -> "Trail": ...

    def __getitem__(self, place: int | slice) -> "Waypoint | Trail":
        if isinstance(place, slice):
            return Trail(self.points[place], self._load)
        return self._load(self.points[place].index)


def is_maximised(name: str) -> bool:
    """Whether more of the number called `name` is better: accuracies and sparsity."""
    return name in MAXIMISED or name.endswith("accuracy")


def minimised(point: ParetoPoint, name: str) -> float:
    """`point.value(name)`, negated where more is better."""
    value = point.value(name)
    return -value if is_maximised(name) else value


@dataclass(frozen=True)
class Front:
    """The points of a job, and the questions users ask of them."""

    points: tuple[ParetoPoint, ...]

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[ParetoPoint]:
        return iter(self.points)

    def values(self, objectives: Sequence[str]) -> Array:
        """Objectives, each to be minimised, shape (n_points, n_objectives)."""
        rows = [[minimised(p, name) for name in objectives] for p in self.points]
        return np.array(rows, dtype=float).reshape(len(rows), len(objectives))

    def non_dominated(self, objectives: Sequence[str] = OBJECTIVES) -> "Front":
        """Points that no other point beats, sorted by the first objective; NaN never survives, of equals one does."""
        values = self.values(objectives)
        finite = np.flatnonzero(np.isfinite(values).all(axis=1))
        kept = finite[moocore.is_nondominated(values[finite], keep_weakly=False)] if len(finite) else finite
        return Front(tuple(self.points[i] for i in kept[np.argsort(values[kept, 0], kind="stable")]))

    def spread(self, n_points: int, objectives: Sequence[str] = OBJECTIVES) -> "Front":
        """Well-spread points that no other beats: at most so many, the front's ends among them.

        From the ends on, the point furthest from those chosen comes next, with both objectives scaled to [0, 1]. So
        the largest gap, from a point left out to the nearest chosen one, is at most twice the least possible.

        Parameters
        ----------
        n_points : int
            At least 2.

        Raises
        ------
        InvalidSpec
            If `n_points` is less than 2.

        References
        ----------
        Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38, 1985.
        """
        if n_points < 2:
            raise InvalidSpec(f"{n_points} points cannot be spread; 2 and more can")
        front = self.non_dominated(objectives)
        if len(front) <= n_points:
            return front
        chosen = _spread(_unit(front.values(objectives)), n_points)
        return Front(tuple(front.points[i] for i in sorted(chosen)))

    def hypervolume(self, reference: Sequence[float] | None = None, objectives: Sequence[str] = OBJECTIVES) -> float:
        """Area that the front dominates below `reference` (Zitzler, Thiele, IEEE TEC 1999); 0 for an empty front.

        Parameters
        ----------
        reference : sequence of float, optional
            One (minimised) value per objective; the front's own worst values by default.
        """
        values = self.non_dominated(objectives).values(objectives)
        if not len(values):
            return 0.0
        worst = values.max(axis=0) if reference is None else np.asarray(reference, dtype=float)
        return float(moocore.hypervolume(values, ref=worst))

    def knee(self, objectives: Sequence[str] = OBJECTIVES) -> ParetoPoint:
        """The point furthest below the chord between the front's ends, both objectives scaled to [0, 1].

        References
        ----------
        Das, "On characterizing the knee of the Pareto curve", Structural Optimization, 1999.
        """
        front = self._answering(objectives)
        scaled = _unit(front.values(objectives))
        return front.points[int(np.argmin(scaled.sum(axis=1)))]

    def weighted(self, weights: Sequence[float], objectives: Sequence[str] = OBJECTIVES) -> ParetoPoint:
        """The point whose pseudo-weights are nearest to `weights` (Deb, 2001, section 9.3).

        A weight tells how much its objective matters, whatever the objectives' units.
        """
        if len(weights) != len(objectives) or min(weights) < 0 or not sum(weights) > 0:
            raise InvalidSpec(f"weights {list(weights)} must be {len(objectives)} non-negative numbers, not all zero")
        front = self._answering(objectives)
        distance = 1.0 - _unit(front.values(objectives))
        pseudo = distance / np.maximum(distance.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        wanted = np.asarray(weights, dtype=float) / sum(weights)
        return front.points[int(np.argmin(np.abs(pseudo - wanted).sum(axis=1)))]

    def at_sparsity(self, sparsity: float) -> ParetoPoint:
        """The point of least loss among those at least `sparsity` sparse.

        Raises
        ------
        InvalidSpec
            If `sparsity` is outside [0, 1] or no point is that sparse.
        """
        if not 0.0 <= sparsity <= 1.0:
            raise InvalidSpec(f"sparsity {sparsity} is outside [0, 1]")
        wanted = f"with sparsity of at least {sparsity}"
        return self._least("loss", lambda p: p.sparsity >= sparsity, wanted, "sparsity")

    def at_nonzeros(self, n_nonzero: int) -> ParetoPoint:
        """The point of least loss among those with at most `n_nonzero` nonzero weights."""
        wanted = f"with at most {n_nonzero} nonzero weights"
        return self._least("loss", lambda p: p.n_nonzero <= n_nonzero, wanted, "n_nonzero")

    def at_loss(self, loss: float) -> ParetoPoint:
        """The point of fewest nonzeros among those with a training loss of at most `loss`."""
        return self._least("n_nonzero", lambda p: p.loss <= loss, f"with a loss of at most {loss}", "loss")

    def at_metric(self, name: str, level: float) -> ParetoPoint:
        """The point of fewest nonzeros whose metric `name` is at least as good as `level`."""
        sign = -1.0 if name.endswith("accuracy") else 1.0
        wanted = f"with {name} of {level} or better"
        return self._least("n_nonzero", lambda p: minimised(p, name) <= sign * level, wanted, name)

    def _least(self, name: str, allowed: Callable[[ParetoPoint], bool], wanted: str, limit: str) -> ParetoPoint:
        found = [p for p in self.points if allowed(p)]
        if not found:
            values = [p.value(limit) for p in self._answering((limit,), filtered=False)]
            raise InvalidSpec(f"no point {wanted}; this front has {limit} from {min(values):.6g} to {max(values):.6g}")
        return min(found, key=lambda p: (p.value(name), p.loss, p.index))

    def _answering(self, objectives: Sequence[str], filtered: bool = True) -> "Front":
        front = self.non_dominated(objectives) if filtered else self
        if not len(front):
            raise InvalidSpec("this front has no points yet")
        return front


def _spread(values: Array, n_points: int) -> list[int]:
    """Places of rows far from each other, the first and the last row among them."""
    chosen = [0, len(values) - 1]
    nearest = np.minimum(*(np.linalg.norm(values - values[i], axis=1) for i in chosen))
    while len(chosen) < n_points:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(values - values[chosen[-1]], axis=1))
    return chosen


def _unit(values: Array) -> Array:
    low, high = values.min(axis=0), values.max(axis=0)
    scaled: Array = (values - low) / np.where(high > low, high - low, 1.0)
    return scaled
