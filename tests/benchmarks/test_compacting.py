"""The benchmark of compact networks: what it picks, exports and times."""

from pathlib import Path

import pytest

from benchmarks.compacting import Task, measure

pytestmark = pytest.mark.slow


def test_every_chosen_network_is_smaller_compact() -> None:
    task = Task("mlp:8", "digits:limit=200", "continuation:epochs=1,anchor_epochs=1,end=0.99", 4)
    rows = measure("tiny", task, "l1", Path("data"), rounds=1)
    assert rows
    for row in rows:
        assert row.n_params < row.n_params_before == 610
        assert row.multiply_adds < row.multiply_adds_before == 592
        assert row.bytes < row.bytes_before
        assert row.sparsity >= 0.9
        assert row.faster.keys() == {1, 256}
        assert min(row.faster.values()) > 0
