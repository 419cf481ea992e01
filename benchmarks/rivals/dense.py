"""Plain training of the dense network: the unit of cost, and where pruning starts."""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from benchmarks.rivals.adam import Adam
from benchmarks.timing import timed
from engine.losses import Loss

PATIENCE, MOST_PASSES = 10, 500
BATCH, RATE = 100, 1e-3


@final
@dataclass(frozen=True, slots=True)
class Dense:
    """The best network of a training.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
    metrics : dict
    passes, seconds : float
        Passes over the data and CPU seconds up to it, not those that showed there is no better one, nor the measuring.
    """

    theta: Tensor
    metrics: dict[str, float]
    passes: float
    seconds: float


def trained(loss: Loss, seed: int, most_passes: int = MOST_PASSES) -> Dense:
    """Plain Adam without a penalty, until the score has not risen for ten passes."""
    theta, spent = loss.initial(), 0.0
    adam = Adam(theta)
    best, highest, waited = Dense(theta, {}, 0.0, 0.0), -math.inf, 0
    for epoch in range(most_passes):
        theta, seconds = timed(_epoch, loss, theta, adam, seed * 1000 + epoch)
        spent, metrics = spent + seconds, _measured(loss, theta)
        waited += 1
        if (reached := score(metrics)) > highest:
            best, highest, waited = Dense(theta, metrics, epoch + 1.0, spent), reached, 0
        if waited >= PATIENCE:
            break
    return best


def score(metrics: dict[str, float]) -> float:
    """What a network is chosen by: validation accuracy, else validation loss, else training loss; more is better."""
    if "validation_accuracy" in metrics:
        return metrics["validation_accuracy"]
    return -metrics["validation_loss"] if "validation_loss" in metrics else -metrics["train_loss"]


def _epoch(loss: Loss, theta: Tensor, adam: Adam, seed: int) -> Tensor:
    for batch in loss.batches(seed, BATCH):
        theta = theta - adam.step(loss.value_and_grad(theta, batch)[1], RATE)[0]
    return theta


def _measured(loss: Loss, theta: Tensor) -> dict[str, float]:
    effort, buffers = loss.effort, loss.buffers
    loss.calibrate(theta)
    metrics = loss.metrics(theta)
    if not any(name.startswith("validation") for name in metrics):
        metrics["train_loss"] = float(loss.value(theta))
    loss.load_buffers(buffers)
    loss.effort = effort
    return metrics
