"""The genetic algorithm behind `evolutionary`: how networks begin, vary and are judged; the rest is pymoo's NSGA-II.

Apart from its method, which imports this to run: pymoo loads scipy, and no other method needs either.
"""

import math
from typing import Any, final

import numpy as np
import torch
from numpy.random import Generator
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as Optimisation
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.bitflip import BitflipMutation
from pymoo.operators.sampling.rnd import BinaryRandomSampling
from torch import Tensor

from engine.front import Array
from engine.penalties.rows import rows
from engine.population import population_loss
from engine.problem import Problem
from engine.tracers.population import shuffled

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
class Weights(Optimisation):  # type: ignore[misc]
    """Penalty and training loss of many weight vectors."""

    def __init__(self, problem: Problem, binary: bool) -> None:
        self._start = problem.loss.initial()
        self._loss, self._rows = population_loss(problem.loss), rows(problem.penalty)
        limits = {"xl": 0, "xu": 1, "vtype": bool} if binary else {}
        super().__init__(n_var=problem.loss.n_params, n_obj=2, **limits)

    def tensor(self, weights: Array) -> Tensor:
        return torch.from_numpy(weights.astype(float)).to(self._start)

    def _evaluate(self, X: Array, out: dict[str, Any], *_: Any, **__: Any) -> None:
        thetas = self.tensor(X)
        losses = self._loss.value(thetas).nan_to_num(math.inf, math.inf)
        out["F"] = torch.stack([self._rows.value(thetas), losses], dim=1).double().cpu().numpy()


def nsga2(problem: Problem, binary: bool, size: int, seed: int) -> Any:
    """NSGA-II with a population of `size`, not yet set up."""
    if binary:
        operators = {"crossover": TwoPointCrossover(), "mutation": BitflipMutation()}
        return NSGA2(size, sampling=BinaryRandomSampling(), eliminate_duplicates=True, **operators)
    first = initial(problem, size, seed).double().cpu().numpy()
    return NSGA2(size, sampling=first, crossover=SparseCrossover(), mutation=SparseMutation())


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
