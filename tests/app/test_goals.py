"""More asked of a job: over REST, on the command line, on the pages, by a worker that is killed on the way."""

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
from engine.front import Front
from storage.errors import NotFound
from storage.records import JobState
from storage.store import Store
from tests.app.conftest import TINY, work_off
from tests.app.test_pages import in_state, page

pytestmark = pytest.mark.slow

JOBS = "/api/v1/jobs"


@pytest.fixture
def traced(store: Store) -> int:
    """A job that has ended."""
    job = Service(store).submit(JobIn.model_validate(TINY))
    work_off(store, job["id"])
    return int(job["id"])


def ask(client: TestClient, job_id: int, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{JOBS}/{job_id}/{path}", json=body)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


def bits(store: Store, job_id: int) -> list[bytes]:
    return [store.waypoint(job_id, p.index).theta.tobytes() for p in store.front(job_id)]


# Over REST


def test_more_points_join_the_front_and_the_stored_ones_stay(client: TestClient, store: Store, traced: int) -> None:
    before, numbers = bits(store, traced), client.get(f"{JOBS}/{traced}/front").json()["points"]
    job = ask(client, traced, "extend", points=3)
    assert (job["state"], job["progress"]["expected"]) == ("queued", len(before) + 3)
    assert job["goals"] == [{"name": "fill", "params": {"points": 3}}]
    assert work_off(store, traced) >= 3
    document = client.get(f"{JOBS}/{traced}/front").json()
    assert bits(store, traced)[: len(before)] == before
    assert document["points"][: len(before)] == numbers
    assert [p["index"] for p in document["points"]] == list(range(len(document["points"])))
    assert (document["job"]["state"], "more points wanted" in document["job"]["reason"]) == ("completed", True)


@pytest.mark.slow
def test_a_finer_stretch_and_a_sparser_end(client: TestClient, store: Store, traced: int) -> None:
    front = store.front(traced).non_dominated().points
    low, high = front[1], front[2]
    ask(client, traced, "extend", between=[high.index, low.index], points=2)
    n_new = work_off(store, traced)
    new = store.front(traced).points[-n_new:]
    assert n_new >= 2
    assert all(low.penalty < p.penalty < high.penalty for p in new)
    end = max(p.sparsity for p in store.front(traced)) + 0.03
    ask(client, traced, "extend", end=end)
    work_off(store, traced)
    assert max(p.sparsity for p in store.front(traced)) >= end


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        ({"nonzeros": 11}, lambda p: p.n_nonzero == 11),
        ({"sparsity": 0.6}, lambda p: p.sparsity >= 0.6 and p.n_nonzero == 14),
        ({"lam": 0.02}, lambda p: p.lam == 0.02),
        ({"loss": 0.5}, lambda p: p.loss <= 0.5),
    ],
)
def test_a_target_is_met(client: TestClient, store: Store, traced: int, target: dict[str, Any], reached: Any) -> None:
    before = len(store.front(traced))
    assert ask(client, traced, "solve", **target)["state"] == "queued"
    work_off(store, traced)
    new = store.front(traced).points[before:]
    assert any(map(reached, new))
    assert {p.metrics["goal"] for p in new} == {1.0}
    assert "Point" in store.job(traced).reason


def test_the_spec_of_an_extended_job_is_that_of_the_same_job_anew(
    client: TestClient, store: Store, traced: int
) -> None:
    submitted = client.get(f"{JOBS}/{traced}").json()
    assert (submitted["goals"], submitted["over"]) == ([], 0)
    ask(client, traced, "extend", points=1)
    work_off(store, traced)
    ask(client, traced, "solve", nonzeros=9)
    found = client.get(f"{JOBS}/{traced}").json()
    assert [goal["name"] for goal in found["goals"]] == ["fill", "nonzeros"]
    assert found["over"] == 2
    assert found["spec"] == submitted["spec"]
    answer = client.post(JOBS, json=found["spec"])
    assert answer.status_code == 201, answer.text
    assert {name: answer.json()[name] for name in ("spec", "facts", "goals")} == {
        name: submitted[name] for name in ("spec", "facts", "goals")
    }
    assert '"name": "fill"' in page(client, f"/jobs/{traced}").text


@pytest.mark.slow
def test_several_goals_one_after_the_other(client: TestClient, store: Store, traced: int) -> None:
    for number, body in enumerate(({"nonzeros": 9}, {"nonzeros": 8}), 1):
        ask(client, traced, "solve", **body)
        work_off(store, traced)
        assert len(client.get(f"{JOBS}/{traced}").json()["goals"]) == number
    found = {int(p.metrics["goal"]): p.n_nonzero for p in store.front(traced) if "goal" in p.metrics}
    assert (found[1], found[2]) == (9, 8)
    for path in ("front?format=csv", "front?format=parquet", "front?orient=columns", "select?sparsity=0.5"):
        assert client.get(f"{JOBS}/{traced}/{path}").status_code == 200


def test_more_budget_has_the_method_go_on(client: TestClient, store: Store) -> None:
    job_id = client.post(JOBS, json={**TINY, "budget": {"epochs": 60}}).json()["id"]
    work_off(store, job_id)
    begun = bits(store, job_id)
    assert "budget of 60 epochs" in store.job(job_id).reason
    ask(client, job_id, "solve", nonzeros=12)
    work_off(store, job_id)
    spent = store.job(job_id).effort
    job = ask(client, job_id, "extend", epochs=5000)
    assert job["goals"][1] == {"name": "budget", "params": {"epochs": spent + 5000}}
    assert work_off(store, job_id) > 0
    own = [p for p in store.front(job_id) if "goal" not in p.metrics]
    assert len(own) >= 6 > len(begun)
    assert bits(store, job_id)[: len(begun)] == begun


@pytest.mark.slow
@pytest.mark.parametrize("state", ["paused", "cancelled", "failed"])
def test_unfinished_jobs(client: TestClient, store: Store, state: str) -> None:
    job_id = client.post(JOBS, json=TINY).json()["id"]
    stop_after(store, job_id, 3, state)
    job = ask(client, job_id, "solve", nonzeros=12)
    assert job["over"] == (0 if state == "paused" else 1)
    work_off(store, job_id)
    own = Front(tuple(p for p in store.front(job_id) if "goal" not in p.metrics))
    assert len(own.non_dominated() if state == "paused" else own) == (6 if state == "paused" else 3)
    ask(client, job_id, "extend", points=1)
    work_off(store, job_id)
    assert store.job(job_id).state == "completed"


def stop_after(store: Store, job_id: int, n_points: int, state: str) -> None:
    lease = Worker(store).claim(job_id)
    assert lease is not None
    points = Worker(store).work(lease)
    for _ in range(n_points):
        next(points)
    if state == "paused":
        store.request(job_id, "pause")
        store.release(lease)
    else:
        store.finish(lease, JobState(state), "as the test wants")
    points.close()


def test_what_is_left_undone_is_done_before_more_points(client: TestClient, store: Store) -> None:
    job_id = client.post(JOBS, json=TINY).json()["id"]
    stop_after(store, job_id, 3, "cancelled")
    assert ask(client, job_id, "extend", points=2)["progress"]["expected"] == 8
    work_off(store, job_id)
    own = tuple(p for p in store.front(job_id) if "goal" not in p.metrics)
    assert len(Front(own).non_dominated()) == 6


def test_the_body_of_a_job_gives_the_same_job_after_more_was_asked(client: TestClient, store: Store) -> None:
    first, again = (client.post(JOBS, json=TINY, headers={"Idempotency-Key": "k"}).json() for _ in range(2))
    work_off(store, first["id"])
    ask(client, first["id"], "solve", nonzeros=12)
    third = client.post(JOBS, json=TINY, headers={"Idempotency-Key": "k"})
    assert (again["id"], third.status_code, third.json()["id"]) == (first["id"], 201, first["id"])
    assert client.post(JOBS, json={**TINY, "points": 7}, headers={"Idempotency-Key": "k"}).status_code == 409


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("extend", {}, "say what more is wanted: points"),
    ("extend", {"points": 0}, "points"),
    ("extend", {"points": 2.5}, "points"),
    ("extend", {"colour": 1}, "unknown field 'colour'"),
    ("extend", {"between": [0, 1]}, "between [0, 1] needs points"),
    ("extend", {"between": [0, 1], "points": 1, "end": 0.99}, "no end"),
    ("extend", {"between": [0], "points": 1}, "between"),
    ("extend", {"between": [2, 2], "points": 1}, "two different points"),
    ("extend", {"between": [0, 77], "points": 1}, "there is no point 77"),
    ("extend", {"end": 0.1}, "no further end"),
    ("extend", {"end": 1.0}, "end"),
    ("extend", {"end": 0.999}, "leaves none of 35 weights; give at most 0.971428"),
    ("extend", {"epochs": 10}, "no budget of epochs to raise; give points or end"),
    ("extend", {"seconds": 10}, "no budget of seconds to raise"),
    ("solve", {}, "exactly one of nonzeros, sparsity, lam, loss, not none"),
    ("solve", {"nonzeros": 3, "loss": 0.1}, "not nonzeros, loss"),
    ("solve", {"nonzeros": 36}, "more than the network's 35 weights"),
    ("solve", {"nonzeros": 0}, "nonzeros"),
    ("solve", {"sparsity": 0.99}, "leaves none of 35 weights; give at most 0.971428"),
    ("solve", {"lam": 0}, "lam"),
    ("solve", {"loss": -1}, "loss"),
]


def test_what_cannot_be_is_refused_and_nothing_changes(client: TestClient, store: Store, traced: int) -> None:
    before = store.job(traced)
    for path, body, words in REFUSED:
        assert words in ask(client, traced, path, 422, **body)["detail"]
    assert store.job(traced) == before


def test_jobs_that_cannot_go_on(client: TestClient, store: Store) -> None:
    for path, body in (("extend", {"points": 2}), ("solve", {"loss": 0.1})):
        assert "no job 99" in ask(client, 99, path, 404, **body)["detail"]
        queued = client.post(JOBS, json=TINY).json()["id"]
        assert f"job {queued} is queued" in ask(client, queued, path, 409, **body)["detail"]
        client.post(f"{JOBS}/{queued}/cancel")
        assert f"job {queued} has no points to go on from" in ask(client, queued, path, 422, **body)["detail"]


def test_another_budget_that_is_used_up_too_is_named(client: TestClient, store: Store) -> None:
    job_id = client.post(JOBS, json={**TINY, "budget": {"epochs": 60, "seconds": 1e-6}}).json()["id"]
    work_off(store, job_id)
    said = ask(client, job_id, "extend", 422, epochs=100)["detail"]
    assert said == "the budget of 1e-06 seconds is used up as well; give seconds, too"


@pytest.mark.slow
def test_a_refit_goes_on_without_its_source_and_refits_anew_of_an_extended_job(
    client: TestClient, store: Store, traced: int
) -> None:
    ask(client, traced, "solve", nonzeros=9)
    work_off(store, traced)
    refitted = client.post(f"{JOBS}/{traced}/refit", json={"epochs": 1}).json()
    assert (refitted["goals"], refitted["over"]) == ([], 0)
    work_off(store, refitted["id"])
    client.delete(f"{JOBS}/{traced}")
    with pytest.raises(NotFound):
        store.job(traced)
    ask(client, refitted["id"], "solve", nonzeros=10)
    work_off(store, refitted["id"])
    assert store.job(refitted["id"]).state == "completed"
    assert 10 in {p.n_nonzero for p in store.front(refitted["id"])}


# A worker that is stopped


@pytest.mark.slow
def test_a_stopped_search_ends_in_the_same_bits(client: TestClient, store: Store) -> None:
    whole, parts = (client.post(JOBS, json=TINY).json()["id"] for _ in range(2))
    for job_id in (whole, parts):
        work_off(store, job_id)
        ask(client, job_id, "extend", points=4)
    work_off(store, whole)
    worker = Worker(store)
    lease = worker.claim(parts)
    assert lease is not None
    points = worker.work(lease)
    next(points)
    os.kill(os.getpid(), signal.SIGTERM)
    assert list(points) == []
    assert store.job(parts).state == "queued"
    work_off(store, parts)
    assert bits(store, whole) == bits(store, parts)
    assert store.job(whole).reason == store.job(parts).reason


# The pages


@pytest.mark.parametrize(
    ("state", "n_points", "offered"),
    [("completed", 2, True), ("failed", 2, True), ("paused", 2, True), ("running", 2, False), ("cancelled", 0, False)],
)
def test_resting_jobs_with_points_can_be_asked_for_more(
    client: TestClient, store: Store, state: str, n_points: int, offered: bool
) -> None:
    found = page(client, f"/jobs/{in_state(store, state, n_points)}")
    paths = {form.get("data-path") for form in found.all("form")} - {None}
    assert paths == ({"solve", "extend"} if offered else set())


def test_pages_show_points_that_were_asked_for(client: TestClient, store: Store, traced: int) -> None:
    ask(client, traced, "solve", nonzeros=9)
    work_off(store, traced)
    index = next(p.index for p in store.front(traced) if p.n_nonzero == 9)
    assert "asked for by goal" in page(client, f"/jobs/{traced}/points/{index}").text
    assert "9 nonzero weights" in page(client, f"/jobs/{traced}").text
    for x in ("penalty", "n_nonzero", "lam", "test_accuracy"):
        assert client.get(f"/jobs/{traced}/figure.json?x={x}").status_code == 200


# The command line


def run(*command: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", settings.url)
    return settings


def test_the_commands_go_on_with_a_job_and_print_its_front(here: Settings, store: Store, traced: int) -> None:
    n_points = len(store.front(traced))
    table = run("extend", str(traced), "--points", "1", "--between", "0", "1")
    assert "between points 0 and 1 were found" in table.stdout
    assert f"point {n_points}: sparsity" in table.stderr
    assert "point 0: sparsity" not in table.stderr
    document = json.loads(run("solve", str(traced), "--nonzeros", "9", "--json").stdout)
    assert document == front_document(store.job(traced), store.front(traced, layers=False))
    assert 9 in {p["n_nonzero"] for p in document["points"]}
    assert "holds the strength 0.02" in run("solve", str(traced), "--lambda", "0.02").stdout
    assert "no further end" in run("extend", str(traced), "--end", "0.1", code=2).stderr


def test_bad_wishes_exit_with_2_and_a_sentence(here: Settings, traced: int) -> None:
    assert "no job 99" in run("extend", "99", "--points", "1", code=2).stderr
    assert "say what more is wanted" in run("extend", "1", code=2).stderr
    assert "exactly one of" in run("solve", "1", code=2).stderr
    assert "sparsity" in run("solve", "1", "--sparsity", "1.5", code=2).stderr
    assert "35 weights" in run("solve", "1", "--nonzeros", "36", code=2).stderr
