"""Ways to produce a front; each registered factory takes points, seed and budget, then the user's settings."""

from collections.abc import Callable

from engine.registry import extend
from engine.tracers.base import Budget, Tracer
from engine.tracers.continuation import Continuation, Rules
from engine.tracers.methods import continuation

TRACERS: dict[str, Callable[..., Tracer]] = {"continuation": continuation}
extend(TRACERS, "paretopath.methods")

__all__ = ["TRACERS", "Budget", "Continuation", "Rules", "Tracer"]
