"""Vectors in stretches that stay in a processor's cache while several operations pass over them."""

from collections.abc import Iterable

import torch
from torch import Tensor

STRETCH = 1 << 18


def stretches(*vectors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Views of the same stretch of every vector, in order; a single stretch on devices other than the processor.

    Parameters
    ----------
    *vectors : Tensor, shape (n,)
    """
    first = vectors[0]
    if first.shape[0] <= STRETCH or first.device.type != "cpu":
        return (vectors,)
    size = STRETCH * torch.get_num_threads()
    return zip(*(torch.split(vector, size) for vector in vectors), strict=True)
