"""Vectors in stretches that stay in a processor's cache while several operations pass over them."""

from collections.abc import Iterator

import torch
from torch import Tensor

STRETCH = 1 << 18


def stretches(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same stretch of every vector, in order; a single stretch on devices other than the processor.

    Parameters
    ----------
    *vectors : Tensor, shape (n,)
    """
    first = vectors[0]
    size = STRETCH * torch.get_num_threads() if first.device.type == "cpu" else len(first)
    if len(first) <= size:
        yield vectors
    else:
        yield from zip(*(torch.split(vector, size) for vector in vectors), strict=True)
