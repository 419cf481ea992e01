"""Data by name, upload or path: read, checked, split and scaled for training."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.data.files import FORMATS, from_path, parse_upload, to_npz, uploaded
from engine.data.prepare import prepare
from engine.data.sources import DATASETS
from engine.data.values import Dataset, RawData, Scaling
from engine.errors import UnknownName
from engine.registry import Parameter, parameters

__all__ = [
    "DATASETS",
    "Dataset",
    "RawData",
    "Scaling",
    "is_path",
    "load",
    "parse_upload",
    "prepare",
    "settings",
    "to_npz",
]


def load(name: str, params: Mapping[str, Any], uploads: Mapping[str, bytes]) -> Dataset:
    """Data ready for training.

    Parameters
    ----------
    name : str
        A registered name, the name of an upload, or a path (the caller decides whether paths are allowed).
    params : mapping
        Settings, see `settings`.
    uploads : mapping of str to bytes
        Uploaded data sets in the form of `to_npz`.

    Raises
    ------
    UnknownName
        If there is no such data, or no such setting.
    InvalidData, InvalidSpec
        If the data or a setting cannot work.
    """
    known = {p.name for p in settings(name)}
    for setting in params:
        if setting not in known:
            raise UnknownName(f"setting of data {name!r}:", setting, known)
    common = {p.name for p in parameters(prepare)}
    raw = _read(name, uploads, {key: value for key, value in params.items() if key not in common})
    prepared = {key: value for key, value in params.items() if key in common}
    return prepare(replace(raw, name=name), **prepared)


def settings(name: str) -> list[Parameter]:
    """The user's settings of the data `name`: its reader's own, then those common to all."""
    return parameters(DATASETS.get(name, uploaded)) + parameters(prepare)


def is_path(name: str) -> bool:
    """Whether `name` can only be a file's path: it ends like a data file."""
    return Path(name).suffix.lower() in FORMATS


def _read(name: str, uploads: Mapping[str, bytes], own: Mapping[str, Any]) -> RawData:
    if name in DATASETS:
        return DATASETS[name](**own)
    if name in uploads:
        return uploaded(uploads[name], **own)
    if is_path(name):
        return from_path(name, **own)
    raise UnknownName("data", name, [*DATASETS, *uploads, f"a path to a file {', '.join(FORMATS)}"])
