"""The local executor, with real worker processes: jobs are done, killed workers noticed, wishes obeyed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.executors.local import devices
from app.service import Service, open_store
from app.settings import Settings
from tests.app.conftest import TINY, browse, settings_in, work_off

LONG = {**TINY, "network": "mlp:8", "points": 12}
JOBS = "/api/v1/jobs"


@pytest.fixture
def running(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, executor="local", slots=1, grace_seconds=15.0)


def submit(client: TestClient, body: dict[str, Any]) -> int:
    response = client.post(JOBS, json=body)
    assert response.status_code == 201, response.text
    return int(response.json()["id"])


def follow(client: TestClient, job_id: int) -> Iterator[dict[str, Any]]:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    return service.follow(job_id)


def wait_for_points(events: Iterator[dict[str, Any]], n: int) -> None:
    for event in events:
        if event["kind"] == "point" and event["data"]["index"] >= n - 1:
            return


def pid_of(client: TestClient, job_id: int) -> int:
    pids: dict[int, int] = client.app.state.executor.pids()  # type: ignore[attr-defined]
    return pids[job_id]


@pytest.mark.slow
def test_a_submitted_job_is_traced_by_a_worker_process(running: Settings) -> None:
    with browse(running) as client:
        job_id = submit(client, TINY)
        assert "event: point" in client.get(f"{JOBS}/{job_id}/events").text
        job = client.get(f"{JOBS}/{job_id}").json()
        assert job["state"] == "completed", job["reason"]
        exported = client.get(f"{JOBS}/{job_id}/points/1/export/safetensors")
        assert exported.status_code == 200


@pytest.mark.slow
def test_a_killed_worker_is_noticed_and_its_job_goes_on(running: Settings, tmp_path: Path) -> None:
    with browse(running) as client:
        job_id = submit(client, LONG)
        events = follow(client, job_id)
        wait_for_points(events, 3)
        os.kill(pid_of(client, job_id), signal.SIGKILL)
        assert list(events)
        assert client.get(f"{JOBS}/{job_id}").json()["state"] == "completed"
        points = client.get(f"{JOBS}/{job_id}/front").json()["points"]
    assert [p["index"] for p in points] == list(range(len(points)))
    assert [p["loss"] for p in points] == uninterrupted(tmp_path / "other")


def uninterrupted(folder: Path) -> list[float]:
    folder.mkdir()
    with open_store(settings_in(folder)) as store:
        work_off(store, Service(store).submit(LONG)["id"])
        return [point.loss for point in store.front(1)]


@pytest.mark.slow
def test_cancel_keeps_the_points_and_stopping_the_service_gives_jobs_back(running: Settings) -> None:
    with browse(running) as client:
        first, second = (submit(client, {**LONG, "points": 2000}) for _ in range(2))
        events = follow(client, first)
        wait_for_points(events, 2)
        assert client.post(f"{JOBS}/{first}/cancel").status_code == 200
        assert list(events)[-1]["data"]["state"] == "cancelled"
        assert client.get(f"{JOBS}/{first}").json()["progress"]["points"] >= 2
        wait_for_points(follow(client, second), 1)
        pid = pid_of(client, second)
    with open_store(running) as store:
        assert store.job(second).state == "queued"
        assert store.job(second).n_points >= 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_there_is_a_slot_for_every_device() -> None:
    assert len(devices(3)) == 3
    assert len(set(devices(3))) == 3
    assert devices(None)
