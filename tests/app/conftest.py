from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from app.api import create_app
from app.schemas import JobIn
from app.service import Service, open_store
from app.settings import Settings
from app.worker import Worker
from storage.store import Store

torch.set_num_threads(1)

CHEAP = "continuation:end=0.8,sweeps=1,epochs=6,anchor_epochs=15"
TINY = {"network": "mlp:4", "data": "iris", "points": 6, "method": CHEAP, "name": "tiny", "tags": ["test"]}


def settings_in(folder: Path, **more: Any) -> Settings:
    values = {"data_dir": folder, "database_url": f"sqlite:///{folder}/test.db", "executor": "none", "threads": 1}
    return Settings(**{**values, "poll_seconds": 0.02, "heartbeat_seconds": 0.05, **more})


def browse(settings: Settings, **more: Any) -> TestClient:
    return TestClient(create_app(settings), base_url="http://localhost", **more)


def work_off(store: Store, job_id: int) -> int:
    """Trace a job in this process; how many points it stored."""
    worker = Worker(store, heartbeat_seconds=0.05)
    lease = worker.claim(job_id)
    assert lease is not None
    return len(list(worker.work(lease)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings) as found:
        yield found


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with browse(settings) as found:
        yield found


@pytest.fixture(scope="package")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A database with one completed job, number 1; to be read only."""
    settings = settings_in(tmp_path_factory.mktemp("traced"))
    with open_store(settings) as store:
        job = Service(store).submit(JobIn.model_validate(TINY))
        assert work_off(store, job["id"]) > 2
    return settings


@pytest.fixture
def reader(traced: Settings) -> Iterator[TestClient]:
    with browse(traced) as found:
        yield found
