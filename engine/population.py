"""Many networks of one architecture evaluated at once: a population is one weight vector per row.

A small network leaves a processor idle between its kernels. Stacked, the members' first layers are one matrix product
over the shared inputs, and every further layer is one batched product.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from engine.differentiation import dense_layers
from engine.losses import FORWARD, Batch, Loss, NetworkLoss
from engine.threads import threads_for

EVALUATIONS = 2**17


class PopulationLoss(ABC):
    """A loss of many weight vectors; member by member that of the single one, up to rounding.

    Attributes
    ----------
    loss : Loss
        The single one. Its `effort` counts every member's evaluations.
    """

    loss: Loss

    @abstractmethod
    def value_and_grad(self, thetas: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        """Losses, shape (n_members,), and their gradients, shape (n_members, n_params).

        Parameters
        ----------
        thetas : Tensor, shape (n_members, n_params)
        batch : Tensor of int64, shape (batch_size,) or (n_members, batch_size), optional
            Sample indices, the same for all members or each its own, in training mode; all samples in eval mode if
            None.
        """

    @abstractmethod
    def value(self, thetas: Tensor) -> Tensor:
        """Losses on all samples in eval mode, shape (n_members,), buffers computed anew for each member."""


def population_loss(loss: Loss) -> PopulationLoss:
    """The fastest way to evaluate many members of this loss that works for it."""
    if not isinstance(loss, NetworkLoss):
        return OneByOne(loss)
    if layered(loss):
        return StackedLayers(loss)
    return VectorizedNetwork(loss) if _vectorizes(loss) else OneByOne(loss)


@final
class OneByOne(PopulationLoss):
    """One member after another: for every loss, networks with batch norm or a control flow of their own included.

    Parameters
    ----------
    loss : Loss
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def value_and_grad(self, thetas: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        batches = [batch] * len(thetas) if batch is None or batch.dim() == 1 else list(batch)
        found = [self.loss.value_and_grad(*member) for member in zip(thetas, batches, strict=True)]
        return torch.stack([value for value, _ in found]), torch.stack([grad for _, grad in found])

    def value(self, thetas: Tensor) -> Tensor:
        return torch.stack([self._value(theta) for theta in thetas])

    def _value(self, theta: Tensor) -> Tensor:
        self.loss.calibrate(theta)
        return self.loss.value(theta)


class _Batched(PopulationLoss):
    """Members of one network evaluated together, piece by piece of the data."""

    def __init__(self, loss: NetworkLoss) -> None:
        self.loss = self._network_loss = loss

    def value_and_grad(self, thetas: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        self._network_loss.module.train(batch is not None)
        values, grads = torch.zeros_like(thetas[:, 0]), torch.zeros_like(thetas)
        n_samples = self.loss.n_samples if batch is None else batch.shape[-1]
        with self._threads(len(thetas) * n_samples):
            for X, y, share in self._pieces(len(thetas), batch):
                value, grad = self._differentiated(thetas, X, y)
                values, grads = values.add_(value, alpha=share), grads.add_(grad, alpha=share)
        self.loss.effort += len(thetas) * n_samples / self.loss.n_samples
        return values, grads

    def value(self, thetas: Tensor) -> Tensor:
        self._network_loss.module.eval()
        total = torch.zeros_like(thetas[:, 0])
        with self._threads(len(thetas) * self.loss.n_samples), torch.no_grad():
            for X, y, share in self._pieces(len(thetas), None):
                total.add_(self._losses(thetas, X, y), alpha=share)
        self.loss.effort += FORWARD * len(thetas)
        return total

    def _threads(self, evaluations: int) -> AbstractContextManager[None]:
        """As many as a layer is worth in so many evaluations of a sample, or in those of them that are done at once."""
        at_once = max(1, EVALUATIONS // self._network_loss.n_places)
        return threads_for(self._network_loss.of_layer * min(evaluations, at_once))

    def _pieces(self, n_members: int, batch: Batch | None) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Samples and their share: a mini-batch as it is, all data in pieces that keep the activations small."""
        if batch is not None:
            yield from ((X, y, 1.0) for X, y in self._network_loss.samples(batch))
            return
        size = max(1, EVALUATIONS // (n_members * self._network_loss.n_places))
        for chunk in self._network_loss.samples():
            for X, y in zip(*(torch.split(part, size) for part in chunk), strict=True):
                yield X, y, len(y) / self.loss.n_samples

    def _differentiated(self, thetas: Tensor, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        leaf = thetas.detach().requires_grad_()
        values = self._losses(leaf, X, y)
        (grads,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), grads

    @abstractmethod
    def _losses(self, thetas: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """The members' mean losses, shape (n_members,), on samples that are shared, or led by an axis of members."""


@final
class StackedLayers(_Batched):
    """Dense layers: the first ones of all members are one matrix product, later ones batched products.

    Parameters
    ----------
    loss : NetworkLoss
        Of a network for which `layered` holds.
    """

    def __init__(self, loss: NetworkLoss) -> None:
        super().__init__(loss)
        self._layers = dense_layers(loss.module, _sample_dims(loss) == 1)
        self._sizes = [block.size for block in loss.layout]
        self._sample_dims = _sample_dims(loss)

    def _losses(self, thetas: Tensor, X: Tensor, y: Tensor) -> Tensor:
        parts = iter(torch.split(thetas, self._sizes, dim=1))
        hidden = X.flatten(X.dim() - self._sample_dims).mT
        for layer in self._layers:
            hidden = _affine(layer, parts, hidden) if isinstance(layer, nn.Linear) else layer(hidden)
        return self._network_loss.criterion.members(hidden, y)


@final
class VectorizedNetwork(_Batched):
    """Any network that torch.func can vectorize over its weights.

    Parameters
    ----------
    loss : NetworkLoss
    """

    def __init__(self, loss: NetworkLoss) -> None:
        super().__init__(loss)
        self._sample_dims = _sample_dims(loss)

    def _losses(self, thetas: Tensor, X: Tensor, y: Tensor) -> Tensor:
        axis = None if X.dim() == self._sample_dims + 1 else 0
        outputs = vmap(self._outputs, in_dims=(0, axis))(thetas, X)
        return self._network_loss.criterion.members(outputs.flatten(1, -2).mT, y)

    def _outputs(self, theta: Tensor, X: Tensor) -> Tensor:
        parameters = {block.name: theta[block.start : block.stop].view(block.shape) for block in self.loss.layout}
        outputs: Tensor = functional_call(self._network_loss.module, parameters, (X,))
        return outputs


def layered(loss: NetworkLoss) -> bool:
    """Whether the network is a sequence of dense layers and elementwise activations, none used twice."""
    return bool(dense_layers(loss.module, _sample_dims(loss) == 1))


def _affine(layer: nn.Linear, parts: Iterator[Tensor], hidden: Tensor) -> Tensor:
    """The layer of every member, shape (n_members, n_outputs, n_samples), each with weights of its own."""
    weight = next(parts)
    n_members, shape = len(weight), (layer.out_features, layer.in_features)
    if hidden.dim() == 2:
        stacked = weight.reshape(-1, layer.in_features)
        if layer.bias is None:
            return (stacked @ hidden).view(n_members, layer.out_features, -1)
        return torch.addmm(next(parts).reshape(-1, 1), stacked, hidden).view(n_members, layer.out_features, -1)
    if layer.bias is None:
        return torch.bmm(weight.reshape(n_members, *shape), hidden)
    return torch.baddbmm(next(parts).unsqueeze(2), weight.reshape(n_members, *shape), hidden)


def _sample_dims(loss: NetworkLoss) -> int:
    X, _ = next(loss.samples(_first(1, loss)))
    return X.dim() - 1


def _first(count: int, loss: NetworkLoss) -> Batch:
    """The first sample, so many times."""
    return torch.zeros(count, dtype=torch.int64, device=loss.device)


def _vectorizes(loss: NetworkLoss) -> bool:
    """Whether torch.func can evaluate two members at once; networks with buffers or dropout are not tried."""
    modules = loss.module.modules()
    if any(loss.buffers) or any(isinstance(module, nn.modules.dropout._DropoutNd) for module in modules):
        return False
    thetas, effort = loss.initial().repeat(2, 1), loss.effort
    try:
        VectorizedNetwork(loss).value_and_grad(thetas, _first(2, loss))
    except RuntimeError:
        return False
    finally:
        loss.effort = effort
    return True
