"""What data is, before (`RawData`) and after (`Dataset`) preparation for training, and the checks at the door."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidData, UnknownName

Array = NDArray[Any]
Task = Literal["classification", "regression", "language"]

TASKS = ("auto", "classification", "regression")
MOST_CLASSES = 100


@dataclass(frozen=True)
class RawData:
    """Checked data as the source has it, not yet split or scaled.

    Parameters
    ----------
    task : str
        ``classification``, ``regression`` or ``language``.
    X_train : ndarray, shape (n, *input_shape)
        Finite; uint8, float32 or float64; images are channels-first. Of texts the codes of characters, int64, shape
        (n, context).
    y_train : ndarray
        int64 in 0..k-1, shape (n,); float64, shape (n, n_outputs); or of texts the codes of the characters that follow,
        int64, shape (n, context).
    X_test, y_test : ndarray or None
        The source's own test part.
    classes : tuple of str
        Names of the k classes, of texts the characters; empty for regression.
    name : str
        What the user called it.
    """

    task: Task
    X_train: Array
    y_train: Array
    X_test: Array | None = None
    y_test: Array | None = None
    classes: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Scaling:
    """How raw values became what the network sees: ``(x - center) * factor``, broadcast over samples."""

    center: Array
    factor: Array

    def apply(self, values: Array) -> Array:
        """Scaled values, float32, of the same shape; infinite where they do not fit."""
        scaled = np.empty(values.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(values), 1024):
                part = slice(start, start + 1024)
                scaled[part] = (values[part] - self.center) * self.factor
        return scaled


@dataclass(frozen=True)
class Dataset:
    """Data ready for training.

    Parameters
    ----------
    name : str
        What the user called it.
    task : str
        ``classification``, ``regression`` or ``language``.
    X_train, X_validation, X_test : ndarray, shape (n, *input_shape)
        float32, of texts int64; validation and test may have length 0.
    y_train, y_validation, y_test : ndarray
        int64, shape (n,), for classification; float32, shape (n, n_outputs), for regression; int64, shape (n, context),
        for texts.
    n_outputs : int
        Classes, or targets; of texts the distinct characters.
    digest : str
        SHA-256 of the prepared arrays.
    classes : tuple of str
        Names of the classes, of texts the characters; empty for regression.
    inputs, targets : Scaling
        What was done to the raw features and (regression) targets.
    """

    name: str
    task: Task
    X_train: Array
    y_train: Array
    X_validation: Array
    y_validation: Array
    X_test: Array
    y_test: Array
    n_outputs: int
    digest: str
    classes: tuple[str, ...]
    inputs: Scaling
    targets: Scaling

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.X_train.shape[1:]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of a network's outputs for one sample: of texts one row for every place."""
        return (*self.input_shape, self.n_outputs) if self.task == "language" else (self.n_outputs,)


def classify(X_train: Any, y_train: Any, X_test: Any = None, y_test: Any = None) -> RawData:
    """Checked data with labels of any kind (numbers, strings), mapped to 0..k-1 in sorted order.

    Raises
    ------
    InvalidData
        If a value is not finite, shapes do not fit, there are fewer than two classes, or the test part has a
        class that the training part lacks.
    """
    train, test = _parts(X_train, X_test, y_test)
    names, codes = np.unique(_labels(y_train, "y_train", len(train)), return_inverse=True)
    if len(names) < 2:
        raise InvalidData(f"y_train has only the class {_name(names[0])!r}; classification needs at least 2 classes")
    y_coded = None if test is None else _coded(_labels(y_test, "y_test", len(test)), names)
    return RawData("classification", train, codes.astype(np.int64), test, y_coded, tuple(map(_name, names)))


def regress(X_train: Any, y_train: Any, X_test: Any = None, y_test: Any = None) -> RawData:
    """Checked data with real-valued targets, one or several per sample.

    Raises
    ------
    InvalidData
        If a value is not finite, shapes do not fit, or a target is constant.
    """
    train, test = _parts(X_train, X_test, y_test)
    targets = _targets(y_train, "y_train", len(train))
    check_varies(targets)
    y_test = None if test is None else _targets(y_test, "y_test", len(test))
    if y_test is not None and y_test.shape[1] != targets.shape[1]:
        raise InvalidData(f"y_test has {y_test.shape[1]} targets per sample and y_train {targets.shape[1]}")
    return RawData("regression", train, targets, test, y_test)


def guess_task(y: Array) -> Task:
    """Classification for strings, booleans and at most 100 distinct whole numbers; else regression."""
    if y.dtype.kind not in "iuf":
        return "classification"
    single = y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)
    whole = single and bool(np.all(np.isfinite(y))) and bool(np.all(y == np.floor(y)))
    return "classification" if whole and len(np.unique(y)) <= MOST_CLASSES else "regression"


def retask(raw: RawData, task: str) -> RawData:
    """The same data read as another task; class names must be numbers to become targets."""
    if task not in TASKS:
        raise UnknownName("task", task, TASKS)
    if task in ("auto", raw.task):
        return raw
    if raw.task == "language":
        raise InvalidData(f"a text cannot be read as {task}; leave the task 'auto'")
    if task == "classification":
        return classify(raw.X_train, raw.y_train, raw.X_test, raw.y_test)
    values = np.array([_number(name) for name in raw.classes])
    return regress(raw.X_train, values[raw.y_train], raw.X_test, None if raw.y_test is None else values[raw.y_test])


def check_varies(targets: Array) -> None:
    """Refuse targets, shape (n, n_outputs), of which one is the same for all samples."""
    constant = np.flatnonzero(targets.min(axis=0) == targets.max(axis=0))
    if len(constant):
        value = f"{targets[0, constant[0]]:g}"
        raise InvalidData(f"the target is {value} for all {len(targets)} training samples; regression needs it to vary")


def check_finite(values: Array, name: str) -> None:
    """Refuse NaN and infinity, saying where."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    wrong = np.argwhere(~np.isfinite(values))
    where = f"the first, {values[tuple(wrong[0])]}, in row {wrong[0][0]} (from 0)"
    raise InvalidData(f"{name} has {len(wrong)} values that are NaN or infinite, {where}; all must be finite")


def _features(X: Any, name: str) -> Array:
    values = np.asarray(X)
    if values.dtype.kind not in "buif":
        raise InvalidData(f"{name} has the type {values.dtype}; expected numbers")
    if values.ndim < 2 or 0 in values.shape:
        raise InvalidData(f"{name} has the shape {values.shape}; expected (samples, features...) and at least one each")
    check_finite(values, name)
    return _stored(_channels_first(values))


def _parts(X_train: Any, X_test: Any, y_test: Any) -> tuple[Array, Array | None]:
    train = _features(X_train, "X_train")
    if X_test is None and y_test is None:
        return train, None
    if X_test is None or y_test is None:
        raise InvalidData(f"{'X_test' if X_test is None else 'y_test'} is missing; a test part needs X_test and y_test")
    test = _features(X_test, "X_test")
    if train.shape[1:] != test.shape[1:]:
        shapes = f"{test.shape[1:]} and those of X_train {train.shape[1:]}"
        raise InvalidData(f"samples of X_test have the shape {shapes}; they must agree")
    return train, test


def _stored(values: Array) -> Array:
    if values.dtype == np.uint8 or values.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(values)
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def _channels_first(values: Array) -> Array:
    color = values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3)
    return np.moveaxis(values, 3, 1) if color and values.dtype == np.uint8 else values


def _labels(y: Any, name: str, n: int) -> Array:
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "buifUS":
        raise InvalidData(f"{name} has the shape {labels.shape} and type {labels.dtype}; expected one label per sample")
    _check_length(labels, name, n)
    check_finite(labels, name)
    return labels.astype(str) if labels.dtype.kind == "S" else labels


def _targets(y: Any, name: str, n: int) -> Array:
    targets = np.asarray(y)
    if targets.ndim not in (1, 2) or 0 in targets.shape[1:] or targets.dtype.kind not in "buif":
        raise InvalidData(f"{name} has the shape {targets.shape} and type {targets.dtype}; expected numbers per sample")
    _check_length(targets, name, n)
    check_finite(targets, name)
    return targets.astype(np.float64).reshape(n, -1)


def _check_length(y: Array, name: str, n: int) -> None:
    if len(y) != n:
        raise InvalidData(f"{name} has {len(y)} values for {n} samples; there must be one for each")


def _coded(labels: Array, names: Array) -> Array:
    unseen = np.setdiff1d(labels, names) if labels.dtype.kind == names.dtype.kind or _numeric(labels, names) else labels
    if len(unseen):
        raise InvalidData(f"y_test has the class {_name(unseen[0])!r}, which y_train lacks; {_listed(names)}")
    return np.searchsorted(names, labels).astype(np.int64)


def _numeric(*arrays: Array) -> bool:
    return all(a.dtype.kind in "buif" for a in arrays)


def _listed(names: Sequence[Any] | Array) -> str:
    shown = ", ".join(_name(x) for x in names[:10])
    return f"known: {shown}{', …' if len(names) > 10 else ''}"


def _name(label: Any) -> str:
    return str(int(label)) if isinstance(label, np.floating) and label == int(label) else str(label)


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        raise InvalidData(f"the target {name!r} is not a number; regression needs numbers") from None


def renamed(raw: RawData, classes: Sequence[str]) -> RawData:
    """The same data with its classes 0..k-1 called so.

    Raises
    ------
    InvalidData
        If there are not as many names as classes.
    """
    if len(classes) != len(raw.classes):
        raise InvalidData(f"there are names for {len(classes)} classes but labels of {len(raw.classes)} in y_train")
    return replace(raw, classes=tuple(map(str, classes)))


def take(raw: RawData, rows: Array) -> RawData:
    """The same data with only these rows of the training part."""
    return replace(raw, X_train=raw.X_train[rows], y_train=raw.y_train[rows])
