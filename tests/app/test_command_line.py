"""The command line: the same documents as the service's, over the same store."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from app.__main__ import app
from app.documents import front_document
from app.service import open_store
from app.serving import demonstrate
from app.settings import Settings
from tests.app.conftest import CHEAP, TINY, browse, settings_in

ROOT = Path(__file__).parents[2]


def run(*command: str, code: int = 0, text: str | None = None) -> Result:
    result = CliRunner().invoke(app, command, input=text)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = settings_in(tmp_path)
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", settings.url)
    monkeypatch.chdir(tmp_path)
    return settings


@pytest.fixture
def there(traced: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", traced.url)
    return traced


@pytest.mark.slow
def test_trace_prints_the_front_and_stores_it(here: Settings) -> None:
    result = run("trace", "--network", "mlp:4", "--data", "iris", "--points", "5", "--method", CHEAP, "--name", "mine")
    assert "nonzero weights" in result.stdout
    assert "job 1 completed" in result.stdout
    assert "point 0: sparsity" in result.stderr
    with open_store(here) as store:
        assert store.job(1).name == "mine"
        assert len(store.front(1)) == store.job(1).n_points


@pytest.mark.slow
def test_a_spec_is_the_body_and_json_the_front_document(here: Settings, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(TINY))
    first = json.loads(run("trace", "--spec", "job.json", "--json").stdout)
    second = json.loads(run("trace", "--spec", "-", "--json", "--seed", "1", text=json.dumps(TINY)).stdout)
    with open_store(here) as store:
        for job_id, document in ((1, first), (2, second)):
            assert document == front_document(store.job(job_id), store.front(job_id, layers=False))
    assert second["job"]["spec"]["seed"] == 1
    with browse(here) as client:
        assert client.get("/api/v1/jobs/1/front").json() == first


@pytest.mark.slow
def test_settings_reach_their_parts(here: Settings) -> None:
    settings = ["network.activation=tanh", "network.hidden=[3, 2]", "data.validation=0.2", "budget.epochs=1000"]
    options = [x for setting in settings for x in ("--set", setting)]
    run("trace", "-n", "mlp:4", "-d", "iris:scale=unit", "--points", "4", "--method", CHEAP, *options)
    with open_store(here) as store:
        spec = store.job(1).spec
    assert spec["network"]["params"] == {"hidden": [3, 2], "activation": "tanh"}
    assert spec["data"]["params"] == {"scale": "unit", "validation": 0.2}
    assert spec["budget"]["epochs"] == 1000


@pytest.mark.slow
def test_a_file_is_traced_by_its_path(here: Settings, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    np.savez(tmp_path / "mine.npz", X_train=X, y_train=(X[:, 0] > 0).astype(int))
    run("trace", "--network", "linear", "--data", "mine.npz", "--points", "4", "--method", CHEAP)
    with open_store(here) as store:
        assert [store.job(1).spec["data"]["name"]] == [upload.name for upload in store.uploads()]


def test_a_failed_trace_exits_with_1_and_keeps_its_points(here: Settings) -> None:
    spec = {**TINY, "network": {"name": "tests.app.parts:faulty", "params": {"fault": "crash"}}}
    result = run("trace", "--spec", "-", code=1, text=json.dumps(spec))
    assert "the network broke" in result.stderr
    assert "paretopath front 1" in result.stderr


def test_ctrl_c_cancels_and_keeps_the_points(here: Settings) -> None:
    faulty = {"name": "tests.app.parts:faulty", "params": {"after": 10, "fault": "interrupt"}}
    result = run("trace", "--spec", "-", code=130, text=json.dumps({**TINY, "network": faulty}))
    assert "paretopath front 1" in result.stderr
    with open_store(here) as store:
        assert store.job(1).state == "cancelled"
        assert len(store.front(1)) == store.job(1).n_points


@pytest.mark.slow
def test_a_study_runs_side_by_side_and_prints_the_comparison(here: Settings) -> None:
    asked = ["-n", "linear", "-n", "mlp:2", "-d", "iris", "--points", "3", "--method", CHEAP, "--name", "mine"]
    result = run("study", *asked, "--seeds", "4,", "--workers", "2", "--set", "data.validation=0.2")
    for said in ("hypervolume", "covers", "study 1 completed: 2 completed"):
        assert said in result.stdout
    for job, network in ((1, "linear"), (2, "mlp (hidden 2)")):
        assert f"job {job} ({network} · l1 · continuation" in result.stderr
        assert "seed 4) completed with" in result.stderr
    with open_store(here) as store:
        study = store.study(1)
    assert {(job.name, job.spec["data"]["params"]["validation"]) for job in study.jobs} == {("mine", 0.2)}
    document = json.loads(run("compare", "--study", "1", "--json").stdout)
    assert [entry["job"]["id"] for entry in document["fronts"]] == [1, 2]
    assert "linear, mlp (hidden 2)" in run("studies").stdout
    with browse(here) as client:
        assert client.get("/api/v1/studies/1/front").json() == document
        assert client.get("/api/v1/studies").json()["studies"] == json.loads(run("studies", "--json").stdout)


@pytest.mark.slow
def test_a_failed_study_exits_with_1_and_says_which_job(here: Settings) -> None:
    broken = {"name": "tests.app.parts:faulty", "params": {"fault": "crash"}}
    spec = {"networks": ["linear", broken], "data": "iris", "points": 3, "methods": [CHEAP], "seeds": 1}
    result = run("study", "--spec", "-", "--json", code=1, text=json.dumps(spec))
    assert "job 2 (tests.app.parts:faulty (fault crash)" in result.stderr
    assert "the network broke" in result.stderr
    assert json.loads(result.stdout)["study"]["progress"]["states"] == {"completed": 1, "failed": 1}


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Children take SIGINT, which a shell has those that it starts in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_cancels_a_study_and_keeps_its_points(here: Settings) -> None:
    slow = {"name": "tests.app.parts:faulty", "params": {"after": 0, "fault": "slow"}}
    spec = {"networks": [slow], "data": "iris", "points": 500, "methods": [CHEAP], "seeds": 2}
    command = [sys.executable, "-m", "app", "study", "--workers", "1", "--spec", "-"]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **options) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(spec))
        process.stdin.close()
        process.stdin = None
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "cancelling study 1" in errors
    assert "study 1 cancelled: 2 cancelled" in out
    with open_store(here) as store:
        assert {job.state for job in store.jobs()} == {"cancelled"}


def test_the_demonstration_is_queued_once(here: Settings) -> None:
    for _ in range(2):
        demonstrate(here)
    with open_store(here) as store:
        assert [job.name for job in store.jobs()] == ["demonstration"]


@pytest.mark.slow
def test_jobs_front_select_and_compare_read_the_store(there: Settings) -> None:
    assert "completed" in run("jobs").stdout
    document = json.loads(run("front", "1", "--json").stdout)
    point = json.loads(run("select", "1", "--sparsity", "0.5", "--json").stdout)
    assert point.pop("layers")
    assert point in document["points"]
    assert point["sparsity"] >= 0.5
    assert "hypervolume" in run("compare", "1").stdout
    assert len(json.loads(run("compare", "1", "--json").stdout)["fronts"]) == 1
    assert "nonzero weights" in run("front", "1", "--nondominated").stdout


def test_export_writes_the_file(there: Settings, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    result = run("export", "1", "1", "--format", "safetensors", "-o", str(path))
    assert path.stat().st_size > 0
    assert "n nonzero" in result.stdout


@pytest.mark.slow
def test_a_compact_export_says_what_it_saves(there: Settings, tmp_path: Path) -> None:
    index = json.loads(run("select", "1", "--sparsity", "0.7", "--json").stdout)["index"]
    path = tmp_path / "net.safetensors"
    said = run("export", "1", str(index), "--compact", "-o", str(path)).stdout.replace("\n", " ")
    for what in ("bytes before", "n params before", "multiply adds before", "max difference"):
        assert what in said
    assert f"bytes {path.stat().st_size}" in said


@pytest.mark.slow
def test_datasets_are_added_and_listed(here: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 2}" for i in range(30)))
    run("datasets", "add", "mine.csv", "--name", "thirty")
    assert json.loads(run("datasets", "list", "--json").stdout)[0]["name"] == "thirty"
    run("trace", "-n", "linear", "-d", "thirty", "--points", "3", "--method", CHEAP)


def test_help_is_quick_as_it_imports_nothing_heavy() -> None:
    script = "import sys, app.__main__; print([m for m in ('torch', 'fastapi', 'sqlalchemy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
    assert "trace" in run("--help").stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--database-url", f"sqlite:///{tmp_path}/served.db"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, env={**os.environ, "PARETOPATH_THREADS": "1"}, **options) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("http"))
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.slow
def test_the_same_commands_work_through_a_running_service(
    served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PARETOPATH_SERVER", served)
    document: dict[str, Any] = json.loads(
        run("trace", "-n", "mlp:4", "-d", "iris", "--points", "5", "--method", CHEAP, "--json").stdout
    )
    assert document["job"]["state"] == "completed"
    assert document == httpx2.get(f"{served}/api/v1/jobs/1/front").json()
    assert json.loads(run("front", "1", "--json").stdout) == document
    knee = json.loads(run("select", "1", "--knee", "--json").stdout)
    assert {**document["points"][knee["index"]], "layers": knee["layers"]} == knee
    assert "completed" in run("jobs").stdout
    run("export", "1", "0", "-o", str(tmp_path / "net.safetensors"))
    assert "bytes before" in run("export", "1", "0", "--compact", "-o", str(tmp_path / "compact.safetensors")).stdout
    assert "compare" in run("--help").stdout
    refitted: dict[str, Any] = json.loads(run("refit", "1", "--epochs", "1", "--json").stdout)
    assert refitted == httpx2.get(f"{served}/api/v1/jobs/2/front").json()
    assert json.loads(run("compare", "1", "--json").stdout)["fronts"]
    extended = run("extend", "1", "--points", "1")
    assert "point 0:" not in extended.stderr
    solved: dict[str, Any] = json.loads(run("solve", "1", "--nonzeros", "9", "--json").stdout)
    assert solved == httpx2.get(f"{served}/api/v1/jobs/1/front").json()
    assert 9 in {point["n_nonzero"] for point in solved["points"]}
    assert "no further end" in run("extend", "1", "--end", "0.1", code=2).stderr
    (tmp_path / "mine.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 2}" for i in range(30)))
    run("datasets", "add", str(tmp_path / "mine.csv"))
    assert "mine" in run("datasets", "list").stdout
    study = json.loads(run("study", "-n", "linear", "-d", "iris", "--seeds", "1", "--points", "3", "--json").stdout)
    assert study == httpx2.get(f"{served}/api/v1/studies/1/front").json()
    assert study["study"]["state"] == "completed"
    assert json.loads(run("studies", "--json").stdout)[0]["progress"] == study["study"]["progress"]
    assert json.loads(run("compare", "--study", "1", "--json").stdout) == study
    assert "slots of its own" in run("study", "-n", "linear", "-d", "iris", "--workers", "2", code=2).stderr
    refused = run("trace", "-n", "mpl", "-d", "iris", code=2)
    assert "'mpl'" in refused.stderr
    assert "'/x.npz'" in run("trace", "-n", "mlp", "-d", "/x.npz", code=2).stderr


@pytest.mark.parametrize(
    ("missing", "told"), [("benchmarks", "run this in a checkout"), ("sklearn", "pip install scikit-learn")]
)
def test_bench_says_what_it_lacks(missing: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert told in run("bench", code=2).stderr


@pytest.mark.slow
def test_bench_prints_all_rivals_beside_the_dense_training() -> None:
    command = [sys.executable, "-m", "app", "bench", "-n", "mlp:4", "-d", "iris", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for words in (
        "dense training",
        "paretopath",
        "lambda grid",
        "gradual pruning",
        "passes / dense",
        "test accuracy at 90%",
    ):
        assert words in done.stdout
