"""Winning tickets: supports that entered early in the inverse scale space, trained from the first weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.reproduce.experiment import Experiment, Found, Job, Row, Setting, Study, per_cent, trail
from engine.data import to_npz
from engine.data.values import classify
from engine.front import Array, Waypoint

IMAGES = "mnist10k.npz"
PLACES = (0.0, 0.25, 0.5, 1.0)
PATH, REWOUND = "dessilbi", "refit:job=1,rewind=true,dominated=true"
LOW, HIGH = "classes 0 to 4", "classes 5 to 9"
POINTS = 20


def same_task(setting: Setting, network: str, data: str = IMAGES, path: str = PATH) -> Iterator[Row]:
    """Tickets trained on the data that they were found on."""
    found = setting.traced(Job(network, data, path, POINTS))
    yield from _compared(setting, found, Job(network, data, REWOUND, POINTS), {})


def transferred(setting: Setting, network: str) -> Iterator[Row]:
    """Tickets found on one half of the classes, trained on the other."""
    uploads = _halves(setting)
    path = setting.traced(Job(network, LOW, PATH, POINTS), uploads=uploads)
    yield from _compared(setting, path, Job(network, HIGH, REWOUND, POINTS), uploads)


def _compared(setting: Setting, path: Found, rewound: Job, uploads: dict[str, bytes]) -> Iterator[Row]:
    """A row for the whole network, then two for every support: its own and a random one of the same size."""
    supports = _supports(path, setting.seed)
    found = setting.traced(replace(rewound, points=len(supports)), trail(_waypoints(supports)), uploads)
    trained = {int(waypoint.point.metrics["source"]): waypoint for waypoint in found.waypoints}
    for place, (name, waypoint) in enumerate(supports):
        yield {
            "support": name,
            "zeros %": round(100 * waypoint.point.sparsity, 1),
            "passes to find it": waypoint.point.effort if name == "ticket" else "",
            "test accuracy %, rewound and trained": per_cent(trained.get(place)),
            "on the path": per_cent(waypoint) if name == "ticket" else "",
        }


def _supports(path: Found, seed: int) -> Sequence[tuple[str, Waypoint]]:
    """The whole network's, then those from early to late, each with a random one."""
    last, rng = path.waypoints[-1], np.random.default_rng(seed)
    found = [path.waypoints[place] for place in sorted({round(share * last.point.index) for share in PLACES})]
    pairs = [pair for w in found for pair in (("ticket", w), ("random", _with(w, shuffled(w, rng))))]
    return [("whole network", _with(last, np.ones_like(last.theta))), *pairs]


def shuffled(waypoint: Waypoint, rng: np.random.Generator) -> Array:
    """As many weights in every tensor, anywhere."""
    mask, sizes = waypoint.theta != 0, [int(np.prod(layer.shape)) for layer in waypoint.point.layers]
    parts = np.split(mask, np.cumsum(sizes)[:-1])
    return np.concatenate([rng.permutation(part) for part in parts]).astype(waypoint.theta.dtype)


def _with(waypoint: Waypoint, theta: Array) -> Waypoint:
    return replace(waypoint, theta=theta, point=replace(waypoint.point, n_nonzero=int(np.count_nonzero(theta))))


def _waypoints(supports: Sequence[tuple[str, Waypoint]]) -> tuple[Waypoint, ...]:
    """Supports as the networks of one job, numbered in their order."""
    return tuple(replace(w, point=replace(w.point, index=place)) for place, (_, w) in enumerate(supports))


def _halves(setting: Setting) -> dict[str, bytes]:
    """The images of either half of the classes, as uploads."""
    with np.load(setting.folder / IMAGES) as arrays:
        parts = {half: _of_half(arrays, half == HIGH) for half in (LOW, HIGH)}
    return {half: to_npz(classify(*part)) for half, part in parts.items()}


def _of_half(arrays: Mapping[str, Array], high: bool) -> tuple[Array, ...]:
    found: list[Array] = []
    for part in ("train", "test"):
        chosen = (arrays[f"y_{part}"] >= 5) == high
        found += [arrays[f"X_{part}"][chosen], arrays[f"y_{part}"][chosen]]
    return tuple(found)


EXPERIMENT = Experiment(
    "Fu et al., DessiLBI: exploring structural sparsity of deep networks via differential inclusion paths, ICML 2020; "
    "Exploring structural sparsity of deep networks via inverse scale spaces, TPAMI 2022",
    "Supports from early in the path, rewound and trained, are as good as the whole network (winning tickets), and "
    "transfer to other tasks.",
    (
        Study("784-20-20-10 on mnist10k", partial(same_task, network="mlp:20,20"), IMAGES),
        Study(f"784-20-20-10, found on {LOW}, trained on {HIGH}", partial(transferred, network="mlp:20,20"), IMAGES),
        *(
            Study(
                f"{network} on {limit:,} images of mnist10k, a path of {epochs} passes",
                partial(same_task, network=network, data=f"{IMAGES}:limit={limit}", path=f"{PATH}:epochs={epochs}"),
                IMAGES,
            )
            for network, limit, epochs in (("lenet300", 2000, 150), ("lenet5", 1250, 60))
        ),
    ),
)
