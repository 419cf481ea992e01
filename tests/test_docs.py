"""What README and docs say is true: their code runs, their names, routes, settings and links exist."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hatchling.builders.wheel import WheelBuilder
from typer.main import get_command
from typer.testing import CliRunner

from app.__main__ import app as command_line
from app.api import create_app
from app.schemas import JobIn
from app.service import Service, open_store
from app.settings import Settings
from engine.correctors import CORRECTORS
from engine.predictors import PREDICTORS
from engine.registry import parameters
from engine.spec import registries
from tests.app.conftest import TINY, browse, settings_in, work_off

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}

PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
FILE = re.compile(r"`((?:\w+/)+\w+\.\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROUTE = re.compile(r"^### `([A-Z]+) (/\S*)`$", re.MULTILINE)
REACHED = re.compile(r"[a-z]+://[^/]+")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The lines of shell blocks that call `program`, as arguments."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(f"{program} "):
                yield shlex.split(line, comments=True)[1:]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARETOPATH_")}
    return {**kept, **QUIET, **more}


def run(arguments: list[str], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(**variables), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    story = tmp_path / "story.py"
    story.write_text("\n".join(blocks(page, "python")))
    run(["-W", "error", "story.py"], tmp_path)


@pytest.mark.slow
def test_the_first_trace_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command as a program, the others without starting one for each."""
    first = next(block for block in blocks(ROOT / "README.md", "sh") if block.startswith("paretopath trace"))
    begin, *others = (shlex.split(line)[1:] for line in first.splitlines())
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    assert "completed" in run(["-m", "app", *begin], tmp_path)
    said = [CliRunner().invoke(command_line, arguments) for arguments in others]
    assert [result.output for result in said if result.exit_code] == []
    assert "digits" in said[0].stdout
    assert (tmp_path / "net.onnx").stat().st_size > (tmp_path / "small.onnx").stat().st_size > 0
    assert "job 2 completed" in said[-1].stdout


@pytest.mark.slow
def test_the_package_of_extending_is_found_by_its_entry_point(tmp_path: Path) -> None:
    page = ROOT / "docs" / "extending.md"
    source = tmp_path / "source"
    source.mkdir()
    (source / "fan_in.py").write_text(blocks(page, "python")[0])
    (source / "pyproject.toml").write_text(blocks(page, "toml")[0])
    wheel = next(WheelBuilder(str(source)).build(directory=str(tmp_path), versions=["standard"]))
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    example = next(arguments for arguments in commands(page, "paretopath") if "fan_in_l1:power=1.0" in arguments)
    said = run(["-m", "app", *example, "--json"], tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    job = json.loads(said)["job"]
    assert (job["state"], job["spec"]["penalty"]) == ("completed", {"name": "fan_in_l1", "params": {"power": 1.0}})


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(commands(p, "paretopath"))], ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    for arguments in commands(page, "paretopath"):
        context: Any = get_command(command_line).make_context("paretopath", ["--help"], resilient_parsing=True)
        rest = arguments
        while rest and hasattr(context.command, "resolve_command"):
            name, command, rest = context.command.resolve_command(context, rest)
            context = command.make_context(name, list(rest), parent=context)


def test_make_has_the_targets_that_are_named() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {target for page in PAGES for target in re.findall(r"`?make ([a-z-]+)`", page.read_text())}
    named |= {arguments[0] for page in PAGES for arguments in commands(page, "make")}
    assert {"run", "test", "lint"} <= named <= set(targets)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_functions_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    assert [file for file in FILE.findall(text) if not (ROOT / file).exists()] == []
    assert [f"{file}:{name}" for file, name in PLACE.findall(text) if name not in defined(ROOT / file)] == []


def defined(file: Path) -> set[str]:
    """Functions and classes of a file, methods as ``Class.method``."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_the_method_page_names_places() -> None:
    assert len(PLACE.findall((ROOT / "docs" / "method.md").read_text())) > 40


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{link} in {name_of(page)}"
            assert not anchor or anchor in anchors(target), f"{link} in {name_of(page)}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    assert set(PAGES) - linked == {index, ROOT / "README.md"}


@pytest.mark.parametrize("kind", [*registries(), "predictors", "correctors"])
def test_every_registered_part_is_in_the_docs(kind: str) -> None:
    known = {**registries(), "predictors": PREDICTORS, "correctors": CORRECTORS}[kind]
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in known if f"`{name}`" not in text] == []


@pytest.mark.parametrize("kind", ["networks", "datasets", "penalties", "methods"])
def test_every_setting_of_a_part_is_described(kind: str) -> None:
    parts = registries()[kind].items()
    assert [f"{name}.{p.name}" for name, factory in parts for p in parameters(factory) if not p.description] == []


def test_every_setting_of_the_service_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `PARETOPATH_(\w+)` \| (.*?) \|", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE)
    settings = dict(reversed(rows))
    assert settings.keys() - {"BIND", "WORKERS"} == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if field.default not in (None, ""):
            assert settings[name.upper()] == f"`{field.default}`", name


# REST: the examples of api.md against the application, in the order of the page


class Examples:
    """The curl commands of a page, each with its section's route, and the JSON that follows it."""

    def __init__(self, page: Path) -> None:
        sections = re.split(r"^(?=##+ )", page.read_text(), flags=re.MULTILINE)
        self.found = [example for section in sections for example in self._of(section)]

    @staticmethod
    def _of(section: str) -> Iterator[tuple[str, str, Any]]:
        route = " ".join(next(iter(ROUTE.findall(section)), ()))
        pattern = r"^```sh\n(.*?)^```(?:\n\n```json\n(.*?)^```)?"
        for block, sample in re.findall(pattern, section, re.DOTALL | re.MULTILINE):
            lines = re.split(r"\n(?=curl )", block)
            samples = [None] * (len(lines) - 1) + [json.loads(sample) if sample else None]
            yield from ((route, line, shown) for line, shown in zip(lines, samples, strict=True))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """The application that api.md supposes: jobs 1 and 3 are traced, job 2 waits; a table of flowers lies beside."""
    table = "a,b,species\n" + "".join(f"{i},{i % 7},{'setosa' if i % 2 else 'virginica'}\n" for i in range(40))
    (tmp_path / "flowers.csv").write_text(table)
    settings = settings_in(tmp_path)
    with open_store(settings) as store:
        jobs = [Service(store).submit(JobIn.model_validate(TINY)) for _ in range(3)]
        for traced in (jobs[0], jobs[2]):
            work_off(store, traced["id"])
    with browse(settings) as found:
        yield found


@pytest.mark.slow
def test_the_examples_of_the_api_page_work(client: TestClient, tmp_path: Path) -> None:
    for route, line, sample in Examples(ROOT / "docs" / "api.md").found:
        method, path, options = request(line, tmp_path)
        answer = client.request(method, path, **options)
        expected = int((re.findall(r"# (\d{3})\s*$", line) or [answer.status_code])[0])
        assert answer.status_code == expected, f"{line}: {answer.text}"
        assert expected >= 400 or answer.is_success, f"{line}: {answer.text}"
        assert not route or matches(route, f"{method} {path.partition('?')[0]}"), f"{line} under {route}"
        assert sample is None or unlike(sample, answer.json()) == [], line


def request(line: str, folder: Path) -> tuple[str, str, dict[str, Any]]:
    """What a curl command asks."""
    words = iter(shlex.split(line.replace("\\\n", " "), comments=True)[1:])
    method, path = "GET", ""
    headers: dict[str, str] = {}
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {"headers": headers}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            options["content"] = next(words)
        elif word == "-F":
            name, _, value = next(words).partition("=")
            fields[name] = (value[1:], (folder / value[1:]).read_bytes()) if value.startswith("@") else value
        elif word == "-o":
            next(words)
        elif word != "-N":
            path = REACHED.sub("", word)
    return method, path, options | parts(fields)


def parts(fields: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    files = {name: value for name, value in fields.items() if name not in texts}
    return {"data": texts, "files": files} if fields else {}


def matches(route: str, asked: str) -> bool:
    return re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route)), asked) is not None


def unlike(sample: Any, answer: Any, place: str = "") -> list[str]:
    """Places where an answer lacks a key of the sample, or has a value of another kind."""
    if isinstance(sample, dict):
        if not isinstance(answer, dict):
            return [place]
        missing = [f"{place}.{key}" for key in sample if key not in answer]
        return missing + [x for k, v in sample.items() if k in answer for x in unlike(v, answer[k], f"{place}.{k}")]
    if isinstance(sample, list):
        pairs = zip(sample[:1], answer, strict=False) if isinstance(answer, list) else ()
        return [x for one, other in pairs for x in unlike(one, other, f"{place}[]")] if answer != {} else [place]
    same = sample is None or type(sample) is type(answer) or {type(sample), type(answer)} <= {int, float}
    return [] if same else [f"{place}: {answer!r}"]


def test_the_api_page_has_every_route_and_no_other(tmp_path: Path) -> None:
    schema = create_app(settings_in(tmp_path)).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in schema.items() for method in methods}
    page = ROOT / "docs" / "api.md"
    assert {" ".join(route) for route in ROUTE.findall(page.read_text())} == routes
    assert {route for route, _, _ in Examples(page).found if route} == routes
