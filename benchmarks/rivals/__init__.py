"""Ways to a front, by name; the product comes first, its cost is what pruning may spend."""

from benchmarks.rivals.amakor import Amakor
from benchmarks.rivals.base import Network, Rival, Setup, Task
from benchmarks.rivals.evolution import Evolution
from benchmarks.rivals.grids import LambdaGrid
from benchmarks.rivals.homotopy import LassoPath
from benchmarks.rivals.pruning import GradualPruning, PruningRuns
from benchmarks.rivals.weighted_sum import WeightedSum

OURS, REFERENCE = "paretopath", "reference algorithm"
ONLY_IF_NAMED = frozenset({"NSGA-II, binary"})

RIVALS: dict[str, Rival] = {
    REFERENCE: Amakor(),
    "weighted sum": WeightedSum(),
    "lambda grid": LambdaGrid(),
    "lambda grid, cold": LambdaGrid("cold"),
    "NSGA-II": Evolution(),
    "NSGA-II, binary": Evolution(binary=True),
    "gradual pruning": GradualPruning(),
    "pruning runs": PruningRuns(),
    "lasso_path": LassoPath("lasso_path"),
    "lars_path": LassoPath("lars_path"),
}

SMOKE: dict[str, Rival] = {
    REFERENCE: Amakor(shorter=1e-2),
    "weighted sum": WeightedSum(shorter=0.05),
    "lambda grid": LambdaGrid(steps=4, first=8),
    "lambda grid, cold": LambdaGrid("cold", first=8),
    "NSGA-II": Evolution(population=8, generations=3),
    "NSGA-II, binary": Evolution(binary=True, population=8, generations=3),
    "gradual pruning": GradualPruning(steps=4, most_passes=2),
    "pruning runs": PruningRuns(steps=40, most_passes=2),
    "lasso_path": LassoPath("lasso_path"),
    "lars_path": LassoPath("lars_path"),
}

__all__ = ["ONLY_IF_NAMED", "OURS", "REFERENCE", "RIVALS", "SMOKE", "Network", "Rival", "Setup", "Task"]
