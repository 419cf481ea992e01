"""Who may ask: tokens, names, origins; what every response forbids pages to load."""

import base64
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.api import create_app
from app.errors import ExposureRefused
from app.guards import POLICY
from tests.app.conftest import TINY, browse, settings_in

TOKEN = "a-secret-of-some-length"


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    with pytest.raises(ExposureRefused, match=r"0\.0\.0\.0.*PARETOPATH_TOKEN"):
        create_app(settings_in(tmp_path, host="0.0.0.0"))


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    with browse(settings_in(tmp_path, host="0.0.0.0", token=TOKEN)) as client:
        refused = client.get("/api/v1/jobs")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "Authorization: Bearer" in refused.json()["detail"]
        assert client.get("/healthz").status_code == 200
        basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
        for value in (f"Bearer {TOKEN}", f"Basic {basic}"):
            assert client.get("/api/v1/jobs", headers={"Authorization": value}).status_code == 200
        for value in ("Bearer wrong", "Basic wrong", f"Digest {TOKEN}", TOKEN):
            assert client.get("/api/v1/jobs", headers={"Authorization": value}).status_code == 401


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000"])
def test_loopback_is_free_under_its_own_names(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example"])
def test_loopback_under_another_name_is_dns_rebinding(client: TestClient, host: str) -> None:
    refused = client.get("/api/v1/jobs", headers={"Host": host})
    assert refused.status_code == 421
    assert host in refused.json()["detail"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_pages_of_others_cannot_change_anything(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/api/v1/jobs", json=TINY, headers=headers).status_code == 403
    assert client.get("/api/v1/jobs").json()["jobs"] == []


@pytest.mark.slow
def test_our_own_pages_can(client: TestClient) -> None:
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/v1/jobs", json=TINY, headers=own).status_code == 201


@pytest.mark.parametrize("url", ["/api/v1/jobs", "/api/v1/nothing", "/healthz", "/openapi.json"])
def test_every_response_forbids_foreign_sources(client: TestClient, url: str) -> None:
    headers = client.get(url).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"


def test_operators_can_look(client: TestClient) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/api/v1/jobs", json=TINY)
    text = client.get("/metrics").text
    assert 'paretopath_jobs{state="queued"} 1.0' in text
    assert 'paretopath_http_requests_total{method="POST",route="/api/v1/jobs",status="201"} 1.0' in text


def test_without_tables_the_service_is_not_ready(tmp_path: Path) -> None:
    client = browse(settings_in(tmp_path))
    refused = client.get("/readyz")
    assert refused.status_code == 503
    assert "paretopath migrate" in refused.json()["detail"]
