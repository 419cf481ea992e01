"""Fronts, points, choosing, exporting, comparing: the same numbers in every form."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from fastapi.testclient import TestClient

from app.documents import front_document, plain, point_documents
from app.service import Service, open_store
from app.settings import Settings
from engine.export import load
from engine.spec import JobSpec, rebuild
from storage.store import Store
from tests.app.conftest import TINY, work_off
from tests.storage.examples import a_point

JOB = "/api/v1/jobs/1"


def front(reader: TestClient, **params: Any) -> Any:
    response = reader.get(f"{JOB}/front", params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_document_is_the_one_function_s(reader: TestClient, traced: Settings) -> None:
    with open_store(traced) as store:
        assert front(reader) == front_document(store.job(1), store.front(1, layers=False))
        assert front(reader, layers=True) == front_document(store.job(1), store.front(1))


def test_columns_csv_and_parquet_hold_the_same_numbers(reader: TestClient) -> None:
    points, columns = front(reader)["points"], front(reader, orient="columns")["points"]
    assert columns["loss"] == [p["loss"] for p in points]
    assert columns["train_accuracy"] == [p["metrics"]["train_accuracy"] for p in points]
    rows = list(csv.DictReader(io.StringIO(reader.get(f"{JOB}/front?format=csv").text)))
    assert [float(row["loss"]) for row in rows] == columns["loss"]
    table = pyarrow.parquet.read_table(io.BytesIO(reader.get(f"{JOB}/front?format=parquet").content))
    assert table.to_pydict() == columns


def test_dominated_points_can_be_left_out(reader: TestClient) -> None:
    best = front(reader, nondominated=True, objectives="n_nonzero,validation_accuracy")["points"]
    values = [(p["n_nonzero"], -p["metrics"]["validation_accuracy"]) for p in best]
    assert best
    assert values == sorted(values)
    assert [v[1] for v in values] == sorted((v[1] for v in values), reverse=True)


def test_the_hypervolume_has_its_reference(reader: TestClient) -> None:
    document = front(reader)["hypervolume"]
    assert document["objectives"] == ["penalty", "loss"]
    assert len(document["reference"]) == 2
    assert document["value"] > 0


def test_a_point_is_told_with_its_layers(reader: TestClient) -> None:
    point = reader.get(f"{JOB}/points/0").json()
    assert point == front(reader, layers=True)["points"][0]
    assert front(reader)["points"][0] == {name: value for name, value in point.items() if name != "layers"}
    assert sum(layer["n_nonzero"] for layer in point["layers"]) == point["n_nonzero"]


def choices(points: list[dict[str, Any]]) -> dict[str, Any]:
    middle = sorted(points, key=lambda p: p["n_nonzero"])[len(points) // 2]
    accuracy = middle["metrics"]["validation_accuracy"]
    return {
        f"sparsity={middle['sparsity']}": lambda p: p["sparsity"] >= middle["sparsity"],
        f"max_nonzero={middle['n_nonzero']}": lambda p: p["n_nonzero"] <= middle["n_nonzero"],
        f"max_loss={middle['loss']!r}": lambda p: p["loss"] <= middle["loss"],
        f"min_metric=accuracy:{accuracy!r}": lambda p: p["metrics"]["validation_accuracy"] >= accuracy,
        "min_metric=train_accuracy:0.1": lambda p: p["metrics"]["train_accuracy"] >= 0.1,
        "knee=true": lambda p: True,
        "weights=0.7,0.3": lambda p: True,
    }


def test_every_criterion_picks_a_point_that_fulfils_it(reader: TestClient) -> None:
    points = front(reader, layers=True)["points"]
    for query, fulfils in choices(points).items():
        response = reader.get(f"{JOB}/select?{query}")
        assert response.status_code == 200, response.text
        assert response.json() in points
        assert fulfils(response.json()), query


def test_the_weights_decide_which_end_is_picked(reader: TestClient) -> None:
    sparse, exact = (reader.get(f"{JOB}/select?weights={w}").json() for w in ("1,0", "0,1"))
    assert sparse["penalty"] < exact["penalty"]
    assert sparse["loss"] > exact["loss"]


def module_of(settings: Settings, index: int) -> torch.nn.Module:
    with open_store(settings) as store:
        job = store.job(1)
        module: torch.nn.Module = rebuild(JobSpec.from_dict(job.spec), job.facts, store.waypoint(1, index))
        return module


def test_safetensors_carry_the_weights_and_where_they_come_from(reader: TestClient, traced: Settings) -> None:
    response = reader.get(f"{JOB}/points/1/export/safetensors")
    assert response.headers["content-disposition"] == 'attachment; filename="paretopath-job1-point1.safetensors"'
    tensors = safetensors.torch.load(response.content)
    for name, tensor in module_of(traced, 1).state_dict().items():
        assert torch.equal(tensors[name], tensor)
    size = int.from_bytes(response.content[:8], "little")
    metadata = json.loads(response.content[8 : 8 + size])["__metadata__"]
    point = reader.get(f"{JOB}/points/1").json()
    assert (metadata["job"], metadata["point"], metadata["seed"]) == ("1", "1", "0")
    assert float(metadata["loss"]) == point["loss"]
    assert json.loads(metadata["spec"]) == reader.get(JOB).json()["spec"]
    assert len(metadata["spec_digest"]) == 64
    assert "torch" in json.loads(metadata["versions"])


def test_a_state_dict_loads_without_pickles(reader: TestClient, traced: Settings) -> None:
    response = reader.get(f"{JOB}/points/1/export/state_dict")
    loaded = torch.load(io.BytesIO(response.content), weights_only=True)
    for name, tensor in module_of(traced, 1).state_dict().items():
        assert torch.equal(loaded[name], tensor)
    n_nonzero = reader.get(f"{JOB}/points/1").json()["n_nonzero"]
    assert int(response.headers["x-paretopath-n-nonzero"]) == n_nonzero


@pytest.mark.slow
def test_onnx_is_checked_before_it_is_handed_out(reader: TestClient) -> None:
    response = reader.get(f"{JOB}/points/1/export/onnx")
    assert response.status_code == 200, response.text
    onnx.checker.check_model(onnx.load_from_string(response.content))
    assert float(response.headers["x-paretopath-max-difference"]) < 1e-4


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "sparse"])
def test_a_compact_network_answers_alike_and_is_smaller(
    reader: TestClient, traced: Settings, form: str, tmp_path: Path
) -> None:
    index = reader.get(f"{JOB}/select?sparsity=0.7").json()["index"]
    response = reader.get(f"{JOB}/points/{index}/export/{form}?compact=true")
    assert response.status_code == 200, response.text
    name = response.headers["content-disposition"].partition('filename="')[2].strip('"')
    assert name.startswith(f"paretopath-job1-point{index}-compact.")
    (tmp_path / name).write_bytes(response.content)
    compact, whole = load(tmp_path / name), module_of(traced, index)
    samples = torch.randn(20, 4)
    assert torch.allclose(compact(samples), whole(samples), atol=1e-5)
    said = {key.removeprefix("x-paretopath-"): value for key, value in response.headers.items()}
    assert int(said["n-params"]) == sum(p.numel() for p in compact.parameters()) < int(said["n-params-before"])
    assert int(said["multiply-adds"]) < int(said["multiply-adds-before"])
    assert int(said["bytes"]) == len(response.content)
    assert int(said["bytes-before"]) == len(reader.get(f"{JOB}/points/{index}/export/{form}").content)
    assert float(said["max-difference"]) < 1e-4


@pytest.mark.slow
def test_a_network_that_cannot_be_made_smaller_is_refused_but_exported_whole(client: TestClient, store: Store) -> None:
    body = {**TINY, "network": "tests.app.parts:branching"}
    job = Service(store, allow_paths=True).submit(body)["id"]
    work_off(store, job)
    url = f"/api/v1/jobs/{job}/points/0/export/safetensors"
    refused = client.get(f"{url}?compact=true")
    assert refused.status_code == 422
    assert "Branching" in refused.json()["detail"]
    assert "known to work" in refused.json()["detail"]
    assert client.get(url).status_code == 200


def test_fronts_are_compared_below_one_reference(reader: TestClient) -> None:
    document = reader.get("/api/v1/compare?jobs=1,1").json()
    assert [entry["job"]["id"] for entry in document["fronts"]] == [1]
    assert document["reference"] == front(reader)["hypervolume"]["reference"]
    assert document["fronts"][0]["hypervolume"] == pytest.approx(front(reader)["hypervolume"]["value"])


def test_points_without_some_numbers_have_nulls() -> None:
    odd = a_point(0, loss=math.nan, lam=None, penalty=-0.0, metrics={"l1": math.inf, "test_accuracy": 0.5}, layers=())
    plain_ones = [plain(point.to_dict()) for point in (odd, a_point(1))]
    assert point_documents([odd, a_point(1)]) == plain_ones
    assert point_documents([odd]) == [{name: value for name, value in plain_ones[0].items() if name != "layers"}]
    assert point_documents([]) == []


def test_numbers_json_cannot_hold_become_null() -> None:
    found = plain({"a": float("nan"), "b": [float("inf"), 1.5], "c": (np.float64("-inf"), "x"), "d": True})
    assert found == {"a": None, "b": [None, 1.5], "c": [None, "x"], "d": True}
