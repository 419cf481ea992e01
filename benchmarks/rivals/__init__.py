"""Ways to a front, by name; the product comes first, its cost is what pruning may spend."""

from benchmarks.rivals.amakor import Amakor
from benchmarks.rivals.base import Network, Rival, Setup, Task
from benchmarks.rivals.homotopy import LassoPath
from benchmarks.rivals.traced import RUN_SPARSITIES, Pruned, Traced
from benchmarks.rivals.weighted_sum import WeightedSum

OURS, REFERENCE = "paretopath", "reference algorithm"
ONLY_IF_NAMED = frozenset({"NSGA-II, binary"})

RIVALS: dict[str, Rival] = {
    REFERENCE: Amakor(),
    "weighted sum": WeightedSum(),
    "lambda grid": Traced("weighted_sum"),
    "lambda grid, cold": Traced("weighted_sum", start="cold"),
    "NSGA-II": Traced("evolutionary", shrinks=False),
    "NSGA-II, binary": Traced("evolutionary", shrinks=False, encoding="binary", generations=100),
    "gradual pruning": Pruned(),
    "pruning runs": Pruned(RUN_SPARSITIES),
    "lasso_path": LassoPath("lasso_path"),
    "lars_path": LassoPath("lars_path"),
}

SMOKE: dict[str, Rival] = {
    REFERENCE: Amakor(shorter=1e-2),
    "weighted sum": WeightedSum(shorter=0.05),
    "lambda grid": Traced("weighted_sum", epochs=1, first_epochs=1),
    "lambda grid, cold": Traced("weighted_sum", start="cold", epochs=1, first_epochs=1),
    "NSGA-II": Traced("evolutionary", shrinks=False, population=8, generations=3),
    "NSGA-II, binary": Traced("evolutionary", shrinks=False, encoding="binary", population=8, generations=3),
    "gradual pruning": Pruned(epochs=1, dense_epochs=2),
    "pruning runs": Pruned(RUN_SPARSITIES, epochs=2, dense_epochs=2),
    "lasso_path": LassoPath("lasso_path"),
    "lars_path": LassoPath("lars_path"),
}

__all__ = ["ONLY_IF_NAMED", "OURS", "REFERENCE", "RIVALS", "SMOKE", "Network", "Rival", "Setup", "Task"]
