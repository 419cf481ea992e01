"""Studies: what is asked for, validated as a whole, run side by side, steered together, and compared."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app.composing import seeds
from app.executors.local import LocalExecutor
from app.plots import compare_figure
from app.routes.pages import PAGE_SIZE, RECENT_STUDIES
from app.schemas import MOST_JOBS, StudyIn
from app.service import Service, open_store
from app.settings import Settings
from app.studying import side_by_side, standings
from engine.errors import InvalidSpec
from tests.app.conftest import CHEAP, TINY, browse, settings_in, work_off
from tests.app.test_executor import SLOW, uninterrupted
from tests.app.test_pages import Page, page

STUDIES = "/api/v1/studies"
ASKED: dict[str, Any] = {"networks": ["mlp:3", "linear"], "data": "iris", "points": 5, "methods": [CHEAP, "pruning"]}
ONE: dict[str, Any] = {"networks": ["mlp:4"], "data": "iris", "points": 5, "methods": [CHEAP], "name": "iris"}


def submit(client: TestClient, status: int = 201, headers: dict[str, str] | None = None, **change: Any) -> Any:
    answer = client.post(STUDIES, json={**ASKED, **change}, headers=headers or {})
    assert answer.status_code == status, answer.text
    return answer.json()


def made_of(job: Any) -> tuple[Any, ...]:
    spec = job["spec"]
    return (spec["seed"], *(spec[kind]["name"] for kind in ("network", "penalty", "method")))


# What is asked for


def test_there_is_a_job_for_each_seed_network_penalty_and_method(client: TestClient) -> None:
    study = submit(client, seeds=2, penalties=["l1", "mcp"], name="all", tags=["t"])
    assert [made_of(job) for job in study["jobs"]] == [
        (seed, network, penalty, method)
        for seed in (0, 1)
        for network in ("mlp", "linear")
        for penalty in ("l1", "mcp")
        for method in ("continuation", "pruning")
    ]
    assert {(job["name"], *job["tags"], job["study"]) for job in study["jobs"]} == {("all", "t", study["id"])}
    assert {job["facts"]["n_params"] for job in study["jobs"] if job["spec"]["network"]["name"] == "linear"} == {15}
    assert study["progress"]["states"] == {"queued": 16}
    assert client.get(f"{STUDIES}/{study['id']}").json() == study
    assert client.get("/api/v1/jobs/1").json() == study["jobs"][0]


def test_a_job_of_a_study_is_the_job_that_would_be_asked_for_alone(client: TestClient) -> None:
    member = submit(client, seeds=[7])["jobs"][0]
    alone = client.post(
        "/api/v1/jobs", json={"network": "mlp:3", "data": "iris", "points": 5, "method": CHEAP, "seed": 7}
    )
    for what in ("spec", "facts"):
        assert member[what] == alone.json()[what]


@settings(max_examples=25, deadline=None)
@given(
    st.one_of(st.integers(1, 11), st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True)),
    st.sets(st.sampled_from(["linear", "mlp:3", "mlp:4"]), min_size=1),
    st.sets(st.sampled_from(["continuation", "pruning", "population"]), min_size=1),
)
def test_the_product_has_every_combination_once(asked: Any, networks: set[str], methods: set[str]) -> None:
    study = StudyIn.model_validate(
        {"networks": list(networks), "methods": list(methods), "data": "iris", "seeds": asked}
    )
    specs = study.specs()
    assert len({(str(spec.network), str(spec.method)) for spec in specs}) == len(specs) == len(networks) * len(methods)
    assert study.each_seed == (list(range(asked)) if isinstance(asked, int) else asked)
    assert {spec.seed for spec in specs} == {study.each_seed[0]}
    assert StudyIn.model_validate(study.plain()) == study.model_copy(update={"seeds": study.each_seed})


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"networks": []}, ["networks"]),
    ({"networks": "mlp"}, ["networks", "'mlp'"]),
    ({"networks": ["mlp:3", "mpl"]}, ["networks.1", "'mpl'", "known", "mlp"]),
    ({"networks": ["mlp:3", "lenet5"]}, ["'lenet5'", "(4,)"]),
    ({"network": "mlp"}, ["'network'", "known", "networks"]),
    ({"methods": ["pruning", "magic"]}, ["'magic'", "known", "continuation"]),
    ({"methods": [CHEAP, CHEAP]}, ["methods", "continuation", "more than once"]),
    ({"methods": ["pruning", "refit:job=99"]}, ["99"]),
    ({"seeds": 0}, ["seeds", "0"]),
    ({"seeds": "some"}, ["seeds", "'some'"]),
    ({"seeds": []}, ["seeds"]),
    ({"seeds": [0, -1]}, ["seeds", "1", "-1"]),
    ({"seeds": [3, 4, 3]}, ["seeds has 3 more than once"]),
    ({"seeds": MOST_JOBS // 4 + 1}, ["104 jobs", f"at most {MOST_JOBS}"]),
    ({"seeds": MOST_JOBS + 1}, ["seeds", str(MOST_JOBS)]),
    ({"points": 0}, ["points", "0"]),
    ({"data": "diabetes", "loss": "cross_entropy"}, ["cross_entropy"]),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=str)
def test_a_study_is_refused_as_a_whole(client: TestClient, change: dict[str, Any], words: list[str]) -> None:
    answer = client.post(STUDIES, json={**ASKED, **change})
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"]
    assert client.get(STUDIES).json() == {"studies": [], "next": None}
    assert client.get("/api/v1/jobs").json()["jobs"] == []


def test_files_and_code_are_refused_where_jobs_may_not_name_them(client: TestClient) -> None:
    submit(client, 403, data="/etc/secrets.npz")
    submit(client, 403, networks=["linear", {"name": "os:system"}])
    assert client.get("/api/v1/jobs").json()["jobs"] == []


def test_the_same_key_gives_the_same_study(client: TestClient) -> None:
    headers = {"Idempotency-Key": "monday"}
    study = submit(client, headers=headers, seeds=2)
    assert submit(client, headers=headers, seeds=[0, 1]) == study
    assert len(client.get("/api/v1/jobs").json()["jobs"]) == 8
    assert "'monday'" in submit(client, 409, headers=headers, seeds=3)["detail"]


@pytest.mark.parametrize(("text", "found"), [("5", 5), ("0,7,8", [0, 7, 8]), ("7,", [7]), (" 3 ", 3), (None, None)])
def test_seeds_are_typed_as_a_count_or_a_list(text: str | None, found: Any) -> None:
    assert seeds(text) == found


@pytest.mark.parametrize("text", ["", "a", "1,b", "-1", "1,,2", "²"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="such as 5, or which, such as 0,7,8"):
        seeds(text)


# Looking, steering, deleting


def test_studies_are_listed_in_pages(client: TestClient) -> None:
    for _ in range(3):
        submit(client, seeds=1, methods=["pruning"])
    first = client.get(STUDIES, params={"limit": 2}).json()
    rest = client.get(STUDIES, params={"limit": 2, "cursor": first["next"]}).json()
    assert [study["id"] for found in (first, rest) for study in found["studies"]] == [3, 2, 1]
    assert rest["next"] is None
    assert "jobs" not in first["studies"][0]


@pytest.mark.slow
def test_a_study_is_paused_resumed_cancelled_and_deleted(client: TestClient) -> None:
    url = f"{STUDIES}/{submit(client)['id']}"
    for what, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("resume", "queued")):
        study = client.post(f"{url}/{what}").json()
        assert (study["state"], {job["state"] for job in study["jobs"]}) == (state, {state})
    assert client.post(f"{url}/resume").status_code == 409
    assert client.delete(url).status_code == 204
    for answer in (client.get(url), client.delete(url), client.post(f"{url}/pause"), client.get(f"{url}/front")):
        assert answer.status_code == 404
        assert "no study 1" in answer.json()["detail"]
    assert client.get("/api/v1/jobs").json()["jobs"] == []


def test_a_study_with_a_running_job_is_not_deleted(client: TestClient) -> None:
    study = submit(client, seeds=1)
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    service.store.claim("w", 60.0)
    assert client.delete(f"{STUDIES}/{study['id']}").status_code == 409
    assert len(client.get(f"{STUDIES}/{study['id']}").json()["jobs"]) == 4


# The fronts together


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A database with a study of three seeds of two methods, all traced; to be read only."""
    found = settings_in(tmp_path_factory.mktemp("study"))
    with open_store(found) as store:
        for job in Service(store).submit_study({**ONE, "methods": [CHEAP, "weighted_sum:epochs=2"]})["jobs"]:
            work_off(store, job["id"])
    return found


@pytest.fixture
def seen(finished: Settings) -> Iterator[TestClient]:
    with browse(finished) as found:
        yield found


@pytest.mark.slow
def test_the_fronts_come_together_in_groups_of_seeds(seen: TestClient) -> None:
    document = seen.get(f"{STUDIES}/1/front").json()
    groups = document["groups"]
    assert [(group["label"], group["jobs"]) for group in groups] == [
        ("continuation", [1, 3, 5]),
        ("weighted_sum", [2, 4, 6]),
    ]
    assert all(group["attainment"][level] for group in groups for level in ("best", "median", "worst"))
    compared = seen.get("/api/v1/compare", params={"jobs": "1,2,3,4,5,6"}).json()
    assert {name: document[name] for name in compared} == compared
    assert document["study"]["state"] == "completed"


def test_objectives_are_chosen_and_checked(seen: TestClient) -> None:
    chosen = seen.get(f"{STUDIES}/1/front", params={"objectives": "n_nonzero,test_accuracy"}).json()
    assert chosen["objectives"] == ["n_nonzero", "test_accuracy"]
    assert "'beauty'" in seen.get(f"{STUDIES}/1/front", params={"objectives": "loss,beauty"}).json()["detail"]


def test_jobs_without_points_and_studies_without_jobs_have_a_document(client: TestClient) -> None:
    study = submit(client, methods=["pruning"], networks=["linear"], seeds=2)
    assert client.get(f"{STUDIES}/1/front").json()["reference"] is None
    for job in study["jobs"]:
        client.delete(f"/api/v1/jobs/{job['id']}")
    assert client.get(f"{STUDIES}/1/front").json()["fronts"] == []
    assert client.get(f"{STUDIES}/1").json()["state"] == "completed"
    assert "no jobs" in page(client, "/studies/1").text
    assert client.get("/studies/1/figure.json").status_code == 200


# Pages


def test_the_page_of_a_study_shows_its_jobs_and_their_fronts(seen: TestClient) -> None:
    found = page(seen, "/studies/1")
    hrefs = {a.get("href", "") for a in found.all("a")}
    assert {f"/jobs/{job}" for job in range(1, 7)} <= hrefs
    assert "/api/v1/studies/1/front?objectives=l1%2Closs" in hrefs
    assert page(seen, "/compare?jobs=1,2,3,4,5,6").by_id("differences")
    assert "/compare?jobs=1,2,3,4,5,6" in hrefs
    assert found.by_id("plot")["role"] == "img"
    for said in ("iris", "6 completed", "seeds 0, 1, 2", "weighted_sum (epochs 2)", "Coverage"):
        assert said in found.text
    assert "/studies/1" in {a.get("href") for a in page(seen, "/jobs/1").all("a")}
    assert "/studies/1" in {a.get("href") for a in page(seen, "/").all("a")}


@pytest.mark.slow
def test_the_newest_studies_stand_above_the_jobs_and_all_on_a_page_of_their_own(client: TestClient) -> None:
    assert "hidden" in page(client, "/").by_id("recent-studies")
    assert "there is none yet" in page(client, "/studies").text
    for number in range(1, PAGE_SIZE + 2):
        submit(client, seeds=[number], methods=["pruning"], networks=["linear"], name=f"study {number}")
    index, first, rest = (page(client, url) for url in ("/", "/studies", "/studies?before=2"))
    assert "hidden" not in index.by_id("recent-studies")
    assert studies_on(index) == [PAGE_SIZE + 1 - i for i in range(RECENT_STUDIES)]
    assert studies_on(first) == [*range(PAGE_SIZE + 1, 1, -1)]
    assert studies_on(rest) == [1]
    assert "/studies?before=2" in {a.get("href") for a in first.all("a")}
    for said in (f"study {PAGE_SIZE + 1}", "1 queued", "linear on iris"):
        assert said in index.text
        assert said in first.text
    assert studies_on(page(client, "/?before=2")) == []


def studies_on(found: Page) -> list[int]:
    rows = [values["id"] for values in found.all("li") if values.get("id", "").startswith("study-")]
    return [int(row.removeprefix("study-")) for row in rows]


def test_the_figure_of_a_study_has_a_band_for_each_method(seen: TestClient, finished: Settings) -> None:
    figure = seen.get("/studies/1/figure.json", params={"log_x": True}).json()
    assert sum(trace.get("fill") == "toself" for trace in figure["data"]) == 2
    with open_store(finished) as store:
        expected = compare_figure(Service(store).compared(range(1, 7))).to_plotly_json()
    assert [trace["name"] for trace in figure["data"] if "name" in trace] == [
        trace["name"] for trace in expected["data"] if "name" in trace
    ]


def test_what_cannot_be_shown_is_said_on_the_page(seen: TestClient) -> None:
    found = page(seen, "/studies/1?objectives=loss,beauty", 422)
    assert "'beauty'" in found.text
    assert "hidden" not in found.by_id("problem")
    assert "no study 9" in page(seen, "/studies/9", 404).text


@pytest.mark.slow
def test_the_form_offers_seeds_and_further_methods(client: TestClient) -> None:
    found = page(client, "/jobs/new")
    assert (found.by_id("seeds")["value"], found.by_id("seeds")["max"]) == ("1", str(MOST_JOBS))
    further = [box["value"] for box in found.all("input") if box.get("name") == "further"]
    assert {"continuation", "weighted_sum"} <= set(further)
    assert "refit" not in further


# Workers


def test_jobs_run_at_a_time_as_many_as_there_is_room_for() -> None:
    assert side_by_side(1) == 1
    assert 1 <= side_by_side(10_000) <= max(os.cpu_count() or 1, 64)


@pytest.mark.slow
def test_a_killed_worker_of_a_study_leaves_the_others_alone(tmp_path: Path) -> None:
    asked = {**ONE, "networks": [SLOW["network"]], "methods": [SLOW["method"]], "points": SLOW["points"], "seeds": 2}
    here = settings_in(tmp_path, slots=2, grace_seconds=15.0)
    with open_store(here) as store:
        service = Service(store, allow_paths=True)
        bystander = service.submit(TINY)["id"]
        killed, spared = (job["id"] for job in service.submit_study(asked)["jobs"])
        executor = LocalExecutor(store, here, study_id=1)
        executor.start()
        try:
            for event in service.follow(killed):
                if event["kind"] == "point" and event["data"]["index"] >= 2:
                    break
            os.kill(executor.pids()[killed], signal.SIGKILL)
            *_, last = standings(service, 1, 0.05)
        finally:
            executor.close()
        assert last["state"] == "completed", last
        assert store.job(bystander).state == "queued"
        texts = {job: [event.data["text"] for event in store.logs(job)] for job in (killed, spared)}
        assert [len([text for text in found if "worker" in text]) for found in texts.values()] == [3, 1]
        assert "SIGKILL" in texts[killed][1]
        losses = [[point.loss for point in store.front(job)] for job in (killed, spared)]
    alone = {"network": SLOW["network"], "method": SLOW["method"], "data": "iris", "points": SLOW["points"]}
    for seed, found in enumerate(losses):
        assert found == uninterrupted(tmp_path / str(seed), {**alone, "seed": seed})
