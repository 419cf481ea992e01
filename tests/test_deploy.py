"""The manifests under deploy/: what they name exists, and the scripts do what they say, without their clusters."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from app.__main__ import app as command_line
from app.service import Service, open_store
from app.settings import Settings
from storage.store import Store
from tests.app.conftest import TINY

ROOT = Path(__file__).parents[1]
KUBERNETES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
SLURM = sorted((ROOT / "deploy" / "slurm").glob("*.sbatch"))
KNOWN = {f"PARETOPATH_{name.upper()}" for name in Settings.model_fields}
KUBERNETES_VERSION = "1.36"
KINDS = {
    ("batch/v1", "Job"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("ray.io/v1", "RayCluster"),
}


def documents() -> list[dict[str, Any]]:
    return [document for file in KUBERNETES for document in yaml.safe_load_all(file.read_text())]


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod template below a value."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for inner in value.values():
            yield from pods(inner)
    if isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def containers() -> list[dict[str, Any]]:
    return [c for document in documents() for pod in pods(document) for c in pod["spec"]["containers"]]


def parsed(arguments: list[str]) -> str:
    """The subcommand of ours that takes these arguments."""
    whole: Any = get_command(command_line)
    name, command, rest = whole.resolve_command(
        whole.make_context("paretopath", ["--help"], resilient_parsing=True), arguments
    )
    command.make_context(name, list(rest))
    return str(name)


def test_every_document_is_of_a_known_kind_and_has_a_name() -> None:
    assert {(d["apiVersion"], d["kind"]) for d in documents()} == KINDS
    assert all(d["metadata"].get("name") or d["metadata"]["generateName"] for d in documents())


@pytest.mark.parametrize("document", documents(), ids=lambda document: f"{document['kind']}")
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    bodies = [{"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": pod["spec"]} for pod in pods(document)]
    own = [] if document["apiVersion"].startswith("ray.io/") else [document]
    for body in [*own, *bodies]:
        kubernetes_validate.validate(body, KUBERNETES_VERSION, strict=True)


def test_selectors_find_their_pods() -> None:
    labels = [pod.get("metadata", {}).get("labels", {}) for d in documents() for pod in pods(d)]
    wanted = [
        d["spec"]["selector"].get("matchLabels", d["spec"]["selector"]) for d in documents() if "selector" in d["spec"]
    ]
    assert len(wanted) == 3
    assert [selector for selector in wanted if selector not in labels] == []


def test_containers_run_the_image_of_the_compose_file_with_settings_that_exist() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    assert {f"image: {c['image']}" in compose for c in containers()} == {True}
    names = {entry["name"] for c in containers() for entry in c["env"]}
    assert {name for name in names if name.startswith("PARETOPATH_")} <= KNOWN
    secrets = [entry["valueFrom"]["secretKeyRef"] for c in containers() for entry in c["env"] if "valueFrom" in entry]
    made = re.findall(r"--from-literal=([\w-]+)=", KUBERNETES[1].read_text())
    assert {(secret["name"], secret["key"]) for secret in secrets} == {("paretopath", key) for key in made}


def test_every_command_exists() -> None:
    ours = [parsed(c["args"]) for c in containers() if "args" in c]
    assert sorted(ours) == ["migrate", "serve", "worker", "worker"]


def test_ports_and_probes_fit_together() -> None:
    for container in containers():
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in (container.get("readinessProbe"), container.get("livenessProbe")):
            assert probe is None or "exec" in probe or probe["httpGet"]["port"] in ports


@pytest.mark.slow
def test_ray_takes_what_the_cluster_gives_it() -> None:
    from ray.scripts.scripts import cli, start

    (cluster,) = [d["spec"] for d in documents() if d["kind"] == "RayCluster"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        given = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        start.make_context("start", given)
        (container,) = group["template"]["spec"]["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            program, command = container[probe]["exec"]["command"]
            assert (program, command in cli.commands) == ("ray", True)


# Slurm


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(data_dir=tmp_path)) as found:
        yield found


def submitted_to_slurm(name: str, folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """A batch script run by bash, with programs of the cluster in place of which there are these."""
    programs.setdefault("srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
    programs.setdefault("paretopath", f'exec {sys.executable} -m app "$@"')
    (folder / "bin").mkdir()
    for program, text in programs.items():
        (folder / "bin" / program).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / program).chmod(0o755)
    given = {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "PARETOPATH_DATABASE_URL": f"sqlite:///{folder}/paretopath.db",
    }
    slurm = {"SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    script = ROOT / "deploy" / "slurm" / name
    environment = {**os.environ, **given, **slurm}
    return subprocess.run(["bash", str(script)], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("script", SLURM, ids=lambda script: script.name)
def test_batch_scripts_end_before_their_time_and_need_a_database(script: Path, tmp_path: Path) -> None:
    assert re.search(r"^#SBATCH --signal=TERM@\d+$", script.read_text(), re.MULTILINE)
    without = {name: value for name, value in os.environ.items() if name != "PARETOPATH_DATABASE_URL"}
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=without, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PARETOPATH_DATABASE_URL: set it" in done.stderr


@pytest.mark.slow
def test_a_task_of_the_array_works_until_no_job_waits(tmp_path: Path, store: Store) -> None:
    jobs = [Service(store).submit({**TINY, "seed": seed})["id"] for seed in range(2)]
    done = submitted_to_slurm("workers.sbatch", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [store.job(job_id).state for job_id in jobs] == ["completed"] * 2


def test_ray_takes_what_the_batch_script_gives_it(tmp_path: Path) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    done = submitted_to_slurm("ray.sbatch", tmp_path, ray='printf "%s\\n" "$@"', scontrol="echo node1; echo node2")
    assert done.returncode == 0, done.stderr
    command, *arguments = done.stdout.splitlines()
    cut = arguments.index("--")
    assert (command, arguments[:4]) == ("symmetric-run", ["--address", "node1:6379", "--min-nodes", "2"])
    start.make_context("start", curate_and_validate_ray_start_args(arguments[:cut]))
    program, *ours = arguments[cut + 1 :]
    assert (program, parsed(ours)) == ("paretopath", "serve")
