"""Optimisers with penalties, for training loops of any kind."""

from engine.optim.base import PenalisedOptimizer
from engine.optim.bregman import AdaBreg, LinBreg
from engine.optim.dessilbi import AdaDessiLBI, DessiLBI, SplitBregman
from engine.optim.proximal import ProxAdam, ProxSGD

__all__ = [
    "AdaBreg",
    "AdaDessiLBI",
    "DessiLBI",
    "LinBreg",
    "PenalisedOptimizer",
    "ProxAdam",
    "ProxSGD",
    "SplitBregman",
]
