"""Comparisons and studies in a real browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from app.service import open_store
from tests.app.browser.conftest import PATIENCE, Watched, fits, served
from tests.app.conftest import settings_in
from tests.app.test_comparing import done, method

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]


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
