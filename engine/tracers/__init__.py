"""Ways to produce a front; each registered factory takes points, seed and budget, then the user's settings."""

from collections.abc import Callable

from engine.registry import extend
from engine.tracers.base import Budget, Tracer
from engine.tracers.continuation import Continuation, Rules
from engine.tracers.methods import continuation, population, refit
from engine.tracers.population import Plan, Population
from engine.tracers.refit import Refit
from engine.tracers.relevance import Relevance, relevance

TRACERS: dict[str, Callable[..., Tracer]] = {
    "continuation": continuation,
    "population": population,
    "refit": refit,
    "relevance": relevance,
}
extend(TRACERS, "paretopath.methods")

__all__ = [
    "TRACERS",
    "Budget",
    "Continuation",
    "Plan",
    "Population",
    "Refit",
    "Relevance",
    "Rules",
    "Tracer",
    "relevance",
]
