"""A trail read as slots: places on the path, each with the best network found for it so far."""

import math
from collections.abc import Sequence
from itertools import pairwise

from engine.front import Front, Waypoint


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

    def front(self) -> list[Waypoint]:
        """The slots' networks that no other slot's network dominates, from sparse to dense."""
        found = {w.point.index: w for w in self.networks().values()}
        return [found[p.index] for p in Front(tuple(w.point for w in found.values())).non_dominated()]

    def widest_gap(self) -> tuple[Waypoint, Waypoint] | None:
        """The neighbours (sparser, denser) on the front furthest apart in the logarithm of the penalty.

        Gaps that were tried before are left out; None if there are no others.
        """
        tried = {tuple(w.memory["gap"].tolist()) for w in self.trail}
        gaps = [(a, b) for a, b in pairwise(self.front()) if 0 < a.point.penalty < b.point.penalty]
        untried = [(a, b) for a, b in gaps if (a.point.index, b.point.index) not in tried]
        return max(untried, key=lambda gap: math.log(gap[1].point.penalty / gap[0].point.penalty), default=None)
