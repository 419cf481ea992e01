"""Networks grown from few filters beside those of fixed widths: accuracy, weights and FLOPs, and at equal accuracy.

All are trained by the same steps, those of fixed widths without a tie, and fine-tuned alike: for as many passes as the
grown ones took together, and the whole network also for as many operations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import final

from benchmarks.reproduce.experiment import Experiment, Found, Job, Row, Setting, Study, per_cent
from engine.front import ParetoPoint, Waypoint
from engine.multiply_adds import FLOPS_PER_MULTIPLY_ADD, multiply_adds
from engine.spec import check, weight_uses

DATA = {"lenet5": "mnist10k.npz", "cifar_cnn": "cifar12k.npz"}
IMAGES, POINTS = 2000, 8
METHOD, PASSES, FINE_TUNING = "growing:epochs={},fine_tune_epochs={}", 2, 18
WHOLE = (10_000, 10_000)
NARROW = {"a quarter": (10, 125), "an eighth": (4, 64)}
UNTIED = 1e9
MILLION = 1e6
FORWARD_AND_BACKWARD = 3
WEIGHTS, FLOPS, ACCURACY, TRAINING = "weights", "MFLOPs", "test accuracy %", "MFLOPs of training per image"

Count = Callable[[ParetoPoint], float]


@final
@dataclass(frozen=True)
class Schedule:
    """Passes over the training data, before the fine-tuning and in it."""

    passes: int
    fine_tuning: int

    def within(self, passes: float) -> "Schedule":
        """In the same proportion, as many `passes` in all, at least one of either."""
        fine_tuning = max(1, round(passes * self.fine_tuning / (self.passes + self.fine_tuning)))
        return Schedule(max(1, round(passes) - fine_tuning), fine_tuning)


def rows(setting: Setting, network: str) -> Iterator[Row]:
    """The grown networks from small to wide, the last fine-tuned; those of fixed widths; the smallest as accurate."""
    job = Job(network, f"{DATA[network]}:limit={IMAGES}", METHOD.format(PASSES, FINE_TUNING), POINTS)
    flops, grown = _flops(setting, job), setting.traced(job)
    found = list(_grown(grown, flops))
    yield from found
    schedule, spent = Schedule(PASSES * max(len(found) - 1, 1), FINE_TUNING), float(found[-1][TRAINING])
    for row in _fixed(setting, job, flops, schedule, spent):
        found.append(row)
        yield row
    yield from at_equal_accuracy(found)


def _flops(setting: Setting, job: Job) -> Count:
    """Millions of operations per image that nonzero weights take."""
    spec = setting.spec(job)
    uses = weight_uses(spec, check(spec, {}))
    return lambda point: FLOPS_PER_MULTIPLY_ADD * multiply_adds(point, uses) / MILLION


def _grown(grown: Found, flops: Count) -> Iterator[Row]:
    passes = [PASSES] * (len(grown.points) - 1) + [FINE_TUNING]
    spent = accumulate(_training(flops(point), more) for point, more in zip(grown.points, passes, strict=True))
    for number, (waypoint, operations) in enumerate(zip(grown.waypoints, spent, strict=True), 1):
        is_last = number == len(grown.points)
        yield _row("grown, fine-tuned" if is_last else f"grown {number}", waypoint, flops, operations)


def _fixed(setting: Setting, job: Job, flops: Count, schedule: Schedule, spent: float) -> Iterator[Row]:
    """Networks of fixed widths by the schedule, and the whole one with as many operations as are `spent`."""
    trained = partial(_trained, setting, job, flops)
    whole = trained("whole", WHOLE, schedule)
    yield whole
    for name, widths in NARROW.items():
        yield trained(name, widths, schedule)
    yield trained("whole, as many operations", WHOLE, schedule.within(spent / _training(float(whole[FLOPS]), 1)))


def _trained(setting: Setting, job: Job, flops: Count, name: str, widths: tuple[int, int], schedule: Schedule) -> Row:
    """The network with so many filters in each convolution and units in each dense layer, as far as it has them."""
    filters, units = widths
    method = METHOD.format(schedule.passes, schedule.fine_tuning)
    fixed = Job(job.network, job.data, f"{method},filters={filters},units={units},nu={UNTIED}", 2)
    waypoint = setting.traced(fixed).waypoints[-1]
    operations = _training(flops(waypoint.point), schedule.passes + schedule.fine_tuning)
    return _row(f"fixed, {name}", waypoint, flops, operations)


def _training(flops: float, passes: int) -> float:
    return FORWARD_AND_BACKWARD * flops * passes


def _row(name: str, waypoint: Waypoint, flops: Count, training: float) -> Row:
    point = waypoint.point
    return {
        "network": name,
        "filters and units": "-".join(str(layer.units_alive) for layer in point.layers if len(layer.shape) > 1),
        WEIGHTS: float(point.n_nonzero),
        FLOPS: flops(point),
        ACCURACY: per_cent(waypoint),
        "passes": point.effort,
        TRAINING: training,
    }


def at_equal_accuracy(found: Sequence[Row]) -> Iterator[Row]:
    """The grown and the fixed network of fewest weights with the accuracy that both kinds reach."""
    kinds = {kind: [row for row in found if str(row["network"]).startswith(kind)] for kind in ("grown", "fixed")}
    reached = min(max(float(row[ACCURACY]) for row in rows) for rows in kinds.values())
    for kind, rows in kinds.items():
        smallest = min((row for row in rows if float(row[ACCURACY]) >= reached), key=lambda row: row[WEIGHTS])
        yield {**smallest, "network": f"at equal accuracy, {kind}"}


EXPERIMENT = Experiment(
    "Fu et al., Exploring structural sparsity of deep networks via inverse scale spaces, TPAMI 2022 (growing networks)",
    "Networks that grow where most filters have entered the inverse scale space are as good as those of fixed widths, "
    "at less cost.",
    tuple(
        Study(
            f"{network} on {IMAGES:,} images of {data}, {PASSES} passes for each network, {FINE_TUNING} of fine-tuning",
            partial(rows, network=network),
            data,
        )
        for network, data in DATA.items()
    ),
)
