"""Whether what was made of a network answers like the network."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.errors import ExportFailed

TOLERANCE = 1e-4
FEWEST_PROBED = 16
WIDE = 4


def private(module: nn.Module) -> nn.Module:
    """A copy of the module in eval mode on the CPU.

    Raises
    ------
    ExportFailed
        If it cannot be copied.
    """
    try:
        return copy.deepcopy(module).cpu().eval()
    except (RuntimeError, TypeError) as error:
        raise ExportFailed(f"the network {type(module).__name__} cannot be copied: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """First line of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def difference(module: nn.Module, run: Callable[[Tensor], Tensor], example: Tensor, traced_batch: int = 2) -> float:
    """Largest absolute difference of answers, over batches of one sample, of `traced_batch`, and of more.

    The probes are the samples of `example`, and with them the same with noise of their own size and of four times it;
    for characters, as many drawn at random from theirs.
    Outputs within `TOLERANCE` of each other agree on the class wherever its margin exceeds twice that.

    Parameters
    ----------
    module : nn.Module
        The original, in eval mode on the CPU.
    run : callable
        What is to answer alike.
    example : Tensor, shape (n, *input_shape)

    Raises
    ------
    ExportFailed
        If they differ by more than `TOLERANCE` of the largest answer, in shape, or are not finite.
    """
    probes = [batch(example, 1), batch(example, traced_batch), _probe(example)]
    with torch.no_grad():
        answers = [(module(probe), run(probe)) for probe in probes]
    for expected, found in answers:
        _check_answer(expected, found)
    furthest = max(float((expected - found).abs().max()) for expected, found in answers)
    scale = max(float(expected.abs().max()) for expected, _ in answers)
    if furthest > TOLERANCE * scale:
        allowed = f"{TOLERANCE:g} of the largest output, {scale:.3g}, is allowed"
        raise ExportFailed(f"the exported network's answers differ by {furthest:.3g} from the original's; {allowed}")
    return furthest


def batch(example: Tensor, size: int) -> Tensor:
    """`size` samples: those of `example`, again and again."""
    return example[torch.arange(size) % len(example)].contiguous()


def _check_answer(expected: Tensor, found: Tensor) -> None:
    if expected.shape != found.shape:
        shapes = f"{tuple(found.shape)}, those of the original {tuple(expected.shape)}"
        raise ExportFailed(f"the exported network's answers have the shape {shapes}")
    if not torch.isfinite(expected).all() or not torch.isfinite(found).all():
        raise ExportFailed("the network's answers are NaN or infinite; only finite answers can be compared")


def _probe(example: Tensor) -> Tensor:
    rows = batch(example, max(FEWEST_PROBED, len(example)))
    generator = torch.Generator().manual_seed(0)
    if not example.is_floating_point():
        drawn = torch.randint(rows.numel(), rows.shape, generator=generator)
        return torch.cat([rows, rows.flatten()[drawn]])
    noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype) * rows.std()
    return torch.cat([rows, rows + noise, rows + WIDE * noise])
