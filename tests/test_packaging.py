"""What is shipped is whole: the wheel, the image, the Compose file, and the processes they start."""

import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from typer.main import get_command

from app.__main__ import app as command_line
from app.settings import Settings
from tests.storage.conftest import new_database, served_postgresql

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "engine", "storage")
SECRETS = {"POSTGRES_PASSWORD": "a-password", "PARETOPATH_TOKEN": "a-token-of-some-length"}
PATIENCE_SECONDS = 120
PARETOPATH = (sys.executable, "-m", "app")

VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    return zipfile.ZipFile(next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


def test_the_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.partition("/")[0] in PACKAGES}
    here = {str(f.relative_to(ROOT)) for p in PACKAGES for f in (ROOT / p).rglob("*") if f.is_file()}
    assert shipped == {name for name in here if "__pycache__" not in name}
    suffixes = {Path(name).suffix for name in shipped}
    assert {".html", ".js", ".css", ".svg", ".mako"} <= suffixes
    assert any(name.startswith("storage/migrations/versions/r0001") for name in shipped)


def test_the_wheel_has_the_command_and_the_extras(wheel: zipfile.ZipFile) -> None:
    info = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert "paretopath = app.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    for extra in ("parquet", "ray"):
        assert f"Provides-Extra: {extra}" in wheel.read(f"{info}/METADATA").decode()
        assert f"--extra {extra}" in dockerfile()


def test_the_constraints_pin_a_torch_that_the_project_accepts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = re.findall(r"^torch==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    needed = next(re.findall(r"^torch>=(\d+)\.(\d+)", d)[0] for d in project["dependencies"] if d.startswith("torch"))
    assert tuple(map(int, pinned)) >= tuple(map(int, needed))


# The Compose file


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def compose(**variables: str) -> dict[str, Any]:
    """The Compose file with its variables filled in."""
    text = (ROOT / "docker-compose.yml").read_text()
    whole: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda m: filled(m, {**SECRETS, **variables}), text))
    return whole


def filled(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, rest = found.groups()
    if name not in variables and kind != "-":
        raise KeyError(name)
    return variables.get(name, rest)


def test_the_services_wait_for_each_other(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "migrate", "api", "worker", "ray-head", "ray-worker"}
    assert {name for name, service in services.items() if "profiles" in service} == {"ray-head", "ray-worker"}
    assert services["worker"]["deploy"] == {"replicas": "2"}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["postgres"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert services["migrate"]["restart"] == "no"
    assert "healthcheck" not in services["api"], "the image's own asks /readyz"
    silent = ("migrate", "worker", "ray-head", "ray-worker")
    assert all(services[name]["healthcheck"] == {"disable": True} for name in silent)


def test_secrets_have_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for secret in SECRETS:
        uses = [(kind, rest) for name, kind, rest in VARIABLE.findall(text) if name == secret]
        assert uses
        assert all(kind == "?" and rest for kind, rest in uses)
    assert not any(secret in line and "${" not in line for line in text.splitlines() for secret in SECRETS.values())


def test_only_the_api_is_published_and_only_here(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "ports" in service} == {"api"}
    assert services["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert compose(PARETOPATH_BIND="0.0.0.0", PARETOPATH_PORT="80")["services"]["api"]["ports"] == ["0.0.0.0:80:8000"]


def test_what_must_outlive_the_containers_is_in_named_volumes(services: dict[str, Any]) -> None:
    assert set(compose()["volumes"]) == {"database", "data"}
    assert services["postgres"]["volumes"] == ["database:/var/lib/postgresql/data"]
    assert (
        services["api"]["volumes"]
        == services["worker"]["volumes"]
        == services["ray-worker"]["volumes"]
        == ["data:/data"]
    )
    assert "VOLUME /data" in dockerfile()


def test_the_settings_that_are_given_exist(services: dict[str, Any]) -> None:
    given = {name for service in services.values() for name in service["environment"]}
    given |= set(re.findall(r"(PARETOPATH_\w+)=", dockerfile()))
    known = {f"PARETOPATH_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in given if name.startswith("PARETOPATH_")} <= known


# The image


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def health_check() -> str:
    commands: list[str] = re.findall(r"^HEALTHCHECK .*?CMD (.*)$", dockerfile().replace("\\\n", ""), re.MULTILINE)
    return commands[0]


def test_the_image_runs_without_rights_on_pinned_torch() -> None:
    instructions = [line.split()[0] for line in dockerfile().replace("\\\n", "").splitlines() if line.strip()]
    assert re.findall(r"^FROM (\S+)", dockerfile(), re.MULTILINE) == ["python:3.11-slim"] * 2
    assert instructions.index("USER") < instructions.index("ENTRYPOINT")
    assert re.findall(r"^USER (\S+)", dockerfile(), re.MULTILINE) == ["paretopath"]
    assert "-c constraints.txt" in dockerfile()
    assert "/readyz" in health_check()


def test_the_image_is_given_all_that_it_copies() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {
        name for line in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile(), re.MULTILINE) for name in line.split()
    }
    assert copied == set(kept)
    assert all((ROOT / name).exists() for name in kept)


def test_every_command_of_image_and_compose_file_exists(services: dict[str, Any]) -> None:
    known: Any = get_command(command_line)
    ours = [service for service in services.values() if "command" in service and "entrypoint" not in service]
    called = [service["command"][0] for service in ours]
    called += re.findall(r'^CMD \["(\w+)"', dockerfile(), re.MULTILINE)
    assert sorted(called) == ["migrate", "serve", "serve", "worker"]
    assert set(called) <= set(known.commands)
    assert 'ENTRYPOINT ["paretopath"]' in dockerfile()


# The same processes on a real PostgreSQL, without containers


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    with served_postgresql(runtime) as server, new_database(server) as url:
        yield url


@contextmanager
def started(
    arguments: list[str], environment: Mapping[str, str], folder: Path, program: tuple[str, ...] = PARETOPATH
) -> Iterator[subprocess.Popen[str]]:
    """A command in the background, asked to stop at the end."""
    log = (folder / f"{arguments[0].lstrip('-')[:20].replace('/', '')}.log").open("w")
    command = [*program, *arguments]
    with (
        log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_the_services_trace_a_job_together(database_url: str, tmp_path: Path, services: dict[str, Any]) -> None:
    port = str(free_port())
    bin_folder = str(Path(sys.executable).parent)
    image = {"PARETOPATH_HOST": "0.0.0.0", "PARETOPATH_PORT": port, "PARETOPATH_DATA_DIR": str(tmp_path)}
    outside = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

    def inside(name: str) -> dict[str, str]:
        given = {**services[name]["environment"], "PARETOPATH_DATABASE_URL": database_url}
        return {**outside, **image, **given}

    def run(command: str | list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, shell=isinstance(command, str), capture_output=True, text=True
        )

    unready = run(["paretopath", *services["worker"]["command"]], inside("worker"))
    assert (unready.returncode, "paretopath migrate" in unready.stderr) == (2, True)
    migrated = run(["paretopath", *services["migrate"]["command"]], inside("migrate"))
    assert migrated.returncode == 0, migrated.stderr
    assert run(health_check(), inside("api")).returncode != 0

    with (
        started(services["api"]["command"], inside("api"), tmp_path) as api,
        started(services["worker"]["command"], inside("worker"), tmp_path) as worker,
    ):
        assert api.stdout is not None
        assert "paretopath is at" in api.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        assert httpx2.get(f"{url}/api/v1/jobs").status_code == 401
        asked = ["paretopath", "trace", "-n", "mlp:4", "-d", "iris", "--points", "4", "--server", url]
        traced = run(asked, {**outside, "PARETOPATH_TOKEN": SECRETS["PARETOPATH_TOKEN"]})
        assert traced.returncode == 0, traced.stderr
        assert "job 1 completed" in traced.stdout
        checked = run(health_check(), inside("api"))
        assert checked.returncode == 0, checked.stderr
    assert worker.returncode == 0
    assert api.returncode in (0, -signal.SIGTERM), "uvicorn passes the signal on once all is closed"


@pytest.mark.slow
def test_the_services_of_the_profile_ray_trace_a_job_together(tmp_path: Path, services: dict[str, Any]) -> None:
    ports = {name: str(free_port()) for name in ("6379", "10001", "8000")}
    folder = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    outside = {"PATH": folder, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    outside |= {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "RAY_USAGE_STATS_ENABLED": "0"}
    image = {"PARETOPATH_PORT": ports["8000"], "PARETOPATH_DATABASE_URL": f"sqlite:///{tmp_path}/shared.db"}

    def here(text: str) -> str:
        """The address of a service on this machine."""
        for there, port in ports.items():
            text = re.sub(rf"(ray-head:|port=){there}", lambda m, p=port: m[1] + p, text)
        return text.replace("ray-head", "127.0.0.1")

    def inside(name: str) -> dict[str, str]:
        given = {key: here(value) for key, value in services[name]["environment"].items()}
        return {**outside, **given, **image, "PARETOPATH_EXECUTOR": "ray"}

    def ray(name: str) -> Any:
        program, *options = services[name]["entrypoint"]
        arguments = [*options, *services[name]["command"]]
        assert program == "ray"
        return started([here(x) for x in arguments[1:]], inside(name), tmp_path, ("ray", arguments[0]))

    with ray("ray-head"), ray("ray-worker"), started(services["api"]["command"], inside("api"), tmp_path) as api:
        assert api.stdout is not None
        assert "paretopath is at" in api.stdout.readline()
        url = f"http://127.0.0.1:{ports['8000']}"
        asked = [*PARETOPATH, "trace", "-n", "mlp:4", "-d", "iris", "--points", "4", "--server", url]
        with_token = {**outside, "PARETOPATH_TOKEN": SECRETS["PARETOPATH_TOKEN"]}
        traced = subprocess.run(asked, cwd=tmp_path, env=with_token, capture_output=True, text=True)
        assert traced.returncode == 0, traced.stderr
        assert "job 1 completed" in traced.stdout
