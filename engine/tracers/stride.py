"""How far the next step of an exploring stage goes, so that the points asked for cover the path evenly."""

import math
from collections.abc import Sequence

import numpy as np

from engine.front import Waypoint

LARGEST_STEP = 0.9
SMALLEST_LOG_STEP = 0.01
WIDEST_CHANGE = 1.5
FITTED = 8
USUAL_SLOPE = 1.4
FLATTEST, STEEPEST = 0.8, 2.5
LOG_RANGE = 4.0


def sparser(branch: Sequence[Waypoint], end: float, remaining: int, least: float = SMALLEST_LOG_STEP) -> float:
    """Share of the penalty to shed so that `remaining` equal log-steps, none below `least`, end at sparsity `end`.

    The nonzeros left are extrapolated as a power of the penalty, fitted to the last points.
    """
    here = branch[-1].point
    wanted = max((1 - end) * here.n_params, 1.0)
    distance = math.log(max(here.n_nonzero / wanted, 1.0)) / _slope(branch)
    log_step = distance / max(remaining, 1)
    if len(branch) > 2 and remaining > 0:
        before = math.log(branch[-2].point.penalty / max(here.penalty, 1e-300))
        if before > 0:
            log_step = min(max(log_step, before / WIDEST_CHANGE), before * WIDEST_CHANGE)
    return min(1 - math.exp(-max(log_step, least)), LARGEST_STEP)


def denser(branch: Sequence[Waypoint], points: int) -> float:
    """Minus the share of the loss to shed so that the penalty grows evenly, in log-steps fit for `points` points."""
    here = branch[-1].point
    growth = math.exp(min(1.0, 2 * LOG_RANGE / points)) - 1
    share = growth * here.penalty * (here.lam or 0.0) / here.loss if here.loss > 0 else 0.0
    return -min(share, LARGEST_STEP) if share > 0 else -0.1


def _slope(branch: Sequence[Waypoint]) -> float:
    """By how many percent the nonzeros fall per percent of penalty."""
    recent = [w.point for w in branch[-FITTED:] if w.point.n_nonzero > 0 and w.point.penalty > 0]
    logs = np.log([[p.penalty, p.n_nonzero] for p in recent]).reshape(-1, 2)
    if len(recent) < FITTED - 2 or np.ptp(logs[:, 0]) == 0:
        return USUAL_SLOPE
    fitted = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    return min(max((fitted + USUAL_SLOPE) / 2, FLATTEST), STEEPEST)
