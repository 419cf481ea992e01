"""What the end of a continuation tells about the way there: how far it got, and what had to be answered."""

from collections.abc import Iterator, Sequence

from engine.front import Waypoint

STALLED = 3


def stalled(branch: Sequence[Waypoint]) -> bool:
    """Whether the last points of a direction towards lower loss are no lower than the one before them."""
    losses = [w.point.loss for w in branch]
    return len(losses) > STALLED and min(losses[-STALLED:]) >= losses[-STALLED - 1]


def remarks(trail: Sequence[Waypoint], strength: float, end: float) -> Iterator[str]:
    """Sentences on collapse and divergence along a trail.

    Parameters
    ----------
    trail : sequence of Waypoint
    strength : float
        That was asked for at the first point; 0 where none was.
    end : float
        Sparsity that was asked for.
    """
    first, sparsest = trail[0].point, max((w.point for w in trail), key=lambda p: p.sparsity)
    if first.lam is not None and first.lam < strength:
        yield f"At strength {strength:g} the first network lost what it had learnt; it was trained at {first.lam:g}."
    repeated = sum("repeats" in w.point.metrics for w in trail)
    if repeated:
        yield f"The loss of {repeated} of {len(trail)} networks grew; they were corrected again in shorter steps."
    if sparsest.n_nonzero == 0 and (1 - end) * sparsest.n_params >= 1:
        yield f"Nothing but the zero network was found with a sparsity of {end:g} or more."
