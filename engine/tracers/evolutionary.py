"""Evolution: no gradients, a population of networks in which weights are dropped, brought back and mixed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import numpy as np
import torch
from annotated_types import Ge

from engine.errors import InvalidSpec
from engine.front import Array, Waypoint
from engine.layout import Block
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer
from engine.tracers.recording import draw, known, reached, recorded

Encoding = Literal["real", "binary"]

MOST_WEIGHTS = 20_000


@dataclass(frozen=True, slots=True)
class Evolution:
    """How networks evolve.

    Parameters
    ----------
    encoding : str
        "real": real weights, from networks of all sparsities with start weights of all scales, by `SparseCrossover`
        and `SparseMutation`. "binary": the continuation paper's comparison, weights 0 or 1: random bits, two-point
        crossover, bit flips.
    population, generations : int

    References
    ----------
    Deb, Pratap, Agarwal, Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Trans.
    Evolutionary Computation 6, 2002.
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025 (released code of the comparison: binary).
    """

    encoding: Encoding = "real"
    population: int = 100
    generations: int = 200


@final
class Evolutionary(Tracer):
    """NSGA-II on penalty and training loss; its points are the last population's, those that no other dominates.

    Nothing is yielded before the last generation, so a trace that was stopped before begins anew. The first waypoint's
    memory holds all the networks to come.

    Parameters
    ----------
    evolution : Evolution
    points : int
        Most points; of more networks, evenly spread ones from the sparsest to the densest.
    seed : int
    budget : Budget, optional
        Where it is used up, the generation that has been reached is the last.
    cleanup : bool
        Whether networks are cleaned before they are stored.
    """

    def __init__(
        self, evolution: Evolution, points: int, seed: int = 0, budget: Budget | None = None, cleanup: bool = True
    ) -> None:
        self._evolution, self.expected, self.cleanup = evolution, points, cleanup
        self._seed, self._budget = seed, budget or Budget()

    def check(self, blocks: Sequence[Block]) -> None:
        if (n_params := blocks[-1].stop) > MOST_WEIGHTS:
            raise InvalidSpec(
                f"method 'evolutionary' is for up to {MOST_WEIGHTS:,} weights, this network has {n_params:,}"
            )

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        self.check(problem.loss.layout)
        clock, points = Clock(problem, trail), [w.point for w in trail]
        thetas = trail[0].memory["front"] if trail else self._evolved(problem, clock)
        for place in range(len(points), len(thetas)):
            waypoint = self._waypoint(problem, clock, thetas, place)
            points.append(waypoint.point)
            yield waypoint
        self.ended = clock.exhausted(self._budget) or reached(points)

    def _evolved(self, problem: Problem, clock: Clock) -> Array:
        """The chosen networks, from sparse to dense, shape (n_points, n_params)."""
        from engine.tracers.genetics import Weights, nsga2

        evolution, binary = self._evolution, self._evolution.encoding == "binary"
        weights = Weights(problem, binary)
        algorithm = nsga2(problem, binary, evolution.population, draw(self._seed, "initial"))
        algorithm.setup(weights, termination=("n_gen", evolution.generations), seed=draw(self._seed, "evolution"))
        algorithm.next()
        while algorithm.has_next() and not clock.exhausted(self._budget):
            algorithm.next()
        found = sorted(algorithm.opt, key=lambda one: tuple(one.F))
        count = min(len(found), self.expected)
        chosen = [found[round(i * (len(found) - 1) / max(count - 1, 1))].X for i in range(count)]
        return weights.tensor(np.stack(chosen)).cpu().numpy()

    def _waypoint(self, problem: Problem, clock: Clock, thetas: Array, place: int) -> Waypoint:
        theta = torch.from_numpy(thetas[place].copy()).to(problem.loss.device)
        problem.loss.calibrate(theta)
        at = problem.cleaned(State(theta, 0.0, 0.0, problem.loss.buffers))
        memory = {} if place else {"front": thetas}
        return recorded(problem, clock, known(problem, at), None, index=place, parent=None, memory=memory)


def evolutionary(
    points: int,
    seed: int,
    budget: Budget,
    *,
    encoding: Encoding = "real",
    population: Annotated[int, Ge(4)] = 100,
    generations: Annotated[int, Ge(1)] = 200,
    cleanup: bool = True,
) -> Tracer:
    """Evolve a population of small networks by NSGA-II, without gradients; for up to 20,000 weights.

    Parameters
    ----------
    encoding : str
        Real weights with operators that make and keep zeros, or weights 0 and 1 as in the continuation paper.
    population : int
        Networks at once.
    generations : int
        Times that as many new networks are made; each costs a third of a pass over the training data.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    return Evolutionary(Evolution(encoding, population, generations), points, seed, budget, cleanup)
