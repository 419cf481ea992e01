"""Decisions that follow from numbers: free on the processor, but on a device it would have to wait for them."""

from torch import Tensor


def waits(where: Tensor) -> bool:
    """Whether the processor waits when it asks what a tensor there holds."""
    return where.device.type != "cpu"


def rounds(where: Tensor, most: int, enough: int) -> range:
    """Turns of an iteration that ends when it has settled: at most `most`, or `enough` of them where asking waits."""
    return range(enough if waits(where) else most)


def settled(moving: Tensor) -> bool:
    """Whether nothing is `moving`, as far as that is known without waiting."""
    return not waits(moving) and not bool(moving.any())
