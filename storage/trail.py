"""The points of a job with their weights, each loaded when it is asked for."""

from collections.abc import Callable, Sequence
from typing import overload

from engine.front import ParetoPoint, Waypoint


class Trail(Sequence[Waypoint]):
    """Waypoints in the order of their indices, as they stood when the trail was read.

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
