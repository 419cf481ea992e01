"""The pages: right in every state, readable without a mouse, loading nothing from elsewhere."""

import gzip
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly
import pytest
from fastapi.testclient import TestClient

from app.routes.pages import PAGE_SIZE
from engine.spec import registries
from storage.records import JobState
from storage.store import Store
from tests.storage.examples import a_waypoint, claimed, stored, submitted

BUNDLE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


class Page(HTMLParser):
    """What a test asks of a page: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.labelled: set[str] = set()
        self.text = ""
        self._labels = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        self._labels += tag == "label"
        if self._labels and "id" in values:
            self.labelled.add(values["id"])
        if tag == "label" and "for" in values:
            self.labelled.add(values["for"])

    def handle_endtag(self, tag: str) -> None:
        self._labels -= tag == "label"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [values for name, values in self.elements if name == tag]

    def by_id(self, name: str) -> dict[str, str]:
        return next(values for _, values in self.elements if values.get("id") == name)


def page(client: TestClient, url: str, status: int = 200) -> Page:
    answer = client.get(url)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return Page(answer.text)


def links(found: Page) -> list[str]:
    return [a.get("href", "") for a in found.all("a")]


def in_state(store: Store, state: str, n_points: int = 0) -> int:
    """A job brought into `state` in the ways the store offers."""
    if state == JobState.QUEUED:
        return submitted(store).id
    lease = stored(store, n_points)
    if state == JobState.PAUSED:
        store.request(lease.job_id, "pause")
        store.release(lease)
    elif state != JobState.RUNNING:
        store.finish(lease, JobState(state), f"it {state} for a reason")
    return lease.job_id


@pytest.fixture
def every_page(client: TestClient, store: Store) -> list[Page]:
    job = in_state(store, "completed", 3)
    urls = ("/", "/jobs/new", f"/jobs/{job}", f"/jobs/new?from={job}", "/compare", f"/compare?jobs={job}")
    return [page(client, url) for url in urls] + [page(client, "/jobs/99", 404)]


def test_an_empty_list_offers_a_first_step(client: TestClient) -> None:
    found = page(client, "/")
    assert "Nothing traced yet" in found.text
    assert "/jobs/new" in links(found)


def test_jobs_are_listed_newest_first_with_state_and_front(client: TestClient, store: Store) -> None:
    done, failed = in_state(store, "completed", 3), in_state(store, "failed", 0)
    found = page(client, "/")
    assert [li["id"] for li in found.all("li")] == [f"job-{failed}", f"job-{done}"]
    assert [li["data-state"] for li in found.all("li")] == ["failed", "completed"]
    assert "3 points" in found.text
    assert "it failed for a reason" in found.text
    assert [svg["aria-label"] for svg in found.all("svg")] == ["Front of 0 points", "Front of 3 points"]


@pytest.mark.slow
def test_a_long_list_goes_on_on_another_page(client: TestClient, store: Store) -> None:
    ids = [submitted(store).id for _ in range(PAGE_SIZE + 1)]
    first = page(client, "/")
    assert f"/?before={ids[1]}" in links(first)
    assert [li["id"] for li in page(client, f"/?before={ids[1]}").all("li")] == [f"job-{ids[0]}"]


def test_names_are_text_and_never_markup(client: TestClient, store: Store) -> None:
    name = "<script>alert(1)</script>"
    job = submitted(store, name=name)
    for url in ("/", f"/jobs/{job.id}"):
        found = page(client, url)
        assert name in found.text
        assert all("src" in script for script in found.all("script"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "n_points", "said", "buttons"),
    [
        ("queued", 0, "Waiting for a worker", {"pause", "cancel", "delete"}),
        ("running", 0, "Finding the first network", {"pause", "cancel"}),
        ("running", 2, "2 points", {"pause", "cancel"}),
        ("paused", 0, "Press Resume to go on", {"resume", "cancel", "delete"}),
        ("failed", 0, "It failed for a reason.", {"resume", "delete"}),
        ("failed", 2, "points found so far are kept", {"resume", "delete"}),
        ("cancelled", 0, "Cancelled before the first point", {"resume", "delete"}),
        ("completed", 2, "It completed for a reason.", {"delete"}),
    ],
)
def test_every_state_says_what_is_going_on_and_what_can_be_done(
    client: TestClient, store: Store, state: str, n_points: int, said: str, buttons: set[str]
) -> None:
    found = page(client, f"/jobs/{in_state(store, state, n_points)}")
    assert said in re.sub(r"\s+", " ", found.text)
    ids = {button.get("id") for button in found.all("button")}
    assert ids & {"pause", "resume", "cancel", "delete"} == buttons
    assert found.by_id("status")["data-state"] == state


def test_a_wish_not_yet_followed_is_shown(client: TestClient, store: Store) -> None:
    lease = claimed(store)
    store.request(lease.job_id, "cancel")
    found = page(client, f"/jobs/{lease.job_id}")
    assert "cancelling…" in found.text
    assert "cancel" not in {button.get("id") for button in found.all("button")}


def test_the_log_is_on_the_page_the_newest_last_and_as_json(client: TestClient, store: Store) -> None:
    lease = claimed(store)
    store.log(lease, "first <line>")
    store.remark(lease.job_id, "second line")
    found = page(client, f"/jobs/{lease.job_id}")
    assert found.text.index("first <line>") < found.text.index("second line")
    assert "open" not in found.by_id("log")
    store.finish(lease, "failed", "for a reason")
    assert "open" in page(client, f"/jobs/{lease.job_id}").by_id("log")
    lines = client.get(f"/api/v1/jobs/{lease.job_id}/logs").json()["lines"]
    assert [line["text"] for line in lines] == ["first <line>", "second line"]
    newest = client.get(f"/api/v1/jobs/{lease.job_id}/logs", params={"limit": 1, "after": lines[0]["seq"]}).json()
    assert newest == {"lines": lines[1:]}


def test_points_stand_in_a_table_that_links_to_each(client: TestClient, store: Store) -> None:
    found = page(client, f"/jobs/{in_state(store, 'completed', 3)}")
    rows = [a["href"] for a in found.all("a") if a.get("id", "").startswith("pick-")]
    assert rows == ["#point=0", "#point=1", "#point=2"]


def test_the_view_asked_for_is_the_view_shown(client: TestClient, store: Store) -> None:
    job = in_state(store, "completed", 3)
    found = page(client, f"/jobs/{job}?x=n_nonzero&y=test_accuracy&log_x=false&log_y=true")
    chosen = [option["value"] for option in found.all("option") if "selected" in option]
    assert chosen == ["n_nonzero", "test_accuracy"]
    checked = {box["name"] for box in found.all("input") if "checked" in box}
    assert checked == {"log_y", "dominated"}


def test_figures_are_drawn_by_the_service(client: TestClient, store: Store) -> None:
    job = in_state(store, "completed", 3)
    found = client.get(f"/jobs/{job}/figure.json", params={"x": "n_nonzero", "log_x": False, "theme": "dark"}).json()
    assert found["config"]["showSendToCloud"] is False
    assert found["layout"]["xaxis"]["title"]["text"] == "nonzero weights"
    assert {i for trace in found["data"] for i in trace.get("customdata", [])} == {0, 1, 2}


@pytest.mark.parametrize("query", ["x=weight", "y=_layers", "theme=pink", "log_x=perhaps"])
def test_a_figure_that_cannot_be_is_refused_in_words(client: TestClient, store: Store, query: str) -> None:
    answer = client.get(f"/jobs/{in_state(store, 'completed', 1)}/figure.json?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[2] in answer.json()["detail"]


def test_a_point_explains_itself_and_offers_every_format(client: TestClient, store: Store) -> None:
    job = in_state(store, "completed", 3)
    found = page(client, f"/jobs/{job}/points/2")
    offered = [a["href"] for a in found.all("a") if "data-download" in a]
    assert offered == [f"/api/v1/jobs/{job}/points/2/export/{name}" for name in registries()["exports"]]
    assert [box["type"] for box in found.all("input") if box.get("id") == "compact"] == ["checkbox"]
    for said in ("Point 2", "2 of 8 weights", "proximal step", "0.weight", "2 of 6"):
        assert said in found.text or said.replace("2 of 6", "units alive") in found.text


def test_layers_have_a_figure(client: TestClient, store: Store) -> None:
    job = in_state(store, "completed", 1)
    found = client.get(f"/jobs/{job}/points/0/layers.json", params={"theme": "dark"}).json()
    assert [trace["name"] for trace in found["data"]] == ["units alive", "nonzero weights"]


@pytest.mark.parametrize("url", ["/jobs/99", "/jobs/new?from=99"])
def test_what_is_missing_is_said_on_a_page(client: TestClient, url: str) -> None:
    found = page(client, url, 404)
    assert "no job 99" in found.text
    assert "/" in links(found)


@pytest.mark.parametrize("url", ["/jobs/99/figure.json", "/jobs/99/points/0", "/jobs/99/points/0/layers.json"])
def test_what_scripts_ask_for_and_is_missing_is_a_problem(client: TestClient, url: str) -> None:
    answer = client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.slow
def test_the_form_asks_for_every_registered_part_and_setting(client: TestClient) -> None:
    found = page(client, "/jobs/new")
    offered = {option["value"] for option in found.all("option") if "value" in option}
    for kind in ("networks", "datasets", "penalties", "methods", "losses"):
        assert set(registries()[kind]) - {"refit"} <= offered
    assert {"network-mlp-hidden", "penalty-l1-parameters"} <= {i.get("id") for i in found.all("input")} | {
        s.get("id") for s in found.all("select")
    }


@pytest.mark.slow
def test_pressing_the_button_traces_digits_with_32_hidden_units(client: TestClient) -> None:
    found = page(client, "/jobs/new")
    chosen = [option.get("value") for option in found.all("option") if "selected" in option]
    assert {"mlp", "digits", "l1", "continuation", "auto"} <= set(chosen)
    assert found.by_id("network-mlp-hidden")["value"] == "32"
    assert found.by_id("points")["value"] == "40"


@pytest.mark.slow
def test_a_job_can_be_traced_again_with_changes(client: TestClient) -> None:
    body: dict[str, Any] = {
        "network": "mlp:7,5",
        "data": "iris",
        "points": 9,
        "budget": {"epochs": 50},
        "tags": ["a", "b"],
    }
    job = client.post("/api/v1/jobs", json=body).json()["id"]
    found = page(client, f"/jobs/new?from={job}")
    values = [found.by_id(name)["value"] for name in ("network-mlp-hidden", "points", "tags")]
    assert values == ["7, 5", "9", "a, b"]
    assert float(found.by_id("budget-epochs")["value"]) == 50


@pytest.mark.slow
def test_uploaded_data_can_be_chosen(client: TestClient, store: Store) -> None:
    store.add_upload("flowers", b"x" * 3000, {"X_train": [10, 4]})
    found = page(client, "/jobs/new")
    assert "flowers" in [option.get("value") for option in found.all("option")]


@pytest.mark.slow
def test_every_control_has_a_label(every_page: list[Page]) -> None:
    for found in every_page:
        for tag in ("input", "select"):
            unlabelled = [
                c for c in found.all(tag) if c.get("id") not in found.labelled and c.get("type") != "checkbox"
            ]
            assert not unlabelled


@pytest.mark.slow
def test_ids_are_unique_and_references_lead_somewhere(every_page: list[Page]) -> None:
    for found in every_page:
        counted = Counter(values["id"] for _, values in found.elements if "id" in values)
        assert max(counted.values()) == 1
        pointed = {v[a] for _, v in found.elements for a in ("aria-describedby", "aria-labelledby", "for") if a in v}
        assert pointed <= set(counted)


@pytest.mark.slow
def test_pages_load_and_link_nothing_from_elsewhere(every_page: list[Page]) -> None:
    for found in every_page:
        for _, values in found.elements:
            assert not [name for name in values if name.startswith("on")]
            for name in ("src", "href", "action"):
                assert values.get(name, "/")[:1] in ("/", "#")
                assert not values.get(name, "").startswith("//")
        assert all(script.get("src", "").startswith("/static/") for script in found.all("script"))


@pytest.mark.parametrize("path", sorted(p.name for p in (Path(__file__).parents[2] / "app" / "static").iterdir()))
def test_static_files_name_no_other_host(client: TestClient, path: str) -> None:
    answer = client.get(f"/static/{path}")
    assert answer.status_code == 200
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)


def test_static_files_are_asked_for_again_only_when_they_changed(client: TestClient) -> None:
    first = client.get("/static/style.css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.slow
@pytest.mark.parametrize("path", ["nothing.js", "../pages.py", "%2e%2e/settings.py", "..%2fsettings.py"])
def test_only_static_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(f"/static/{path}").status_code == 404


def test_pages_forbid_scripts_that_are_not_ours(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy


@pytest.mark.slow
def test_plotly_comes_packed_and_is_kept_for_good(client: TestClient, store: Store) -> None:
    url = page(client, f"/jobs/{submitted(store).id}").by_id("plotly")["src"]
    assert url.endswith(f"?v={plotly.__version__}")
    with client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert gzip.decompress(packed) == BUNDLE.read_bytes()


def test_plotly_comes_plain_to_those_who_cannot_unpack(client: TestClient) -> None:
    answer = client.get("/static/plotly.min.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in answer.headers
    assert answer.content == BUNDLE.read_bytes()


def test_a_point_that_came_in_shows_on_the_next_look(client: TestClient, store: Store) -> None:
    lease = claimed(store)
    assert page(client, f"/jobs/{lease.job_id}").by_id("waiting")["data-points"] == "0"
    store.append(lease, a_waypoint(0))
    found = page(client, f"/jobs/{lease.job_id}")
    assert found.by_id("waiting")["data-points"] == "1"
    assert int(found.by_id("main")["data-seen"]) == store.last_seq()
