"""The whole way in a real browser: submit by the form, see points arrive, pick one, download it, load the file."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import safetensors.numpy
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from app.service import open_store
from tests.app.conftest import TINY, settings_in
from tests.app.test_comparing import done, method

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 180_000
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


class Watched:
    """A page with all that went wrong on it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.wrong: list[str] = []
        page.on("console", lambda message: self._note(message.text, message.type in ("error", "warning")))
        page.on("pageerror", lambda error: self._note(str(error), True))
        page.on("request", lambda request: self._note(request.url, not request.url.startswith((address, "blob:"))))

    def _note(self, text: str, is_wrong: bool) -> None:
        if is_wrong:
            self.wrong.append(text)

    def open(self, path: str) -> Page:
        self.page.goto(self.address + path)
        return self.page


@contextmanager
def served(folder: Path, **settings: str) -> Iterator[str]:
    """The address of a service of its own, with an empty database."""
    environment = {**os.environ, "PARETOPATH_DATA_DIR": str(folder), **settings}
    environment.pop("PARETOPATH_DATABASE_URL", None)
    command = [sys.executable, "-m", "app", "serve", "--port", "0"]
    with (
        (folder / "log.txt").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            yield address(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def address(process: subprocess.Popen[str]) -> str:
    """What the service says it listens at, once it answers there."""
    for line in process.stdout or ():
        found = re.search(r"http://[\w.:\[\]]+", line)
        if found:
            with httpx2.Client(transport=httpx2.HTTPTransport(retries=20)) as client:
                client.get(f"{found[0]}/readyz", timeout=60).raise_for_status()
            return found[0]
    raise RuntimeError(f"the service ended with {process.wait()} before it told its address")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing; install it (Debian: apt-get install chromium) or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[WIDE, NARROW], ids=["1440", "390"])
def context(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[BrowserContext]:
    found = chromium.new_context(viewport=request.param, color_scheme="dark" if request.param is NARROW else "light")
    yield found
    found.close()


@pytest.fixture
def watched(context: BrowserContext, service: str) -> Iterator[Watched]:
    found = Watched(context.new_page(), service)
    yield found
    assert found.wrong == []


@pytest.fixture(scope="module")
def traced(service: str) -> str:
    """The path of a finished job's page."""
    body = {"network": "mlp:4", "data": "iris", "points": 8, "name": "ready"}
    with httpx2.Client(base_url=service, timeout=60) as client:
        job = client.post("/api/v1/jobs", json=body).raise_for_status().json()["id"]
        with client.stream("GET", f"/api/v1/jobs/{job}/events", timeout=PATIENCE / 1000) as events:
            states = [line for line in events.iter_lines() if '"state"' in line]
    assert "completed" in states[-1]
    return f"/jobs/{job}"


def fits(page: Page) -> bool:
    """Whether nothing sticks out sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def click_point(page: Page, position: int) -> None:
    """Click a marker of the plot as a person does: move there, see the hover label, press."""
    marker = page.locator("#plot .scatterlayer .trace").nth(1).locator(".point").nth(position)
    marker.scroll_into_view_if_needed()
    box = marker.bounding_box()
    if box is None:
        raise LookupError(f"marker {position} is not on the page")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    expect(page.locator("#plot .hoverlayer .hovertext")).to_be_visible()
    page.mouse.down()
    page.mouse.up()


def test_from_the_form_to_a_file(watched: Watched, tmp_path: Path) -> None:
    page = watched.open("/jobs/new")
    assert fits(page)
    page.get_by_label("Network", exact=True).select_option("mlp")
    page.get_by_role("textbox", name="Hidden").fill("6")
    page.get_by_label("Data", exact=True).select_option("iris")
    page.get_by_label("Points").fill("10")
    page.get_by_role("button", name="Trace", exact=True).click()

    expect(page).to_have_url(re.compile(r"/jobs/\d+$"), timeout=PATIENCE)
    rows = page.locator("#points tr")
    expect(rows.nth(0)).to_be_visible(timeout=PATIENCE)
    expect(rows.nth(2)).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#status .badge")).to_have_text("completed", timeout=PATIENCE)
    front = page.request.get(f"{page.url}/figure.json").json()["data"][1]["x"]
    expect(page.locator("#plot .scatterlayer .trace").nth(1).locator(".point")).to_have_count(len(front))

    click_point(page, 1)
    expect(page.locator("#details h2")).to_have_text(re.compile(r"Point \d+"))
    expect(page.locator("#details .layers .bars .point").first).to_be_visible()
    assert fits(page)
    index = page.url.partition("#point=")[2]

    with page.expect_download(timeout=PATIENCE) as downloading:
        page.get_by_role("link", name="safetensors").click()
    file = tmp_path / downloading.value.suggested_filename
    downloading.value.save_as(file)
    weights = safetensors.numpy.load_file(file)
    said = page.locator(f"#row-{index} [data-name=n_nonzero]").inner_text()
    assert sum(int((w != 0).sum()) for w in weights.values()) == int(said.replace(",", ""))

    page.get_by_label("Compact", exact=True).check()
    with page.expect_download(timeout=PATIENCE) as downloading:
        page.get_by_role("link", name="safetensors").click()
    assert downloading.value.suggested_filename == file.name.replace(".", "-compact.")
    expect(page.locator("#download-answer")).to_contain_text("multiply adds before")


def test_the_list_shows_the_front_and_leads_to_the_job(watched: Watched, traced: str) -> None:
    page = watched.open("/")
    assert fits(page)
    expect(page.locator("#jobs .spark circle").first).to_be_visible()
    page.get_by_role("link", name="ready").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ready")
    assert page.url.endswith(traced)


def test_points_are_reached_by_keyboard_and_shared_by_address(watched: Watched, traced: str) -> None:
    page = watched.open(f"{traced}#point=1")
    expect(page.locator("#details h2")).to_have_text("Point 1")
    page.locator("#pick-1").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#details h2")).to_have_text("Point 2")
    expect(page.locator("#pick-2")).to_be_focused()
    assert page.url.endswith("#point=2")
    page.go_back()
    expect(page.locator("#details h2")).to_have_text("Point 1")


def test_axes_are_chosen_and_stay_in_the_address(watched: Watched, traced: str) -> None:
    page = watched.open(traced)
    page.get_by_label("Across", exact=True).select_option("n_nonzero")
    page.get_by_label("Up", exact=True).select_option("test_accuracy")
    expect(page.locator("#plot .xtitle")).to_contain_text("nonzero weights")
    expect(page.locator("#plot .ytitle")).to_contain_text("test accuracy")
    page.reload()
    expect(page.locator("#plot .xtitle")).to_contain_text("nonzero weights")
    assert fits(page)


def test_a_network_is_picked_by_what_it_must_fulfil(watched: Watched, traced: str) -> None:
    page = watched.open(traced)
    page.get_by_label("Zeros, at least").fill("50")
    page.locator("form.pick[data-query=sparsity] button").click()
    expect(page.locator("#pick-answer")).to_have_text(re.compile(r"Picked point \d+\."))
    expect(page.locator("#details h2")).to_have_text(re.compile(r"Point \d+"))
    page.get_by_role("button", name="Pick the knee").click()
    expect(page.locator("#pick-answer")).to_have_text(re.compile(r"Picked point \d+\."))


def test_a_finished_job_is_refitted_by_a_button(watched: Watched, traced: str) -> None:
    page = watched.open(traced)
    page.get_by_role("button", name="Refit").click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+\?x=n_nonzero"), timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text("refit of ready")
    expect(page.locator("#status .badge")).to_have_text("completed", timeout=PATIENCE)
    expect(page.locator("#plot .scatterlayer .point").nth(2)).to_be_visible()
    expect(page.locator("#plot .xtitle")).to_contain_text("nonzero weights")
    page.locator("#pick-0").click()
    expect(page.locator("#details dl")).to_contain_text("refitted from point")
    assert fits(page)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with three seeds of two methods, one job of another, and one on other data."""
    folder = tmp_path_factory.mktemp("compared")
    with open_store(settings_in(folder, database_url="")) as store:
        for seed in range(3):
            done(store, (3, 2, 1 + seed / 10), method=method("continuation"), seed=seed)
        done(store, (4, 3, 2), method=method("pruning"))
        done(store, facts={"data_digest": "another"}, data={"name": "wine", "params": {}})
        for seed in range(3):
            done(store, (2.8, 2.2, 1.5), method=method("weighted_sum"), seed=seed)
    with served(folder) as found:
        yield found


def test_ticked_jobs_are_compared_on_axes_that_are_chosen(context: BrowserContext, compared: str) -> None:
    watched = Watched(context.new_page(), compared)
    page = watched.open("/")
    assert fits(page)
    for job in (4, 3, 2, 1):
        page.get_by_label(f"Compare job #{job}", exact=True).check()
    page.get_by_role("button", name="Compare ticked").click()
    expect(page).to_have_url(re.compile(r"/compare\?jobs=4&jobs=3&jobs=2&jobs=1$"))
    expect(page.locator("#plot .xtitle")).to_contain_text("l1 norm")
    expect(page.locator("#plot .legendtext")).to_have_text(["pruning", "continuation"])
    expect(page.locator("#plot .js-fill")).to_have_count(1)

    axes = page.get_by_label("Axes", exact=True)
    axes.focus()
    axes.select_option("bytes,test_accuracy")
    expect(page.locator("#plot .xtitle")).to_contain_text("bytes of a sparse file")
    expect(page.locator("#figures .scale")).to_contain_text("test accuracy")
    expect(axes).to_be_focused()
    assert "objectives=bytes%2Ctest_accuracy" in page.url
    assert fits(page)

    page.locator("#figures tbody a").first.click()
    expect(page).to_have_url(re.compile(r"/jobs/4$"))
    assert watched.wrong == []


def test_where_one_method_attains_more_often_is_coloured_and_named(context: BrowserContext, compared: str) -> None:
    watched = Watched(context.new_page(), compared)
    page = watched.open("/compare?jobs=1,2,3,6,7,8")
    legend = page.locator("#difference .legendtext")
    expect(legend).to_have_text(["continuation, over 2/3 of runs", "weighted_sum, over 2/3 of runs"])
    expect(page.get_by_label("Groups", exact=True)).to_have_value("0")
    page.get_by_label("Axes", exact=True).select_option("n_nonzero,loss")
    expect(page.locator("#difference .xtitle")).to_contain_text("nonzero weights")
    assert fits(page)
    assert watched.wrong == []


def test_jobs_on_different_data_are_refused_in_a_sentence(context: BrowserContext, compared: str) -> None:
    page = Watched(context.new_page(), compared).open("/compare?jobs=1,5")
    expect(page.get_by_role("alert")).to_contain_text("job 1 has digits; job 5 has wine")
    page.get_by_label("Jobs", exact=True).fill("1")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#plot .xtitle")).to_contain_text("l1 norm")


def test_what_cannot_work_is_said_beside_the_form(context: BrowserContext, service: str) -> None:
    page = Watched(context.new_page(), service).open("/jobs/new")
    page.get_by_role("textbox", name="Hidden").fill("many")
    page.get_by_role("button", name="Trace", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("many")
    assert page.url.endswith("/jobs/new")


def test_a_study_from_the_form_to_its_bands(watched: Watched) -> None:
    page = watched.open("/jobs/new")
    page.get_by_label("Network", exact=True).select_option("linear")
    page.get_by_label("Data", exact=True).select_option("iris")
    page.get_by_label("Points").fill("3")
    page.get_by_label("Seeds", exact=True).fill("3")
    page.get_by_text("Penalty, method and more").click()
    page.get_by_label("weighted_sum", exact=True).check()
    assert fits(page)
    page.get_by_role("button", name="Trace", exact=True).click()

    expect(page).to_have_url(re.compile(r"/studies/\d+$"), timeout=PATIENCE)
    page.wait_for_load_state()
    expect(page.locator("#members tr")).to_have_count(6)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Go on")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#status")).to_have_attribute("data-state", "completed", timeout=PATIENCE)
    expect(page.locator("#plot .legendtext")).to_have_text(["continuation", "weighted_sum"])
    expect(page.locator("#plot .js-fill")).to_have_count(2)
    page.get_by_label("Axes", exact=True).select_option("n_nonzero,test_accuracy")
    expect(page.locator("#plot .xtitle")).to_contain_text("nonzero weights")
    expect(page.locator("#figures .scale")).to_contain_text("test accuracy")
    assert fits(page)

    page.get_by_role("link", name="Studies").click()
    expect(page.locator("#studies .study")).to_have_count(1)
    page.get_by_role("link", name="paretopath").click()
    expect(page.locator("#recent-studies .study")).to_have_count(1)
    assert fits(page)
    page.locator("#recent-studies .study a").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.locator("#recent-studies")).to_be_hidden()


def test_data_is_uploaded_and_chosen(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "flowers.csv"
    rows = [f"{i % 7},{i % 5},{'ab'[i % 2]}" for i in range(60)]
    file.write_text("\n".join(["width,height,kind", *rows]))
    page = watched.open("/jobs/new")
    page.get_by_label("Upload your own data").set_input_files(file)
    expect(page.locator("#upload-answer")).to_contain_text("uploaded and chosen", timeout=PATIENCE)
    expect(page.get_by_label("Data", exact=True)).to_have_value(re.compile("flowers"))


def test_a_press_before_the_scripts_are_there_is_not_lost(watched: Watched, traced: str) -> None:
    def late(route: Route) -> None:
        watched.page.wait_for_timeout(1000)
        route.continue_()

    watched.page.route("**/static/steering.js", late)
    watched.page.goto(watched.address + traced, wait_until="commit")
    watched.page.get_by_role("button", name="Delete…").click()
    expect(watched.page.get_by_role("button", name="Keep")).to_be_visible()


def test_a_running_job_is_cancelled_and_deleted(watched: Watched) -> None:
    body = {"network": "mlp:64", "data": "digits", "points": 5000, "name": "long"}
    with httpx2.Client(base_url=watched.address, timeout=60) as client:
        job = client.post("/api/v1/jobs", json=body).raise_for_status().json()["id"]
    page = watched.open(f"/jobs/{job}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status .badge")).to_have_text("cancelled", timeout=PATIENCE)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.locator(f"#job-{job}")).to_have_count(0)


def test_a_job_is_asked_for_more(watched: Watched) -> None:
    with httpx2.Client(base_url=watched.address, timeout=60) as client:
        job = client.post("/api/v1/jobs", json=TINY).raise_for_status().json()["id"]
    page = watched.open(f"/jobs/{job}")
    expect(page.locator("#status")).to_have_attribute("data-state", "completed", timeout=PATIENCE)
    page.get_by_label("More points").fill("2")
    page.get_by_label("between points").fill("0")
    page.get_by_label("and", exact=True).fill("1")
    page.get_by_role("button", name="Add points").click()
    expect(page.locator("#status")).to_contain_text("between points 0 and 1 were found", timeout=PATIENCE)
    page.get_by_label("Which network to find").select_option("nonzeros")
    page.get_by_label("Target", exact=True).fill("9")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("#status")).to_contain_text("has 9 nonzero weights", timeout=PATIENCE)
    page.get_by_label("Go on to zeros").fill("10")
    page.get_by_role("button", name="Go on to this sparsity").click()
    expect(page.locator("#ask-answer")).to_contain_text("no further end")
    assert fits(page)
    assert all("422" in text for text in watched.wrong)
    watched.wrong.clear()
