"""Images whose channels lie side by side in memory: a processor's convolutions and pooling are faster on them."""

from collections.abc import Callable
from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

Read = Callable[[Tensor], Tensor]

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
ROUNDING = 1e-3


def by_pixels(images: Tensor) -> Tensor:
    """The same images, shape (n, channels, height, width), with each pixel's channels side by side.

    Those of a single channel lie the same both ways; torch goes by their strides.
    """
    n, channels, height, width = images.shape
    strides = channels * height * width, 1, channels * width, channels
    return images.contiguous(memory_format=torch.channels_last).as_strided((n, channels, height, width), strides)


@final
class ByPixels:
    """A network that reads images by pixels.

    Parameters
    ----------
    network : nn.Module
    layers : nn.Sequential, optional
        The same network, where images come without channels and its first layer gives them one.
    """

    def __init__(self, network: nn.Module, layers: nn.Sequential | None = None) -> None:
        self._network, self._layers = network, layers

    def __call__(self, images: Tensor) -> Tensor:
        """What the network answers, shape (n, ..., n_outputs)."""
        if self._layers is None:
            return self._network(by_pixels(images))  # type: ignore[no-any-return]
        first, *others = self._layers
        return reduce(lambda values, layer: layer(values), others, by_pixels(first(images)))


def reading(network: nn.Module, samples: Tensor) -> Read:
    """What evaluates a network fastest: itself or, on a processor, itself on images by pixels.

    Nothing is gained without convolutions, and on a GPU it was not measured. A network that views its maps in another
    shape, without `reshape` or a flattening layer, cannot do with such images.

    Parameters
    ----------
    network : nn.Module
        In eval mode.
    samples : Tensor, shape (n, *input_shape)
        A few.
    """
    layers = _giving_channels(network) if samples.dim() == 3 else None
    convolves = any(isinstance(layer, CONVOLUTIONS) for layer in network.modules())
    if samples.device.type != "cpu" or not convolves or not (layers or samples.dim() == 4):
        return network
    other = ByPixels(network, layers)
    return other if _agree(network, other, samples) else network


def _giving_channels(network: nn.Module) -> nn.Sequential | None:
    """The network where it is layers in a row, the first of which gives images their channels."""
    if type(network) is nn.Sequential and isinstance(next(iter(network), None), nn.Unflatten):
        return network
    return None


def _agree(network: nn.Module, other: Read, samples: Tensor) -> bool:
    """Whether the other way works, and answers the same to rounding."""
    with torch.no_grad():
        usual = network(samples)
        try:
            found = other(samples)
        except RuntimeError:
            return False
    return bool((found - usual).abs().max() <= ROUNDING * usual.abs().max())
