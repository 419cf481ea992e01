"""Services of their own, Chromium, and pages with all that went wrong on them, on a wide and a narrow screen."""

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
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

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


def aim_at_point(page: Page, position: int) -> None:
    """Move the pointer to a marker of the plot, and see the hover label."""
    marker = page.locator("#plot .scatterlayer .trace").nth(1).locator(".point").nth(position)
    marker.scroll_into_view_if_needed()
    box = marker.bounding_box()
    if box is None:
        raise LookupError(f"marker {position} is not on the page")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    expect(page.locator("#plot .hoverlayer .hovertext")).to_be_visible()


def click_point(page: Page, position: int) -> None:
    """Click a marker of the plot as a person does: move there, see the hover label, press."""
    aim_at_point(page, position)
    page.mouse.down()
    page.mouse.up()
