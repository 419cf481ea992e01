"""Images whose channels lie side by side in memory: a processor's convolutions and pooling are faster on them."""

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
ROUNDING = 1e-3


def by_pixels(images: Tensor) -> Tensor:
    """The same images, shape (n, channels, height, width), with each pixel's channels side by side.

    Those of a single channel lie the same both ways; torch goes by their strides.
    """
    n, channels, height, width = images.shape
    strides = channels * height * width, 1, channels * width, channels
    return images.contiguous(memory_format=torch.channels_last).as_strided((n, channels, height, width), strides)


def reads_by_pixels(network: nn.Module, samples: Tensor) -> bool:
    """Whether a network gains by such images, and can do with them.

    One that views its maps in another shape, without `reshape` or a flattening layer, cannot. Nothing is gained without
    convolutions, and on a GPU it was not measured.

    Parameters
    ----------
    network : nn.Module
        In eval mode.
    samples : Tensor, shape (n, *input_shape)
        A few.
    """
    images = samples.device.type == "cpu" and samples.dim() == 4
    if not images or not any(isinstance(layer, CONVOLUTIONS) for layer in network.modules()):
        return False
    with torch.no_grad():
        usual = network(samples)
        try:
            other = network(by_pixels(samples))
        except RuntimeError:
            return False
    return bool((other - usual).abs().max() <= ROUNDING * usual.abs().max())
