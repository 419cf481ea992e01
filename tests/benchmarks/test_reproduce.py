"""``python -m benchmarks.reproduce``: tables and JSON for every paper, and loud words about data that are missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.reproduce import EXPERIMENTS
from benchmarks.reproduce.__main__ import main, table, together
from benchmarks.reproduce.experiment import Job, Setting
from benchmarks.reproduce.growing import Schedule, at_equal_accuracy
from benchmarks.reproduce.structured import heads, tensors, units, zeros_inside
from benchmarks.reproduce.tickets import shuffled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the real files' form, at random."""
    found, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    parts = {f"X_{part}": rng.integers(0, 255, (100, 28, 28), np.uint8) for part in ("train", "test")}
    labels = {f"y_{part}": np.arange(100) % 10 for part in ("train", "test")}
    np.savez(found / "mnist10k.npz", **parts, **labels)
    colours = {f"X_{part}": rng.integers(0, 255, (100, 32, 32, 3), np.uint8) for part in ("train", "test")}
    np.savez(found / "cifar12k.npz", **colours, **labels)
    (found / "tinyshakespeare.txt").write_text("to be, or not to be: that is the question. " * 250)
    return found


def run(folder: Path, into: Path, *names: str) -> dict[str, Any]:
    main([*names, "--quick", "--threads", "1", "--data-folder", str(folder), "--into", str(into)])
    (file,) = into.glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_goes_through(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, printed = run(folder, tmp_path, name), capsys.readouterr().out
    (found,) = document["experiments"].values()
    assert [study["title"] for study in found["studies"]] == [study.title for study in EXPERIMENTS[name].studies]
    assert all(study["rows"] for study in found["studies"])
    assert not found["left_out"]
    assert document["versions"]["torch"]
    for words in (f"## {name}", found["claim"], found["studies"][-1]["title"], "| --- |"):
        assert words in printed


def test_studies_without_their_data_are_left_out_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path / "none", tmp_path, "tickets")["experiments"]["tickets"]
    assert not found["studies"]
    assert len(found["left_out"]) == len(EXPERIMENTS["tickets"].studies)
    last = capsys.readouterr().out.strip().splitlines()[-2]
    assert last.startswith("LEFT OUT: tickets: ")
    assert "there is no file" in last


def test_unknown_names_are_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lottery"])
    assert "there is no lottery; known are continuation" in capsys.readouterr().err


def test_a_table_has_the_columns_of_all_rows() -> None:
    lines = table([{"a": 1.25, "b": "x"}, {"a": 12345.6, "c": 3}])
    assert lines == ["| a | b | c |", "| --- | --- | --- |", "| 1.25 | x |  |", "| 12,346 |  | 3 |"]


def test_rows_of_several_seeds_are_joined_by_what_names_them() -> None:
    first = [{"method": "a", "passes": 10.0, "l1": "0 to 3", "known": 2}, {"method": "b", "passes": 1.0}]
    second = [{"method": "a", "passes": 20.0, "l1": "0 to 4", "known": 2}, {"method": "c", "passes": "none"}]
    assert together([first]) == first
    assert together([first, second, [{"method": "b", "passes": "none"}]]) == [
        {"method": "a", "passes": "15 (10 to 20)", "l1": "0 to 3; 0 to 4", "known": 2},
        {"method": "b", "passes": "1; none"},
        {"method": "c", "passes": "none"},
    ]


def test_random_supports_have_as_many_weights_in_every_tensor(folder: Path) -> None:
    waypoint = Setting(folder, quick=True).traced(Job("mlp:5", "digits", "continuation", 3)).waypoints[0]
    mask = shuffled(waypoint, np.random.default_rng(0))
    assert not np.array_equal(mask, waypoint.theta != 0)
    start = 0
    for layer in waypoint.point.layers:
        stop = start + int(np.prod(layer.shape))
        assert int(mask[start:stop].sum()) == layer.n_nonzero
        start = stop


def test_heads_and_units_count_what_reads_and_is_read(folder: Path) -> None:
    job = Job("char_transformer:1,width=8,heads=4", "tinyshakespeare.txt", "continuation", 3)
    waypoint = Setting(folder, quick=True).traced(job).waypoints[0]
    weights = {name: np.ones_like(tensor) for name, tensor in tensors(waypoint).items()}
    assert (heads(weights, 0), units(weights, 0)) == (4, 32)
    weights["blocks.0.attention.value.weight"][2:4] = 0
    weights["blocks.0.attention.output.weight"][:, 6:8] = 0
    weights["blocks.0.feed_forward.hidden.weight"][0] = 0
    weights["blocks.0.feed_forward.output.weight"][:, [0, 5]] = 0
    assert (heads(weights, 0), units(weights, 0)) == (2, 30)


def test_zeros_inside_are_counted_between_what_is_left() -> None:
    convolution, dense = np.zeros((3, 2, 2)), np.ones((2, 4))
    convolution[0, 0], convolution[1, 0, 0] = 1, 1
    dense[0, 1] = 0
    assert zeros_inside([convolution, dense]) == pytest.approx(1 - (3 + 7) / (4 + 8))


def test_at_equal_accuracy_the_smallest_network_of_either_kind_is_named() -> None:
    grown = [{"network": "grown 1", "test accuracy %": a, "weights": n} for a, n in ((80.0, 9.0), (90.0, 5.0))]
    fixed = [
        {"network": "fixed, a", "test accuracy %": a, "weights": n} for a, n in ((85.0, 1.0), (91.0, 20.0), (95.0, 7.0))
    ]
    found = [(row["network"], row["weights"]) for row in at_equal_accuracy([*grown, *fixed])]
    assert found == [("at equal accuracy, grown", 5.0), ("at equal accuracy, fixed", 7.0)]


def test_a_shorter_schedule_keeps_the_share_of_the_fine_tuning() -> None:
    whole = Schedule(12, 18)
    assert whole.within(10.2) == Schedule(4, 6)
    assert whole.within(0.3) == Schedule(1, 1)
