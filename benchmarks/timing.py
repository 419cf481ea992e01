"""CPU seconds of the process, and ratios of those that were taken in turn."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


def timed(work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> tuple[Result, float]:
    """What a call returns, and the CPU seconds it took."""
    begun = time.process_time()
    result = work(*args, **kwargs)
    return result, time.process_time() - begun


def cpu_seconds(pid: int) -> float:
    """User and system time of another process so far; Linux only, which makes the clock's number of the process's."""
    return time.clock_gettime((~pid << 3) | 2)


def ratio(seconds: Sequence[float], unit: Sequence[float]) -> float:
    """Median over the rounds of the ratios within a round."""
    return median(a / b for a, b in zip(seconds, unit, strict=True))
