"""Penalties of the flat weight vector, without a strength: the path carries it."""

from collections.abc import Callable

from engine.penalties.base import Penalty
from engine.penalties.group import GroupL2
from engine.penalties.l1 import L1
from engine.penalties.separable import Separable, log_sum, mcp, scad
from engine.registry import extend

PENALTIES: dict[str, Callable[..., Penalty]] = {
    "l1": L1,
    "group_l2": GroupL2,
    "log_sum": log_sum,
    "mcp": mcp,
    "scad": scad,
}
extend(PENALTIES, "paretopath.penalties")

__all__ = ["L1", "PENALTIES", "GroupL2", "Penalty", "Separable"]
