"""The whole way in a real browser: submit by the form, see points arrive, pick one, download it, load the file."""

import re
from pathlib import Path
from typing import Literal

import httpx2
import pytest
import safetensors.numpy
from playwright.sync_api import Request, Route, expect

from tests.app.browser.conftest import PATIENCE, Watched, aim_at_point, click_point, fits
from tests.app.conftest import TINY

DARK = "matchMedia('(prefers-color-scheme: dark)').matches"

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]


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
    drawn = page.locator("#plot .scatterlayer .trace").nth(1).locator(".point")
    expect(drawn).to_have_count(len(front), timeout=PATIENCE)

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


def test_the_plot_stays_as_it_is_while_a_point_is_aimed_at(watched: Watched, traced: str) -> None:
    page = watched.open(traced)
    title = page.locator("#plot .xtitle")
    aim_at_point(page, 1)
    before = title.evaluate("title => title.style.fill")
    other: Literal["light", "dark"] = "light" if page.evaluate(DARK) else "dark"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.emulate_media(color_scheme=other)
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#details h2")).to_have_text(re.compile(r"Point \d+"))
    page.wait_for_timeout(500)
    assert title.evaluate("title => title.style.fill") == before
    assert not any("/figure.json?" in url for url in asked)
    page.mouse.move(1, 1)
    expect(title).not_to_have_attribute("style", re.compile(re.escape(f"fill: {before}")))


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


def test_a_job_is_deleted_once_the_page_has_what_it_asked_for(watched: Watched) -> None:
    with httpx2.Client(base_url=watched.address, timeout=60) as client:
        job = client.post("/api/v1/jobs", json=TINY).raise_for_status().json()["id"]
    page, held, deleted = watched.open(f"/jobs/{job}"), list[Route](), list[Request]()
    expect(page.locator("#status")).to_have_attribute("data-state", "completed", timeout=PATIENCE)
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: deleted.append(request) if request.method == "DELETE" else None)
    page.route("**/figure.json*", lambda route: held.append(route))
    with page.expect_request("**/figure.json*"):
        page.emulate_media(color_scheme="light" if page.evaluate(DARK) else "dark")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_timeout(300)
    assert held
    assert not deleted
    held[0].continue_()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    assert deleted


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
