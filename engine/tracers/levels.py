"""The levels of the penalty at which a population is traced."""

from collections.abc import Sequence

import numpy as np

from engine.front import Array


def levels(low: float, high: float, points: int, wanted: Sequence[float] = (), *, zero: bool = False) -> Array:
    """So many levels in equal log-steps, in increasing order.

    Parameters
    ----------
    low, high : float
        Where they begin and end, widened to what is wanted.
    points : int
    wanted : sequence of float
        Values that take the place of the nearest levels between the ends; at most ``points - 3``.
    zero : bool
        Whether the lowest is zero.
    """
    low, high = min([low, *wanted]), max([high, *wanted])
    found = np.geomspace(high, low, points - zero)[::-1]
    free = list(range(1, len(found) - 1))
    for pin in sorted(value for value in wanted if low < value < high):
        nearest = min(free, key=lambda i: abs(np.log(found[i] / pin)))
        found[nearest] = pin
        free.remove(nearest)
    return np.sort(np.concatenate([[0.0], found]) if zero else found)
