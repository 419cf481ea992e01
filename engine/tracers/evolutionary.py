"""Evolution: no gradients, a population of networks in which weights are dropped, brought back and mixed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from annotated_types import Ge
from numpy.random import Generator
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as Optimisation
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.bitflip import BitflipMutation
from pymoo.operators.sampling.rnd import BinaryRandomSampling
from torch import Tensor

from engine.errors import InvalidSpec
from engine.front import Array, Waypoint
from engine.losses import Block
from engine.penalties.rows import rows
from engine.population import population_loss
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer
from engine.tracers.population import shuffled
from engine.tracers.recording import draw, known, reached, recorded

Encoding = Literal["real", "binary"]

MOST_WEIGHTS = 20_000
SMALLEST_SCALE, LARGEST_SCALE = 0.3, 3.0
CHANGED, FEWEST_CHANGED = 0.1, 2.0
SPREAD = 0.3


@final
class SparseCrossover(Crossover):  # type: ignore[misc]
    """Two children of two parents, weight by weight.

    Where both parents have a weight, the children's lie between the parents', each weight at a place of its own; where
    one has it, one child inherits it and the other the zero; where none has it, none does.

    References
    ----------
    Tian, Zhang, Wang, Jin, "An evolutionary algorithm for large-scale sparse multiobjective optimization problems",
    IEEE Trans. Evolutionary Computation 24, 2020 (zeros and values are varied apart).
    """

    def __init__(self) -> None:
        super().__init__(n_parents=2, n_offsprings=2)

    def _do(self, _: Any, X: Array, *__: Any, random_state: Generator, **___: Any) -> Array:
        first, second = X
        shared = (first != 0) & (second != 0)
        swapped = random_state.random(first.shape) < 0.5
        place = np.where(shared, random_state.random(first.shape), swapped)
        return np.stack([first + place * (second - first), second + place * (first - second)])


@final
class SparseMutation(Mutation):  # type: ignore[misc]
    """One of three changes per network, of a few weights: nonzero ones are moved, or dropped, or zeros get a value.

    About a tenth of the nonzero weights is changed, at least two; as many zeros get a value. Sizes are those of the
    network's own weights.

    References
    ----------
    Tian, Zhang, Wang, Jin, IEEE Trans. Evolutionary Computation 24, 2020 (as likely to drop weights as to add them).
    """

    def _do(self, _: Any, X: Array, *__: Any, random_state: Generator, **___: Any) -> Array:
        return np.stack([self._changed(x, random_state) for x in X])

    def _changed(self, x: Array, random_state: Generator) -> Array:
        alive, kind = x != 0, random_state.integers(3)
        few = max(random_state.random() * CHANGED * alive.sum(), FEWEST_CHANGED)
        affected = ~alive if kind == 2 else alive
        chosen = affected & (random_state.random(x.shape) < few / max(int(affected.sum()), 1))
        size = np.abs(x).sum() / max(int(alive.sum()), 1) or 1.0
        noise = size * random_state.standard_normal(x.shape)
        new = [x + SPREAD * noise, np.zeros_like(x), noise][kind]
        changed: Array = np.where(chosen, new, x)
        return changed


@final
class _Weights(Optimisation):  # type: ignore[misc]
    """Penalty and training loss of many weight vectors."""

    def __init__(self, problem: Problem, encoding: Encoding) -> None:
        self._start = problem.loss.initial()
        self._loss, self._rows = population_loss(problem.loss), rows(problem.penalty)
        limits = {"xl": 0, "xu": 1, "vtype": bool} if encoding == "binary" else {}
        super().__init__(n_var=problem.loss.n_params, n_obj=2, **limits)

    def tensor(self, weights: Array) -> Tensor:
        return torch.from_numpy(weights.astype(float)).to(self._start)

    def _evaluate(self, X: Array, out: dict[str, Any], *_: Any, **__: Any) -> None:
        thetas = self.tensor(X)
        losses = self._loss.value(thetas).nan_to_num(math.inf, math.inf)
        out["F"] = torch.stack([self._rows.value(thetas), losses], dim=1).double().cpu().numpy()


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

    def algorithm(self, problem: Problem, seed: int) -> Any:
        """NSGA-II, not yet set up."""
        if self.encoding == "binary":
            operators = {"crossover": TwoPointCrossover(), "mutation": BitflipMutation()}
            return NSGA2(self.population, sampling=BinaryRandomSampling(), eliminate_duplicates=True, **operators)
        first = initial(problem, self.population, seed).double().cpu().numpy()
        return NSGA2(self.population, sampling=first, crossover=SparseCrossover(), mutation=SparseMutation())


def initial(problem: Problem, count: int, seed: int) -> Tensor:
    """Start weights of all scales and densities, shape (count, n_params): from one weight in all to all of them.

    Scales and densities are drawn evenly on log scales; every network draws its weights from the start weights anew.
    """
    generator = torch.Generator().manual_seed(seed)
    fresh = _filled(shuffled(problem.loss, count, seed), generator)
    scale, density, chance = (torch.rand(count, size, generator=generator).to(fresh) for size in (1, 1, fresh.shape[1]))
    scales = SMALLEST_SCALE * (LARGEST_SCALE / SMALLEST_SCALE) ** scale
    return torch.where(chance < fresh.shape[1] ** (density - 1), scales * fresh, 0.0)


def _filled(thetas: Tensor, generator: torch.Generator) -> Tensor:
    """With random values of the size of the others in the place of zeros."""
    size = thetas.abs().sum() / thetas.count_nonzero().clamp_min(1)
    return torch.where(thetas != 0, thetas, size * torch.randn(thetas.shape, generator=generator).to(thetas))


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

    def trace(self, problem: Problem, trail: Sequence[Waypoint] = ()) -> Iterator[Waypoint]:
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
        weights = _Weights(problem, self._evolution.encoding)
        algorithm = self._evolution.algorithm(problem, draw(self._seed, "initial"))
        algorithm.setup(weights, termination=("n_gen", self._evolution.generations), seed=draw(self._seed, "evolution"))
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
