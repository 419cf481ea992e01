"""The life of a job over REST: submitted once, listed, steered, deleted."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from storage.store import Store
from tests.app.conftest import TINY, work_off

JOBS = "/api/v1/jobs"


def submit(client: TestClient, **change: Any) -> dict[str, Any]:
    response = client.post(JOBS, json={**TINY, **change})
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"{JOBS}/{response.json()['id']}"
    job: dict[str, Any] = response.json()
    return job


def test_a_job_is_stored_with_its_whole_spec_and_what_was_found_out(client: TestClient) -> None:
    job = submit(client)
    assert (job["state"], job["name"], job["tags"]) == ("queued", "tiny", ["test"])
    assert job["spec"]["network"] == {"name": "mlp", "params": {"hidden": [4]}}
    assert job["spec"]["penalty"]["name"] == "l1"
    assert job["facts"]["input_shape"] == [4]
    assert job["progress"]["points"] == 0
    assert client.get(f"{JOBS}/{job['id']}").json() == job


def test_shorthand_and_object_mean_the_same(client: TestClient) -> None:
    long = submit(client, network={"name": "mlp", "params": {"hidden": [4]}}, data={"name": "iris", "params": {}})
    assert long["spec"] == submit(client)["spec"]


def test_shorthand_takes_settings_of_every_part(client: TestClient) -> None:
    job = submit(client, network="mlp:5,activation=tanh", data="iris:validation=0.25", method="continuation:end=0.95")
    assert job["spec"]["network"]["params"] == {"hidden": [5], "activation": "tanh"}
    assert job["spec"]["data"]["params"] == {"validation": 0.25}
    assert job["spec"]["method"]["params"] == {"end": 0.95}


def test_the_same_key_gives_the_same_job(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (client.post(JOBS, json=TINY, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert len(client.get(JOBS).json()["jobs"]) == 1
    assert client.post(JOBS, json={**TINY, "seed": 1}, headers=headers).status_code == 409


def test_the_list_is_paged_and_filtered(client: TestClient) -> None:
    ids = [submit(client, tags=["odd"] if i % 2 else ["even"])["id"] for i in range(5)]
    first = client.get(JOBS, params={"limit": 3}).json()
    rest = client.get(JOBS, params={"limit": 3, "cursor": first["next"]}).json()
    assert [job["id"] for page in (first, rest) for job in page["jobs"]] == ids[::-1]
    assert rest["next"] is None
    assert [job["id"] for job in client.get(JOBS, params={"tag": "odd"}).json()["jobs"]] == [ids[3], ids[1]]
    client.post(f"{JOBS}/{ids[0]}/cancel")
    assert [job["id"] for job in client.get(JOBS, params={"state": "cancelled"}).json()["jobs"]] == [ids[0]]


def test_a_waiting_job_is_paused_resumed_cancelled_and_deleted(client: TestClient) -> None:
    url = f"{JOBS}/{submit(client)['id']}"
    assert client.post(f"{url}/pause").json()["state"] == "paused"
    assert client.post(f"{url}/resume").json()["state"] == "queued"
    assert client.post(f"{url}/cancel").json()["state"] == "cancelled"
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404


@pytest.mark.slow
def test_a_cancelled_job_goes_on_when_resumed(client: TestClient, store: Store) -> None:
    job = submit(client)
    client.post(f"{JOBS}/{job['id']}/cancel")
    client.post(f"{JOBS}/{job['id']}/resume")
    assert work_off(store, job["id"]) > 2
    done = client.get(f"{JOBS}/{job['id']}").json()
    assert done["state"] == "completed"
    assert done["reason"]
    assert done["progress"]["points"] > 2
    assert done["progress"]["remaining_seconds"] == 0


def test_a_running_job_cannot_be_deleted(client: TestClient, store: Store) -> None:
    job = submit(client)
    assert store.claim("somebody", 60.0, job["id"]) is not None
    assert client.delete(f"{JOBS}/{job['id']}").status_code == 409
    assert client.post(f"{JOBS}/{job['id']}/cancel").json()["wanted"] == "cancel"
