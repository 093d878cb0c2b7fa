"""The load of benchmarks/serving.py: clients of the service, in a process of their own.

    python -m benchmarks.serving_load PORT PLAN

PLAN is JSON: {"kind": "closed" | "open" | "malformed", "num_tracks": ..., "seconds": ...,
"clients" or "rate": ..., "sessions": in each request, "path"}. Prints what was measured, as JSON.

Every answer is held against the one that its session got before the load began, when it was asked
for by itself: it must bear the request's own id and the same scores. A request without an answer
within a minute counts as lost, one with a status other than 200 as an error.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

K = 20
_POOL = 512  # different requests, asked again and again
_TOLERANCE = 1e-3  # of scores: sums in batches of another size differ in their last bits
_LOST_SECONDS = 60.0


def track(number: int) -> str:
    return f"track-{number:07d}"


def random_sessions(num_tracks: int, number: int) -> list[list[str]]:
    """Of 5 to 20 tracks, all of which the model knows."""
    rng = random.Random(0)
    lengths = (rng.randint(5, 20) for _ in range(number))
    return [[track(rng.randrange(num_tracks)) for _ in range(length)] for length in lengths]


@dataclasses.dataclass
class Case:
    """A request, and the scores that its answer must have."""

    sessions: list[list[str]]
    scores: list[list[float]] = dataclasses.field(default_factory=list)

    def body(self, number: int) -> bytes:
        asked = [
            {"tracks": tracks, "session_id": f"{number}-{i}"}
            for i, tracks in enumerate(self.sessions)
        ]
        return json.dumps({"sessions": asked, "k": K}).encode()

    def belongs(self, answer: dict[str, Any], number: int) -> bool:
        found = answer["sessions"]
        return len(found) == len(self.scores) and all(
            one["session_id"] == f"{number}-{i}"
            and len(one["recommendations"]) == len(scores)
            and all(
                math.isclose(best["score"], score, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
                for best, score in zip(one["recommendations"], scores, strict=True)
            )
            for i, (one, scores) in enumerate(zip(found, self.scores, strict=True))
        )


class Connection:
    """HTTP/1.1 with as little as it takes, so that the load is the service's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and content."""
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@dataclasses.dataclass
class Tally:
    seconds: list[float] = dataclasses.field(default_factory=list)  # of each answer
    sent: int = 0
    errors: int = 0
    lost: int = 0
    strangers: int = 0  # answers that belong to another request

    def facts(self, elapsed: float, sessions: int) -> dict[str, Any]:
        ordered = sorted(self.seconds) or [math.nan]

        def share(q: float) -> float:
            return 1e3 * ordered[min(int(q * len(ordered)), len(ordered) - 1)]

        return {
            "requests": self.sent,
            "errors": self.errors,
            "lost": self.lost,
            "strangers": self.strangers,
            "p50_ms": share(0.5),
            "p99_ms": share(0.99),
            "sessions_per_second": len(self.seconds) * sessions / elapsed,
        }


async def _send(
    connection: Connection, case: Case, number: int, tally: Tally, start: float
) -> bool:
    """One request; whether its connection can be used again."""
    body = case.body(number)
    start = start or time.perf_counter()
    tally.sent += 1
    try:
        asked = connection.ask("POST", "/recommend", body)
        status, content = await asyncio.wait_for(asked, _LOST_SECONDS)
    except (OSError, EOFError, TimeoutError):
        tally.lost += 1
        return False
    taken = time.perf_counter() - start
    if status != 200:
        tally.errors += 1
    elif not case.belongs(json.loads(content), number):
        tally.strangers += 1
    else:
        tally.seconds.append(taken)
    return True


async def closed(port: int, cases: Sequence[Case], clients: int, seconds: float) -> dict[str, Any]:
    """Each client asks anew as soon as it is answered."""
    tally, numbers = Tally(), itertools.count()
    connections = [await Connection.open(port) for _ in range(clients)]
    start = time.perf_counter()

    async def client(connection: Connection) -> None:
        while time.perf_counter() < start + seconds:
            number = next(numbers)
            if not await _send(connection, cases[number % len(cases)], number, tally, 0.0):
                return

    await asyncio.gather(*map(client, connections))
    elapsed = time.perf_counter() - start
    for connection in connections:
        await connection.close()
    return {"clients": clients, **tally.facts(elapsed, len(cases[0].sessions))}


async def open_loop(
    port: int, cases: Sequence[Case], rate: float, seconds: float
) -> dict[str, Any]:
    """Requests come at random times, `rate` a second, whether or not others are answered.

    An answer's time counts from when its request was due.
    """
    tally, rng, free = Tally(), random.Random(1), []
    tasks = []
    start = due = time.perf_counter()

    async def one(number: int, due: float) -> None:
        connection = free.pop(0) if free else await Connection.open(port)
        if await _send(connection, cases[number % len(cases)], number, tally, due):
            free.append(connection)
        else:
            await connection.close()

    for number in itertools.count():
        due += rng.expovariate(rate)
        if due > start + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    elapsed = time.perf_counter() - start
    for connection in free:
        await connection.close()
    return {"rate": rate, **tally.facts(elapsed, len(cases[0].sessions))}


async def answered(port: int, sessions: list[list[str]], size: int) -> list[Case]:
    """Cases of `size` sessions, with the scores of each session."""
    cases = [Case(sessions[i : i + size]) for i in range(0, len(sessions), size)]
    connection = await Connection.open(port)
    for number, case in enumerate(cases):
        status, content = await connection.ask("POST", "/recommend", case.body(number))
        if status != 200:
            raise SystemExit(f"the service answered {status}: {content[:200]!r}")
        case.scores = [
            [best["score"] for best in one["recommendations"]]
            for one in json.loads(content)["sessions"]
        ]
    await connection.close()
    return cases


async def http(port: int, seconds: float) -> dict[str, Any]:
    """What a request costs in which no model takes part."""
    connection, taken = await Connection.open(port), []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        await connection.ask("GET", "/models")
        taken.append(time.perf_counter() - start)
    await connection.close()
    return {"p50_ms": 1e3 * sorted(taken)[len(taken) // 2]}


async def malformed(port: int, number: int) -> dict[str, Any]:
    """How many of so many malformed requests were answered 4xx."""
    statuses: dict[str, int] = {}
    connection = await Connection.open(port)
    for body in itertools.islice(malformed_bodies(), number):
        status, content = await connection.ask("POST", "/recommend", body)
        if not json.loads(content)["detail"].isprintable():
            status = 0
        statuses[str(status)] = statuses.get(str(status), 0) + 1
    await connection.close()
    return {
        "requests": number,
        "answered_4xx": sum(n for status, n in statuses.items() if status[0] == "4"),
        "statuses": statuses,
    }


_WRONG = (None, True, 0, -1, -0.0, 1e300, 10**400, float("nan"), "", "x" * 10_000, "\ud800", "null")
_WRONG += ([], {}, [[]], ["\0"], [[[[[[[[]]]]]]]], {"tracks": 1}, {"": None})
_RIGHT = {("exclude_seen", "true"), ("session_id", '"null"')}  # as JSON has it
_RIGHT |= {(field, "null") for field in ("model", "skipped", "session_id")}


def malformed_bodies() -> Iterator[bytes]:
    """Right ones with a field that is not, right ones cut short, and bytes of no meaning."""
    rng = random.Random(2)
    good = {"sessions": [{"tracks": [track(1), track(2)], "skipped": [True, False]}], "k": 5}
    text = json.dumps(good).encode()
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            yield text[: rng.randrange(len(text))]
        elif kind == 1:
            yield rng.randbytes(rng.randrange(200))
        else:
            body = json.loads(text)
            inner = ("tracks", "skipped", "session_id", "tracs")
            outer = ("sessions", "k", "exclude_seen", "model", "sesions")
            field, value = rng.choice(inner if kind == 2 else outer), rng.choice(_WRONG)
            if (field, json.dumps(value)) not in _RIGHT:
                (body["sessions"][0] if kind == 2 else body)[field] = value
                yield json.dumps(body).encode()


async def _run(port: int, plan: dict[str, Any]) -> dict[str, Any]:
    if plan["kind"] == "malformed":
        return await malformed(port, plan["number"])
    if plan["kind"] == "http":
        return await http(port, plan["seconds"])
    size = plan.get("sessions", 1)
    sessions = random_sessions(plan["num_tracks"], max(_POOL, 2 * size))
    cases = await answered(port, sessions, size)
    if plan["kind"] == "open":
        return await open_loop(port, cases, plan["rate"], plan["seconds"])
    return await closed(port, cases, plan["clients"], plan["seconds"])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(int(sys.argv[1]), json.loads(sys.argv[2])))))
