"""Ways back to the set of Pareto critical points."""

from engine.correctors.accelerated import Accelerated
from engine.correctors.adaptive import AdaptiveProximal, Pace
from engine.correctors.base import Correction, Corrector
from engine.correctors.multiobjective import MultiobjectiveProximalGradient, common_descent
from engine.correctors.newton import ActiveSetNewton
from engine.correctors.proximal_gradient import ProximalGradient

CORRECTORS: dict[str, type[Corrector]] = {
    "accelerated": Accelerated,
    "adaptive": AdaptiveProximal,
    "multiobjective": MultiobjectiveProximalGradient,
    "newton": ActiveSetNewton,
    "proximal_gradient": ProximalGradient,
}

__all__ = [
    "CORRECTORS",
    "Accelerated",
    "ActiveSetNewton",
    "AdaptiveProximal",
    "Correction",
    "Corrector",
    "MultiobjectiveProximalGradient",
    "Pace",
    "ProximalGradient",
    "common_descent",
]
