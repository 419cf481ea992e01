"""One CPU thread per test process: two spinning thread pools on two cores slow each other down. No test is timed."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

LONGEST = ["test_packaging", "test_ray", "browser/test_comparing", "test_executor", "test_docs", "test_command_line"]

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left alone with one at the end."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    file = item.path.with_suffix("").as_posix()
    return next((place for place, name in enumerate(LONGEST) if file.endswith(name)), len(LONGEST))


def pytest_collection_finish() -> None:
    """What collecting has made stays to the end: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
