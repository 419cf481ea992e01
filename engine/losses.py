"""Smooth objectives of one flat weight vector.

A network's parameters are views of one flat buffer, so that predictors and correctors see a vector and nothing else.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.conjugate_gradients import Product
from engine.criteria import Criterion
from engine.data import Dataset
from engine.differentiation import dense_layers, differentiation
from engine.front import Array
from engine.layout import Block, layout
from engine.multiply_adds import reuse
from engine.pixels import reading
from engine.shrinking import Parts, Shrinking, Units
from engine.threads import threads_for

Batch = Tensor
Buffers = Mapping[str, Tensor]

MOST_AT_ONCE = 4096
CACHED_BYTES, CUDA_BYTES = 2**23, 2**29
MUCH = 5e8
NATS_PER_BIT = math.log(2)
FORWARD = 1 / 3
OF_THE_DATA = (
    *("criterion", "n_samples", "n_places", "reuse", "convex"),
    *("_device", "_splits", "_X", "_y", "_language"),
)


class Loss(ABC):
    """Mean training loss of one flat weight vector, smooth almost everywhere.

    Attributes
    ----------
    layout : tuple of Block
        The parameter tensors behind the flat vector, in order.
    n_samples : int
        Training samples.
    convex : bool
        Whether the loss is convex in the weights, so that any start leads to the same place.
    reuse : float
        How often a sample multiplies a weight, on average: once in dense layers, at every place in convolutions.
    effort : float
        Gradient evaluations so far, in full passes over the training data; one without the gradient counts a third.
    limit : float
        Effort at which correctors are to stop.
    """

    layout: tuple[Block, ...]
    n_samples: int
    convex: bool = False
    reuse: float = 1.0
    effort: float = 0.0
    limit: float = math.inf

    @property
    def n_params(self) -> int:
        return self.layout[-1].stop

    @abstractmethod
    def value_and_grad(self, theta: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        """Loss (0-d) and its gradient, shape (n_params,).

        Parameters
        ----------
        theta : Tensor, shape (n_params,)
        batch : Tensor of int64, shape (batch_size,), optional
            Sample indices, in training mode; all samples in eval mode if None.
        """

    def lend(self, theta: Tensor) -> Tensor:
        """A copy of `theta` to change in place, read by `value_and_grad_` without copying; any other call ends it."""
        return theta.clone()

    def value_and_grad_(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """`value_and_grad` with the gradient in a buffer to write over; the next call of any kind does so too."""
        return self.value_and_grad(theta, batch)

    def stepping(self, batch_size: int) -> AbstractContextManager[object]:
        """Within it `value_and_grad_` is called many times on about so many samples, with no more than that needs."""
        return nullcontext()

    @abstractmethod
    def value(self, theta: Tensor, batch: Batch | None = None) -> Tensor:
        """Loss in eval mode, 0-d, for a third of what it costs with the gradient.

        Parameters
        ----------
        theta : Tensor, shape (n_params,)
        batch : Tensor of int64, shape (batch_size,), optional
            Sample indices; all samples if None.
        """

    def shrunk(self, theta: Tensor) -> "Shrunk | None":
        """This loss without weights that are zero and get no gradient, now or later; None where they are not many."""
        return None

    @abstractmethod
    def hvp(self, theta: Tensor, support: Tensor) -> Product:
        """Hessian-vector products at `theta`, on all samples in eval mode, between the weights of a support.

        Parameters
        ----------
        theta : Tensor, shape (n_params,)
        support : Tensor of int64, shape (n_support,)
            Places of the weights; the others stay as they are.

        Returns
        -------
        callable
            From a direction to the support's rows and columns of the Hessian times it, both of shape (n_support,).
            It stays that of `theta` whatever is evaluated in between; every call counts as effort.
        """

    @abstractmethod
    def initial(self) -> Tensor:
        """Start weights, shape (n_params,): those the network was made with."""

    @abstractmethod
    def metrics(self, theta: Tensor) -> dict[str, float]:
        """Quality on training, validation and test data, as far as there are any, in eval mode."""

    def validation(self, theta: Tensor) -> dict[str, float]:
        """Quality on the validation data alone, in eval mode: ``loss`` and others; empty without such data."""
        return {}

    def batches(self, seed: int, size: int) -> Iterator[Batch]:
        """One pass over the samples in the order that `seed` gives, in batches of about `size`."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.n_samples, generator=generator).to(self.device)
        yield from order.tensor_split(max(1, round(self.n_samples / size)))

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return torch.device("cpu")

    @property
    def buffers(self) -> Buffers:
        """Copies of what the network carries beside its weights (batch-norm statistics)."""
        return {}

    def load_buffers(self, buffers: Buffers) -> None:  # noqa: B027 - most losses carry none
        """Put `buffers` in place."""

    def calibrate(self, theta: Tensor) -> None:  # noqa: B027 - most losses carry none
        """Recompute the buffers on the training data for these weights."""


class _Linear(Loss):
    """A loss of linear predictions ``X @ theta``; columns are contiguous, so that a support's are cheap to take."""

    convex = True

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X, self.y = X.T.contiguous().T, y
        self.n_samples = len(X)
        self.layout = (Block("coef", (X.shape[1],), 0),)

    def initial(self) -> Tensor:
        return torch.zeros(self.n_params, dtype=self.X.dtype)

    def metrics(self, theta: Tensor) -> dict[str, float]:
        return {}

    def value_and_grad(self, theta: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        X, y = (self.X, self.y) if batch is None else (self.X[batch], self.y[batch])
        self.effort += len(X) / self.n_samples
        with threads_for(X.numel()):
            value, slope = self._outer(_predicted(X, theta), y)
            return value, X.T @ slope / len(X)

    def value(self, theta: Tensor, batch: Batch | None = None) -> Tensor:
        X, y = (self.X, self.y) if batch is None else (self.X[batch], self.y[batch])
        self.effort += FORWARD * len(X) / self.n_samples
        with threads_for(X.numel()):
            return self._outer(_predicted(X, theta), y)[0]

    def hvp(self, theta: Tensor, support: Tensor) -> Product:
        X, bend = _columns(self.X, support), self._bend(theta)

        def product(direction: Tensor) -> Tensor:
            self.effort += len(support) / self.n_params
            with threads_for(X.numel()):
                return X.T @ (bend * (X @ direction)) / self.n_samples

        return product

    @abstractmethod
    def _outer(self, predictions: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the predictions and each sample's derivative."""

    @abstractmethod
    def _bend(self, theta: Tensor) -> Tensor | float:
        """Each sample's second derivative."""


def _columns(X: Tensor, support: Tensor) -> Tensor:
    return X.T.index_select(0, support).T


def _predicted(X: Tensor, theta: Tensor) -> Tensor:
    """``X @ theta``, in time proportional to the weights that are not zero."""
    support = theta.nonzero()[:, 0]
    return _columns(X, support) @ theta[support]


@final
class LeastSquares(_Linear):
    """``||y - X theta||^2 / (2 n)``: scikit-learn's lasso is its path (alpha = lam).

    Parameters
    ----------
    X : Tensor, shape (n_samples, n_params)
    y : Tensor, shape (n_samples,)
    """

    def _outer(self, predictions: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        slope = predictions - y
        return slope.square().mean() / 2, slope

    def _bend(self, theta: Tensor) -> Tensor | float:
        return 1.0


@final
class Logistic(_Linear):
    """``mean log(1 + exp(-y X theta))`` for y in {-1, 1}: scikit-learn's l1 logistic regression with C = 1 / (n lam).

    Parameters
    ----------
    X : Tensor, shape (n_samples, n_params)
    y : Tensor, shape (n_samples,), of -1 and 1
    """

    def _outer(self, predictions: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        margin = y * predictions
        return nn.functional.softplus(-margin).mean(), -y * torch.sigmoid(-margin)

    def _bend(self, theta: Tensor) -> Tensor | float:
        self.effort += FORWARD
        chance = torch.sigmoid(_predicted(self.X, theta))
        return chance * (1 - chance)


@final
@dataclass(frozen=True, slots=True)
class Shrunk:
    """A loss without some of the weights of another, and where its weights stand in that.

    Parameters
    ----------
    loss : NetworkLoss
    parts : Parts
    """

    loss: "NetworkLoss"
    parts: Parts


@contextmanager
def charging(loss: Loss, to: Loss) -> Iterator[None]:
    """Within it the effort of a loss is another's, and so is its limit."""
    loss.effort, loss.limit = to.effort, to.limit
    try:
        yield
    finally:
        to.effort = loss.effort


@final
class NetworkLoss(Loss):
    """A network's mean loss on a data set; the parameters become views of one flat buffer.

    Parameters
    ----------
    module : nn.Module
        Taken over: its parameters move into the flat buffer. Tied parameters count once.
    dataset : Dataset
    criterion : Criterion
    device : torch.device, optional
        Data stay there where they fit, and stream from pinned memory where not.

    Attributes
    ----------
    n_places : int
        Predictions per sample: one, or of texts as many as a window has characters.
    of_layer : float
        Multiply-adds of a sample in a layer, on average over the layers.
    """

    def __init__(
        self, module: nn.Module, dataset: Dataset, criterion: Criterion, device: torch.device | None = None
    ) -> None:
        self._device = device or torch.device("cpu")
        self.criterion = criterion
        self._splits = _splits(dataset, self._device)
        self._X, self._y = self._splits["train"]
        self.n_samples = len(self._X)
        self._language = dataset.task == "language"
        self.n_places = math.prod(dataset.output_shape[:-1])
        dense = dense_layers(module.to(self._device), flat=self._X.dim() == 2)
        self.reuse = 1.0 if dense else reuse(module.eval(), self._to_device(self._X[:2]))
        self.convex = _is_linear(module)
        self._take_over(module)

    def _take_over(self, module: nn.Module) -> None:
        self.module, self.layout = module, layout(module)
        self._read = reading(module.eval(), self._to_device(self._X[:2]))
        self._theta, self._grad = _flatten(list(module.train().parameters()))
        self._start = self._theta.to("cpu", copy=True)
        self._resident = self._X.device == self._theta.device
        self._seen: _Tally | None = None
        self._way = differentiation(module, self.criterion, self._X.dim() == 2, self._read)
        self._at_once = self._fitting()
        n_layers = sum(len(block.shape) > 1 for block in self.layout)
        self.of_layer = self.n_params * self.reuse * self.n_places / max(n_layers, 1)
        self._shrinking = Shrinking(module)
        self._shrunk: tuple[Units, Shrunk | None] | None = None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def buffers(self) -> Buffers:
        return {name: buffer.clone() for name, buffer in self.module.named_buffers()}

    def load_buffers(self, buffers: Buffers) -> None:
        for name, buffer in self.module.named_buffers():
            self._forget()
            buffer.copy_(buffers[name])

    def initial(self) -> Tensor:
        return self._start.to(self._device, copy=True)

    def lend(self, theta: Tensor) -> Tensor:
        return self._put(theta)

    def shrunk(self, theta: Tensor) -> Shrunk | None:
        """See `Loss.shrunk`: without the units that zeros have cut off; the last one is kept."""
        if self.n_params * self.reuse * self.n_samples * self.n_places < MUCH:
            return None
        units = self._shrinking.units(theta)
        if self._shrunk is None or not all(map(torch.equal, self._shrunk[0], units)):
            parts = self._shrinking.parts(units)
            self._shrunk = (units, None if parts is None else Shrunk(self._without(parts), parts))
        return self._shrunk[1]

    def _without(self, parts: Parts) -> "NetworkLoss":
        """The same loss of the smaller network; what others may have hung on this object stays here."""
        smaller = object.__new__(NetworkLoss)
        vars(smaller).update({name: getattr(self, name) for name in OF_THE_DATA})
        smaller._take_over(self._shrinking.without(parts))
        return smaller

    @contextmanager
    def stepping(self, batch_size: int) -> Iterator[None]:
        """See `Loss.stepping`: torch records nothing that can be done without, and wakes threads for large steps."""
        with threads_for(self.of_layer * batch_size), nullcontext() if self._way.recording else torch.inference_mode():
            yield

    def value_and_grad_(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._differentiate(theta, batch), self._grad

    def value_and_grad(self, theta: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        smaller = self.shrunk(theta) if batch is None else None
        if smaller is None:
            return self._differentiate(theta, batch), self._grad.clone()
        with charging(smaller.loss, self):
            value, grad = smaller.loss.value_and_grad(smaller.parts.of(theta))
        return value, smaller.parts.whole(grad)

    def hvp(self, theta: Tensor, support: Tensor) -> Product:
        """Products by a second backward pass, each about the cost of a gradient, as is setting them up.

        The set-up is kept where the samples are few, else made anew in every product.

        References
        ----------
        Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6, 1994.
        """
        weights = {name: part.clone().requires_grad_() for name, part in self._parts(theta).items()}
        leaves, network = tuple(weights.values()), {**weights, **self.buffers}
        with self._threads(self.n_samples):
            kept = list(self._slopes(network, leaves)) if self.n_samples * self.n_places <= MOST_AT_ONCE else None

        def product(direction: Tensor) -> Tensor:
            self.effort += 1.0
            along = tuple(self._parts(torch.zeros_like(theta).index_copy(0, support, direction)).values())
            total = torch.zeros_like(theta)
            with self._threads(self.n_samples):
                for slopes in kept or self._slopes(network, leaves):
                    total += _bent(slopes, leaves, along)
            return total[support]

        return product

    def _parts(self, theta: Tensor) -> dict[str, Tensor]:
        """The flat vector cut into the network's parameters."""
        return {block.name: theta[block.start : block.stop].view(block.shape) for block in self.layout}

    def _slopes(self, network: Buffers, leaves: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
        """Each chunk's share of the gradient, with the graph behind it."""
        self.module.eval()
        self.effort += 1.0
        for X, y in self._chunks(self._X, self._y):
            value = self.criterion(functional_call(self.module, dict(network), (X,)), y) * (len(X) / self.n_samples)
            yield torch.autograd.grad(value, leaves, create_graph=True)

    def value(self, theta: Tensor, batch: Batch | None = None) -> Tensor:
        if smaller := self.shrunk(theta):
            with charging(smaller.loss, self):
                return smaller.loss.value(smaller.parts.of(theta), batch)
        self._put(theta)
        self._train(False)
        n_samples = self.n_samples if batch is None else len(batch)
        self.effort += FORWARD * n_samples / self.n_samples
        total = torch.zeros_like(self._theta[0])
        with self._threads(n_samples), torch.no_grad():
            for X, y in self._chunks(*(self._splits["train"] if batch is None else self._fetch(batch))):
                total += self._way.value(X, y, len(X) / n_samples)[0]
        return total

    def samples(self, batch: Batch | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets on the device: those of a mini-batch at once, or all of the training data in chunks."""
        if batch is None:
            yield from self._chunks(self._X, self._y)
        else:
            yield self._fetch(batch)

    def metrics(self, theta: Tensor) -> dict[str, float]:
        if smaller := self.shrunk(theta):
            return smaller.loss.metrics(smaller.parts.of(theta))
        seen = self._seen if torch.equal(self._theta, theta) else None
        self._put(theta)
        self.module.eval()
        tallies = {name: self._tally(X, y) for name, (X, y) in self._splits.items() if len(X) and name != "train"}
        tallies = {"train": seen or self._tally(self._X, self._y), **tallies}
        found = {name: self._quality(tally) for name, tally in tallies.items()}
        values = {f"{name}_{what}": value for name, quality in found.items() for what, value in quality.items()}
        return {name: value for name, value in values.items() if name != "train_loss"}

    def validation(self, theta: Tensor) -> dict[str, float]:
        if smaller := self.shrunk(theta):
            return smaller.loss.validation(smaller.parts.of(theta))
        self._put(theta)
        self.module.eval()
        X, y = self._splits["validation"]
        return self._quality(self._tally(X, y)) if len(X) else {}

    def calibrate(self, theta: Tensor) -> None:
        norms = [m for m in self.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        self._put(theta)
        for norm in norms:
            self._forget()
            norm.reset_running_stats()
            norm.momentum = None
        if norms:
            self._forward_all()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _forward_all(self) -> None:
        self.module.train()
        with self._threads(self.n_samples), torch.no_grad():
            for X, _ in self._chunks(self._X, self._y):
                self._read(X)
        self.effort += FORWARD

    def _put(self, theta: Tensor) -> Tensor:
        """Give the network these weights; what was seen of others is forgotten."""
        self._seen = None
        return self._theta.copy_(theta)

    def _forget(self) -> None:
        """What was seen is not that of other buffers, which smaller networks share."""
        self._seen = None
        if self._shrunk and self._shrunk[1]:
            self._shrunk[1].loss._forget()

    def _differentiate(self, theta: Tensor, batch: Batch | None) -> Tensor:
        """The loss; its gradient is left in the flat buffer."""
        self._put(theta)
        self._train(batch is not None)
        self.effort += 1.0 if batch is None else batch.shape[0] / self.n_samples
        return self._accumulate(batch) if batch is not None else self._accumulate_all()

    def _threads(self, n_samples: int) -> AbstractContextManager[None]:
        """As many as a layer is worth on so many samples that come in chunks."""
        return threads_for(self.of_layer * min(n_samples, self._at_once))

    def _train(self, training: bool) -> None:
        """Switch the mode, which walks over all modules, only where it is another."""
        if self.module.training is not training:
            self.module.train(training)

    def _accumulate(self, batch: Batch) -> Tensor:
        with threads_for(self.of_layer * batch.shape[0]):
            return self._way.gradient_(*self._fetch(batch))[0]

    def _accumulate_all(self) -> Tensor:
        self._seen = tally = _Tally(self.criterion, self.n_samples, self._theta)
        with self._threads(self.n_samples):
            for done, (X, y) in enumerate(self._chunks(self._X, self._y)):
                tally.add(*self._way.gradient_(X, y, len(X) / self.n_samples, added=done > 0), y)
        return tally.loss

    def _tally(self, X: Tensor, y: Tensor) -> "_Tally":
        tally = _Tally(self.criterion, len(X), self._theta)
        with self._threads(len(X)), torch.no_grad():
            for inputs, targets in self._chunks(X, y):
                tally.add(*self._way.value(inputs, targets, len(inputs) / len(X)), targets)
        return tally

    def _quality(self, tally: "_Tally") -> dict[str, float]:
        found = {"loss": float(tally.loss)}
        if tally.right.isfinite():
            found["accuracy"] = float(tally.right) / (tally.n_samples * self.n_places)
        if self._language:
            found["bits_per_character"] = found["loss"] / NATS_PER_BIT
        return found

    def _fetch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._resident:
            return _taken(self._X, batch), _taken(self._y, batch)
        index = batch.to(self._X.device)
        return self._to_device(_taken(self._X, index)), self._to_device(_taken(self._y, index))

    def _chunks(self, X: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of about one size, each small enough for what a layer makes of it to stay in the processor's cache."""
        n_chunks = max(1, math.ceil(len(X) / self._at_once))
        for inputs, targets in zip(X.tensor_split(n_chunks), y.tensor_split(n_chunks), strict=True):
            yield self._to_device(inputs), self._to_device(targets)

    def _fitting(self) -> int:
        """Samples that are evaluated at once."""
        room = CUDA_BYTES if self._device.type == "cuda" else CACHED_BYTES
        widest = _widest(self.module, self._to_device(self._X[:2]))
        return max(1, min(MOST_AT_ONCE // self.n_places, room // (widest * self._theta.element_size())))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)


def _widest(module: nn.Module, samples: Tensor) -> int:
    """Most numbers that a layer makes of one sample, by two of them: some networks cannot do with one."""
    sizes = [1]
    layers = [layer for layer in module.modules() if next(layer.children(), None) is None]
    hooks = [layer.register_forward_hook(lambda *seen: sizes.extend(_sizes(seen[-1]))) for layer in layers]
    with torch.no_grad():
        module.eval()(samples)
    module.train()
    for hook in hooks:
        hook.remove()
    return max(1, max(sizes) // len(samples))


def _sizes(outputs: object) -> Iterator[int]:
    """How many numbers each tensor has of what a layer gives, which of recurrent ones is a tuple."""
    if isinstance(outputs, Tensor):
        yield outputs.numel()
    if isinstance(outputs, tuple | list):
        for part in outputs:
            yield from _sizes(part)


@final
class _Tally:
    """Mean loss and right predictions of samples that come in chunks.

    Parameters
    ----------
    criterion : Criterion
    n_samples : int
        How many will come.
    like : Tensor
        Has the device and the type of the loss.
    """

    def __init__(self, criterion: Criterion, n_samples: int, like: Tensor) -> None:
        self._criterion, self.n_samples = criterion, n_samples
        self.loss, self.right = like.new_zeros(()), like.new_zeros(())

    def add(self, value: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count a chunk, of which `value` is the share of the mean loss."""
        count = self._criterion.correct(outputs, targets)
        self.loss += value
        self.right += torch.nan if count is None else count


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``, for an index of any shape, in a fifth of its time on the CPU."""
    if index.dim() == 1:
        return values.index_select(0, index)
    return values.index_select(0, index.reshape(-1)).view(*index.shape, *values.shape[1:])


def _is_linear(module: nn.Module) -> bool:
    """Whether a single linear layer holds all parameters, without an activation after it."""
    parts = [m for m in module.modules() if not isinstance(m, nn.Sequential | nn.Flatten)]
    return len(parts) == 1 and isinstance(parts[0], nn.Linear)


def _flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Move parameters into one flat buffer, and their gradients into another."""
    theta = torch.cat([p.detach().reshape(-1) for p in parameters])
    grad = torch.zeros_like(theta)
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.data = theta[start:stop].view_as(parameter)
        parameter.grad = grad[start:stop].view_as(parameter)
        start = stop
    return theta, grad


def _bent(slopes: tuple[Tensor, ...], leaves: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Tensor:
    """How the slopes change along a direction, flat; the graph is kept for the next one."""
    smooth = [(slope, part) for slope, part in zip(slopes, along, strict=True) if slope.requires_grad]
    found = torch.autograd.grad(
        [slope for slope, _ in smooth],
        leaves,
        [part for _, part in smooth],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([part.reshape(-1) for part in found])


def _splits(dataset: Dataset, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    names = ("train", "validation", "test")
    arrays = {name: (getattr(dataset, f"X_{name}"), getattr(dataset, f"y_{name}")) for name in names}
    resident = _resident(device, sum(X.nbytes for X, _ in arrays.values()))
    return {name: (_place(X, device, resident), _place(y, device, resident)) for name, (X, y) in arrays.items()}


def _place(array: Array, device: torch.device, resident: bool) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.to(device) if resident else tensor.pin_memory()


def _resident(device: torch.device, n_bytes: int) -> bool:
    """Whether the data leave at least half of the device's free memory to the work."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes < free / 2
