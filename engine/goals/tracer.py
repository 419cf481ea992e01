"""A job's own method, and then what was asked of the job later, one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import final

from engine.front import Trail, Waypoint
from engine.goals.base import Goal, Record, Search, asked
from engine.layout import Block
from engine.problem import Problem
from engine.tracers.base import Budget, Clock, Tracer


@final
class Asked(Tracer):
    """The method of a job as stage 0, and a stage for each goal.

    A goal of None has the method go on. The method sees its own points only, numbered as if there were no others.

    Parameters
    ----------
    method : Tracer
    goals : sequence of (Goal or None)
    over : int
        How many stages are over and not gone into again.
    seed : int
    """

    def __init__(self, method: Tracer, goals: Sequence[Goal | None], over: int = 0, seed: int = 0) -> None:
        self._method, self._stages, self._over, self._seed = method, (None, *goals), over, seed
        self.cleanup = method.cleanup
        self.follows = method.follows if None in self._stages[over:] else None
        self.expected = self._wanted()

    def follow(self, source: Trail) -> None:
        self._method.follow(source)
        self.expected = self._wanted()

    def check(self, blocks: Sequence[Block]) -> None:
        self._method.check(blocks)

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        record = Record(trail)
        for number in range(max(self._over, self._begun(record)), len(self._stages)):
            goal = self._stages[number]
            yield from self._own(problem, record) if goal is None else self._sought(problem, record, goal, number)
        self.ended = self._told(record)

    def _wanted(self) -> int:
        pending = self._stages[self._over :]
        return sum(goal.expected for goal in pending if goal) + (self._method.expected if None in pending else 0)

    def _begun(self, record: Record) -> int:
        """The last stage that has a point."""
        goals = [asked(point) for point in record.points]
        last = max(goals, default=0)
        if not last or goals[-1]:
            return last
        return next((n for n in range(last + 1, len(self._stages)) if self._stages[n] is None), last)

    def _own(self, problem: Problem, record: Record) -> Iterator[Waypoint]:
        """The method's next points; their effort is counted on from the job's last."""
        places = [point.index for point in record.points if not asked(point)]
        for waypoint in self._method.trace(problem, _alone(record, places)):
            point, index = waypoint.point, len(record)
            parent = None if point.parent is None else places[point.parent]
            places.append(index)
            yield record.add(replace(waypoint, point=replace(point, index=index, parent=parent)))

    def _sought(self, problem: Problem, record: Record, goal: Goal, number: int) -> Iterator[Waypoint]:
        if not len(record):
            return
        clock = Clock(problem, [record[len(record) - 1]])
        clock.allow(Budget())
        search = Search(problem, clock, record, number, self._seed)
        while (found := goal.next(search)) is not None:
            yield record.add(found)

    def _told(self, record: Record) -> str:
        """What came of the goals; of the method alone where there are none."""
        pending = [(n, goal) for n, goal in enumerate(self._stages) if goal is not None and n >= self._over]
        told = [goal.told(record.points, number) for number, goal in pending if len(record)]
        return " ".join(told) or self._method.ended


def _alone(record: Record, places: Sequence[int]) -> Trail:
    """The points at these places as a trail of their own."""
    numbers: dict[int | None, int] = {index: number for number, index in enumerate(places)}
    found = [record.points[index] for index in places]
    points = [replace(point, index=number, parent=numbers.get(point.parent)) for number, point in enumerate(found)]
    if points:
        last = record.points[-1]
        points[-1] = replace(points[-1], effort=last.effort, seconds=last.seconds)
    return Trail(tuple(points), lambda number: replace(record[places[number]], point=points[number]))
