"""How many of a processor's threads a computation is given: to wake one takes as long as millions of multiply-adds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

WORTH = 1.5e7

_most: ContextVar[int | None] = ContextVar("_most", default=None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes in one thread, but where `threads_for` gives it more of those there were outside."""
    if _most.get() is not None:
        yield
        return
    before = torch.get_num_threads()
    token = _most.set(before)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _most.reset(token)


def threads_for(multiply_adds: float) -> AbstractContextManager[None]:
    """Within `one_thread`, a thread for every `WORTH` multiply-adds, as far as there are any; elsewhere no change.

    Parameters
    ----------
    multiply_adds : float
        In each operation, such as a layer of a network on the samples that are evaluated at once.
    """
    most = _most.get() if multiply_adds >= 2 * WORTH else None
    return nullcontext() if most is None else _threads(min(most, int(multiply_adds / WORTH)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
