"""Server-sent events: complete, in order, resumable, finite."""

import json
from typing import Any

from fastapi.testclient import TestClient

EVENTS = "/api/v1/jobs/1/events"


def events(text: str) -> list[dict[str, Any]]:
    blocks = [block for block in text.split("\n\n") if "data:" in block]
    pairs = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [{"seq": int(p["id"]), "kind": p["event"], "data": json.loads(p["data"])} for p in pairs]


def test_all_events_come_in_order_and_the_stream_ends(reader: TestClient) -> None:
    response = reader.get(EVENTS)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert [e["seq"] for e in found] == sorted({e["seq"] for e in found})
    states = [e["data"]["state"] for e in found if e["kind"] == "state"]
    assert states[0] == "queued"
    assert states[-1] == "completed"
    points = [e["data"]["index"] for e in found if e["kind"] == "point"]
    assert points == [p["index"] for p in reader.get("/api/v1/jobs/1/front").json()["points"]]


def test_a_stream_is_taken_up_where_it_was_left(reader: TestClient) -> None:
    found = events(reader.get(EVENTS).text)
    for i in (0, len(found) // 2, len(found) - 2):
        seen = str(found[i]["seq"])
        assert events(reader.get(EVENTS, headers={"Last-Event-ID": seen}).text) == found[i + 1 :]
        assert events(reader.get(EVENTS, params={"after": seen}).text) == found[i + 1 :]


def test_a_client_that_has_seen_all_is_told_to_stop(reader: TestClient) -> None:
    last = events(reader.get(EVENTS).text)[-1]["seq"]
    assert reader.get(EVENTS, headers={"Last-Event-ID": str(last)}).status_code == 204


def test_a_number_that_is_none_is_refused(reader: TestClient) -> None:
    response = reader.get(EVENTS, headers={"Last-Event-ID": "soon"})
    assert response.status_code == 422
    assert "'soon'" in response.json()["detail"]
