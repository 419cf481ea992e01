"""The local executor, with real worker processes: jobs are done, killed workers noticed, wishes obeyed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api import create_app
from app.executors.local import LocalExecutor, devices
from app.executors.runs import Outcome
from app.schemas import JobIn
from app.service import Service, open_store
from app.settings import Settings
from tests.app.conftest import CHEAP, TINY, browse, settings_in, work_off

LONG = {**TINY, "network": "mlp:8", "points": 12}
SLOW = {
    **LONG,
    "network": {"name": "tests.app.parts:faulty", "params": {"after": 0, "fault": "slow"}},
    "method": CHEAP.replace("epochs=6", "epochs=24", 1),
}
JOBS = "/api/v1/jobs"


@pytest.fixture
def running(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, executor="local", slots=1, grace_seconds=15.0, allow_paths=True)


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
        job_id = submit(client, SLOW)
        events = follow(client, job_id)
        wait_for_points(events, 3)
        os.kill(pid_of(client, job_id), signal.SIGKILL)
        assert list(events)
        assert client.get(f"{JOBS}/{job_id}").json()["state"] == "completed"
        points = client.get(f"{JOBS}/{job_id}/front").json()["points"]
        logged = client.get(f"{JOBS}/{job_id}/logs").json()["lines"]
    assert [p["index"] for p in points] == list(range(len(points)))
    assert [p["loss"] for p in points] == uninterrupted(tmp_path / "other", SLOW)
    assert "was ended by SIGKILL, as where a machine runs out of memory" in logged[1]["text"]


def uninterrupted(folder: Path, body: dict[str, Any]) -> list[float]:
    """The losses of a job whose network is never slow; what is computed is the same."""
    network = {**body["network"], "params": {"after": sys.maxsize, "fault": "slow"}}
    folder.mkdir()
    with open_store(settings_in(folder)) as store:
        work_off(store, Service(store, allow_paths=True).submit({**body, "network": network})["id"])
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


def faulty(fault: str) -> dict[str, Any]:
    return {**TINY, "network": {"name": "tests.app.parts:faulty", "params": {"after": 50, "fault": fault}}}


@pytest.mark.slow
def test_the_last_words_of_a_crash_are_in_the_log_and_the_service_stays_up(running: Settings) -> None:
    with browse(running) as client:
        job_id = submit(client, faulty("abort"))
        words = next(e["data"]["text"] for e in follow(client, job_id) if "SIGABRT" in e["data"].get("text", ""))
        assert "Fatal Python error: Aborted" in words
        assert "tests/app/parts.py" in words
        client.post(f"{JOBS}/{job_id}/cancel")
        assert "Fatal Python error" in client.get(f"/jobs/{job_id}").text
        assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_worker_that_does_not_hear_is_killed_after_its_grace_time(running: Settings) -> None:
    with browse(running.model_copy(update={"grace_seconds": 0.5})) as client:
        job_id = submit(client, faulty("deaf"))
        events = follow(client, job_id)
        next(event for event in events if event["kind"] == "log")
        pid = pid_of(client, job_id)
        client.post(f"{JOBS}/{job_id}/cancel")
        assert list(events)[-1]["data"]["state"] == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_a_worker_that_cannot_begin_says_why_once(running: Settings) -> None:
    with browse(running.model_copy(update={"max_memory_bytes": 2**20})) as client:
        job_id = submit(client, TINY)
        text = next(e["data"]["text"] for e in follow(client, job_id) if e["kind"] == "log")
        assert "PARETOPATH_MAX_MEMORY_BYTES is 1 MiB" in text
        executor: LocalExecutor = client.app.state.executor  # type: ignore[attr-defined]
        assert executor.pids() == {}, "it is left alone for a while"
        job = client.get(f"{JOBS}/{job_id}").json()
    assert (job["state"], job["attempts"]) == ("queued", 0)


@pytest.mark.slow
def test_two_supervisors_of_one_database_never_run_a_job_twice(running: Settings) -> None:
    with open_store(running) as store:
        service = Service(store, poll_seconds=0.02)
        ids = [service.submit(JobIn.model_validate({**TINY, "seed": seed}))["id"] for seed in range(2)]
        executors = [LocalExecutor(store, running) for _ in range(2)]
        for executor in executors:
            executor.start()
        states = [[e["data"]["state"] for e in service.follow(i) if e["kind"] == "state"] for i in ids]
        for executor in executors:
            executor.close()
        assert states == [["queued", "running", "completed"]] * 2
        assert [job.attempts for job in store.jobs()] == [0, 0]


def test_a_lost_worker_is_replaced_within_thirty_seconds() -> None:
    waits = Settings(data_dir=Path("unused"))
    assert waits.lease_seconds + waits.heartbeat_seconds + waits.poll_seconds <= 25, "the rest is for it to start"


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(-9), "was ended by SIGKILL, as where a machine runs out of memory"),
        (Outcome(-11, "why"), "was ended by SIGSEGV; the last that is known of it:\nwhy"),
        (Outcome(1), "ended with exit status 1"),
        (Outcome(None, "its node is dead"), "was lost; the last that is known of it:\nits node is dead"),
    ],
)
def test_ends_are_told_in_words(outcome: Outcome, told: str) -> None:
    assert str(outcome) == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status"), [("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("sys.exit(3)", 3)]
)
def test_an_orphan_finishes_its_point_and_gives_the_job_back(running: Settings, end: str, status: int) -> None:
    """The parent ends between two points; where it was killed, nobody reads what the orphan logs."""
    with open_store(running) as store:
        job_id = Service(store, allow_paths=True).submit({**SLOW, "method": CHEAP, "points": 100})["id"]
        started = subprocess.run(
            [sys.executable, "-c", PARENT + end, str(job_id)],
            env={**os.environ, **running.for_worker(1)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        orphan = int(started.stdout)
        while Path(f"/proc/{orphan}").exists():
            time.sleep(0.05)
        job = store.job(job_id)
    assert started.returncode == status
    assert (job.state, job.worker) == ("queued", None)
    assert job.n_points >= 2


PARENT = """
import os, signal, sys, time
from app.executors.processes import WorkerProcess
from app.service import open_store
from app.settings import Settings

job_id = int(sys.argv[1])
worker = WorkerProcess(job_id, "mine", os.environ)
print(worker.pid, flush=True)
with open_store(Settings()) as store:
    while store.job(job_id).n_points == 0:
        time.sleep(0.05)
"""


def test_there_is_a_slot_for_every_device() -> None:
    assert len(devices(3)) == 3
    assert len(set(devices(3))) == 3
    assert devices(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("app.serving", {"torch", "fastapi", "engine.spec"}),
        ("app.worker", {"sklearn", "scipy", "pymoo", "onnx", "onnxscript", "fastapi"}),
    ],
)
def test_a_start_loads_only_what_it_needs(module: str, unneeded: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert not unneeded.intersection(loaded)


def test_an_executor_that_is_at_work_already_is_taken_over(running: Settings) -> None:
    with open_store(running) as store:
        executor = LocalExecutor(store, running)
        executor.start()
        with TestClient(create_app(running, executor), base_url="http://localhost") as client:
            assert client.app.state.executor is executor  # type: ignore[attr-defined]
            assert executor.is_at_work
        assert not executor.is_at_work
