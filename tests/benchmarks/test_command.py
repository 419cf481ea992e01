"""``python -m benchmarks``: a table, a figure and JSON, and loud words about what did not run."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import fan_out, steps
from benchmarks.reference import __main__ as reference
from benchmarks.rivals import ONLY_IF_NAMED, OURS, RIVALS, Network, Task
from benchmarks.rivals.traced import Traced

pytestmark = pytest.mark.slow


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, program: Any = command) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    program.main()


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["digits", "iris", "diabetes"])
def test_quick_goes_through_every_rival_that_applies(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variant = "more=continuation:sweeps=2"
    run(monkeypatch, "--quick", "--problem", problem, "--ours", variant, "--into", str(tmp_path))
    (file,) = tmp_path.glob("*.json")
    document = json.loads(file.read_text())
    found = document["problems"][problem]
    assert {*found["runs"], *found["refused"]} == {OURS, "more", *RIVALS} - ONLY_IF_NAMED
    assert set(document["versions"]) >= {"python", "torch", "pymoo"}
    assert document["machine"]["processor"]
    for runs in found["runs"].values():
        assert not runs[0]["ended"]
        assert 0 <= runs[0]["figures"]["hypervolume"] <= 1
    page = next(tmp_path.glob("*.html")).read_text()
    assert "<script src=" not in page
    assert f"{problem}: training loss" in page
    table = next(tmp_path.glob("*.md")).read_text()
    assert table.strip() in capsys.readouterr().out
    for words in ("dense training", "hypervolume, log l1", "no higher than the reference", "seconds / reference"):
        assert words in table
    assert ("the product's refit (refit:epochs=1)" in table) == (problem != "diabetes")


def test_what_is_broken_off_keeps_the_runs_that_were_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    raced = Traced.networks
    monkeypatch.setattr(command.record, "stamp", lambda: file.stem)

    def networks(rival: Traced, task: Task) -> Iterator[Network]:
        if OURS in json.loads(file.read_text())["problems"]["iris"]["runs"]:
            raise KeyboardInterrupt
        yield from raced(rival, task)

    monkeypatch.setattr(Traced, "networks", networks)
    two = ["--rival", OURS, "--rival", "lambda grid"]
    run(monkeypatch, "--quick", "--problem", "iris", *two, "--first-seed", "4", "--into", str(tmp_path))
    document = json.loads(file.read_text())
    (done,) = document["problems"]["iris"]["runs"].values()
    assert [entry["seed"] for entry in done] == [4]
    assert "--first-seed 4" in document["command"]
    assert document["left_out"] == {"the rest": "it was broken off"}
    captured = capsys.readouterr()
    assert f"iris, seed 4: {OURS}, {done[0]['passes']:.4g} passes" in captured.err
    assert "LEFT OUT: the rest: it was broken off" in captured.out
    assert "| hypervolume " in captured.out


def test_problems_without_their_data_are_left_out_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--data-folder", str(tmp_path / "none"), "--into", str(tmp_path)]
    run(monkeypatch, "--quick", "--problem", "mnist", *folder)
    captured = capsys.readouterr()
    assert "LEFT OUT: mnist: there is no file" in captured.out
    assert "LEFT OUT: mnist: there is no file" in captured.err
    document = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert "mnist10k.npz" in document["left_out"]["mnist"]
    assert not document["problems"]


def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(monkeypatch, "--device", "cuda")
    assert capsys.readouterr().out == "There is no CUDA device here: nothing was measured.\n"


@pytest.mark.parametrize("given", [["--network", "mlp:4"], ["-n", "mlp", "-d", "iris", "--problem", "iris"]])
def test_a_network_of_ones_own_needs_its_data_and_no_problem(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *given)
    assert "give --network and --data together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--ours", "mine=nosuch"], "iris --ours mine=nosuch: unknown method 'nosuch'; known: "),
        (["--ours", "mine=continuation:a"], "iris --ours mine=continuation:a: method 'continuation': predictor 'a' is"),
        (["--ours", "continuation:sweps=2"], "sweps"),
        (["--refit", "refit:epochs"], "method 'refit': job 'epochs' is not a whole number at least 1"),
        (["--refit", "refit:epoch=1"], "unknown setting of method 'refit': 'epoch'; known: "),
        (["--refit", "pruning"], "--refit 'pruning' is no refit, such as 'refit:epochs=1'"),
    ],
)
def test_methods_that_cannot_run_are_refused_before_anything_runs(
    given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=re.escape(said)):
        run(monkeypatch, "--problem", "iris", *given, "--into", str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        (command, ["-n", "mlp:4", "-d", "no.csv"], "cannot read"),
        (command, ["-n", "nosuch", "-d", "iris"], "unknown network 'nosuch'; known: "),
        (steps, ["--penalty", "group_l2:foo=1"], "unknown setting of penalty 'group_l2': 'foo'; known: "),
        (fan_out, ["--network", "nosuch"], "unknown network 'nosuch'; known: "),
        (fan_out, ["--jobs", "0"], "seeds"),
    ],
)
def test_problems_that_there_are_not_are_refused_in_a_line(
    program: Any, given: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=re.escape(said)):
        run(monkeypatch, *given, program=program)


def test_the_best_known_front_joins_traces_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "some.json"
    runs = {"x": [{"points": [{"penalty": 1e-3, "loss": 0.45}, {"penalty": 30.0, "loss": 3.0}]}]}
    results.write_text(json.dumps({"command": "some", "problems": {"diabetes": {"runs": runs}}}))
    short = "continuation:epochs=1,anchor_epochs=1,sweeps=1"
    given = ["--problem", "diabetes", "--points", "3", "--method", short, "--into", str(tmp_path / "known")]
    run(monkeypatch, *given, str(results), program=reference)
    document = json.loads((tmp_path / "known" / "diabetes.json").read_text())
    l1, loss = zip(*document["front"], strict=True)
    assert (1e-3, 0.45) in zip(l1, loss, strict=True)
    assert 30.0 not in l1
    assert len(l1) > 1
    assert list(loss) == sorted(loss, reverse=True)
    command = f"python -m benchmarks.reference --problem diabetes --points 3 --seeds 1 --method {short}"
    assert document["commands"] == [command, "some"]


def test_the_best_known_front_takes_methods_without_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--problem", "iris", "--points", "4", "--method", "population:starts=1,rounds=1,epochs=3"]
    run(monkeypatch, *given, "--into", str(tmp_path), program=reference)
    l1, loss = zip(*json.loads((tmp_path / "iris.json").read_text())["front"], strict=True)
    assert len(l1) > 1
    assert list(l1) == sorted(l1)
    assert list(loss) == sorted(loss, reverse=True)
