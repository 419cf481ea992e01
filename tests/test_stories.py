"""What users come for, from the first command to the network in their hands, on real data."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load as load_safetensors
from torch import nn
from typer.testing import CliRunner

from app.__main__ import app
from app.service import open_store
from engine.data import Dataset, load
from engine.front import Front, ParetoPoint
from engine.spec import JobSpec, build, rebuild, shorthand
from storage import Store
from tests.app.conftest import browse, settings_in

BODY = {"network": "mlp:32", "data": "digits", "points": 40, "seed": 1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("story")


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    """What ``paretopath trace --spec - --json`` prints for a front of forty points on digits."""
    arguments = ["trace", "--spec", "-", "--json", "--database-url", f"sqlite:///{folder}/test.db"]
    done = CliRunner().invoke(app, arguments, input=json.dumps(BODY))
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def client(document: dict[str, Any], folder: Path) -> Iterator[TestClient]:
    with browse(settings_in(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def store(document: dict[str, Any], folder: Path) -> Iterator[Store]:
    with open_store(settings_in(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", {}, {})


def front(document: dict[str, Any]) -> Front:
    known = {*ParetoPoint.__dataclass_fields__, "sparsity"}
    points = [{k: v for k, v in p.items() if k in known} for p in document["points"]]
    return Front(tuple(ParetoPoint.from_dict(p) for p in points)).non_dominated()


def dense_accuracy(data: Dataset) -> float:
    """Test accuracy of the same network trained without a penalty, at its best validation accuracy."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser, found = torch.optim.Adam(module.parameters(), 3e-3), []
    splits = [torch.from_numpy(a) for a in (data.X_train, data.y_train, data.X_validation, data.X_test)]
    X, y, X_validation, X_test = splits
    for _ in range(40):
        for batch in torch.randperm(len(X)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(X[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            right = [
                (module(inputs).argmax(1).numpy() == labels).mean()
                for inputs, labels in ((X_validation, data.y_validation), (X_test, data.y_test))
            ]
        found.append((right[0], right[1]))
    return float(max(found, key=lambda accuracies: accuracies[0])[1])


def test_one_command_covers_the_whole_range_evenly(document: dict[str, Any], data: Dataset) -> None:
    found = front(document)
    gaps = np.diff(np.log([p.penalty for p in found if p.penalty > 0]))
    assert len(found) == 40
    assert max(p.sparsity for p in found) >= 0.99
    assert gaps.max() <= 3 * np.median(gaps)
    chosen = max(found, key=lambda p: (p.metrics["validation_accuracy"], -p.loss))
    densest = sorted(found, key=lambda p: p.loss)[:5]
    assert chosen.metrics["test_accuracy"] >= dense_accuracy(data) - 0.01
    assert np.mean([p.metrics["test_accuracy"] for p in densest]) >= dense_accuracy(data) - 0.01


def test_the_papers_iris_network_is_traced_from_its_sparse_start_in_both_directions() -> None:
    spec = JobSpec(
        shorthand("mlp:4,4,activation=tanh,start=identity"),
        shorthand("iris:split=paper,validation=0"),
        method=shorthand("continuation:start=network"),
    )
    experiment = build(spec, {})
    found = Front(tuple(w.point for w in experiment.tracer.trace(experiment.problem))).non_dominated()
    gaps = np.diff(np.log([p.penalty for p in found if p.penalty > 0]))
    assert len(found) == 40
    assert found.points[0].n_nonzero == 0
    assert found.points[-1].loss <= 0.02
    assert gaps.max() <= 3 * np.median(gaps)
    assert max(p.metrics["test_accuracy"] for p in found) >= 0.92


def test_the_service_returns_what_the_command_printed(document: dict[str, Any], client: TestClient) -> None:
    assert client.get(f"/api/v1/jobs/{document['job']['id']}/front").json() == document


def test_a_stored_front_evaluates_again_to_its_numbers(document: dict[str, Any], store: Store, data: Dataset) -> None:
    job = store.job(document["job"]["id"])
    X, y = torch.from_numpy(data.X_train), torch.from_numpy(data.y_train)
    for waypoint in store.trail(job.id):
        point, module = waypoint.point, rebuild(JobSpec.from_dict(job.spec), job.facts, waypoint)
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(module(X), y))
        assert loss == pytest.approx(point.loss, rel=1e-6, abs=1e-6)
        assert float(torch.from_numpy(waypoint.theta).abs().sum()) == point.metrics["l1"] == point.penalty
        assert sum(int(p.count_nonzero()) for p in module.parameters()) == point.n_nonzero


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("form", ["safetensors", "state_dict", "onnx", "torch_export"])
def test_the_exported_network_has_the_stored_test_accuracy(
    document: dict[str, Any], client: TestClient, data: Dataset, tmp_path: Path, sparsity: float, form: str
) -> None:
    job = document["job"]["id"]
    point = client.get(f"/api/v1/jobs/{job}/select", params={"sparsity": sparsity}).json()
    answer = client.get(f"/api/v1/jobs/{job}/points/{point['index']}/export/{form}")
    assert answer.status_code == 200
    outputs = answers(form, answer.content, data.X_test, tmp_path)
    assert (outputs.argmax(1) == data.y_test).mean() == point["metrics"]["test_accuracy"]


def answers(form: str, content: bytes, X: np.ndarray, folder: Path) -> np.ndarray:
    """What the exported network says, run as its users would run it."""
    if form == "onnx":
        session = onnxruntime.InferenceSession(content)
        return np.asarray(session.run(None, {session.get_inputs()[0].name: X})[0])
    if form == "torch_export":
        (folder / "network.pt2").write_bytes(content)
        program = torch.export.load(str(folder / "network.pt2"))
        return program.module()(torch.from_numpy(X)).detach().numpy()
    weights = load_safetensors(content) if form == "safetensors" else torch.load(io.BytesIO(content), weights_only=True)
    hidden = torch.relu(torch.from_numpy(X).flatten(1) @ weights["layer1.weight"].T + weights["layer1.bias"])
    return (hidden @ weights["output.weight"].T + weights["output.bias"]).numpy()
