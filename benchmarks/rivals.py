"""Ways to a front, and the dense training that is the unit of cost; all on the same problem and the same code."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from engine.correctors import AdaptiveProximal
from engine.front import Front, ParetoPoint
from engine.problem import Problem, State
from engine.spec import JobSpec, build

PATIENCE, MOST_PASSES = 10, 500
DENSE_BATCH, DENSE_RATE = 100, 1e-3


@final
@dataclass(frozen=True)
class Cost:
    """Passes over the training data and CPU seconds."""

    passes: float
    seconds: float


@final
@dataclass(frozen=True)
class Run:
    """A front, what it cost, and why it ended."""

    front: Front
    cost: Cost


def ours(spec: JobSpec) -> Run:
    """The product: predictor-corrector continuation with its defaults."""
    experiment = build(spec, {})
    begun = time.process_time()
    points = tuple(w.point for w in experiment.tracer.trace(experiment.problem))
    return Run(Front(points), _cost(experiment.problem, begun))


def lambda_grid(spec: JobSpec, weakest: float = 1e-4, strongest: float = 0.1) -> Run:
    """What users write by hand: proximal Adam on a log grid of strengths, each warm-started from the one before."""
    experiment = build(spec, {})
    problem, begun = experiment.problem, time.process_time()
    corrector, first = AdaptiveProximal("strength"), AdaptiveProximal("strength", rate=3e-3, steps=480)
    state, points = State(problem.loss.initial(), weakest, 0.0, problem.loss.buffers), []
    for i, lam in enumerate(np.geomspace(weakest, strongest, spec.points)):
        guess = State(state.theta, float(lam), 0.0, state.buffers)
        state = (corrector if i else first).correct(problem, guess, spec.seed * 1000 + i).state
        points.append(_point(problem, state, i))
    return Run(Front(tuple(points)), _cost(problem, begun))


def dense(spec: JobSpec) -> tuple[dict[str, float], Cost]:
    """Plain Adam without a penalty, to the best validation accuracy; the cost is that of the passes up to there."""
    experiment = build(spec, {})
    loss = experiment.problem.loss
    theta, begun, best = loss.initial(), time.process_time(), (-1.0, {}, Cost(0, 0))
    mean, square, done, waited = torch.zeros_like(theta), torch.zeros_like(theta), 0, 0
    for epoch in range(MOST_PASSES):
        for batch in loss.batches(spec.seed * 1000 + epoch, DENSE_BATCH):
            done += 1
            _, grad = loss.value_and_grad(theta, batch)
            mean.lerp_(grad, 0.1)
            square.lerp_(grad.square(), 0.001)
            theta = theta - DENSE_RATE * (mean / (1 - 0.9**done)) / ((square / (1 - 0.999**done)).sqrt() + 1e-8)
        spent = Cost(epoch + 1, time.process_time() - begun)
        metrics = loss.metrics(theta)
        waited = 0 if metrics["validation_accuracy"] > best[0] else waited + 1
        best = (metrics["validation_accuracy"], metrics, spent) if waited == 0 else best
        if waited >= PATIENCE:
            break
    return best[1], best[2]


def accuracy_at(front: Front, sparsities: Sequence[float]) -> list[float]:
    """Test accuracy of the point of best validation accuracy among those at least that sparse; NaN where none is."""
    found = []
    for sparsity in sparsities:
        allowed = [p.metrics for p in front if p.sparsity >= sparsity]
        best = max(allowed, key=lambda m: m["validation_accuracy"], default={"test_accuracy": float("nan")})
        found.append(best["test_accuracy"])
    return found


def _cost(problem: Problem, begun: float) -> Cost:
    return Cost(problem.loss.effort, time.process_time() - begun)


def _point(problem: Problem, state: State, index: int) -> ParetoPoint:
    problem.loss.load_buffers(state.buffers)
    value, grad = problem.loss.value_and_grad(state.theta)
    return ParetoPoint(
        index,
        index - 1 if index else None,
        0,
        float(value),
        float(problem.penalty.value(state.theta)),
        state.lam,
        problem.residual(state.theta, grad, state.lam),
        int(state.theta.count_nonzero()),
        problem.loss.n_params,
        problem.loss.effort,
        0.0,
        problem.loss.metrics(state.theta),
    )
