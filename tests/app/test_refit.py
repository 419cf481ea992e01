"""Refitting a job's networks: over REST, on the command line, on the pages, and when the job is gone."""

import csv
import io
import json
import os
import signal
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from app.__main__ import app
from app.documents import front_document
from app.schemas import JobIn
from app.service import Service
from app.settings import Settings
from app.worker import Worker
from storage.store import Store
from tests.app.conftest import TINY, work_off
from tests.app.test_pages import in_state, page

pytestmark = pytest.mark.slow

JOBS = "/api/v1/jobs"


@pytest.fixture
def source(store: Store) -> int:
    """A traced job."""
    job = Service(store).submit(JobIn.model_validate(TINY))
    work_off(store, job["id"])
    return int(job["id"])


def refit(client: TestClient, job_id: int, status: int = 201, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{JOBS}/{job_id}/refit", json=body)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


# Over REST


def test_a_refit_is_a_job_like_any_other(client: TestClient, store: Store, source: int) -> None:
    job = refit(client, source, epochs=2)
    assert (job["state"], job["name"], job["tags"]) == ("queued", "refit of tiny", ["test"])
    assert job["spec"]["method"] == {"name": "refit", "params": {"job": source, "epochs": 2}}
    assert job["facts"]["follows"] == source
    theirs = client.get(f"{JOBS}/{source}").json()["spec"]
    for what in ("network", "data", "loss", "penalty", "seed", "device"):
        assert job["spec"][what] == theirs[what]
    assert work_off(store, job["id"]) == job["progress"]["expected"] > 2
    assert client.get(f"{JOBS}/{job['id']}").json()["state"] == "completed"


def test_no_network_grows_and_the_loss_falls(client: TestClient, store: Store, source: int) -> None:
    job_id = refit(client, source)["id"]
    work_off(store, job_id)
    for point in store.front(job_id):
        before = store.waypoint(source, int(point.metrics["source"])).point
        assert point.loss <= before.loss
        assert point.n_nonzero <= before.n_nonzero


def test_zeros_stay_where_nothing_is_to_be_pruned(client: TestClient, store: Store, source: int) -> None:
    method = f"refit:{source},epochs=1,prune=false"
    job_id = client.post(JOBS, json={**TINY, "method": method}).json()["id"]
    work_off(store, job_id)
    for point in store.front(job_id):
        before = store.waypoint(source, int(point.metrics["source"]))
        assert point.metrics["pruned_from"] == before.point.index
        assert ((store.waypoint(job_id, point.index).theta != 0) == (before.theta != 0)).all()


def test_its_name_tags_and_seed_can_be_given(client: TestClient, source: int) -> None:
    job = refit(client, source, name="mine", tags=["a", "b"], seed=5)
    assert (job["name"], job["tags"], job["spec"]["seed"]) == ("mine", ["a", "b"], 5)


def test_no_body_is_needed_and_the_address_is_told(client: TestClient, source: int) -> None:
    answer = client.post(f"{JOBS}/{source}/refit")
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{JOBS}/{answer.json()['id']}"


def test_the_same_key_gives_the_same_job(client: TestClient, source: int) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (client.post(f"{JOBS}/{source}/refit", json={}, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert client.post(f"{JOBS}/{source}/refit", json={"seed": 9}, headers=headers).status_code == 409


def test_a_refit_is_refitted_and_compared_with_its_source(client: TestClient, store: Store, source: int) -> None:
    first = refit(client, source, epochs=1)["id"]
    work_off(store, first)
    second = refit(client, first, epochs=1)["id"]
    work_off(store, second)
    query = {"jobs": f"{source},{first},{second}", "objectives": "n_nonzero,loss"}
    fronts = client.get("/api/v1/compare", params=query).json()["fronts"]
    volumes = [entry["hypervolume"] for entry in fronts]
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[1]


def test_what_cannot_be_refitted_is_refused(client: TestClient, store: Store, source: int) -> None:
    assert "no job 99" in refit(client, 99, 404)["detail"]
    queued = client.post(JOBS, json=TINY).json()["id"]
    assert f"job {queued} is queued" in refit(client, queued, 409)["detail"]
    assert store.claim("somebody", 60.0, queued) is not None
    assert f"job {queued} is running" in refit(client, queued, 409)["detail"]
    empty = client.post(JOBS, json=TINY).json()["id"]
    client.post(f"{JOBS}/{empty}/cancel")
    assert f"job {empty} has no points" in refit(client, empty, 422)["detail"]
    assert "epochs" in refit(client, source, 422, epochs=0)["detail"]
    assert "'colour'" in refit(client, source, 422, colour="red")["detail"]
    assert len(store.jobs()) == 3


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"network": "mlp:5"}, 422, "35 weights"),
        ({"network": "mlp:4,activation=tanh"}, 422, "network 'mlp' is not as in job 1"),
        ({"data": "iris:validation=0.2"}, 422, "data 'iris' is not as in job 1"),
        ({"network": "mlp:5", "method": "refit"}, 422, "job"),
        ({"method": "refit:job=99"}, 404, "no job 99"),
    ],
)
def test_a_job_may_name_the_method_but_must_fit(
    client: TestClient, store: Store, source: int, change: dict[str, str], status: int, word: str
) -> None:
    answer = client.post(JOBS, json={**TINY, "method": "refit:1,epochs=1", **change})
    assert answer.status_code == status
    assert word in answer.json()["detail"]
    assert len(store.jobs()) == 1


def test_settings_beyond_the_body_s_go_through_the_method(client: TestClient, store: Store, source: int) -> None:
    job = client.post(JOBS, json={**TINY, "method": "refit:1,epochs=1,dominated=true", "points": 3}).json()
    assert work_off(store, job["id"]) == job["progress"]["expected"] == 3


def test_data_that_changed_is_refused(store: Store) -> None:
    rows = [f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(40)]
    service = Service(store)
    service.upload("mine.csv", "\n".join(["a,b,y", *rows]).encode())
    job = service.submit({**TINY, "data": "mine"})
    work_off(store, job["id"])
    store.delete_upload("mine")
    service.upload("mine.csv", "\n".join(["a,b,y", *rows[::-1], "1,1,yes"]).encode())
    with pytest.raises(Exception, match="changed since job 1"):
        service.refit(job["id"], {})


# The worker


def test_a_source_deleted_in_the_queue_fails_the_job_with_the_reason(
    client: TestClient, store: Store, source: int
) -> None:
    job_id = refit(client, source)["id"]
    assert client.delete(f"{JOBS}/{source}").status_code == 204
    assert work_off(store, job_id) == 0
    assert (store.job(job_id).state, store.job(job_id).reason) == ("failed", "there is no job 1, which this job needs")


def test_a_source_deleted_at_work_fails_the_job_and_keeps_the_points(
    client: TestClient, store: Store, source: int
) -> None:
    job_id = refit(client, source, epochs=1)["id"]
    lease = Worker(store).claim(job_id)
    assert lease is not None
    points = Worker(store).work(lease)
    next(points)
    store.delete(source)
    assert list(points) == []
    job = store.job(job_id)
    assert (job.state, job.n_points) == ("failed", 1)
    assert "job 1" in job.reason


def test_stopping_and_going_on_changes_nothing(client: TestClient, store: Store, source: int) -> None:
    whole, parts = (refit(client, source, epochs=2)["id"] for _ in range(2))
    work_off(store, whole)
    worker = Worker(store)
    lease = worker.claim(parts)
    assert lease is not None
    points = worker.work(lease)
    next(points)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(points) == []
    work_off(store, parts)
    assert len(store.front(whole)) == len(store.front(parts))
    for index in range(len(store.front(whole))):
        one, other = store.waypoint(whole, index), store.waypoint(parts, index)
        assert one.theta.tobytes() == other.theta.tobytes()
        assert one.point.loss == other.point.loss


# Points without a strength, in every form


def test_points_without_a_strength_break_nothing(client: TestClient, store: Store, source: int) -> None:
    job = f"{JOBS}/{refit(client, source, epochs=1)['id']}"
    work_off(store, int(job.rpartition("/")[2]))
    points = client.get(f"{job}/front").json()["points"]
    assert {(p["lam"], p["residual"], p["parent"]) for p in points} == {(None, None, None)}
    rows = list(csv.DictReader(io.StringIO(client.get(f"{job}/front?format=csv").text)))
    assert [(row["lam"], row["source"]) for row in rows] == [("", str(p["metrics"]["source"])) for p in points]
    for path in ("front?format=parquet", "select?knee=true", "select?sparsity=0.5", "points/0"):
        assert client.get(f"{job}/{path}").status_code == 200
    for form in ("safetensors", "state_dict", "onnx"):
        assert client.get(f"{job}/points/1/export/{form}").status_code == 200


def test_pages_show_points_without_a_strength(client: TestClient, store: Store, source: int) -> None:
    job_id = refit(client, source, epochs=1)["id"]
    work_off(store, job_id)
    found = page(client, f"/jobs/{job_id}?x=n_nonzero")
    assert f"/jobs/{source}" in [a.get("href") for a in found.all("a")]
    assert "refitted from point" in page(client, f"/jobs/{job_id}/points/0").text
    assert "pruned from point" in page(client, f"/jobs/{job_id}/points/0").text
    assert "no trade-off" in page(client, f"/jobs/{job_id}/points/0").text
    for x in ("lam", "residual", "source", "n_nonzero"):
        assert client.get(f"/jobs/{job_id}/figure.json?x={x}").status_code == 200


# The pages


@pytest.mark.parametrize(
    ("state", "n_points", "offered"),
    [
        ("completed", 2, True),
        ("failed", 2, True),
        ("cancelled", 2, True),
        ("failed", 0, False),
        ("running", 2, False),
        ("paused", 2, False),
    ],
)
def test_ended_jobs_with_points_offer_a_refit(
    client: TestClient, store: Store, state: str, n_points: int, offered: bool
) -> None:
    found = page(client, f"/jobs/{in_state(store, state, n_points)}")
    assert ("refit" in {button.get("id") for button in found.all("button")}) == offered


def test_the_form_offers_only_methods_that_need_no_other_job(client: TestClient, source: int) -> None:
    job_id = refit(client, source)["id"]
    for url in ("/jobs/new", f"/jobs/new?from={job_id}"):
        found = page(client, url)
        options = {option.get("value"): option for option in found.all("option")}
        assert "refit" not in options
        assert "selected" in options["continuation"]


# The command line


def run(*command: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", settings.url)
    return settings


def test_the_command_refits_and_prints_the_new_front(here: Settings, store: Store, source: int) -> None:
    table = run("refit", str(source), "--epochs", "1", "--name", "mine", "--tag", "a")
    assert "job 2 completed" in table.stdout
    assert "point 0: sparsity" in table.stderr
    assert (store.job(2).name, store.job(2).tags) == ("mine", ("a",))
    document = json.loads(run("refit", str(source), "--epochs", "1", "--json").stdout)
    assert document == front_document(store.job(3), store.front(3, layers=False))
    assert document["job"]["spec"]["method"]["params"] == {"job": source, "epochs": 1}
    assert "refit of tiny" in run("jobs").stdout


@pytest.mark.parametrize(("command", "word"), [(["refit", "99"], "99"), (["refit", "1", "--epochs", "0"], "epochs")])
def test_a_bad_refit_exits_with_2_and_a_sentence(here: Settings, source: int, command: list[str], word: str) -> None:
    assert word in run(*command, code=2).stderr
