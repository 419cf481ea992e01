"""Fronts side by side: figures of merit on one scale, attainment over several seeds, and what a network costs to hold.

All figures take objectives as `engine.front.minimised` gives them: less is better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import final

import moocore
import numpy as np

from engine.front import OBJECTIVES, Array, Front, Layer, ParetoPoint

BYTES_PER_WEIGHT = 4
BITS_PER_BYTE = 8
LEVELS = (0, 50, 100)


@final
@dataclass(frozen=True, slots=True)
class Merit:
    """Figures of one front among several.

    Parameters
    ----------
    hypervolume : float
        Area that it dominates below the common reference, in the objectives' units.
    share : float
        The same as a share of the box between the ideal point and the reference; NaN where that box has no area.
    leading : int
        How many of its points no point of any front beats.
    epsilon : float
        Least number by which each objective, scaled to [0, 1] by that box, must fall for the front to cover all
        leading points; infinite for an empty front.
    igd_plus : float
        Mean distance of the leading points from what the front dominates, on the same scale; infinite if empty.
    """

    hypervolume: float
    share: float
    leading: int
    epsilon: float
    igd_plus: float


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Several fronts on one scale.

    Parameters
    ----------
    ideal, reference : tuple of float
        Best and worst value of each objective among the non-dominated points of all fronts; empty without any.
    merits : tuple of Merit
        In the order of the fronts.
    coverage : tuple of tuple of float
        ``coverage[a][b]``: share of front b's points that some point of front a equals or beats; NaN for an empty b.
    epsilon : tuple of tuple of float
        ``epsilon[a][b]``: least number by which front a, scaled, must fall to cover front b; infinite for an empty a,
        NaN for an empty b.
    """

    ideal: tuple[float, ...]
    reference: tuple[float, ...]
    merits: tuple[Merit, ...]
    coverage: tuple[tuple[float, ...], ...]
    epsilon: tuple[tuple[float, ...], ...]


@final
@dataclass(frozen=True, slots=True)
class Attainment:
    """What several runs of one method attain: surfaces as their corners, shape (n_corners, 2), by the first objective.

    Parameters
    ----------
    best, median, worst : ndarray
        What at least one, at least half, and all of the runs equal or beat.
    """

    best: Array
    median: Array
    worst: Array


@final
@dataclass(frozen=True, slots=True)
class _Box:
    """The box in which fronts are scaled to [0, 1]."""

    ideal: Array
    reference: Array

    @property
    def area(self) -> float:
        return float(np.prod(self.reference - self.ideal))

    def scaled(self, values: Array) -> Array:
        width = self.reference - self.ideal
        scaled: Array = (values - self.ideal) / np.where(width > 0, width, 1.0)
        return scaled


def compare(fronts: Sequence[Front], objectives: Sequence[str] = OBJECTIVES) -> Comparison:
    """Figures of merit of fronts below one reference, and of every front against every other.

    Parameters
    ----------
    fronts : sequence of Front
        Of one problem; dominated points and points without a finite value are left out. Some may be empty.
    objectives : sequence of str
        Two names of numbers of a point.

    Raises
    ------
    UnknownName
        If a point has no such number.

    References
    ----------
    Zitzler, Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the strength Pareto
    approach", IEEE TEC 3(4), 1999 (hypervolume; coverage, section IV-A, with weak domination).
    Zitzler, Thiele, Laumanns, Fonseca, Grunert da Fonseca, "Performance assessment of multiobjective optimizers: an
    analysis and review", IEEE TEC 7(2), 2003 (additive epsilon indicator).
    Ishibuchi, Masuda, Tanigaki, Nojima, "Modified distance calculation in generational distance and inverted
    generational distance", EMO 2015 (IGD+).
    """
    best = [front.non_dominated(objectives).values(objectives) for front in fronts]
    everything = np.vstack([np.empty((0, len(objectives))), *best])
    if not len(everything):
        return _nothing(len(fronts))
    box = _Box(everything.min(axis=0), everything.max(axis=0))
    scaled = [box.scaled(values) for values in best]
    leading = everything[moocore.is_nondominated(everything, keep_weakly=False)]
    return Comparison(
        ideal=tuple(box.ideal.tolist()),
        reference=tuple(box.reference.tolist()),
        merits=tuple(_merit(values, box, leading) for values in best),
        coverage=tuple(tuple(_coverage(a, b) for b in best) for a in best),
        epsilon=tuple(tuple(_epsilon(a, b) for b in scaled) for a in scaled),
    )


def attainment(fronts: Sequence[Front], objectives: Sequence[str] = OBJECTIVES) -> Attainment:
    """The empirical attainment surfaces of several runs.

    Parameters
    ----------
    fronts : sequence of Front
        One for each run, none of them empty.

    References
    ----------
    Grunert da Fonseca, Fonseca, Hall, "Inferential performance assessment of stochastic optimisers and the attainment
    function", EMO 2001.
    Fonseca, Guerreiro, López-Ibáñez, Paquete, "On the computation of the empirical attainment function", EMO 2011.
    """
    runs = _labelled(fronts, objectives)
    found = moocore.eaf(runs[:, :-1], runs[:, -1], percentiles=LEVELS)
    surfaces = [found[found[:, -1] == level, :-1] for level in LEVELS]
    return Attainment(*(surface[np.argsort(surface[:, 0], kind="stable")] for surface in surfaces))


def attainment_difference(
    first: Sequence[Front], second: Sequence[Front], objectives: Sequence[str] = OBJECTIVES
) -> Array:
    """Where runs of one method attain more often than those of another.

    Parameters
    ----------
    first, second : sequence of Front
        One for each run, none of them empty.

    Returns
    -------
    ndarray, shape (n_rectangles, 5)
        Lower ends of both objectives, upper ends (infinite where a rectangle has none), and in between the share of
        the first runs that attain minus the share of the second; rectangles of equal shares are left out.

    References
    ----------
    López-Ibáñez, Paquete, Stützle, "Exploratory analysis of stochastic local search algorithms in biobjective
    optimization", Experimental Methods for the Analysis of Optimization Algorithms, 2010, section 9.4.
    """
    runs = math.lcm(len(first), len(second))
    evenly = [_labelled(list(_repeated(group, runs // len(group))), objectives) for group in (first, second)]
    if np.array_equal(*(moocore.eaf(group[:, :-1], group[:, -1]) for group in evenly)):
        return np.empty((0, 5))
    found = moocore.eafdiff(*evenly, rectangles=True)
    differing: Array = found[found[:, -1] != 0]
    return np.column_stack([differing[:, :-1], differing[:, -1] / runs])


def sparse_bytes(point: ParetoPoint) -> float:
    """Estimated size of a network in a sparse file, in bytes: 4 for each nonzero weight, and where these are.

    The places cost the entropy of each parameter tensor's support, ``n * H(n_nonzero / n)`` bits: what arithmetic
    coding reaches when zeros lie at random.

    References
    ----------
    Cover, Thomas, "Elements of information theory", Wiley, 2006, section 13.2.
    """
    whole = Layer("", (point.n_params,), point.n_nonzero, 0, 0)
    bits = sum(map(_support_bits, point.layers or (whole,)))
    return BYTES_PER_WEIGHT * point.n_nonzero + bits / BITS_PER_BYTE


def _nothing(n_fronts: int) -> Comparison:
    nan = tuple(repeat(math.nan, n_fronts))
    merits = tuple(repeat(Merit(0.0, math.nan, 0, math.inf, math.inf), n_fronts))
    return Comparison((), (), merits, tuple(repeat(nan, n_fronts)), tuple(repeat(nan, n_fronts)))


def _merit(values: Array, box: _Box, leading: Array) -> Merit:
    hypervolume = float(moocore.hypervolume(values, ref=box.reference)) if len(values) else 0.0
    scaled, target = box.scaled(values), box.scaled(leading)
    return Merit(
        hypervolume=hypervolume,
        share=hypervolume / box.area if box.area > 0 else math.nan,
        leading=sum(bool((leading == row).all(axis=1).any()) for row in values),
        epsilon=_epsilon(scaled, target),
        igd_plus=float(moocore.igd_plus(scaled, target)) if len(scaled) else math.inf,
    )


def _coverage(a: Array, b: Array) -> float:
    if not len(b):
        return math.nan
    return float((a[:, None, :] <= b[None, :, :]).all(axis=2).any(axis=0).mean())


def _epsilon(a: Array, b: Array) -> float:
    if not len(b):
        return math.nan
    return float(moocore.epsilon_additive(a, b)) if len(a) else math.inf


def _labelled(fronts: Sequence[Front], objectives: Sequence[str]) -> Array:
    """Non-dominated points of all fronts, with the number of the front as the last column."""
    values = [front.non_dominated(objectives).values(objectives) for front in fronts]
    labels = np.repeat(np.arange(1, len(values) + 1), [len(v) for v in values])
    return np.column_stack([np.vstack(values), labels])


def _repeated(fronts: Sequence[Front], times: int) -> chain[Front]:
    """Every front several times: `moocore.eafdiff` only takes groups of one size."""
    return chain.from_iterable(repeat(front, times) for front in fronts)


def _support_bits(layer: Layer) -> float:
    size = math.prod(layer.shape)
    counts = [count for count in (layer.n_nonzero, size - layer.n_nonzero) if count]
    return sum(count * math.log2(size / count) for count in counts)
