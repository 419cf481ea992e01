"""What a network's outputs are compared with the targets by."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from engine.data import Dataset
from engine.errors import InvalidSpec

FEW_CLASSES, MANY_SAMPLES = 16, 256


class Criterion(ABC):
    """What a network's outputs are compared with the targets by."""

    @abstractmethod
    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss, 0-d."""

    @abstractmethod
    def differentiate(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss, 0-d, and its derivative by the outputs, without a record; samples are columns.

        Parameters
        ----------
        outputs : Tensor, shape (n_outputs, n_samples)
        y : Tensor, shape (n_samples, ...)
        """

    @abstractmethod
    def members(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss of each member of a population, shape (n_members,).

        Parameters
        ----------
        outputs : Tensor, shape (n_members, n_outputs, n_samples)
            The places of texts one after another.
        y : Tensor, shape (n_samples, ...) or (n_members, n_samples, ...)
            Targets of all members, or of each its own.
        """

    @abstractmethod
    def check(self, dataset: Dataset) -> int:
        """Number of outputs the network needs; refuses data the criterion is not for."""

    def correct(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Count of right answers, 0-d; None where there is no right or wrong."""
        return None


@final
class CrossEntropy(Criterion):
    """Mean negative log-likelihood of the class, or of the next character, under softmax."""

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        flat, targets = outputs.flatten(0, -2), y.flatten()
        if _narrow(flat):
            return nn.functional.cross_entropy(flat.mT.unsqueeze(0), targets.unsqueeze(0))
        return nn.functional.cross_entropy(flat, targets)

    def differentiate(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        likelihood = outputs.log_softmax(dim=0)
        share = 1 / outputs.shape[1]
        slope = torch.zeros_like(likelihood).scatter_(0, y.unsqueeze(0), -share)
        value = torch.dot(likelihood.view(-1), slope.view(-1))
        return value, slope.add_(likelihood.exp_(), alpha=share)

    def members(self, outputs: Tensor, y: Tensor) -> Tensor:
        targets = y.reshape(-1, outputs.shape[2]).expand(len(outputs), -1)
        return nn.functional.cross_entropy(outputs, targets, reduction="none").mean(dim=1)

    def check(self, dataset: Dataset) -> int:
        if dataset.task != "language":
            _need_task(dataset, "classification", "cross_entropy")
        return dataset.n_outputs

    def correct(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        return (outputs.max(dim=-1).indices == y).sum()


@final
class LogisticLoss(Criterion):
    """Mean negative log-likelihood of two classes from one output, the log-odds."""

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], y.to(outputs.dtype))

    def differentiate(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value = self(outputs.mT, y)
        return value, outputs.sigmoid().sub_(y.to(outputs.dtype)).div_(len(y))

    def members(self, outputs: Tensor, y: Tensor) -> Tensor:
        targets = y.to(outputs.dtype).expand(len(outputs), -1)
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none").mean(dim=1)

    def check(self, dataset: Dataset) -> int:
        _need_task(dataset, "classification", "logistic")
        if dataset.n_outputs != 2:
            raise InvalidSpec(
                f"loss 'logistic' is for 2 classes, data {dataset.name!r} has {dataset.n_outputs}; use 'cross_entropy'"
            )
        return 1

    def correct(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        return ((outputs[:, 0] > 0) == (y == 1)).sum()


@final
class SquaredError(Criterion):
    """Half the squared error, summed over outputs, mean over samples."""

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).square().sum() / (2 * len(y))

    def differentiate(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        off = outputs - y.mT
        return off.square().sum() / (2 * len(y)), off.div_(len(y))

    def members(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y.mT).square().sum(dim=(1, 2)) / (2 * outputs.shape[2])

    def check(self, dataset: Dataset) -> int:
        _need_task(dataset, "regression", "squared_error")
        return dataset.n_outputs


LOSSES: dict[str, type[Criterion]] = {
    "cross_entropy": CrossEntropy,
    "logistic": LogisticLoss,
    "squared_error": SquaredError,
}


def _narrow(outputs: Tensor) -> bool:
    """Whether rows, shape (n_samples, n_classes), are so short and many that columns are several times faster."""
    return outputs.device.type == "cpu" and outputs.shape[1] <= FEW_CLASSES and len(outputs) >= MANY_SAMPLES


def _need_task(dataset: Dataset, task: str, loss: str) -> None:
    if dataset.task != task:
        other = "squared_error" if dataset.task == "regression" else "cross_entropy"
        raise InvalidSpec(
            f"loss {loss!r} is for {task}, data {dataset.name!r} is {dataset.task}; use loss {other!r} or 'auto'"
        )
