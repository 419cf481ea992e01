"""Networks that grow: a layer gets more filters or units where most of those it has are needed.

All networks are parts of the one widest network: a smaller one has the leading filters and units of each layer, and
zeros elsewhere.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Annotated, Any, final

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from engine.correctors.base import batch_size, mini_batches
from engine.errors import Diverged, InvalidSpec
from engine.front import Waypoint
from engine.layout import Block
from engine.losses import Batch, Loss
from engine.optim import DessiLBI
from engine.penalties import GroupL2
from engine.problem import Problem, State
from engine.structure import view
from engine.tracers.base import Budget, Clock, Tracer
from engine.tracers.recording import draw, known, recorded

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]

WEIGHTS, WIDTHS, GROWN = "weights", "widths", "grown"
BATCH_SHARE, LARGEST_BATCH = 48, 256
STEPS, FINE_TUNE_STEPS = 120, 960
FIRST_SHARE = 0.1
FINE_TUNE_DECAY = 0.05
TIME = 1.0
ROUNDING = 1e-9


@final
@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """The filters of a convolution, or the units of a dense layer, that another layer reads.

    Parameters
    ----------
    weight, reader : Block
        Weights that make them and weights that read them.
    bias : Block or None
    """

    weight: Block
    reader: Block
    bias: Block | None

    @property
    def n_units(self) -> int:
        return self.weight.shape[0]

    @property
    def is_convolution(self) -> bool:
        return len(self.weight.shape) > 2

    def made(self, theta: Tensor) -> Tensor:
        """Incoming weights, a view of the flat `theta` of shape (n_units, fan_in)."""
        return view(theta, self.weight).view(self.n_units, -1)

    def read(self, theta: Tensor) -> Tensor:
        """Outgoing weights, a view of the flat `theta` of shape (n_next, n_units, weights per connection)."""
        return view(theta, self.reader).view(self.reader.shape[0], self.n_units, -1)

    def norm(self, theta: Tensor) -> float:
        """Mean norm of a unit's incoming weights, over the units that have any."""
        norms = self.made(theta).norm(dim=1)
        return float(norms.sum() / norms.count_nonzero())

    def drop_(self, values: Tensor, width: int) -> None:
        """Write zero over all that belongs to the units after the first `width`."""
        self.made(values)[width:] = 0
        self.read(values)[:, width:] = 0
        if self.bias:
            view(values, self.bias)[width:] = 0


def hidden_layers(blocks: Sequence[Block]) -> tuple[HiddenLayer, ...]:
    """The hidden layers of a network that is a plain chain of convolutions and dense layers.

    Raises
    ------
    InvalidSpec
        If it is none, or has no hidden layer.
    """
    weights = [block for block in blocks if len(block.shape) > 1]
    plain = not any(block.heads or block.kind == "norm" for block in blocks)
    fits = all(after.shape[1] % before.shape[0] == 0 for before, after in pairwise(weights))
    if len(weights) < 2 or not plain or not fits:
        raise InvalidSpec(
            "method 'growing' is for plain chains of convolutions and dense layers without norms, such as 'mlp', "
            "'lenet5' and 'cifar_cnn', with a hidden layer"
        )
    biases = {block.name.removesuffix("bias"): block for block in blocks if block.kind == "bias"}
    return tuple(HiddenLayer(a, b, biases.get(a.name.removesuffix("weight"))) for a, b in pairwise(weights))


@final
class Widest:
    """The job's network, and the smaller ones in it.

    Parameters
    ----------
    start : Tensor, shape (n_params,)
        Weights that the widest network starts from.
    blocks : sequence of Block

    Attributes
    ----------
    layers : tuple of HiddenLayer

    Raises
    ------
    InvalidSpec
        If it is no plain chain, or has no hidden layer.
    """

    def __init__(self, start: Tensor, blocks: Sequence[Block]) -> None:
        self._start, self.layers = start, hidden_layers(blocks)

    def mask(self, widths: Sequence[int]) -> Tensor:
        """The weights of the network with so many leading units in each hidden layer; bool, shape (n_params,)."""
        kept = torch.ones_like(self._start, dtype=torch.bool)
        for layer, width in zip(self.layers, widths, strict=True):
            layer.drop_(kept, width)
        return kept

    def fresh(self, widths: Sequence[int]) -> Tensor:
        """Start weights of a smaller network, shape (n_params,), as large as if it had been made with its fan-in."""
        theta = torch.where(self.mask(widths), self._start, 0.0)
        for layer, width in zip(self.layers, widths, strict=True):
            layer.read(theta).mul_(math.sqrt(layer.n_units / width))
        return theta

    def grown(self, theta: Tensor, before: Sequence[int], widths: Sequence[int]) -> Tensor:
        """The weights of a network and fresh ones around them, shape (n_params,)."""
        return torch.where(self.mask(before), theta, self.fresh(widths))


@final
@dataclass(frozen=True, slots=True)
class Growth:
    """When and by how much layers grow.

    Parameters
    ----------
    points : int
        At most so many networks, at least 2, the fine-tuned one included.
    tau : float
        Share of a layer's units that must have entered for it to be saturated, in (0, 1].
    filters, units : int, optional
        Of each convolution and of each dense layer to begin with; a share of the widest if None.
    growth : int
        Filters or units that a saturated layer gets at least.
    factor : float, optional
        By which a saturated layer grows at least, rounded up; the one that leads to the widest in `points` networks if
        None.
    """

    points: int
    tau: float
    filters: int | None
    units: int | None
    growth: int
    factor: float | None

    def first(self, layer: HiddenLayer) -> int:
        """The width that a layer begins with."""
        asked = self.filters if layer.is_convolution else self.units
        return min(asked or math.ceil(FIRST_SHARE * layer.n_units), layer.n_units)

    def after(self, layer: HiddenLayer, width: int, entered: Tensor) -> int:
        """The width in the next network, where the units of the mask `entered`, shape (n_units,), have entered."""
        if int(entered.count_nonzero()) < self.tau * width:
            return width
        even = (layer.n_units / self.first(layer)) ** (1 / max(self.points - 2, 1))
        grown = math.ceil((self.factor or even) * width - ROUNDING)
        return min(max(width + self.growth, grown), layer.n_units)


@final
@dataclass(frozen=True, slots=True)
class Network:
    """A network inside the widest one, in training.

    Parameters
    ----------
    loss : Loss
    theta : Tensor, shape (n_params,)
        Changed in place.
    mask : Tensor of bool, shape (n_params,)
        What is trained; the other weights are zero.
    """

    loss: Loss
    theta: Tensor
    mask: Tensor

    def parts(self) -> dict[Block, Tensor]:
        """Views of the weights, one for each parameter tensor."""
        return {block: view(self.theta, block) for block in self.loss.layout}

    def descend(self, optimizer: DessiLBI, parts: Mapping[Block, Tensor], batches: Iterable[Batch]) -> None:
        """Take a step of the optimizer of `parts` for every batch."""
        for batch in batches:
            slope = self.loss.value_and_grad_(self.theta, batch)[1].mul_(self.mask)
            for block, part in parts.items():
                part.grad = view(slope, block)
            optimizer.step()


@final
@dataclass(frozen=True, slots=True)
class Training:
    """How networks are trained and what enters.

    Parameters
    ----------
    rate, kappa : float
        Learning rate, and size of the sparse twin.
    nu : float, optional
        Tie of the twin; if None, one by which weights that the loss leaves alone shrink to exp(-TIME) of their size.
    strength : float
        How large a unit's incoming weights must be on average to enter, relative to fresh ones that the loss leaves
        alone.
    epochs, fine_tune_epochs : int, optional
        Passes over the data for each network, and for the fine-tuning; STEPS and FINE_TUNE_STEPS steps if None.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    """

    rate: float
    nu: float | None
    kappa: float
    strength: float
    epochs: int | None
    fine_tune_epochs: int | None
    batch: int | None

    def select(self, network: Network, norms: Mapping[HiddenLayer, float], seed: int) -> list[Tensor]:
        """Train, and tell which units of each hidden layer have entered: masks of shape (n_units,).

        Parameters
        ----------
        norms : mapping of HiddenLayer to float
            Norm of a fresh unit's incoming weights.
        """
        batches, parts = list(self._batches(network.loss, seed, self.epochs, STEPS)), network.parts()
        nu = self.nu or len(batches) * self.rate * self.kappa / TIME
        dual = _untouched(self.kappa * self.rate / nu, len(batches)) / self.kappa
        groups = [_group(layer, parts, self.strength * dual * norm) for layer, norm in norms.items()]
        grouped = {layer.weight for layer in norms}
        rest = {"params": [part for block, part in parts.items() if block not in grouped]}
        optimizer = DessiLBI([*groups, rest], self.rate, kappa=self.kappa, nu=nu)
        network.descend(optimizer, parts, batches)
        return [entered.flatten(1).any(dim=1) for _, entered in islice(optimizer.supports(), len(groups))]

    def fine_tune(self, network: Network, seed: int) -> None:
        """Train on without selection, at ever lower rates in three equal parts."""
        batches = list(self._batches(network.loss, seed, self.fine_tune_epochs, FINE_TUNE_STEPS))
        parts, third = network.parts(), math.ceil(len(batches) / 3)
        for part in range(3):
            optimizer = DessiLBI(list(parts.values()), self.rate * FINE_TUNE_DECAY**part)
            network.descend(optimizer, parts, batches[part * third : (part + 1) * third])

    def _batches(self, loss: Loss, seed: int, epochs: int | None, steps: int) -> Iterator[Batch]:
        size = self.batch or batch_size(loss, BATCH_SHARE, LARGEST_BATCH)
        return mini_batches(loss, seed, size, epochs, steps)


def _untouched(decay: float, steps: int) -> float:
    """What the dual of a weight of 1 reaches that nothing but the tie moves: the sum of ``decay (1 - decay)^k``."""
    return 1 - max(0.0, 1 - decay) ** steps


def _group(layer: HiddenLayer, parts: Mapping[Block, Tensor], strength: float) -> dict[str, Any]:
    """The optimiser's group of a hidden layer's incoming weights; a unit enters at a dual norm of `strength`."""
    penalty = GroupL2([replace(layer.weight, start=0)])
    fan_in = layer.weight.size / layer.n_units
    return {"params": [parts[layer.weight]], "penalty": penalty, "strength": strength / math.sqrt(fan_in)}


@final
class Growing(Tracer):
    """Train a small network, widen the layers most of whose units are needed, and train on, until none is.

    Units are needed that have entered the sparse twin of split Bregman iterations; every network is stored, from small
    to wide, and the last one fine-tuned. They have no strength and no certificate.

    Parameters
    ----------
    growth : Growth
    training : Training
    seed : int
    budget : Budget, optional
    cleanup : bool
        Whether stored networks are cleaned; training goes on from the network as it was.

    References
    ----------
    Fu et al., "Exploring structural sparsity of deep networks via inverse scale spaces", TPAMI 2022 (growing networks).
    """

    def __init__(
        self, growth: Growth, training: Training, seed: int = 0, budget: Budget | None = None, cleanup: bool = True
    ) -> None:
        self._growth, self._training = growth, training
        self._seed, self._budget, self.cleanup = seed, budget or Budget(), cleanup
        self.expected = growth.points

    def check(self, blocks: Sequence[Block]) -> None:
        hidden_layers(blocks)

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock, last = Clock(problem, trail), trail[-1] if trail else None
        widest = Widest(problem.loss.initial(), problem.loss.layout)
        while last is None or not self._over(clock, last):
            clock.allow(self._budget)
            last = self._next(problem, clock, widest, last)
            yield last

    def _over(self, clock: Clock, last: Waypoint) -> bool:
        """Whether the trace has ended; if so, why is noted."""
        if GROWN in last.memory:
            self.ended = clock.exhausted(self._budget)
        else:
            widths = "-".join(map(str, last.memory[WIDTHS]))
            self.ended = f"The network of {widths} filters and units has a sparsity of {last.point.sparsity:.4g}."
        return bool(self.ended)

    def _next(self, problem: Problem, clock: Clock, widest: Widest, last: Waypoint | None) -> Waypoint:
        if last is None:
            widths = [self._growth.first(layer) for layer in widest.layers]
            return self._selected(problem, clock, widest, _Stage(0, widths, widest.fresh(widths)))
        before, widths, index = last.memory[WIDTHS].tolist(), last.memory[GROWN].tolist(), last.point.index + 1
        kept = torch.from_numpy(last.memory[WEIGHTS].copy()).to(problem.loss.device)
        if before == widths:
            return self._fine_tuned(problem, clock, widest, _Stage(index, widths, kept))
        return self._selected(problem, clock, widest, _Stage(index, widths, widest.grown(kept, before, widths)))

    def _selected(self, problem: Problem, clock: Clock, widest: Widest, stage: "_Stage") -> Waypoint:
        """Train a network of new widths; it, and the widths that are to come."""
        network = Network(problem.loss, stage.theta, widest.mask(stage.widths))
        fresh = widest.fresh(stage.widths)
        entered = self._training.select(
            network, {layer: layer.norm(fresh) for layer in widest.layers}, self._draw(stage.index)
        )
        each = zip(widest.layers, stage.widths, entered, strict=True)
        more = stage.index + 2 < self._growth.points
        grown = [self._growth.after(*layer) for layer in each] if more else stage.widths
        memory = {WEIGHTS: stage.theta.cpu().numpy().copy(), WIDTHS: stage.widths, GROWN: grown}
        return _waypoint(problem, clock, stage.theta, stage.index, memory)

    def _fine_tuned(self, problem: Problem, clock: Clock, widest: Widest, stage: "_Stage") -> Waypoint:
        network = Network(problem.loss, stage.theta, widest.mask(stage.widths))
        self._training.fine_tune(network, self._draw(stage.index))
        return _waypoint(problem, clock, stage.theta, stage.index, {WIDTHS: stage.widths})

    def _draw(self, index: int) -> int:
        return draw(self._seed, f"growing/{index}")


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where training goes on: the number of the point, the widths of the hidden layers, and the weights."""

    index: int
    widths: Sequence[int]
    theta: Tensor


def _waypoint(problem: Problem, clock: Clock, theta: Tensor, index: int, memory: Mapping[str, Any]) -> Waypoint:
    problem.loss.calibrate(theta)
    at = State(theta, 0.0, float(problem.penalty.value(theta)), problem.loss.buffers)
    found = known(problem, problem.cleaned(at))
    if not math.isfinite(found.loss):
        raise Diverged(f"The loss became {found.loss}; check the data's scale, or lower the method's 'rate'.")
    parent = index - 1 if index else None
    waypoint = recorded(problem, clock, found, 0.0, index=index, parent=parent, memory=memory)
    return replace(waypoint, point=replace(waypoint.point, lam=None, residual=None))


def growing(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    tau: Annotated[float, Gt(0), Le(1)] = 0.5,
    filters: Count | None = None,
    units: Count | None = None,
    growth: Count = 1,
    factor: Annotated[float, Ge(1)] | None = None,
    rate: Positive = 2e-2,
    nu: Positive | None = None,
    kappa: Positive = 1.0,
    strength: Positive = 1.1,
    epochs: Count | None = None,
    fine_tune_epochs: Count | None = None,
    batch: Count | None = None,
    cleanup: bool = True,
) -> Tracer:
    """Grow a network: train a narrow one, and widen those of its layers most of whose filters or units are needed.

    Parameters
    ----------
    tau : float
        Share of a layer's filters or units that must be needed for it to grow.
    filters : int
        Filters of each convolution to begin with; a tenth of the network's by default.
    units : int
        Units of each dense layer to begin with; a tenth of the network's by default.
    growth : int
        Filters or units that a layer gets at least when it grows.
    factor : float
        By which a layer grows at least; by default the one that reaches the network's own width with as many points as
        asked.
    rate : float
        Learning rate; there is a momentum of 0.9.
    nu : float
        How loosely weights are tied to their sparse twin: with tight ties, units that are not needed soon vanish. By
        default such that weights that the loss leaves alone shrink to a third.
    kappa : float
        Size of the twin's weights as they enter; steps are longer by as much.
    strength : float
        How large a filter's or unit's weights must be for it to be needed, on average over its network's training and
        relative to those of a fresh one that the loss leaves alone: above 1, the loss must have a use for it.
    epochs : int
        Passes over the training data for each network; by default as many as make up 120 mini-batch steps, more where
        there are fewer than 1,000 samples.
    fine_tune_epochs : int
        Passes over the training data for the last network, without selection and at falling rates; by default as many
        as make up 960 steps.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")
    rules = Growth(points, tau, filters, units, growth, factor)
    training = Training(rate, nu, kappa, strength, epochs, fine_tune_epochs, batch)
    return Growing(rules, training, seed, budget, cleanup)
