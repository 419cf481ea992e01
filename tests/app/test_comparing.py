"""Fronts of several jobs: on one scale or refused, seeds together, what it took; the same as document and as page."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.comparing import axes, compare_document, compared
from app.lineages import lineage
from app.plots import compare_figure, difference_figure
from app.service import Service
from engine.comparison import compare as figures_of
from engine.front import Front
from storage.records import JobState
from storage.store import Store
from tests.app.test_pages import Page, page
from tests.storage.examples import FACTS, SPEC, a_point, a_waypoint

FACTS_HERE = {**FACTS, "data_digest": "one" * 9, "loss": "cross_entropy", "input_shape": [3], "n_outputs": 2}


def done(store: Store, losses: tuple[float, ...] = (3, 2, 1), facts: Mapping[str, Any] = {}, **spec: Any) -> int:
    """A completed job with one point for each of `losses`, ever denser."""
    job = store.submit({**SPEC, **spec}, {**FACTS_HERE, **facts}, name=f"job of seed {spec.get('seed', 0)}")
    lease = store.claim("w", 60, job.id)
    assert lease is not None
    for i, loss in enumerate(losses):
        store.append(lease, a_waypoint(i, loss=loss, penalty=i + 1.0, metrics={"l1": i + 1.0, "test_accuracy": i / 10}))
    store.finish(lease, JobState.COMPLETED, "")
    return job.id


def method(name: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": params}


@pytest.fixture
def seeds(store: Store) -> list[int]:
    """Three seeds of each of two methods; the second is worse."""
    good = [done(store, (3, 2, 1 + s / 10), method=method("continuation"), seed=s) for s in range(3)]
    return good + [done(store, (4, 3, 2 + s / 10), method=method("pruning"), seed=s) for s in range(3)]


def asked(client: TestClient, jobs: list[int], objectives: str = "", status: int = 200) -> Any:
    query = {"jobs": ",".join(map(str, jobs)), "objectives": objectives}
    answer = client.get("/api/v1/compare", params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.slow
def test_the_document_says_what_the_engine_computes(client: TestClient, store: Store, seeds: list[int]) -> None:
    document = asked(client, seeds)
    fronts = [store.front(job) for job in seeds]
    expected = figures_of(fronts, ("l1", "loss"))
    assert document["objectives"] == ["l1", "loss"]
    assert (tuple(document["ideal"]), tuple(document["reference"])) == (expected.ideal, expected.reference)
    assert [tuple(row) for row in document["coverage"]] == list(expected.coverage)
    assert [entry["share"] for entry in document["fronts"]] == [merit.share for merit in expected.merits]
    assert document == Service(store).compare(seeds)


@pytest.mark.slow
def test_seeds_are_one_group_and_methods_are_not(client: TestClient, seeds: list[int]) -> None:
    document = asked(client, seeds)
    assert [group["jobs"] for group in document["groups"]] == [seeds[:3], seeds[3:]]
    assert [group["label"] for group in document["groups"]] == ["continuation", "pruning"]
    assert [entry["group"] for entry in document["fronts"]] == [0, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_groups_of_three_seeds_have_surfaces_and_differences(client: TestClient, seeds: list[int]) -> None:
    document = asked(client, seeds)
    surfaces = document["groups"][0]["attainment"]
    assert [surfaces[level][-1] for level in ("best", "median", "worst")] == [[3, 1], [3, 1.1], [3, 1.2]]
    assert document["differences"][0]["groups"] == [0, 1]
    assert all(region["share"] > 0 for region in document["differences"][0]["regions"])
    fewer = asked(client, seeds[1:])
    assert fewer["groups"][0]["attainment"] is None
    assert fewer["differences"] == []


@pytest.mark.slow
def test_what_is_maximised_is_told_in_its_own_unit(client: TestClient, seeds: list[int]) -> None:
    document = asked(client, seeds, "l1,test_accuracy")
    assert document["ideal"] == [1, 0.2]
    assert document["reference"] == [3, 0]
    assert document["groups"][0]["attainment"]["worst"][-1] == [3, 0.2]


@pytest.mark.slow
def test_settings_are_named_where_names_do_not_tell_methods_apart(client: TestClient, store: Store) -> None:
    jobs = [done(store, method=method("pruning", steps=n)) for n in (3, 4)]
    jobs.append(done(store, method=method("pruning", steps=4), points=9))
    labels = [group["label"] for group in asked(client, jobs)["groups"]]
    assert labels == [
        "pruning (steps 3)",
        f"pruning (steps 4) as in job {jobs[1]}",
        f"pruning (steps 4) as in job {jobs[2]}",
    ]


@pytest.mark.slow
def test_refits_of_seeds_are_seeds_and_cost_what_they_build_on(client: TestClient, store: Store) -> None:
    sources = [done(store, method=method("continuation"), seed=s, points=3) for s in range(2)]
    refits = [
        done(store, facts={"follows": job}, method=method("refit", job=job, epochs=2), seed=s, points=3 + s)
        for s, job in enumerate(sources)
    ]
    document = asked(client, [sources[0], *refits])
    assert [group["label"] for group in document["groups"]] == ["continuation", "refit of continuation"]
    alone, together = (entry["cost"] for entry in document["fronts"][:2])
    assert together["jobs"] == [refits[0], sources[0]]
    assert (together["effort"], together["seconds"]) == (2 * alone["effort"], 2 * alone["seconds"])
    store.delete(sources[0])
    assert asked(client, [refits[0]])["fronts"][0]["cost"]["jobs"] == [refits[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "spec", "objectives", "words"),
    [
        ({"data_digest": "two"}, {"data": {"name": "iris", "params": {}}}, "", ["data", "have digits", "has iris"]),
        ({"data_digest": "two"}, {}, "", ["data", "digits (digest oneoneon)", "digits (digest two)"]),
        ({"loss": "squared_error"}, {}, "l1,loss", ["losses", "cross_entropy", "squared_error"]),
        ({"loss": "squared_error"}, {}, "l1,test_loss", ["losses", "cross_entropy", "squared_error"]),
        ({}, {"penalty": {"name": "mcp", "params": {"gamma": 3}}}, "penalty,loss", ["penalties", "mcp (gamma 3)"]),
    ],
)
def test_what_does_not_mean_the_same_is_refused(
    client: TestClient, store: Store, facts: Any, spec: Any, objectives: str, words: list[str]
) -> None:
    penalty = {"penalty": {"name": "l1", "params": {}}}
    jobs = [done(store, **penalty), done(store, **penalty), done(store, facts=facts, **{**penalty, **spec})]
    said = asked(client, jobs, objectives, 422)["detail"]
    for word in [f"jobs {jobs[0]} and {jobs[1]} have", f"job {jobs[2]} has", *words]:
        assert word in said


def test_accuracy_over_size_is_compared_whatever_the_loss_and_the_penalty(client: TestClient, store: Store) -> None:
    jobs = [done(store), done(store, facts={"loss": "squared_error"}, penalty={"name": "mcp", "params": {}})]
    assert len(asked(client, jobs, "n_nonzero,test_accuracy")["fronts"]) == 2


@pytest.mark.slow
def test_bytes_and_multiply_adds_are_measured_when_asked_for(reader: TestClient) -> None:
    points = reader.get("/api/v1/jobs/1/front?layers=true").json()["points"]
    for name, count in (("multiply_adds", weights), ("bytes", bytes_at_least)):
        document = asked(reader, [1], f"{name},test_accuracy")
        compared_points = document["fronts"][0]["points"]
        assert compared_points
        for point in compared_points:
            assert count(points[point["index"]], point["metrics"][name])
        assert name not in points[0]["metrics"]


def weights(point: Any, found: float) -> bool:
    """Every weight of an MLP is used once, a bias never."""
    return bool(found == sum(x["n_nonzero"] for x in point["layers"] if x["name"].endswith("weight")))


def bytes_at_least(point: Any, found: float) -> bool:
    return bool(4 * point["n_nonzero"] <= found <= 4 * point["n_nonzero"] + point["n_params"] / 8)


@pytest.mark.slow
def test_jobs_without_points_wait(client: TestClient, store: Store, seeds: list[int]) -> None:
    waiting = store.submit(SPEC, FACTS_HERE).id
    alone = asked(client, [waiting])
    assert (alone["reference"], alone["fronts"][0]["epsilon"]) == (None, None)
    beside = asked(client, [*seeds, waiting])
    assert beside["coverage"][0][-1] is None
    assert "None of these jobs has a point yet" in page(client, f"/compare?jobs={waiting}").text
    assert (
        client.get(f"/compare/figure.json?jobs={waiting}").json()["layout"]["annotations"][0]["text"] == "no points yet"
    )


# The page


def rows(found: Page) -> list[str]:
    return [a["href"] for a in found.all("a") if a.get("href", "").startswith("/jobs/") and a["href"] != "/jobs/new"]


@pytest.mark.slow
def test_the_page_shows_every_front_with_its_figures(client: TestClient, seeds: list[int]) -> None:
    text = ",".join(map(str, seeds))
    found = page(client, f"/compare?jobs={text}")
    assert found.by_id("plot")["role"] == "img"
    assert rows(found) == [f"/jobs/{job}" for job in seeds]
    assert found.by_id("jobs")["value"] == text
    for said in ("hypervolume", "epsilon", "IGD+", "Best to worst of all fronts", "job of seed 2", "Coverage"):
        assert said in found.text


@pytest.mark.slow
def test_axes_are_offered_that_all_jobs_have(client: TestClient, seeds: list[int]) -> None:
    found = page(client, f"/compare?jobs={seeds[0]}&objectives=bytes,test_accuracy")
    options = [option["value"] for option in found.all("option")]
    accuracies = [f"{size},test_accuracy" for size in ("n_nonzero", "multiply_adds", "bytes")]
    assert options == ["l1,loss", "n_nonzero,loss", *accuracies]
    assert [option["value"] for option in found.all("option") if "selected" in option] == ["bytes,test_accuracy"]


def test_a_regression_has_no_accuracy_to_offer() -> None:
    assert list(axes([Front((a_point(metrics={"l1": 1.0}),))])) == ["l1,loss", "n_nonzero,loss"]


@pytest.mark.slow
def test_ticked_jobs_are_compared(client: TestClient, seeds: list[int]) -> None:
    listed = page(client, "/")
    boxes = [box for box in listed.all("input") if box.get("form") == "compare"]
    assert {(box["name"], box["value"]) for box in boxes} == {("jobs", str(job)) for job in seeds}
    assert {box["id"] for box in boxes} <= listed.labelled
    found = page(client, f"/compare?jobs={seeds[0]}&jobs={seeds[4]}")
    assert rows(found) == [f"/jobs/{seeds[0]}", f"/jobs/{seeds[4]}"]


@pytest.mark.slow
def test_what_cannot_be_compared_is_said_on_the_page(client: TestClient, store: Store, seeds: list[int]) -> None:
    other = done(store, facts={"data_digest": "two"})
    found = page(client, f"/compare?jobs={seeds[0]},{other}", 422)
    assert f"Fronts on different data cannot be compared: job {seeds[0]} has" in found.text
    assert "hidden" not in found.by_id("problem")
    assert not [div for div in found.all("div") if div.get("id") == "plot"]
    assert "'beauty'" in page(client, f"/compare?jobs={seeds[0]}&objectives=loss,beauty", 422).text
    assert "no job 99" in page(client, "/compare?jobs=99", 404).text
    assert "tick them in the list" in page(client, "/compare").text


# The figure


def figure(store: Store, jobs: list[int], log_x: bool = True) -> Any:
    found = compared([lineage(store, store.job(job)) for job in jobs], store.fronts(jobs), ("l1", "loss"))
    assert len(compare_document(found)["fronts"]) == len(jobs)
    return json.loads(compare_figure(found, log_x).to_json())


@pytest.mark.slow
def test_every_point_of_every_front_is_a_marker_that_leads_to_its_network(store: Store, seeds: list[int]) -> None:
    markers = [trace for trace in figure(store, seeds)["data"] if trace["mode"] == "markers"]
    assert [trace["name"] for trace in markers] == ["continuation", "pruning"]
    assert len({trace["marker"]["color"] for trace in markers}) == 2
    led = [address for trace in markers for address in trace["customdata"]]
    assert led == [f"/jobs/{job}#point={index}" for job in seeds for index in range(3)]


@pytest.mark.slow
def test_a_band_reaches_from_the_best_to_the_worst_seed(store: Store, seeds: list[int]) -> None:
    bands = [trace for trace in figure(store, seeds)["data"] if trace.get("fill") == "toself"]
    assert len(bands) == 2
    corners = list(zip(bands[0]["x"], bands[0]["y"], strict=True))
    half = len(corners) // 2
    assert corners[half - 1 : half + 1] == [(3, 1), (3, 1.2)]
    assert corners[0] == corners[-1] == (1, 4)
    assert not [trace for trace in figure(store, seeds[1:3])["data"] if trace.get("fill")]


def test_a_log_axis_leaves_out_what_is_at_zero(store: Store) -> None:
    job = done(store, (3, 2))
    zero = Front((a_point(0, loss=5, metrics={"l1": 0.0}), *store.front(job).points[1:]))
    found = compared([lineage(store, store.job(job))], {job: zero}, ("l1", "loss"))
    drawn = [len(compare_figure(found, log_x).data[-1].x) for log_x in (True, False)]
    assert drawn == [1, 2]
    assert "1 at 0, not on a log axis" in compare_figure(found).layout.xaxis.title.text


def test_a_group_that_cannot_be_drawn_is_still_in_the_legend(store: Store) -> None:
    job = done(store, (3,))
    zero = Front((a_point(0, metrics={"l1": 0.0}),))
    found = compared([lineage(store, store.job(job))], {job: zero}, ("l1", "loss"))
    marker = json.loads(compare_figure(found).to_json(), parse_constant=pytest.fail)["data"][-1]
    assert (marker["x"], marker["y"], marker["customdata"]) == ([None], [None], [])


# Differences of attainment


def difference(store: Store, jobs: list[int], log_x: bool = False) -> list[Any]:
    """The filled traces of the first two groups."""
    found = compared([lineage(store, store.job(job)) for job in jobs], store.fronts(jobs), ("l1", "loss"))
    drawn = json.loads(difference_figure(found, found.pairs[0], log_x).to_json(), parse_constant=pytest.fail)["data"]
    return [trace for trace in drawn if trace.get("fill")]


def here(traces: list[Any], x: float, y: float) -> list[str]:
    """The names of the traces that fill a place."""
    return [trace["name"] for trace in traces if any(_holds(trace, i, x, y) for i in range(0, len(trace["x"]), 6))]


def _holds(trace: Any, start: int, x: float, y: float) -> bool:
    xs, ys = trace["x"][start : start + 5], trace["y"][start : start + 5]
    return bool(min(xs) < x < max(xs) and min(ys) < y < max(ys))


def name(first: int, second: int) -> list[str]:
    """The legend's words for a place that so many of three runs of either group attain."""
    who = "continuation" if first > second else "pruning"
    more = ["", "up to 1/3", "1/3 to 2/3", "over 2/3"][abs(first - second)]
    return [f"{who}, {more} of runs"] if more else []


def test_every_place_has_the_colour_of_the_group_more_of_whose_runs_attain_it(store: Store) -> None:
    losses = {"continuation": [(4, 2.5, 1), (4, 3, 1.5), (5, 2, 1)], "pruning": [(3, 2, 1.2), (3.5, 2, 1.2), (4, 4, 4)]}
    jobs = [done(store, run, method=method(who), seed=s) for who, runs in losses.items() for s, run in enumerate(runs)]
    traces = difference(store, jobs)
    seen = set()
    for x, y in product((1.5, 2.5), (1.1, 1.3, 1.7, 2.2, 2.8, 3.2, 3.7, 4.5)):
        counts = [sum(min(run[: int(x)]) <= y for run in losses[who]) for who in ("continuation", "pruning")]
        assert here(traces, x, y) == name(*counts)
        seen.add(counts[0] - counts[1])
    assert seen >= {-2, -1, 0}
    assert here(difference(store, jobs, log_x=True), 1.5, 3.2) == here(traces, 1.5, 3.2)


def test_groups_that_attain_the_same_differ_nowhere(store: Store) -> None:
    jobs = [done(store, method=method(who), seed=s) for who in ("continuation", "pruning") for s in range(3)]
    assert difference(store, jobs) == []


def test_the_page_shows_differences_where_there_are_seeds_enough(client: TestClient, seeds: list[int]) -> None:
    found = page(client, f"/compare?jobs={','.join(map(str, seeds))}")
    assert found.by_id("difference")["role"] == "img"
    assert "pair" in found.labelled
    assert "continuation and pruning" in found.text
    fewer = page(client, f"/compare?jobs={','.join(map(str, seeds[1:]))}")
    assert not [div for div in fewer.all("div") if div.get("id") == "difference"]


def test_the_difference_of_no_such_pair_is_not_found(client: TestClient, seeds: list[int]) -> None:
    address = f"/compare/difference.json?jobs={','.join(map(str, seeds))}"
    assert client.get(address).json()["data"]
    missing = client.get(f"{address}&pair=1")
    assert missing.status_code == 404
