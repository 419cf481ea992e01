"""The Ray executor, on a cluster of three nodes that this machine simulates."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.api import create_app
from app.errors import Lacking
from app.service import Service, open_store
from app.settings import Settings
from storage.store import Store
from tests.app.browser.conftest import served
from tests.app.conftest import TINY, settings_in
from tests.app.test_executor import LONG, SLOW, uninterrupted, wait_for_points

NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
DEAF = {"name": "tests.app.parts:faulty", "params": {"after": 50, "fault": "deaf"}}
GRACE_SECONDS = 2


class Machines:
    """A simulated cluster whose head runs no jobs, with one other node at first."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
        self._nodes = [self.add_node()]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self) -> Any:
        return self._cluster.add_node(num_cpus=1, **NODE)

    def grow(self) -> None:
        self._nodes.append(self.add_node())

    def kill_first(self) -> None:
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Machines()
        yield found
        found.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(data_dir=tmp_path)) as found:
        yield found


@pytest.fixture
def client(tmp_path: Path, store: Store, machines: Machines) -> Iterator[httpx2.Client]:
    chosen = {"EXECUTOR": "ray", "RAY_ADDRESS": machines.address, "POLL_SECONDS": "0.05", "ALLOW_PATHS": "1"}
    chosen |= {"HEARTBEAT_SECONDS": "0.05", "GRACE_SECONDS": str(GRACE_SECONDS)}
    with (
        served(tmp_path, **{f"PARETOPATH_{name}": value for name, value in chosen.items()}) as address,
        httpx2.Client(base_url=f"{address}/api/v1") as found,
    ):
        yield found


def submitted(client: httpx2.Client, body: dict[str, Any]) -> int:
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def is_alive(worker: str) -> bool:
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return any(worker.encode() in command for command in commands)


@pytest.mark.slow
def test_a_job_whose_node_dies_goes_on_elsewhere(
    client: httpx2.Client, store: Store, machines: Machines, tmp_path: Path
) -> None:
    job_id = submitted(client, SLOW)
    events = Service(store).follow(job_id)
    wait_for_points(events, 2)
    machines.kill_first()
    machines.grow()
    assert list(events)
    assert store.job(job_id).state == "completed", store.job(job_id).reason
    front = store.front(job_id)
    assert [point.index for point in front] == list(range(len(front)))
    assert [point.loss for point in front] == uninterrupted(tmp_path / "other", SLOW)
    texts = [line["text"] for line in client.get(f"/jobs/{job_id}/logs").json()["lines"]]
    assert [" begins (" in texts[0], " goes on after " in texts[-1]] == [True, True]


@pytest.mark.slow
def test_a_job_that_does_not_hear_is_ended_for_real(client: httpx2.Client, store: Store) -> None:
    job_id, waiting = submitted(client, {**TINY, "network": DEAF}), submitted(client, {**LONG, "points": 2000})
    events = Service(store).follow(job_id)
    next(event for event in events if event["kind"] == "log")
    worker = store.job(job_id).worker
    assert worker is not None
    assert is_alive(worker)
    for each in (waiting, job_id):
        assert client.post(f"/jobs/{each}/cancel").status_code == 200
    assert list(events)[-1]["data"]["state"] == "cancelled"
    assert store.job(waiting).state == "cancelled"
    done = submitted(client, TINY)
    assert [event["data"]["state"] for event in Service(store).follow(done) if event["kind"] == "state"][
        -1
    ] == "completed"
    assert not is_alive(worker), "the only slot of the cluster is free again, and nobody is in it"


def test_without_ray_the_service_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Lacking, match=r"PARETOPATH_EXECUTOR=ray needs Ray: pip install 'paretopath\[ray\]'"):
        create_app(settings_in(tmp_path, executor="ray"))
