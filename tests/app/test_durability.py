"""Thinning, damage, backups and room on disk as callers see them: REST and the command line."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.client import Remote
from app.errors import DAMAGED_TYPE, Refused
from app.service import Service, open_store
from app.settings import Settings
from app.worker import Worker
from storage.errors import Corrupt
from storage.store import Store
from tests.app.conftest import TINY, browse, settings_in, work_off
from tests.app.test_command_line import run


@pytest.fixture
def here(tmp_path: Path, traced: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A database of our own with a completed job, number 1."""
    settings = settings_in(tmp_path)
    with Store(traced.url) as store:
        store.back_up(tmp_path / "test.db")
    monkeypatch.setenv("PARETOPATH_DATABASE_URL", settings.url)
    monkeypatch.chdir(tmp_path)
    return settings


@pytest.fixture
def client(here: Settings) -> Iterator[TestClient]:
    with browse(here) as found:
        yield found


@pytest.fixture
def remote(client: TestClient) -> Remote:
    """The command line's way to the service."""

    def ask(request: httpx2.Request) -> httpx2.Response:
        answer = client.request(
            request.method, request.url.raw_path.decode(), content=request.content, headers=dict(request.headers)
        )
        return httpx2.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)

    return Remote("http://localhost", transport=httpx2.MockTransport(ask))


def damage(settings: Settings, index: int) -> None:
    find = 'SELECT theta FROM weights WHERE job_id = 1 AND "index" = ?'
    with sqlite3.connect(settings.url.removeprefix("sqlite:///")) as connection:
        connection.execute(f"UPDATE blobs SET payload = x'00' WHERE digest = ({find})", (index,))
    connection.close()


# Thinning


@pytest.mark.slow
def test_a_thinned_job_is_selected_from_exported_and_compared(client: TestClient) -> None:
    before = client.get("/api/v1/jobs/1/front?nondominated=true&layers=true").json()["points"]
    answer = client.post("/api/v1/jobs/1/thin", json={"keep": 3})
    assert answer.status_code == 200
    done = answer.json()
    points = client.get("/api/v1/jobs/1/front?layers=true").json()["points"]
    assert all(point in before for point in points)
    assert done["job"]["progress"]["points"] == len(points) == 3
    assert done["job"]["thinned"] == done["dropped"] > 0
    assert done["bytes"] > 0
    ends = sorted(before, key=lambda p: p["penalty"])
    assert {ends[0]["index"], ends[-1]["index"]} <= {p["index"] for p in points}
    chosen = client.get("/api/v1/jobs/1/select?knee=true").json()
    assert chosen in points
    for point in points:
        assert client.get(f"/api/v1/jobs/1/points/{point['index']}/export/safetensors").status_code == 200
    assert len(client.get("/api/v1/compare?jobs=1").json()["fronts"][0]["points"]) == 3
    assert client.get("/jobs/1").status_code == client.get(f"/jobs/1/points/{chosen['index']}").status_code == 200
    gone = next(p["index"] for p in before if p not in points)
    assert client.get(f"/api/v1/jobs/1/points/{gone}").status_code == 404


def test_a_thinned_job_is_refitted_by_its_points_numbers(here: Settings) -> None:
    with open_store(here) as store:
        service = Service(store)
        kept = service.thin(1, {"keep": 2})["job"]["progress"]["points"]
        refit = service.refit(1, {"epochs": 1})
        assert work_off(store, refit["id"]) == kept == 2
        sources = {point.metrics["source"] for point in store.front(refit["id"])}
        assert sources == {point.index for point in store.front(1)}
        for point in store.front(refit["id"]):
            source = store.waypoint(1, int(point.metrics["source"]))
            assert point.n_nonzero <= source.point.n_nonzero
            assert point.loss <= source.point.loss + 1e-6


def test_nondominated_points_stay(client: TestClient) -> None:
    before = client.get("/api/v1/jobs/1/front?nondominated=true").json()["points"]
    client.post("/api/v1/jobs/1/thin", json={"nondominated": True})
    after = client.get("/api/v1/jobs/1/front").json()["points"]
    assert sorted(p["index"] for p in before) == [p["index"] for p in after]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "exactly one of keep and nondominated"),
        ({"keep": 3, "nondominated": True}, "exactly one of keep and nondominated"),
        ({"keep": 1}, "greater than or equal to 2"),
        ({"keep": 3, "objectives": ["loss", "beauty"]}, "unknown quantity 'beauty'"),
        ({"keep": 3, "objectives": ["loss"]}, "at least 2"),
        ({"keeps": 3}, "'keeps'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(client: TestClient, body: dict, told: str) -> None:
    before = client.get("/api/v1/jobs/1/front").json()
    answer = client.post("/api/v1/jobs/1/thin", json=body)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert client.get("/api/v1/jobs/1/front").json() == before


def test_thinning_needs_a_job_that_has_ended(client: TestClient) -> None:
    client.post("/api/v1/jobs", json=TINY)
    answer = client.post("/api/v1/jobs/2/thin", json={"keep": 3})
    assert (answer.status_code, "is queued" in answer.json()["detail"]) == (409, True)
    assert client.post("/api/v1/jobs/9/thin", json={"keep": 3}).status_code == 404


@pytest.mark.slow
def test_the_command_line_thins(here: Settings, remote: Remote) -> None:
    said = run("thin", "1", "--keep", "3").stdout
    assert "points dropped, 3 left" in said
    assert json.loads(run("thin", "1", "--nondominated", "--json").stdout)["dropped"] == 0
    assert remote.thin(1, {"keep": 2})["job"]["progress"]["points"] == 2
    assert "exactly one of keep" in run("thin", "1", code=2).stderr


# Damage


def test_damage_is_told_apart_from_absence(here: Settings, client: TestClient, remote: Remote) -> None:
    damage(here, 1)
    damaged = client.get("/api/v1/jobs/1/points/1/export/safetensors")
    absent = client.get("/api/v1/jobs/1/points/999/export/safetensors")
    assert (damaged.status_code, damaged.json()["type"]) == (500, DAMAGED_TYPE)
    assert damaged.json()["title"] == "Stored Data Is Damaged"
    assert "point 1 of job 1 is damaged" in damaged.json()["detail"]
    assert (absent.status_code, absent.json()["type"]) == (404, "about:blank")
    assert client.get("/api/v1/jobs/1/points/1").status_code == 200
    with pytest.raises(Corrupt, match="point 1 of job 1 is damaged"):
        remote.export(1, 1, "safetensors")


@pytest.mark.slow
def test_the_command_line_names_damage_and_exits_with_3(here: Settings) -> None:
    assert "everything stored is as it was written" in run("verify").stdout
    damage(here, 1)
    assert "the weights of point 1 of job 1: stored bytes" in run("verify", code=3).stdout
    assert "point 1 of job 1 is damaged" in run("export", "1", "1", code=3).stderr
    assert "no point 999" in run("export", "1", "999", code=2).stderr
    Path("test.db").write_bytes(b"no database" * 1000)
    for ending in ("-wal", "-shm"):
        Path(f"test.db{ending}").unlink(missing_ok=True)
    assert "the database itself is damaged" in run("verify", code=3).stderr


def test_a_job_that_meets_damage_fails_with_its_place(here: Settings) -> None:
    damage(here, 1)
    with open_store(here) as store:
        refit = Service(store).refit(1, {"epochs": 1})
        worker = Worker(store, heartbeat_seconds=0.05)
        lease = worker.claim(refit["id"])
        assert lease is not None
        list(worker.work(lease))
        job = store.job(refit["id"])
    assert (job.state, job.reason.partition(":")[0]) == ("failed", "point 1 of job 1 is damaged")


# Room


def test_a_full_and_a_read_only_database_are_told_apart(client: TestClient) -> None:
    limits = {"max_page_count": 1, "query_only": 0}
    store: Store = client.app.state.store  # type: ignore[attr-defined]

    @event.listens_for(store._database._reader, "checkout")
    def limited(connection: sqlite3.Connection, *_: object) -> None:
        for name, value in limits.items():
            connection.execute(f"PRAGMA {name} = {value}")

    payload = b"a,y\n" + b"".join(b"%d,%d\n" % (i * 7919, i % 2) for i in range(9000))
    full = client.post("/api/v1/datasets", files={"file": ("heavy.csv", payload)})
    limits.update(max_page_count=2**32 - 2, query_only=1)
    read_only = client.post("/api/v1/jobs/1/thin", json={"keep": 3})
    assert (full.status_code, full.json()["title"]) == (507, "Insufficient Storage")
    assert "no room for more" in full.json()["detail"]
    assert (read_only.status_code, "takes no writes" in read_only.json()["detail"]) == (503, True)
    assert client.get("/api/v1/jobs/1/front").status_code == 200


# Commands about the database


@pytest.mark.slow
def test_garbage_is_told_and_collected(here: Settings) -> None:
    run("thin", "1", "--keep", "2")
    with sqlite3.connect("test.db") as connection:
        connection.execute("INSERT INTO blobs VALUES ('x', 100000, zeroblob(100000))")
    connection.close()
    told = run("gc", "--dry-run").stdout
    assert "1 arrays that nobody refers to, 100,000 bytes, would be deleted" in told
    assert run("gc", "--dry-run").stdout == told
    assert "1 arrays that nobody refers to, 100,000 bytes, deleted" in run("gc").stdout
    assert "0 arrays" in run("gc", "--full").stdout


@pytest.mark.slow
def test_a_backup_is_restored(here: Settings) -> None:
    before = run("front", "1", "--json").stdout
    assert "copy.db" in run("backup", "copy.db").stdout
    run("thin", "1", "--keep", "2")
    assert "exists; --force replaces it" in run("backup", "copy.db", code=2).stderr
    assert "exists; --force replaces it" in run("restore", "copy.db", code=2).stderr
    run("restore", "copy.db", "--force")
    assert run("front", "1", "--json").stdout == before
    run("restore", "copy.db", "--database-url", "sqlite:///new/other.db")
    assert run("front", "1", "--json", "--database-url", "sqlite:///new/other.db").stdout == before


def test_postgresql_is_backed_up_by_its_own_command(here: Settings) -> None:
    url = "postgresql://ann@db.internal/fronts"
    told = run("backup", "fronts.dump", "--database-url", url, code=2).stderr
    assert "pg_dump --format=custom --file=fronts.dump postgresql://ann@db.internal/fronts" in told
    told = run("restore", "fronts.dump", "--database-url", url, code=2).stderr
    assert "pg_restore --clean --if-exists --dbname=postgresql://ann@db.internal/fronts fronts.dump" in told


# Following a job of a service that goes away


def flaky(client: TestClient, troubles: int) -> Remote:
    """The service by a connection that breaks so many times: where it begins, and in the middle of an answer."""
    left = iter(range(troubles))

    def ask(request: httpx2.Request) -> httpx2.Response:
        trouble = next(left, None)
        if trouble is not None and trouble % 2 == 0:
            raise httpx2.ConnectError("connection refused")
        path = request.url.raw_path.decode()
        answer = client.request(request.method, path, headers=dict(request.headers))
        content = answer.content if trouble is None else broken(answer.content)
        return httpx2.Response(answer.status_code, headers={"content-type": "text/event-stream"}, content=content)

    return Remote("http://localhost", transport=httpx2.MockTransport(ask), reconnect_seconds=0.0)


def broken(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    raise httpx2.RemoteProtocolError("peer closed connection")


def test_who_follows_a_job_misses_nothing_when_the_service_goes_away(client: TestClient) -> None:
    undisturbed = list(flaky(client, 0).follow(1))
    indices = [e["data"]["index"] for e in undisturbed if e["kind"] == "point"]
    assert indices == list(range(len(indices)))
    assert len(indices) >= 6
    assert list(flaky(client, 7).follow(1)) == undisturbed


def test_a_service_that_stays_away_is_given_up() -> None:
    def gone(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused", request=request)

    remote = Remote("http://localhost", transport=httpx2.MockTransport(gone), reconnect_seconds=0.0)
    with pytest.raises(Refused, match="no answer from http://localhost: connection refused"):
        next(remote.follow(1))
