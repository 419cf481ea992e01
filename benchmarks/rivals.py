"""Ways to a front, and the dense training that is the unit of cost; all on the same problem and the same code."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from engine.correctors import AdaptiveProximal
from engine.front import Front, ParetoPoint
from engine.losses import Loss
from engine.problem import Problem, State
from engine.spec import JobSpec, build
from engine.tracers.refit import Support

PATIENCE, MOST_PASSES = 10, 500
DENSE_BATCH, DENSE_RATE = 100, 1e-3
MOST_PRUNED = 0.99


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


def gradual_pruning(spec: JobSpec) -> Run:
    """Magnitude pruning in one continued run: train densely, then zero ever more of the smallest weights and train on.

    The share of zeros rises by the cubic law; a weight once zero stays zero, and every stage takes as many steps as the
    continuation takes per point.

    References
    ----------
    Zhu, Gupta, "To prune, or not to prune", arXiv 1710.01878, 2017, equation 1.
    """
    experiment = build(spec, {})
    problem, begun = experiment.problem, time.process_time()
    theta, points = _trained(problem.loss, spec.seed).theta, []
    fine_tune = AdaptiveProximal("strength", rate=DENSE_RATE)
    for i in range(spec.points):
        zeros = MOST_PRUNED * (1 - (1 - (i + 1) / spec.points) ** 3)
        support = Support(_largest(theta, zeros))
        guess = State(support.prox(theta, 1.0), 0.0, 0.0, problem.loss.buffers)
        state = fine_tune.correct(replace(problem, penalty=support), guess, spec.seed * 1000 + i).state
        theta = state.theta
        points.append(_point(problem, state, i))
    return Run(Front(tuple(points)), _cost(problem, begun))


def dense(spec: JobSpec) -> tuple[dict[str, float], Cost]:
    """Plain Adam without a penalty, to the best validation accuracy; the cost is that of the passes up to there."""
    trained = _trained(build(spec, {}).problem.loss, spec.seed)
    return trained.metrics, trained.cost


@final
@dataclass(frozen=True)
class _Dense:
    theta: Tensor
    metrics: dict[str, float]
    cost: Cost


def _trained(loss: Loss, seed: int) -> _Dense:
    theta, begun = loss.initial(), time.process_time()
    best, waited = _Dense(theta, {"validation_accuracy": -1.0}, Cost(0, 0)), 0
    adam = _Adam(torch.zeros_like(theta), torch.zeros_like(theta))
    for epoch in range(MOST_PASSES):
        for batch in loss.batches(seed * 1000 + epoch, DENSE_BATCH):
            theta = theta - DENSE_RATE * adam.direction(loss.value_and_grad(theta, batch)[1])
        spent, metrics = Cost(epoch + 1, time.process_time() - begun), loss.metrics(theta)
        waited += 1
        if metrics["validation_accuracy"] > best.metrics["validation_accuracy"]:
            best, waited = _Dense(theta, metrics, spent), 0
        if waited >= PATIENCE:
            break
    return best


@final
@dataclass
class _Adam:
    mean: Tensor
    square: Tensor
    done: int = 0

    def direction(self, grad: Tensor) -> Tensor:
        self.done += 1
        self.mean.lerp_(grad, 0.1)
        self.square.lerp_(grad.square(), 0.001)
        return (self.mean / (1 - 0.9**self.done)) / ((self.square / (1 - 0.999**self.done)).sqrt() + 1e-8)


def _largest(theta: Tensor, zeros: float) -> Tensor:
    """Mask of the weights that stay when this share of all is zero; those that are zero do not come back."""
    kept = max(round((1 - zeros) * theta.numel()), 1)
    mask = torch.zeros_like(theta, dtype=torch.bool)
    mask[theta.abs().topk(kept).indices] = True
    return mask & (theta != 0)


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
    state = problem.cleaned(state)
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
