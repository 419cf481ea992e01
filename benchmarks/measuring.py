"""One rival's run: what it finds, measured by the same code for all, and what that cost it."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, final
from unittest.mock import patch

import torch
from torch import Tensor

import engine
from benchmarks import rivals
from benchmarks.rivals import Network, Rival, Task
from engine.errors import EngineError
from engine.front import Front, ParetoPoint
from engine.losses import Loss
from engine.problem import Problem, State

CHECKED_EVERY = 0.05
AT_WORK = tuple(str(Path(package.__path__[0])) for package in (engine, rivals))


class OutOfTime(Exception):
    """A rival used up its CPU seconds."""


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """Full passes over the training data (gradient evaluations), CPU seconds and seconds on the clock."""

    passes: float
    seconds: float
    elapsed: float


@final
@dataclass(frozen=True)
class Run:
    """What a rival found.

    Parameters
    ----------
    front : Front
        All its networks in the order of their discovery, with the passes and CPU seconds up to there.
    networks : tuple of Network
        The same networks as weights, cleaned.
    cost : Cost
        Of all its work; measuring is left out, but for the losses and certificates that a method needs itself.
    ended : str
        Why it ended early, as a sentence; empty where it ran through.
    """

    front: Front
    networks: tuple[Network, ...]
    cost: Cost
    ended: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the weights."""
        return {"ended": self.ended, **asdict(self.cost), "points": [_plain(p) for p in self.front]}


@final
class Meter:
    """Passes and seconds of a rival's own work.

    Parameters
    ----------
    loss : Loss
        Its effort is what is metered.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._seconds = self._elapsed = 0.0
        self._begin()

    def cost(self) -> Cost:
        """What has been spent up to now."""
        if self._loss.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = self._seconds + time.process_time() - self._cpu
        return Cost(self._loss.effort, seconds, self._elapsed + time.perf_counter() - self._clock)

    @contextmanager
    def paused(self) -> Iterator[Cost]:
        """What happens meanwhile costs nothing, pauses within it included."""
        spent = self.cost()
        yield spent
        self._loss.effort, self._seconds, self._elapsed = spent.passes, spent.seconds, spent.elapsed
        self._begin()

    def spared(self, measure: Callable[[Tensor], dict[str, float]]) -> Callable[[Tensor], dict[str, float]]:
        """The same measure of weights, at no cost."""

        def measured(theta: Tensor) -> dict[str, float]:
            with self.paused():
                return measure(theta)

        return measured

    def _begin(self) -> None:
        self._cpu, self._clock = time.process_time(), time.perf_counter()


def race(rival: Rival, task: Task, limit: float | None = None) -> Run:
    """Run a rival to its end, or for so many CPU seconds; all its networks are measured cleaned.

    Parameters
    ----------
    limit : float, optional
        CPU seconds of this process, measuring included.
    """
    points: list[ParetoPoint] = []
    networks: list[Network] = []
    meter, ended = Meter(task.loss), ""
    try:
        with _limited(limit), patch.object(task.loss, "metrics", meter.spared(task.loss.metrics)):
            for network in rival.networks(task):
                with meter.paused() as spent:
                    clean = cleaned(task.problem, network)
                    points.append(measured(task.problem, clean, len(points), spent))
                    networks.append(clean)
    except OutOfTime:
        ended = f"It was stopped after {limit:g} CPU seconds."
    except EngineError as error:
        ended = f"It failed: {error}"
    return Run(Front(tuple(points)), tuple(networks), meter.cost(), ended)


def cleaned(problem: Problem, network: Network) -> Network:
    """The network as the product would store it: the same function, no more l1 norm than that takes."""
    state = State(network.theta, lam=0.0, level=0.0, buffers=network.buffers)
    return Network(problem.cleaned(state).theta, network.buffers)


def measured(problem: Problem, network: Network, index: int, spent: Cost) -> ParetoPoint:
    """Objectives, certificate, sparsity and metrics of a network on full data.

    The metric ``violation`` is the largest violation of the optimality conditions, relative to the multiplier.
    """
    problem.loss.load_buffers(network.buffers)
    theta = network.theta
    value, grad = problem.loss.value_and_grad(theta)
    lam = problem.multiplier(theta, grad)
    return ParetoPoint(
        index=index,
        parent=None,
        sweep=0,
        loss=float(value),
        penalty=float(problem.penalty.value(theta)),
        lam=lam,
        residual=problem.residual(theta, grad, lam),
        n_nonzero=int(theta.count_nonzero()),
        n_params=theta.numel(),
        effort=spent.passes,
        seconds=spent.seconds,
        metrics={"violation": violation(theta, grad, lam), **problem.loss.metrics(theta)},
    )


def violation(theta: Tensor, grad: Tensor, lam: float) -> float:
    """The largest violation of the optimality conditions of ``loss + lam l1``, relative to `lam`; infinite at 0.

    References
    ----------
    Amakor, Sonntag, Peitz, arXiv 2308.12044, section 2 (Karush-Kuhn-Tucker conditions).
    """
    if not lam > 0:
        return float("inf")
    on = (grad + lam * theta.sign()).abs()
    off = (grad.abs() - lam).clamp_min(0)
    return float(torch.where(theta != 0, on, off).max()) / lam


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTime` soon after so many CPU seconds; a timer on the clock asks for them again and again.

    Not a timer of CPU time: while one runs, Linux counts the process's CPU time in ticks of milliseconds. Raised while
    the engine or a rival is at work, never in other code: in a destructor it would be lost.
    """
    end, every = time.process_time() + (seconds or 0.0), CHECKED_EVERY if seconds else 0.0

    def check(_: int, frame: FrameType | None) -> None:
        if time.process_time() >= end and frame and frame.f_code.co_filename.startswith(AT_WORK):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            raise OutOfTime

    handler, timer = signal.signal(signal.SIGALRM, check), signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _plain(point: ParetoPoint) -> dict[str, Any]:
    kept = ("loss", "penalty", "lam", "residual", "n_nonzero", "effort", "seconds")
    return {name: getattr(point, name) for name in kept} | {"sparsity": point.sparsity, **point.metrics}
