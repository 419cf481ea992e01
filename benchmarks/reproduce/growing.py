"""Networks grown from few filters beside those of fixed widths: accuracy, weights and FLOPs, and at equal accuracy.

All are trained by the same steps for as many passes as the grown ones took together, and fine-tuned alike. A network of
fixed widths keeps all its filters and units.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.reproduce.experiment import Experiment, Found, Job, Row, Setting, Study, per_cent
from engine.front import ParetoPoint, Waypoint
from engine.multiply_adds import FLOPS_PER_MULTIPLY_ADD, multiply_adds
from engine.spec import check, weight_uses

DATA = {"lenet5": "mnist10k.npz", "cifar_cnn": "cifar12k.npz"}
IMAGES, POINTS = 1000, 6
METHOD, PASSES = "growing:fine_tune_epochs=12", 6
FIXED = {"whole": (10_000, 10_000), "a quarter": (10, 125), "an eighth": (4, 64)}
ALL_NEEDED = 1e-6
MILLION = 1e6
GROWN = "grown"

Count = Callable[[ParetoPoint], float]


def rows(setting: Setting, network: str) -> Iterator[Row]:
    """The grown networks from small to wide, the last fine-tuned; those of fixed widths; the smallest as accurate."""
    job = Job(network, f"{DATA[network]}:limit={IMAGES}", f"{METHOD},epochs={PASSES}", POINTS)
    flops, grown = _flops(setting, job), setting.traced(job)
    found = [_row(GROWN, waypoint, flops) for waypoint in grown.waypoints]
    yield from found
    for name, widths in FIXED.items():
        found.append(_row(f"fixed, {name}", _fixed(setting, job, widths, _selecting(grown)), flops))
        yield found[-1]
    yield from at_equal_accuracy(found)


def _flops(setting: Setting, job: Job) -> Count:
    """Millions of operations per image that nonzero weights take."""
    spec = setting.spec(job)
    uses = weight_uses(spec, check(spec, {}))
    return lambda point: FLOPS_PER_MULTIPLY_ADD * multiply_adds(point, uses) / MILLION


def _selecting(grown: Found) -> int:
    """Passes before the fine-tuning."""
    before = grown.points[:-1] or grown.points
    return max(1, round(before[-1].effort))


def _fixed(setting: Setting, job: Job, widths: tuple[int, int], epochs: int) -> Waypoint:
    """The network with so many filters in each convolution and units in each dense layer, as far as it has them."""
    filters, units = widths
    method = f"{METHOD},epochs={epochs},filters={filters},units={units},strength={ALL_NEEDED}"
    return setting.traced(Job(job.network, job.data, method, 2)).waypoints[-1]


def _row(kind: str, waypoint: Waypoint, flops: Count) -> Row:
    point = waypoint.point
    widths = "-".join(str(layer.units_alive) for layer in point.layers if len(layer.shape) > 1)
    return {
        "network": kind,
        "filters and units": widths,
        "weights": float(point.n_nonzero),
        "MFLOPs": flops(point),
        "test accuracy %": per_cent(waypoint),
        "passes": point.effort,
    }


def at_equal_accuracy(found: Sequence[Row]) -> Iterator[Row]:
    """The grown and the fixed network of fewest weights with the accuracy that both kinds reach."""
    kinds = [[row for row in found if (row["network"] == GROWN) == grown] for grown in (True, False)]
    reached = min(max(_accuracy(row) for row in kind) for kind in kinds)
    for kind in kinds:
        smallest = min((row for row in kind if _accuracy(row) >= reached), key=lambda row: row["weights"])
        yield {**smallest, "network": f"{smallest['network']}: fewest weights with {reached} %"}


def _accuracy(row: Row) -> float:
    return float(row["test accuracy %"])


EXPERIMENT = Experiment(
    "Fu et al., Exploring structural sparsity of deep networks via inverse scale spaces, TPAMI 2022 (growing networks)",
    "Networks that grow where most filters have entered the inverse scale space are as good as those of fixed widths, "
    "at less cost.",
    tuple(
        Study(
            f"{network} on {IMAGES:,} images of {data}, {PASSES} passes for each network",
            partial(rows, network=network),
            data,
        )
        for network, data in DATA.items()
    ),
)
