"""A trail read as slots: places on the path, each with the best network found for it so far."""

import math
from collections.abc import Sequence
from itertools import pairwise

from engine.front import Waypoint


class Slots:
    """The trail so far, and what a tracer asks of it.

    Every waypoint's memory says in which stage of the trace, at which place of the stage and for which slot it was
    found; the last waypoint of a slot is its network.

    Parameters
    ----------
    trail : sequence of Waypoint
    """

    def __init__(self, trail: Sequence[Waypoint]) -> None:
        self.trail = list(trail)

    def add(self, waypoint: Waypoint) -> Waypoint:
        """Append to the trail, and hand back."""
        self.trail.append(waypoint)
        return waypoint

    def branch(self, stage: int) -> list[Waypoint]:
        """The waypoints of one exploring stage, led by the first of all."""
        return [self.trail[0], *(w for w in self.trail[1:] if int(w.memory["stage"]) == stage)]

    def passed(self, stage: int, place: int) -> bool:
        """Whether the trail is at or past this place of this stage."""
        last = self.trail[-1].memory
        return (int(last["stage"]), int(last["place"])) >= (stage, place)

    def networks(self) -> dict[int, Waypoint]:
        """Each slot's network."""
        return {int(w.memory["slot"]): w for w in self.trail}

    def order(self) -> list[int]:
        """Slots from sparse to dense, by the penalty of their first network."""
        first = {int(w.memory["slot"]): w for w in reversed(self.trail)}
        return sorted(first, key=lambda slot: (first[slot].point.penalty, slot))

    def widest_gap(self) -> tuple[Waypoint, Waypoint] | None:
        """The neighbours (sparser, denser) furthest apart in the logarithm of the penalty; None if there are none."""
        found = sorted((w for w in self.networks().values() if w.point.penalty > 0), key=lambda w: w.point.penalty)
        gaps = [
            (sparser, denser) for sparser, denser in pairwise(found) if denser.point.penalty > sparser.point.penalty
        ]
        return max(gaps, key=lambda pair: math.log(pair[1].point.penalty / pair[0].point.penalty), default=None)
