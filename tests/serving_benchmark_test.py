"""The load generator of benchmarks/serving.py: it sees what goes wrong, and asks what it says."""

import asyncio
import contextlib
import itertools
import json

import pytest

from benchmarks import serving, serving_load
from skipjax.serving.schema import BadRequest, parse

COUNTS = ("errors", "lost", "strangers")


async def answer(reader, writer, faults):
    """Right but for what `faults` has for each request in turn; scores are those of the tracks."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except EOFError:
            break
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        query = json.loads(await reader.readexactly(length))
        fault = next(faults)
        if fault == "lost":
            break
        sessions = [
            {
                "session_id": session["session_id"] + "0" * (fault == "id"),
                "recommendations": [
                    {"score": hash(t) % 1000 + (fault == "score")} for t in session["tracks"]
                ],
            }
            for session in query["sessions"]
        ]
        content = json.dumps({"sessions": sessions}).encode()
        status = 503 if fault == "errors" else 200
        writer.write(f"HTTP/1.1 {status} \r\nContent-Length: {len(content)}\r\n\r\n".encode())
        writer.write(content)
    writer.close()


@pytest.mark.parametrize("kind", ["closed", "open"])
@pytest.mark.parametrize(
    ("fault", "counted"),
    [("", ""), ("errors", "errors"), ("lost", "lost"), ("id", "strangers"), ("score", "strangers")],
)
def test_each_answer_is_looked_at(kind, fault, counted):
    async def run():
        faults = itertools.chain([""] * 256, ["", "", fault], itertools.repeat(""))
        server = await asyncio.start_server(lambda r, w: answer(r, w, faults), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sessions = serving_load.random_sessions(1000, 512)
        cases = await serving_load.answered(port, sessions, 2)
        if kind == "closed":
            found = await serving_load.closed(port, cases, 3, 0.05)
        else:
            found = await serving_load.open_loop(port, cases, 400.0, 0.1)
        server.close()
        return found

    found = asyncio.run(run())
    assert {name: found[name] for name in COUNTS} == {name: name == counted for name in COUNTS}
    assert found["requests"] > 3
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    result = {"loads": {"": found}, "saturating": []}
    result["malformed"] = {"requests": 5, "answered_4xx": 5}
    assert serving._problem(result) == (f"1 {counted}" if counted else "")


def test_malformed_bodies_are_malformed():
    bodies = list(itertools.islice(serving_load.malformed_bodies(), 1000))
    assert len(set(bodies)) > 400
    for body in bodies:
        with contextlib.suppress(BadRequest):
            assert parse(body).model is not None, body  # which is none that there is


def test_a_floor_is_of_the_same_work():
    floors = {"1": 2.0, "64": 16.0, "256": 50.0}
    row = {"p50_ms": 6.0, "sessions_per_second": 2000.0, "clients": 64}
    assert serving._against("one at a time", row, floors, 1.0) == ("3 ms", "2.00")
    assert serving._against("256 at a time", {"p50_ms": 60.0}, floors, 1.0) == ("50 ms", "1.20")
    assert serving._against("64 clients", row, floors, 1.0) == ("4,000/s", "2.00")
    row["clients"] = 512
    assert serving._against("512 clients", row, floors, 1.0) == ("5,120/s", "2.56")
