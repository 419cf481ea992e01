"""Ways to produce a front; each registered factory takes points, seed and budget, then the user's settings."""

from collections.abc import Callable

from engine.registry import extend
from engine.tracers.base import Budget, Tracer
from engine.tracers.bregman import adabreg, dessilbi, linbreg
from engine.tracers.continuation import Continuation, Rules
from engine.tracers.dropout import dropout
from engine.tracers.evolutionary import evolutionary
from engine.tracers.growing import growing
from engine.tracers.lassonet import lassonet
from engine.tracers.methods import continuation, population, refit
from engine.tracers.population import Plan, Population
from engine.tracers.pruning import pruning
from engine.tracers.refit import Refit
from engine.tracers.relevance import relevance
from engine.tracers.weighted_sum import weighted_sum

TRACERS: dict[str, Callable[..., Tracer]] = {
    "adabreg": adabreg,
    "continuation": continuation,
    "dessilbi": dessilbi,
    "dropout": dropout,
    "evolutionary": evolutionary,
    "growing": growing,
    "lassonet": lassonet,
    "linbreg": linbreg,
    "population": population,
    "pruning": pruning,
    "refit": refit,
    "relevance": relevance,
    "weighted_sum": weighted_sum,
}
extend(TRACERS, "paretopath.methods")

__all__ = ["TRACERS", "Budget", "Continuation", "Plan", "Population", "Refit", "Rules", "Tracer"]
