"""Adaptive dropout: noise or shrinkage that every weight sets by its own size, and training with it by Adam."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from engine.correctors.adaptive import mean_size
from engine.correctors.base import batch_size, mini_batches
from engine.errors import InvalidSpec
from engine.layout import Block
from engine.losses import Batch, Loss, NetworkLoss
from engine.penalties.effective import LogSum, divergence

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

LEAST_ALPHA = 1e-3
FIRST_LOG_ODDS, PULL = 5.0, 1e-3
FIRST_LOG_NOISE, WIDEST_LOG_ALPHA = -5.0, 8.0
BATCH_SHARE, LARGEST_BATCH = 48, 256
BETAS, ROUNDING = (0.9, 0.999), 1e-8
HIGHEST_RATE = 0.03


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a descent is.

    Parameters
    ----------
    loss : Loss
    dropped : Tensor of bool, shape (n_params,)
        The weights that dropout acts on.
    strength : float
    theta : Tensor, shape (n_params,)
    dual : Tensor, shape (n_params,) or (0,)
        The variant's own parameter of every weight, if it has one.
    generator : torch.Generator
        Draws the noise.
    """

    loss: Loss
    dropped: Tensor
    strength: float
    theta: Tensor
    dual: Tensor
    generator: torch.Generator


class Variant(ABC):
    """An adaptive dropout, as far as it differs from plain training.

    Attributes
    ----------
    memory : str
        Name of its own parameter of every weight, which goes on from network to network; empty if it has none.
    trust : float
        Adam's highest learning rate by default, as a share of the mean size of the weights that are not zero.
    dual_rate : float
        Adam's learning rate for its own parameters by default.

    References
    ----------
    LeJeune, Javadi, Baraniuk, "The flip side of the reweighted coin: duality of adaptive dropout and regularization",
    NeurIPS 2021.
    """

    memory: str = ""
    trust: float = 0.1
    dual_rate: float = 0.05

    def fresh(self, theta: Tensor, strength: float) -> Tensor:
        """Its own parameters at the start, shape (n_params,) or (0,)."""
        return theta.new_zeros(0)

    @abstractmethod
    def gradients(self, spot: Spot, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of what it minimises, by the weights and by its own parameters."""

    def shrink_(self, spot: Spot, step: Tensor) -> None:  # noqa: B027 - most change the gradient alone
        """Shrink the weights in place after a gradient step; `step`, shape (n_params,), holds its sizes."""

    @abstractmethod
    def odds(self, spot: Spot) -> Tensor:
        """Odds of keeping each weight, eta / strength, shape (n_params,)."""


class Reweighted(Variant):
    """One whose eta follows from the weight by an effective penalty."""

    def __init__(self, epsilon: float) -> None:
        self._penalty = LogSum(epsilon)

    def odds(self, spot: Spot) -> Tensor:
        return self._penalty.eta(spot.theta.abs()) / spot.strength


@final
class AdaProx(Reweighted):
    """After each step, the proximal operator of ``strength / 2 w^2 / eta`` in Adam's metric: weights times alpha."""

    def gradients(self, spot: Spot, batch: Batch) -> tuple[Tensor, Tensor]:
        return spot.loss.value_and_grad_(spot.theta, batch)[1], spot.dual

    def shrink_(self, spot: Spot, step: Tensor) -> None:
        eta = self._penalty.eta(spot.theta.abs())
        alpha = eta / (eta + step * spot.strength)
        spot.theta.mul_(torch.where(spot.dropped & (spot.theta != 0), alpha, 1.0))


@final
class AdaTikhonov(Reweighted):
    """Ridge with weights ``(1 - alpha) / alpha``, alpha held at what the weights before the step gave."""

    def gradients(self, spot: Spot, batch: Batch) -> tuple[Tensor, Tensor]:
        _, grad = spot.loss.value_and_grad_(spot.theta, batch)
        odds = self.odds(spot)
        alpha = (odds / (1 + odds)).clamp_min(LEAST_ALPHA)
        return grad.add_(spot.dropped * spot.theta * (1 - alpha) / alpha), spot.dual


@final
class PlainLogSum(Reweighted):
    """The effective penalty itself, by its gradient."""

    def gradients(self, spot: Spot, batch: Batch) -> tuple[Tensor, Tensor]:
        _, grad = spot.loss.value_and_grad_(spot.theta, batch)
        slope = spot.theta.sign() * self._penalty.slope(spot.theta.abs())
        return grad.add_(spot.dropped * slope, alpha=spot.strength), spot.dual


@final
class EtaTrick(Reweighted):
    """Weights and log eta are minimised over together."""

    memory = "log_eta"

    def fresh(self, theta: Tensor, strength: float) -> Tensor:
        return torch.full_like(theta, FIRST_LOG_ODDS + math.log(strength))

    def gradients(self, spot: Spot, batch: Batch) -> tuple[Tensor, Tensor]:
        _, grad = spot.loss.value_and_grad_(spot.theta, batch)
        eta = spot.dual.exp()
        best = self._penalty.size(eta)
        by_dual = (best.square() - spot.theta.square()) / eta + PULL
        return grad.add_(spot.dropped * spot.theta / eta, alpha=spot.strength), by_dual * (spot.strength / 2)

    def odds(self, spot: Spot) -> Tensor:
        return spot.dual.exp() / spot.strength


@final
class Variational(Variant):
    """Gaussian noise of variance alpha times the square of a weight, alpha learnt, against the log-uniform prior.

    Parameters
    ----------
    additive : bool
        Whether the noise's own size is learnt, instead of its ratio alpha to the weight.
    local : bool
        Whether layers' outputs are drawn, every sample its own, instead of weights, all samples the same. Weights of
        other layers than linear and convolutional ones are drawn in any case.

    References
    ----------
    Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017.
    Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NeurIPS 2015.
    """

    def __init__(self, additive: bool, local: bool) -> None:
        self._additive, self._local = additive, local
        self.memory = "log_sigma" if additive else "log_alpha"
        self.trust, self.dual_rate = 0.03, 0.01 if additive else 0.05

    def fresh(self, theta: Tensor, strength: float) -> Tensor:
        return torch.full_like(theta, FIRST_LOG_NOISE)

    def gradients(self, spot: Spot, batch: Batch) -> tuple[Tensor, Tensor]:
        theta, dual = spot.theta.detach().requires_grad_(), spot.dual.detach().requires_grad_()
        noisy = _noisy_layers(spot.loss) if self._local else []
        noise = torch.randn(theta.shape, generator=spot.generator, device=theta.device, dtype=theta.dtype)
        sample = theta + self._deviation(theta, dual) * noise * _elsewhere(spot.dropped, noisy)
        with self._local_noise(spot, noisy, dual):
            _, grad = spot.loss.value_and_grad_(sample.detach(), batch)
        cost = divergence(self._log_alpha(theta, dual)) * spot.dropped
        (sample @ grad + spot.strength * cost.sum()).backward()  # type: ignore[no-untyped-call]
        return _known(theta.grad), _known(dual.grad)

    def odds(self, spot: Spot) -> Tensor:
        return (-self._log_alpha(spot.theta, spot.dual)).exp()

    def _log_alpha(self, theta: Tensor, dual: Tensor) -> Tensor:
        found = 2 * dual - (theta.square() + ROUNDING**2).log() if self._additive else dual
        return found.clamp(-WIDEST_LOG_ALPHA, WIDEST_LOG_ALPHA)

    def _deviation(self, theta: Tensor, dual: Tensor) -> Tensor:
        return dual.exp() if self._additive else (self._log_alpha(theta, dual) / 2).exp() * theta

    @contextmanager
    def _local_noise(self, spot: Spot, noisy: "list[NoisyLayer]", dual: Tensor) -> Iterator[None]:
        """While this lasts, the outputs of layers are noisy."""

        def variance(block: Block, weights: Tensor) -> Tensor:
            part = slice(block.start, block.stop)
            deviation = self._deviation(weights.view(-1), dual[part]) * spot.dropped[part]
            return deviation.square().view(block.shape)

        with ExitStack() as hooks:
            for layer in noisy:
                hooks.enter_context(layer.hook(variance, spot.generator))
            yield


@dataclass(frozen=True, slots=True)
class NoisyLayer:
    """A layer whose output can be drawn instead of its weights.

    Parameters
    ----------
    layer : Layer
    weight : Block
    bias : Block or None
    """

    layer: Layer
    weight: Block
    bias: Block | None

    def hook(self, variance: Callable[[Block, Tensor], Tensor], generator: torch.Generator) -> RemovableHandle:
        """Add noise to its outputs, of the variance that weights of these variances give them."""

        def noisy(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            weight = variance(self.weight, self.layer.weight)
            bias = variance(self.bias, self.layer.bias) if self.bias and self.layer.bias is not None else None
            spread = self._applied(inputs[0].square(), weight, bias).clamp_min(0.0).add(ROUNDING).sqrt()
            noise = torch.randn(spread.shape, generator=generator, device=spread.device, dtype=spread.dtype)
            return output + spread * noise

        return self.layer.register_forward_hook(noisy)

    def _applied(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return linear(inputs, weight, bias)
        found: Tensor = self.layer._conv_forward(inputs, weight, bias)
        return found


def _noisy_layers(loss: Loss) -> list[NoisyLayer]:
    if not isinstance(loss, NetworkLoss):
        raise InvalidSpec("local noise needs a network with layers; use variant 'variational'")
    blocks = {id(parameter): block for parameter, block in zip(loss.module.parameters(), loss.layout, strict=True)}
    layers = [m for m in loss.module.modules() if isinstance(m, Layer) and type(m) in get_args(Layer)]
    return [NoisyLayer(layer, blocks[id(layer.weight)], blocks.get(id(layer.bias))) for layer in layers]


def _elsewhere(dropped: Tensor, noisy: list[NoisyLayer]) -> Tensor:
    """The dropped weights that are in none of the layers."""
    found = dropped.clone()
    for block in (block for layer in noisy for block in (layer.weight, layer.bias) if block):
        found[block.start : block.stop] = False
    return found


VARIANTS: dict[str, Callable[[float], Variant]] = {
    "ada_prox": AdaProx,
    "ada_tikhonov": AdaTikhonov,
    "eta_trick": EtaTrick,
    "log_sum": PlainLogSum,
    "variational": lambda _: Variational(additive=False, local=False),
    "variational_local": lambda _: Variational(additive=False, local=True),
    "variational_local_additive": lambda _: Variational(additive=True, local=True),
}


@dataclass(frozen=True, slots=True)
class Descent:
    """How networks are trained.

    Parameters
    ----------
    rate, dual_rate : float, optional
        Adam's learning rates for the weights and for the variant's own parameters, which fall to nothing in equal
        parts; the variant's if None.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    """

    rate: float | None = None
    dual_rate: float | None = None
    batch: int | None = None

    def __call__(self, variant: Variant, spot: Spot, seed: int, epochs: int | None, steps: int) -> None:
        """Change the spot's weights, and the variant's own parameters, in place."""
        size = self.batch or batch_size(spot.loss, BATCH_SHARE, LARGEST_BATCH)
        batches = list(mini_batches(spot.loss, seed, size, epochs, steps))
        rate, dual_rate = (
            self.rate or min(HIGHEST_RATE, variant.trust * mean_size(spot.theta) or HIGHEST_RATE),
            self.dual_rate or variant.dual_rate,
        )
        by_theta, by_dual = Adam(spot.theta), Adam(spot.dual)
        for done, batch in enumerate(batches):
            left = 1 - done / len(batches)
            grad, dual_grad = variant.gradients(spot, batch)
            step = by_theta.descend_(spot.theta, grad, left * rate)
            by_dual.descend_(spot.dual, dual_grad, left * dual_rate)
            variant.shrink_(spot, step)


@final
class Adam:
    """Adam's averages (Kingma, Ba, ICLR 2015), which a step updates in place."""

    def __init__(self, like: Tensor) -> None:
        self._mean, self._square, self._done = torch.zeros_like(like), torch.zeros_like(like), 0

    def descend_(self, theta: Tensor, grad: Tensor, rate: float) -> Tensor:
        """Step on `theta` in place; the step sizes of its entries, to which the mean gradient is multiplied."""
        self._done += 1
        self._mean.lerp_(grad, 1 - BETAS[0])
        self._square.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        sizes = rate / ((self._square / (1 - BETAS[1] ** self._done)).sqrt_() + ROUNDING)
        theta.addcmul_(self._mean, sizes, value=-1 / (1 - BETAS[0] ** self._done))
        return sizes


def _known(grad: Tensor | None) -> Tensor:
    if grad is None:
        raise RuntimeError("a leaf without a gradient")
    return grad
