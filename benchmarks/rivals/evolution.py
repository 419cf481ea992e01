"""NSGA-II: no gradients, a population of networks."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import ElementwiseProblem
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.bitflip import BitflipMutation
from pymoo.operators.sampling.rnd import BinaryRandomSampling
from pymoo.optimize import minimize
from torch import Tensor

from benchmarks.rivals.base import Network, Rival, Task, stored
from engine.problem import Problem

POPULATION, GENERATIONS = 100, 100
BOUND, SPREAD = 5.0, 0.3
MOST_WEIGHTS = {False: 2_000, True: 20_000}


@final
class Evolution(Rival):
    """NSGA-II on l1 norm and training loss; an evaluation counts a third of a pass.

    Parameters
    ----------
    binary : bool
        The reference paper's set-up, whose weights are 0 or 1: binary sampling, two-point crossover, bit flips. Else
        real weights with pymoo's default operators, from the first weights with noise.
    population, generations : int

    References
    ----------
    Deb, Pratap, Agarwal, Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC 6, 2002.
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025 (released code of the comparison: binary).
    """

    def __init__(self, binary: bool = False, population: int = POPULATION, generations: int = GENERATIONS) -> None:
        self._binary, self._population, self._generations = binary, population, generations

    def refusal(self, task: Task) -> str:
        most = MOST_WEIGHTS[self._binary]
        return f"more than {most:,} weights" if task.loss.n_params > most else ""

    def networks(self, task: Task) -> Iterator[Network]:
        problem = _Weights(task.problem, self._binary)
        end = ("n_gen", self._generations)
        found = minimize(problem, self._algorithm(task), end, seed=task.seed + 1, verbose=False)
        for weights in np.atleast_2d(found.X):
            yield stored(task.loss, problem.tensor(weights))

    def _algorithm(self, task: Task) -> Any:
        if self._binary:
            return NSGA2(
                pop_size=self._population,
                sampling=BinaryRandomSampling(),
                crossover=TwoPointCrossover(),
                mutation=BitflipMutation(),
                eliminate_duplicates=True,
            )
        first = task.loss.initial().cpu().numpy().astype(float)
        noise = np.random.default_rng(task.seed).normal(0, SPREAD, (self._population, len(first)))
        return NSGA2(pop_size=self._population, sampling=np.clip(first + noise, -BOUND, BOUND))


class _Weights(ElementwiseProblem):  # type: ignore[misc]
    def __init__(self, problem: Problem, binary: bool) -> None:
        self._problem, self._start = problem, problem.loss.initial()
        limits = {"xl": 0, "xu": 1, "vtype": bool} if binary else {"xl": -BOUND, "xu": BOUND}
        super().__init__(n_var=problem.loss.n_params, n_obj=2, **limits)

    def tensor(self, weights: NDArray[Any]) -> Tensor:
        return torch.from_numpy(weights.astype(float)).to(self._start)

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *_: Any, **__: Any) -> None:
        theta = self.tensor(x)
        out["F"] = [float(self._problem.penalty.value(theta)), float(self._problem.loss.value(theta))]
