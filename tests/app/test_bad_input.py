"""Every bad input is a clear 4xx, or exit code 2, with one sentence; and nothing is stored."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.__main__ import app
from app.service import open_store
from tests.app.conftest import browse, settings_in

GOOD: dict[str, Any] = {"network": "mlp:4", "data": "iris", "points": 5}


def with_params(part: str, name: str, **params: Any) -> dict[str, Any]:
    return {part: {"name": name, "params": params}}


BODIES: list[tuple[Any, list[str]]] = [
    ({"network": "mpl:4"}, ["'mpl'", "known", "mlp"]),
    ({"data": "irish"}, ["'irish'", "known", "iris"]),
    ({"penalty": "l3"}, ["'l3'", "known", "l1"]),
    ({"method": "magic"}, ["'magic'", "known", "continuation"]),
    ({"loss": "hinge"}, ["'hinge'", "known", "cross_entropy"]),
    ({"colour": "red"}, ["'colour'", "known", "network"]),
    (with_params("network", "mlp", layers=3), ["'layers'", "known", "hidden"]),
    (with_params("network", "mlp", hidden=[0]), ["hidden", "0"]),
    (with_params("network", "mlp", hidden="wide"), ["hidden", "'wide'"]),
    (with_params("network", "mlp", activation="relux"), ["'relux'", "relu"]),
    (with_params("data", "iris", validation=1.5), ["validation", "1.5"]),
    (with_params("data", "iris", scale="huge"), ["'huge'", "standard"]),
    (with_params("data", "irish", colour=1), ["'colour'", "known", "scale"]),
    ({"network": 7}, ["network", "7"]),
    ({"network": {"params": {}}}, ["network", "name"]),
    ({"network": ""}, ["network"]),
    ({"points": 0}, ["points", "0"]),
    ({"points": "many"}, ["points", "'many'"]),
    ({"points": 2.5}, ["points", "2.5"]),
    ({"seed": -1}, ["seed", "-1"]),
    ({"seed": 10**30}, ["seed", "1000000000000000000000000000000"]),
    ({"budget": {"seconds": -3}}, ["budget.seconds", "-3"]),
    ({"budget": {"seconds": float("nan")}}, ["budget.seconds", "nan"]),
    ({"budget": {"hours": 3}}, ["'hours'", "known", "seconds"]),
    ({"device": "toaster"}, ["device", "'toaster'"]),
    ({"tags": "one"}, ["tags", "'one'"]),
    ({"network": "lenet5"}, ["'lenet5'", "(4,)"]),
    ({"data": "diabetes", "loss": "cross_entropy"}, ["cross_entropy"]),
]


def assert_nothing_stored(client: TestClient) -> None:
    assert client.get("/api/v1/jobs").json() == {"jobs": [], "next": None}
    assert client.get("/api/v1/datasets").json()["uploads"] == []


def assert_problem(response: Any, status: int, words: list[str]) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert "\n" not in body["detail"]
    for word in words:
        assert word in body["detail"]


@pytest.mark.parametrize(("change", "words"), BODIES, ids=lambda x: json.dumps(x)[:60] if isinstance(x, dict) else "")
def test_a_bad_job_is_refused_with_a_sentence(client: TestClient, change: dict[str, Any], words: list[str]) -> None:
    body = json.dumps({**GOOD, **change})
    response = client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert_problem(response, 422, words)
    assert_nothing_stored(client)


@pytest.mark.parametrize(
    ("content", "status"), [("{", 400), ("", 422), ("[]", 422), ("3", 422), ("{}", 422), ('"mlp"', 422)]
)
def test_a_body_that_is_no_job_is_refused(client: TestClient, content: str, status: int) -> None:
    response = client.post("/api/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert_problem(response, status, [])
    assert_nothing_stored(client)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data": "/etc/secrets.npz"}, "secrets"),
        ({"data": "../x.csv"}, "x.csv"),
        ({"network": {"name": "os:system"}}, "os:system"),
    ],
)
def test_paths_and_imports_are_refused_over_rest(client: TestClient, change: dict[str, str], word: str) -> None:
    assert_problem(client.post("/api/v1/jobs", json={**GOOD, **change}), 403, [word])
    assert_nothing_stored(client)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


X, Y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
WITH_NAN = np.where(np.arange(60).reshape(20, 3) == 7, np.nan, X)
WITH_INF = np.where(np.arange(60).reshape(20, 3) == 7, np.inf, X)
FILES: list[tuple[str, bytes, list[str]]] = [
    ("empty.npz", b"", ["empty.npz", "empty"]),
    ("truncated.npz", npz(X_train=X, y_train=Y)[:200], ["truncated.npz"]),
    ("pickle.npz", pickle.dumps({"X_train": [1]}), ["pickle.npz", ".npz"]),
    ("objects.npz", npz(X_train=np.array([[{}], [{}]], dtype=object), y_train=Y[:2]), ["objects.npz", "pickle"]),
    ("nan.npz", npz(X_train=WITH_NAN, y_train=Y), ["NaN", "X_train"]),
    ("inf.npz", npz(X_train=WITH_INF, y_train=Y), ["infinite", "X_train"]),
    ("lengths.npz", npz(X_train=X, y_train=Y[:5]), ["5", "20"]),
    ("nothing.npz", npz(a=X), ["X_train"]),
    ("notes.pdf", b"hello", ["notes.pdf", ".npz", ".txt"]),
    ("notes.txt", b"hello", ["5 characters", "130"]),
    ("latin.txt", b"\xe4" * 500, ["latin.txt", "UTF-8"]),
    ("words.csv", b"a,y\nred,1\nblue,0\n", ["'red'"]),
]


@pytest.mark.parametrize(("name", "payload", "words"), FILES, ids=[name for name, *_ in FILES])
def test_bad_data_is_refused(client: TestClient, name: str, payload: bytes, words: list[str]) -> None:
    response = client.post("/api/v1/datasets", files={"file": (name, payload)})
    assert_problem(response, 422, words)
    assert_nothing_stored(client)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    with browse(settings_in(tmp_path, max_upload_bytes=1000)) as client:
        response = client.post("/api/v1/datasets", files={"file": ("big.npz", bytes(2000))})
        assert_problem(response, 413, ["1,000 bytes"])
        chunks = iter([b"x" * 600, b"x" * 600])
        response = client.post("/api/v1/jobs", content=chunks, headers={"content-type": "application/json"})
        assert_problem(response, 413, ["1,000 bytes"])
        assert_nothing_stored(client)


def test_an_upload_cannot_take_the_name_of_a_built_in_data_set(client: TestClient) -> None:
    response = client.post("/api/v1/datasets", files={"file": ("iris.npz", npz(X_train=X, y_train=Y))})
    assert_problem(response, 409, ["'iris'"])
    assert_nothing_stored(client)


QUERIES: list[tuple[str, int, list[str]]] = [
    ("/api/v1/jobs/99", 404, ["99"]),
    ("/api/v1/jobs/99/front", 404, ["99"]),
    ("/api/v1/jobs/99/events", 404, ["99"]),
    ("/api/v1/jobs/99/select?knee=true", 404, ["99"]),
    ("/api/v1/jobs/one", 422, ["job_id", "'one'"]),
    ("/api/v1/jobs/99999999999999999999", 422, ["99999999999999999999"]),
    ("/api/v1/jobs?state=asleep", 422, ["'asleep'", "queued"]),
    ("/api/v1/jobs?limit=0", 422, ["limit"]),
    ("/api/v1/jobs/1/points/999", 404, ["999"]),
    ("/api/v1/jobs/1/points/-1", 422, ["-1"]),
    ("/api/v1/jobs/1/points/999/export/onnx", 404, ["999"]),
    ("/api/v1/jobs/1/points/0/export/word", 422, ["'word'", "known", "onnx"]),
    ("/api/v1/jobs/1/points/0/export/word?compact=true", 422, ["'word'", "known", "onnx"]),
    ("/api/v1/jobs/1/points/0/export/sparse?compact=perhaps", 422, ["compact", "'perhaps'"]),
    ("/api/v1/jobs/1/select", 422, ["exactly one of", "sparsity"]),
    ("/api/v1/jobs/1/select?knee=true&sparsity=0.5", 422, ["exactly one of", "knee"]),
    ("/api/v1/jobs/1/select?sparsity=1.5", 422, ["1.5", "[0, 1]"]),
    ("/api/v1/jobs/1/select?sparsity=-0.1", 422, ["-0.1", "[0, 1]"]),
    ("/api/v1/jobs/1/select?sparsity=nan", 422, ["nan", "[0, 1]"]),
    ("/api/v1/jobs/1/select?sparsity=half", 422, ["'half'"]),
    ("/api/v1/jobs/1/select?max_loss=-1", 422, ["-1.0", "from"]),
    ("/api/v1/jobs/1/select?max_nonzero=-1", 422, ["-1"]),
    ("/api/v1/jobs/1/select?min_metric=beauty:0.9", 422, ["validation_beauty", "known"]),
    ("/api/v1/jobs/1/select?min_metric=accuracy", 422, ["'accuracy'", "accuracy:0.9"]),
    ("/api/v1/jobs/1/select?weights=1", 422, ["1.0", "2"]),
    ("/api/v1/jobs/1/select?weights=a,b", 422, ["'a,b'", "0.7,0.3"]),
    ("/api/v1/jobs/1/select?weights=0,0", 422, ["0.0"]),
    ("/api/v1/jobs/1/front?objectives=loss,beauty", 422, ["'beauty'", "known", "penalty"]),
    ("/api/v1/jobs/1/front?objectives=loss", 422, ["'loss'", "two"]),
    ("/api/v1/jobs/1/front?format=xml", 422, ["'xml'", "csv"]),
    ("/api/v1/compare?jobs=1,x", 422, ["'1,x'"]),
    ("/api/v1/compare?jobs=1,99", 404, ["99"]),
    ("/api/v1/studies/99", 404, ["no study 99"]),
    ("/api/v1/studies/99/front", 404, ["no study 99"]),
    ("/api/v1/studies/one", 422, ["study_id", "'one'"]),
    ("/api/v1/studies?limit=0", 422, ["limit"]),
    ("/api/v1/nothing", 404, ["/api/v1/nothing"]),
]


@pytest.mark.parametrize(("url", "status", "words"), QUERIES)
def test_a_bad_question_is_refused(reader: TestClient, url: str, status: int, words: list[str]) -> None:
    assert_problem(reader.get(url), status, words)


def test_what_the_state_does_not_allow_is_a_conflict(reader: TestClient) -> None:
    for what in ("pause", "cancel", "resume"):
        assert_problem(reader.post(f"/api/v1/jobs/1/{what}"), 409, ["1"])
    assert_problem(reader.put("/api/v1/jobs/1"), 405, ["PUT"])


COMMANDS: list[tuple[list[str], list[str]]] = [
    (["trace"], ["network"]),
    (["trace", "--network", "mpl:4", "--data", "iris"], ["'mpl'", "known"]),
    (["trace", "--network", "mlp:4", "--data", "irish"], ["'irish'", "known"]),
    (["trace", "--network", "mlp:4", "--data", "missing.npz"], ["missing.npz"]),
    (["trace", "--network", "mlp:4", "--data", "iris", "--points", "0"], ["points", "0"]),
    (["trace", "--network", "mlp:4", "--data", "iris", "--set", "network.activation=relux"], ["relux"]),
    (["trace", "--network", "mlp:4", "--data", "iris", "--set", "activation"], ["'activation'"]),
    (["trace", "--spec", "missing.json"], ["missing.json"]),
    (["trace", "--network", "no.such.module:net", "--data", "iris"], ["no.such.module:net"]),
    (["study", "--data", "iris"], ["networks"]),
    (["study", "-n", "mlp:4", "-n", "mpl", "--data", "iris"], ["'mpl'", "known"]),
    (["study", "-n", "mlp:4", "--data", "missing.npz"], ["missing.npz"]),
    (["study", "-n", "mlp:4", "--data", "iris", "--seeds", "few"], ["'few'", "0,7,8"]),
    (["study", "-n", "mlp:4", "--data", "iris", "--seeds", "500"], ["seeds", "500"]),
    (["study", "-n", "mlp:4", "--data", "iris", "--set", "network.activation=tanh"], ["network.activation", "budget"]),
    (["compare"], ["--study"]),
    (["compare", "1", "--study", "1"], ["--study"]),
    (["compare", "--study", "99"], ["no study 99"]),
    (["front", "99"], ["99"]),
    (["select", "99", "--sparsity", "0.5"], ["99"]),
    (["export", "99", "0", "--format", "onnx"], ["99"]),
    (["export", "99", "0", "--format", "word"], ["'word'", "known"]),
    (["export", "99", "0", "--compact"], ["99"]),
    (["datasets", "add", "missing.npz"], ["missing.npz"]),
    (["jobs", "--server", "http://127.0.0.1:1"], ["http://127.0.0.1:1"]),
]


@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=[" ".join(c) for c, _ in COMMANDS])
def test_a_bad_command_exits_with_2_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], words: list[str]
) -> None:
    settings = settings_in(tmp_path)
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", settings.url)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    with open_store(settings) as store:
        assert store.jobs() == ()
        assert store.uploads() == ()


@pytest.mark.parametrize(("text", "word"), [("{", "JSON"), ("[]", "[]"), ('{"points": 0}', "network")])
def test_a_bad_spec_on_standard_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, word: str
) -> None:
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", settings_in(tmp_path).url)
    result = CliRunner().invoke(app, ["trace", "--spec", "-"], input=text)
    assert result.exit_code == 2
    assert word in result.stderr
