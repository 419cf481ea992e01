"""Penalties of whole groups: which filters, heads and units are left, and what the network still knows."""

import math
from collections.abc import Iterable, Iterator, Mapping

from benchmarks.reproduce.experiment import Experiment, Found, Job, Row, Setting, Study, per_cent
from engine.front import Array, Waypoint

IMAGES, TEXT = "mnist10k.npz", "tinyshakespeare.txt"
FILTERS = ("l1", "group_l2", "group_mcp", "sparse_group")
UNITS = ("l1", "group_l2:groups=head", "group_l2:groups=input", "group_mcp:groups=head")
ZEROS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
HEADS = 4
METHOD = "continuation:anchor_epochs=10,epochs=2"
LAYERS = ("conv1", "conv2", "dense")


def convolutional(setting: Setting) -> Iterator[Row]:
    """LeNet-5 under each penalty: filters and units with a weight that is not zero, and the zeros among the others'."""
    for penalty in FILTERS:
        job = Job("lenet5", f"{IMAGES}:limit=600", METHOD, 6, penalty)
        found = setting.traced(job)
        for waypoint, row in _networks(found, penalty):
            layers, weights = {layer.name: layer for layer in waypoint.point.layers}, tensors(waypoint)
            alive = {name: layers[f"{name}.weight"] for name in LAYERS}
            left = {f"{name} of {layer.units}": layer.units_alive for name, layer in alive.items()}
            inside = zeros_inside(weights[f"{name}.weight"] for name in LAYERS)
            yield {**row, **left, "zeros inside %": round(100 * inside, 1)}


def transformer(setting: Setting) -> Iterator[Row]:
    """A character transformer under each penalty: heads and units of its feed-forward layers that are in use."""
    for penalty in UNITS:
        network = f"char_transformer:2,width=32,heads={HEADS}"
        job = Job(network, f"{TEXT}:limit=300", f"{METHOD},strength=1e-5", 8, penalty)
        found = setting.traced(job)
        for waypoint, row in _networks(found, penalty):
            weights = tensors(waypoint)
            attention = {f"heads {block + 1} of {HEADS}": heads(weights, block) for block in range(2)}
            dense = {f"hidden {block + 1} of 128": units(weights, block) for block in range(2)}
            yield {**row, **attention, **dense}


def _networks(found: Found, penalty: str) -> Iterator[tuple[Waypoint, dict[str, str | float]]]:
    """The networks chosen at each sparsity, each once."""
    seen: set[int] = set()
    for sparsity in ZEROS:
        waypoint = found.at(sparsity)
        if waypoint is None or waypoint.point.index in seen:
            continue
        seen.add(waypoint.point.index)
        row: dict[str, str | float] = {"penalty": penalty, "zeros %": round(100 * waypoint.point.sparsity, 1)}
        yield waypoint, {**row, "test accuracy %": per_cent(waypoint), "passes": found.passes, "CPU s": found.seconds}


def tensors(waypoint: Waypoint) -> Mapping[str, Array]:
    """The weights by name, in their shapes."""
    found, start = {}, 0
    for layer in waypoint.point.layers:
        stop = start + math.prod(layer.shape)
        found[layer.name] = waypoint.theta[start:stop].reshape(layer.shape)
        start = stop
    return found


def zeros_inside(weights: Iterable[Array]) -> float:
    """Share of zeros among the weights between filters or units of which none is zero as a whole."""
    nonzero = [weight.reshape(*weight.shape[:2], -1) != 0 for weight in weights]
    possible = sum(w.any(axis=(1, 2)).sum() * w.any(axis=(0, 2)).sum() * w.shape[2] for w in nonzero)
    return float(1 - sum(w.sum() for w in nonzero) / max(possible, 1))


def heads(weights: Mapping[str, Array], block: int) -> int:
    """Heads of a block that read something and are read."""
    value, output = (weights[f"blocks.{block}.attention.{name}.weight"] for name in ("value", "output"))
    return int((_any(value.reshape(HEADS, -1)) & _any(output.T.reshape(HEADS, -1))).sum())


def units(weights: Mapping[str, Array], block: int) -> int:
    """Units of a block's feed-forward layer that read something and are read."""
    hidden, output = (weights[f"blocks.{block}.feed_forward.{name}.weight"] for name in ("hidden", "output"))
    return int((_any(hidden) & _any(output.T)).sum())


def _any(rows: Array) -> Array:
    found: Array = (rows != 0).any(axis=1)
    return found


EXPERIMENT = Experiment(
    "Deleu, Bengio, Structured sparsity inducing adaptive optimizers for deep learning, arXiv 2102.03869, 2021",
    "Group penalties with proximal steps in Adam's metric make whole groups zero, in vision and language.",
    (
        Study("LeNet-5 on 600 images of mnist10k: units alive by layer", convolutional, IMAGES),
        Study("char_transformer (2 blocks, width 32, 4 heads) on 300 windows of tinyshakespeare", transformer, TEXT),
    ),
)
