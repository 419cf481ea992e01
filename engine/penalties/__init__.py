"""Penalties of the flat weight vector, without a strength: the path carries it."""

from collections.abc import Callable

from engine.penalties.base import Penalty
from engine.penalties.group_mcp import GroupMCP
from engine.penalties.l1 import L1
from engine.penalties.linf import GroupLinf
from engine.penalties.norms import GroupL2
from engine.penalties.separable import Separable, log_sum, mcp, scad
from engine.penalties.sparse_group import SparseGroup
from engine.registry import extend

PENALTIES: dict[str, Callable[..., Penalty]] = {
    "l1": L1,
    "group_l2": GroupL2,
    "group_linf": GroupLinf,
    "group_mcp": GroupMCP,
    "log_sum": log_sum,
    "mcp": mcp,
    "scad": scad,
    "sparse_group": SparseGroup,
}
extend(PENALTIES, "paretopath.penalties")

__all__ = ["L1", "PENALTIES", "GroupL2", "GroupLinf", "GroupMCP", "Penalty", "Separable", "SparseGroup"]
