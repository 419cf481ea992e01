"""Small jobs, points and waypoints to store."""

import json
from typing import Any

import numpy as np

from engine.front import Layer, ParetoPoint, Waypoint
from storage import Job, Lease, Store

SPEC = {"network": {"name": "mlp", "params": {"hidden": [20, 20]}}, "data": {"name": "digits", "params": {}}, "seed": 0}
FACTS = {"n_params": 8, "task": "classification"}


def a_point(index: int = 0, **values: Any) -> ParetoPoint:
    numbers = {
        "parent": index - 1 if index else None,
        "sweep": 0,
        "loss": 1.0 / (1 + index),
        "penalty": 0.1 * index,
        "lam": 2.0**-index,
        "residual": 1e-9 * index,
        "n_nonzero": index % 9,
        "n_params": 8,
        "effort": 1.5 * (index + 1),
        "seconds": 0.1 * (index + 1),
        "metrics": {"l1": 0.1 * index, "test_accuracy": 0.9},
        "layers": (Layer("0.weight", (2, 3), index % 7, 2, 2), Layer("0.bias", (2,), 0, 0, 2)),
    }
    return ParetoPoint(index, **{**numbers, **values})


def a_waypoint(index: int = 0, **values: Any) -> Waypoint:
    theta = np.arange(8, dtype=np.float32) * np.float32(index)
    return Waypoint(
        a_point(index, **values),
        theta,
        {"norm.mean": np.full(3, index / 3, dtype=np.float32), "norm.count": np.array(index)},
        {"momentum": np.linspace(0, index, 5)},
    )


def plain(point: ParetoPoint) -> str:
    """All of a point; equal texts are equal bits, NaN and -0.0 included."""
    return json.dumps(point.to_dict())


def submitted(store: Store, **options: Any) -> Job:
    return store.submit(SPEC, FACTS, **options)


def claimed(store: Store, worker: str = "w", lease_seconds: float = 60.0, **options: Any) -> Lease:
    """A new job, in the hands of a worker."""
    lease = store.claim(worker, lease_seconds, submitted(store, **options).id)
    if lease is None:
        raise LookupError("a queued job could not be claimed")
    return lease


def stored(store: Store, n_points: int) -> Lease:
    """A new job with points, in the hands of a worker."""
    lease = claimed(store)
    for index in range(n_points):
        store.append(lease, a_waypoint(index))
    return lease
