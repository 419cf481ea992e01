"""What can be asked of a job that has points: each registered factory takes the user's settings."""

from collections.abc import Callable

from engine.goals.base import Goal
from engine.goals.filling import fill, sparser
from engine.goals.solving import loss, nonzeros, sparsity, strength
from engine.goals.tracer import Asked

GOALS: dict[str, Callable[..., Goal]] = {
    "fill": fill,
    "loss": loss,
    "nonzeros": nonzeros,
    "sparser": sparser,
    "sparsity": sparsity,
    "strength": strength,
}

__all__ = ["GOALS", "Asked", "Goal"]
