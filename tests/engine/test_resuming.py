"""The law of every registered tracer: stopped anywhere and resumed, it finds what it finds unstopped."""

from collections.abc import Callable

import pytest

from engine.front import Trail, Waypoint
from engine.registry import parameters
from engine.tracers import TRACERS, Budget, Tracer
from engine.tracers.methods import continuation
from tests.engine import problems
from tests.engine.test_refit import trail_of
from tests.engine.test_tracers import QUICK, SETTINGS, problem_for, same

SHORT: dict[str, dict[str, object]] = {
    **SETTINGS,
    "continuation": QUICK,
    "adabreg": {"epochs": 40, "strength": 0.1, "rate": 1e-2, "dense": 0.3},
    "refit": {"epochs": 2},
}


@pytest.fixture(scope="module")
def source() -> Trail:
    """Networks to refit."""
    return trail_of(list(continuation(8, 0, Budget(), **QUICK).trace(problems.digits_network())))


@pytest.fixture(params=sorted(TRACERS))
def make(request: pytest.FixtureRequest, source: Trail) -> Callable[[], Tracer]:
    """A new tracer of each kind; those of plug-ins with their defaults."""
    factory = TRACERS[request.param]
    needed = {p.name: 1 for p in parameters(factory) if p.required}

    def made() -> Tracer:
        found = factory(8, 0, Budget(), **{**needed, **SHORT.get(request.param, {})})
        if needed:
            found.follow(source)
        return found

    return made


@pytest.mark.slow
def test_resumed_anywhere_is_as_if_never_stopped(make: Callable[[], Tracer], request: pytest.FixtureRequest) -> None:
    def trace(begun: list[Waypoint]) -> list[Waypoint]:
        return list(make().trace(problem_for(request.node.callspec.params["make"]), begun))

    whole = trace([])
    assert len(whole) > 3
    for stop in sorted({1, 2, len(whole) // 2, len(whole) - 1, len(whole)}):
        rest = trace(whole[:stop])
        assert len(rest) == len(whole) - stop
        assert all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))
