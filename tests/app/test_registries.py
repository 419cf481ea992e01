"""The registries describe themselves, and users' data joins them."""

import io

import jsonschema_rs
import numpy as np
import pytest
from fastapi.testclient import TestClient

from engine.spec import registries

ROUTES = {
    "networks": "networks",
    "losses": "losses",
    "penalties": "penalties",
    "methods": "methods",
    "exports": "exports",
}


@pytest.mark.parametrize("kind", ROUTES)
def test_every_part_has_a_summary_and_a_schema(client: TestClient, kind: str) -> None:
    found = client.get(f"/api/v1/{kind}").json()
    assert [part["name"] for part in found] == list(registries()[kind])
    for part in found:
        assert part["summary"]
        jsonschema_rs.meta.validate(part["schema"])
        for setting in part["schema"]["properties"].values():
            assert setting["description"]


@pytest.mark.slow
def test_the_body_s_schema_lists_the_known_names(client: TestClient) -> None:
    text = client.get("/openapi.json").text
    for kind in ("networks", "datasets", "penalties", "methods"):
        for name in registries()[kind]:
            assert f'"const":"{name}"' in text


def table(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    rows = [f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}" for a, b in rng.normal(size=(40, 2))]
    return "\n".join(["a,b,target", *rows]).encode()


def test_an_upload_is_listed_used_and_deleted(client: TestClient) -> None:
    response = client.post("/api/v1/datasets", files={"file": ("flowers.csv", table(0))})
    assert response.status_code == 201, response.text
    assert response.json()["name"] == "flowers"
    assert response.json()["shapes"]["X_train"] == [40, 2]
    assert response.json()["shapes"]["classes"] == ["no", "yes"]
    assert client.get("/api/v1/datasets").json()["uploads"] == [response.json()]
    job = client.post("/api/v1/jobs", json={"network": "mlp:3", "data": "flowers:validation=0.2", "points": 5})
    assert job.status_code == 201, job.text
    assert job.json()["spec"]["data"] == {"name": "flowers", "params": {"validation": 0.2}}
    assert client.delete("/api/v1/datasets/flowers").status_code == 204
    assert client.get("/api/v1/datasets").json()["uploads"] == []
    assert client.delete("/api/v1/datasets/flowers").status_code == 404


def test_a_text_is_uploaded_and_used(client: TestClient) -> None:
    text = ("To be, or not to be: that is the question. " * 20).encode()
    response = client.post("/api/v1/datasets", files={"file": ("hamlet.txt", text)})
    assert response.status_code == 201, response.text
    assert response.json()["shapes"]["X_train"] == [13, 64]
    body = {"network": "char_transformer:1,width=8,heads=2", "data": "hamlet:context=16", "points": 5}
    job = client.post("/api/v1/jobs", json=body)
    assert job.status_code == 201, job.text
    assert job.json()["facts"]["input_shape"] == [16]
    assert client.post("/api/v1/jobs", json={**body, "network": "mlp"}).status_code == 422


def test_the_same_content_is_found_again_and_other_content_refused(client: TestClient) -> None:
    files = [("file", ("x.csv", io.BytesIO(table(seed)))) for seed in (0, 0, 1)]
    first, second, third = (client.post("/api/v1/datasets", files=[f], data={"name": "mine"}) for f in files)
    assert first.json() == second.json()
    assert first.json()["name"] == "mine"
    assert third.status_code == 409
