"""From raw data to training, validation and test parts: seeded stratified splits, scaling by training statistics."""

import hashlib
import math
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Lt

from engine.data.values import Array, Dataset, RawData, Scaling, check_finite, check_varies, take
from engine.errors import InvalidData, InvalidSpec, UnknownName

Scale = Literal["standard", "unit", "none"]
Fraction = Annotated[float, Ge(0), Lt(1)]

STREAMS = {"test": 0, "limit": 1, "validation": 2}


def prepare(
    raw: RawData,
    *,
    scale: Scale = "standard",
    targets: Scale = "standard",
    validation: Fraction = 0.1,
    test: Fraction = 0.2,
    limit: Annotated[int, Ge(1)] | None = None,
    seed: Annotated[int, Ge(0)] = 0,
) -> Dataset:
    """Split and scale; only the training part is looked at to scale.

    Parameters
    ----------
    scale : str
        Features: ``standard`` gives each mean 0 and variance 1 (constant ones become 0), ``unit`` divides all by the
        largest absolute value, ``none`` leaves them. Characters of texts stay as they are.
    targets : str
        The same for the targets of a regression.
    validation : float
        Fraction of the training samples held out for choosing a network, stratified by class; of texts the last ones.
    test : float
        Fraction of the samples kept for testing where the source has no test part, stratified by class; of texts the
        last ones.
    limit : int, optional
        Use at most so many training samples (validation included), stratified by class; of texts the first ones.
    seed : int
        Seed of the three draws.

    Raises
    ------
    InvalidSpec, InvalidData
        If a setting is out of range; if too few samples would be left, or scaled values are not finite.
    """
    _check_settings(scale, targets, {"validation": validation, "test": test}, limit, seed)
    whole = _limited(_with_test(raw, test, seed) if raw.X_test is None else raw, limit, seed)
    kept, held = _split(whole, _held(whole, validation), "validation", seed)
    return _assembled(take(whole, kept), take(whole, held), scale, targets)


def hold_out(strata: Array, n_held: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Rows to keep and rows held out, each ascending; each stratum is shared out evenly and keeps at least one row.

    Parameters
    ----------
    strata : ndarray, shape (n,)
        Group of each row, 0..k-1, every group present.
    n_held : int
        Rows to hold out, at most n - k.
    """
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    counts = np.bincount(strata)
    ranks = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.where(ranks == 0, -1.0, (ranks + 0.5) / np.repeat(counts, counts))
    chosen = order[np.lexsort((rng.random(len(strata)), place))]
    n_kept = len(strata) - n_held
    return np.sort(chosen[:n_kept]), np.sort(chosen[n_kept:])


def _check_settings(scale: str, targets: str, fractions: dict[str, float], limit: int | None, seed: int) -> None:
    known = ("standard", "unit", "none")
    for value in (scale, targets):
        if value not in known:
            raise UnknownName("scale", value, known)
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise InvalidSpec(f"{name} {fraction} is outside [0, 1); 0.1 holds out a tenth, 0 nothing")
    if limit is not None and limit < 1:
        raise InvalidSpec(f"limit {limit} must be at least 1, or null for all training samples")
    if seed < 0:
        raise InvalidSpec(f"seed {seed} must not be negative")


def _with_test(raw: RawData, fraction: float, seed: int) -> RawData:
    kept, held = _split(raw, _held(raw, fraction), "test", seed)
    return replace(take(raw, kept), X_test=raw.X_train[held], y_test=raw.y_train[held])


def _limited(raw: RawData, limit: int | None, seed: int) -> RawData:
    n = len(raw.X_train)
    return raw if limit is None or limit >= n else take(raw, _split(raw, n - limit, "limit", seed)[0])


def _held(raw: RawData, fraction: float) -> int:
    return max(1, round(fraction * len(raw.X_train))) if fraction > 0 else 0


def _split(raw: RawData, n_held: int, purpose: str, seed: int) -> tuple[Array, Array]:
    n = len(raw.X_train)
    if n_held == 0:
        return np.arange(n), np.arange(0)
    strata = raw.y_train if raw.task == "classification" else np.zeros(n, np.int64)
    least = max(2, int(strata.max()) + 1)
    if n - n_held < least:
        raise InvalidData(f"{n - n_held} of {n} training samples would be left after {purpose}; {least} are needed")
    if raw.task == "language":
        return np.arange(n - n_held), np.arange(n - n_held, n)
    return hold_out(strata, n_held, np.random.default_rng((seed, STREAMS[purpose])))


def _scaling(scale: Scale, values: Array) -> Scaling:
    if scale == "standard":
        return _standard(values)
    largest = float(max(abs(float(values.max())), abs(float(values.min())))) if scale == "unit" else 1.0
    return Scaling(np.zeros(()), np.array(1.0 / largest if largest else 1.0))


@np.errstate(over="ignore", invalid="ignore")
def _standard(values: Array) -> Scaling:
    mean = values.mean(axis=0, dtype=np.float64)
    parts = (values[i : i + 1024] - mean for i in range(0, len(values), 1024))
    deviation = np.sqrt(sum(np.square(part).sum(axis=0) for part in parts) / len(values))
    varies = deviation > 1e-12 * np.abs(mean) * math.sqrt(len(values))
    return Scaling(mean, np.divide(1.0, deviation, out=np.zeros_like(mean), where=varies))


def _assembled(training: RawData, held: RawData, scale: Scale, target_scale: Scale) -> Dataset:
    regression, language = training.task == "regression", training.task == "language"
    if regression:
        check_varies(training.y_train)
    inputs = _scaling("none" if language else scale, training.X_train)
    targets = _scaling(target_scale if regression else "none", training.y_train)
    X_test = held.X_train[:0] if training.X_test is None else training.X_test
    y_test = held.y_train[:0] if training.y_test is None else training.y_test
    X = {"X_train": training.X_train, "X_validation": held.X_train, "X_test": X_test}
    y = {"y_train": training.y_train, "y_validation": held.y_train, "y_test": y_test}
    arrays = X if language else {key: inputs.apply(values) for key, values in X.items()}
    arrays |= {key: targets.apply(v) if regression else v for key, v in y.items()}
    for key, values in arrays.items():
        check_finite(values, f"{key} after scaling")
    return Dataset(
        name=training.name,
        task=training.task,
        n_outputs=len(training.classes) or training.y_train.shape[1],
        digest=_digest(arrays),
        classes=training.classes,
        inputs=inputs,
        targets=targets,
        **arrays,
    )


def _digest(arrays: dict[str, Array]) -> str:
    sha = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        sha.update(f"{name} {values.dtype.str} {values.shape}".encode())
        sha.update(np.ascontiguousarray(values).data)
    return sha.hexdigest()
