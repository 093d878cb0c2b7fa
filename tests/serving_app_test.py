"""The service over its routes: what it answers, and that nothing sent to it makes it fail."""

import asyncio
import json
import re
import string
import threading
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from services import NAMES, STRANGE, recommender
from starlette.testclient import TestClient

from skipjax.data.catalogue import Catalogue
from skipjax.serving import schema
from skipjax.serving.answering import Answerer
from skipjax.serving.app import create_app, search
from skipjax.serving.batching import Worker

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client():
    """Of two models; they are not warmed up, as few shapes are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "warm_up", lambda *_: 0.0)
        models = {"plain": recommender(False, "plain"), "reads": recommender(True, "reads")}
        with TestClient(create_app(models), raise_server_exceptions=False) as client:
            yield client


def refusal(response, status):
    """What it says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (message,) = response.json().values()
    assert list(response.json()) == ["detail"]
    assert message.isprintable()  # so it is one line
    assert message.endswith((".", "?"))
    return message


def test_recommend(client):
    sessions = [
        {"tracks": ["t001", "t002", "a/b"], "session_id": "one"},
        {"tracks": ["x", "t003", "x"], "skipped": [False, True, False]},
        {"tracks": []},
        {"tracks": ["x"]},
    ]
    for name in ("plain", "reads"):
        body = {"sessions": sessions, "k": 4, "model": name}
        response = client.post("/recommend", json=body)
        assert response.status_code == 200
        answer = response.json()
        assert (answer["model"], answer["reads_skips"]) == (name, name == "reads")
        one, two, three, four = answer["sessions"]
        assert [found["session_id"] for found in answer["sessions"]] == ["one", None, None, None]
        assert [found["unknown"] for found in answer["sessions"]] == [[], ["x"], [], ["x"]]
        assert [found["fallback"] for found in answer["sessions"]] == [False, False, True, True]
        table = recommender(name == "reads", name).recommend([sessions[0]["tracks"]], 4)
        wanted = table.select(["track_id", "score", "rank"]).to_pylist()
        assert one["recommendations"] == wanted
        assert len(two["recommendations"]) == 4
        popular = [
            {"track_id": track, "score": None, "rank": rank}
            for rank, track in enumerate(NAMES[:4], start=1)
        ]
        assert three["recommendations"] == four["recommendations"] == popular
    assert client.post("/recommend", json={"sessions": sessions}).json()["model"] == "plain"


def test_what_is_heard_may_stay_in(client):
    body = {"sessions": [{"tracks": NAMES[:15]}], "k": 60, "exclude_seen": False}
    ((answer,),) = [client.post("/recommend", json=body).json()["sessions"]]
    assert sorted(best["track_id"] for best in answer["recommendations"]) == sorted(NAMES)
    body["exclude_seen"] = True
    ((answer,),) = [client.post("/recommend", json=body).json()["sessions"]]
    assert sorted(best["track_id"] for best in answer["recommendations"]) == sorted(NAMES[15:])


def test_only_a_model_that_reads_skips_reads_them(client):
    tracks = NAMES[:9]
    for name in ("plain", "reads"):
        found = [
            client.post(
                "/recommend",
                json={"model": name, "sessions": [{"tracks": tracks, "skipped": skipped}]},
            ).json()["sessions"]
            for skipped in (None, [False] * 9, [True] * 9)
        ]
        assert (found[0] == found[1] == found[2]) == (name == "plain")


def test_many_at_once_are_answered_as_alone(client):
    """Threads of clients, each with sessions of its own."""
    bodies = [
        {"sessions": [{"tracks": NAMES[i : i + 6], "session_id": str(i)}], "k": 1 + i % 20}
        for i in range(40)
    ]
    alone = [client.post("/recommend", json=body).json() for body in bodies]
    together = [None] * len(bodies)

    def ask(number):
        together[number] = client.post("/recommend", json=bodies[number]).json()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


# The test client decodes what is encoded twice; serving_process_test.py asks for all.
@pytest.mark.parametrize("track", [*(track for track in STRANGE if "%" not in track), "t007"])
def test_similar(client, track):
    """Whatever is in the id."""
    response = client.get(f"/tracks/{quote(track, safe='')}/similar?k=3&model=reads")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["model"], answer["track_id"]) == ("reads", track)
    assert answer["similar"] == recommender(True, "reads").similar(track, 3).to_pylist()


def test_search(client):
    def found(query):
        return [track["track_id"] for track in client.get(f"/tracks?{query}").json()["tracks"]]

    assert found("") == NAMES[:20]
    assert found("limit=100") == NAMES
    assert found("q=T00&limit=3") == ["t000", "t001", "t002"]
    assert found("q=/") == ["a/b", "/tracks/x/similar"]
    assert found("q=" + quote("Ü😀")) == ["ü😀\u202e"]
    assert found("q=.*") == found("q=%00") == []
    first = client.get("/tracks?limit=1").json()["tracks"]
    assert first == [{"track_id": "t000", "plays": len(NAMES) - 1}]


def test_search_in_several_catalogues():
    def catalogue(*ids):
        return Catalogue(pa.array(ids, pa.large_string()), np.arange(len(ids))[::-1])

    one = catalogue(*NAMES[:30])  # plays 29 to 0
    two = catalogue("t005", "t900", "other")  # plays 2, 1, 0
    assert search([one, two], "t", 3) == [("t000", 29), ("t001", 28), ("t002", 27)]
    assert search([one, two], "t90", 3) == [("t900", 1)]
    assert search([one, two], "05", 3) == [("t005", 24)]
    assert search([two, one], "05", 3) == [("t005", 24)]


def test_models_health_and_page(client):
    plain, reads = client.get("/models").json()["models"]
    facts = {"name": "plain", "about": "plain, untrained", "tracks": 60, "reads_skips": False}
    assert plain == {**facts, "max_k": 60, "max_tracks": 20}
    assert reads["reads_skips"]
    assert client.get("/healthz").json() == {"ready": True, "detail": "ready."}
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    # Nothing is fetched from elsewhere, nor anything put into the page but text.
    assert not re.search(r"(?<!xmlns=')https?://|innerHTML|style=|\son\w+=", page.text)
    for path in ("/", "/models", "/nothing"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"
    for path in ("/docs", "/redoc", "/recommend/"):
        refusal(client.get(path), 404)


def test_openapi_describes_it(client):
    described = client.get("/openapi.json").json()
    assert {"/recommend", "/tracks", "/models", "/healthz", "/metrics"} <= set(described["paths"])
    schemas = described["components"]["schemas"]
    referred = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
    assert referred <= set(schemas)
    assert {"Query", "Session", "Answer", "Problem"} <= referred
    for example in schemas["Query"]["examples"]:
        assert client.post("/recommend", json=example).status_code == 200
    assert schemas["Query"]["properties"]["k"]["maximum"] == schema.MOST_RECOMMENDED


def test_metrics(client):
    def count(text, name):
        return sum(float(value) for value in re.findall(rf"^{name} (.*)$", text, re.MULTILINE))

    posted = r'skipjax_requests_total\{method="POST",route="/recommend",status="200"\}'
    batched = r'skipjax_batch_sessions_sum\{model="reads"\}'
    strange = r'skipjax_requests_total\{method="other",route="none",status="40\d"\}'
    before = client.get("/metrics").text
    body = {"sessions": [{"tracks": ["t001"]}] * 3, "model": "reads"}
    client.post("/recommend", json=body)
    client.request("BREW", "/pot")
    after = client.get("/metrics").text
    assert count(after, posted) - count(before, posted) == 1
    assert count(after, batched) - count(before, batched) == 3
    assert count(after, strange) - count(before, strange) == 1
    assert count(after, r'skipjax_queue_sessions\{model="reads"\}') == 0
    assert "/pot" not in after  # or who asks could make it grow


GOOD = {"sessions": [{"tracks": ["t001"]}]}
LONG = "x" * 513


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is not JSON: EOF"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "the body is not JSON"),
        (b'{"sessions": [{"tracks": ["\\ud800"]}]}', 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "recursion limit"),
        (b'{"k": ' + b"9" * 5000 + b"}", 400, "number out of range"),
        ([], 422, "the body is a list of 0; give an object such as"),
        (None, 422, "the body is null"),
        ({}, 422, "sessions is missing; give a list of 1 to 1,024 sessions"),
        ({"sessions": []}, 422, "sessions is a list of 0"),
        ({"sessions": [{"tracks": []}] * 1025}, 422, "sessions is a list of 1,025"),
        ({"sessions": {"tracks": []}}, 422, "sessions is an object of 1"),
        ({"sessions": [["t001"]]}, 422, "sessions[0] is a list of 1; give an object such as"),
        ({"sessions": [{"tracks": []}, {}]}, 422, "sessions[1].tracks is missing"),
        ({"sessions": [{"tracks": "t001"}]}, 422, "sessions[0].tracks is 't001'; give a list"),
        ({"sessions": [{"tracks": ["t1", 5]}]}, 422, "sessions[0].tracks[1] is 5; give an id as"),
        ({"sessions": [{"tracks": [""]}]}, 422, "sessions[0].tracks[0] is ''"),
        ({"sessions": [{"tracks": [LONG]}]}, 422, "..., 513 characters; give an id as text, of 1"),
        ({"sessions": [{"tracks": ["t"] * 301}]}, 422, "tracks is a list of 301; give a list of"),
        ({"sessions": [{"tracks": ["t"], "skipped": [1]}]}, 422, "skipped[0] is 1; give true"),
        ({"sessions": [{"tracks": ["t"], "skipped": []}]}, 422, "skipped has 0 values and tracks"),
        ({"sessions": [{"tracks": ["t"], "skiped": []}]}, 422, "did you mean skipped?"),
        ({"sessions": [{"tracks": [], "session_id": 1}]}, 422, "sessions[0].session_id is 1"),
        ({**GOOD, "k": 0}, 422, "k is 0; give a whole number from 1 to 100"),
        ({**GOOD, "k": 61}, 422, "k is 61; of plain, give a whole number from 1 to 60"),
        ({**GOOD, "k": 101}, 422, "k is 101"),
        ({**GOOD, "k": 2.0}, 422, "k is 2.0"),
        ({**GOOD, "k": "2"}, 422, "k is '2'"),
        ({**GOOD, "k": True}, 422, "k is true"),
        ({**GOOD, "k": float("nan")}, 422, "k is nan"),
        ({**GOOD, "exclude_seen": 1}, 422, "exclude_seen is 1; give true or false"),
        ({**GOOD, "model": "other"}, 422, "model is 'other'; give one of plain, reads"),
        ({**GOOD, "a\nb": 1}, 422, "there is no field a\\nb; leave it out"),
    ],
)
def test_a_body_that_makes_no_sense(client, body, status, message):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert message in refusal(client.post("/recommend", content=content, headers=JSON), status)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/tracks?limit=0", 422, "limit is '0'; give a whole number from 1 to 100"),
        ("GET", "/tracks?limit=1e1", 422, "limit is '1e1'"),
        ("GET", "/tracks?limt=1", 422, "there is no field limt; did you mean limit?"),
        ("GET", "/tracks?q=" + LONG, 422, "513 characters; give text of at most 512"),
        ("GET", "/tracks?q=%ff", 400, "the address is not UTF-8"),
        ("GET", "/tracks/%c3%28/similar", 400, "the address is not UTF-8"),
        ("GET", "/tracks/%ed%a0%80/similar", 400, "the address is not UTF-8"),  # a surrogate
        ("GET", "/tracks/t07/similar", 404, "knows no track 't07'. Do you mean 't0"),
        ("GET", "/tracks//similar", 422, "track_id is ''; give an id of 1 to 512 characters"),
        ("GET", f"/tracks/{LONG}/similar", 422, "513 characters; give an id"),
        ("GET", "/tracks/t001/similar?k=60", 422, "k is 60; of plain, give a whole number from 1"),
        ("GET", "/tracks/t001/similar?model=no", 422, "model is 'no'; give one of plain, reads"),
        ("GET", "/a%0Ab", 404, "there is no GET /a\\nb; /openapi.json lists what there is"),
        ("POST", "/models", 405, "POST /models is not allowed"),
        ("DELETE", "/recommend", 405, "DELETE /recommend is not allowed"),
    ],
)
def test_an_address_that_makes_no_sense(client, method, path, status, message):
    assert message in refusal(client.request(method, path), status)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "Content-Type is null; send application/json"),
        ({"Content-Type": "text/plain"}, "Content-Type is 'text/plain'"),
        ({"Content-Type": "application/json; charset=latin-1"}, "in UTF-8"),
        ({**JSON, "Content-Encoding": "gzip"}, "Content-Encoding is 'gzip'; send the body as it"),
    ],
)
def test_a_body_of_another_kind(client, headers, message):
    content = json.dumps(GOOD).encode()
    assert message in refusal(client.post("/recommend", content=content, headers=headers), 415)
    kind = 'Application/JSON; charset="UTF-8"'
    headers = {"Content-Type": kind, "Content-Encoding": "identity"}
    assert client.post("/recommend", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize("length", [None, b"99999999999", b"5"])
def test_too_large_a_body_is_not_read_whole(client, length):
    """Whatever length it says it has; what is kept of it is no more than may be sent."""
    read = 0
    sent = []

    async def receive():
        nonlocal read
        read += 1 << 20
        return {"type": "http.request", "body": b" " * (1 << 20), "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    headers += [(b"content-length", length)] if length else []
    scope = {"type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend"}
    scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http"}
    scope |= {"server": ("test", 80), "client": ("test", 1), "root_path": ""}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert read <= 2 * schema.MOST_BYTES + (1 << 20)
    assert b"more than 4,194,304 bytes; split it" in sent[1]["body"]


def test_a_body_that_does_not_arrive_is_given_up(client, monkeypatch):
    monkeypatch.setattr(schema, "BODY_SECONDS", 0.01)
    parts, sent = [{"type": "http.request", "body": b"{", "more_body": True}], []

    async def receive():
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend"}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
    scope |= {"headers": [(b"content-type", b"application/json")], "server": ("test", 80)}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"of the body, 1 B and not all are here after 0.01 s; send it faster" in sent[1]["body"]


def test_a_body_may_be_as_large_as_it_may(client):
    body = json.dumps(GOOD).encode()
    body += b" " * (schema.MOST_BYTES - len(body))
    assert client.post("/recommend", content=body, headers=JSON).status_code == 200
    refusal(client.post("/recommend", content=body + b" ", headers=JSON), 413)


def test_a_client_that_goes_away_is_no_fault(client):
    async def receive():
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend"}
    scope |= {"query_string": b"", "headers": [(b"content-type", b"application/json")]}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_before_it_is_warm_and_when_too_much_waits(monkeypatch):
    """Requests wait for the first; the second is said, with when to come back."""
    warm = threading.Event()
    monkeypatch.setattr(Answerer, "warm_up", lambda *_: 0.1 * warm.wait(60))
    said = []
    app = create_app({"plain": recommender(False, "plain")}, most_waiting=5, on_ready=said.append)
    with TestClient(app) as client:
        cold = client.get("/healthz")
        assert (cold.status_code, cold.json()["ready"]) == (503, False)
        assert "warming up: plain" in cold.json()["detail"]
        answers = []

        def ask():
            answers.append(client.post("/recommend", json={"sessions": [{"tracks": []}] * 5}))

        thread = threading.Thread(target=ask)
        thread.start()
        while 'sessions{model="plain"} 5.0' not in client.get("/metrics").text:
            pass
        for full in (
            client.post("/recommend", json=GOOD),
            client.get("/tracks/t001/similar"),
        ):
            assert "5 sessions wait already; try again in 1 s" in refusal(full, 503)
            assert full.headers["retry-after"] == "1"
        assert not said
        warm.set()
        thread.join()
        assert answers[0].status_code == 200
        assert client.get("/healthz").status_code == 200
    assert said == [0.1]


def test_a_fault_of_the_service_is_said_without_a_traceback(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr(Worker, "recommend", fail)
    message = refusal(client.post("/recommend", json=GOOD), 500)
    assert "secret" not in message


# Bodies: what is right, with one thing in it that is not, and what is no JSON at all.
_texts = st.text(st.characters(codec="utf-8"), max_size=8)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=8,
)


def _is(kind):
    return lambda value: type(value) is not kind


_bad_track = _anything.filter(lambda x: not (isinstance(x, str) and x))
_bad_session = st.one_of(
    _anything.filter(_is(dict)),
    _anything.filter(_is(list)).map(lambda x: {"tracks": x}),
    st.tuples(st.lists(_texts.filter(bool), max_size=3), _bad_track).map(
        lambda pair: {"tracks": [*pair[0], pair[1]]}
    ),
    _anything.filter(lambda x: x is not None and x != []).map(
        lambda x: {"tracks": [], "skipped": x}
    ),
    _anything.filter(lambda x: x is not None and not (isinstance(x, str) and x)).map(
        lambda x: {"tracks": [], "session_id": x}
    ),
    st.tuples(_texts.filter(lambda x: x not in ("tracks", "skipped", "session_id")), _anything).map(
        lambda pair: {"tracks": [], pair[0]: pair[1]}
    ),
)
_bad_field = st.one_of(
    _anything.filter(lambda x: type(x) is not int or not 1 <= x <= 60).map(lambda x: {"k": x}),
    _anything.filter(_is(bool)).map(lambda x: {"exclude_seen": x}),
    _anything.filter(lambda x: x not in (None, "plain", "reads")).map(lambda x: {"model": x}),
    _anything.filter(lambda x: not (isinstance(x, list) and x)).map(lambda x: {"sessions": x}),
    _bad_session.map(lambda x: {"sessions": [{"tracks": ["t001"]}, x]}),
    st.tuples(
        _texts.filter(lambda x: x not in ("sessions", "k", "exclude_seen", "model")), _anything
    ).map(lambda pair: dict([pair])),
)


def _json(value):
    return json.dumps(value, ensure_ascii=False).encode()


@st.composite
def _damaged(draw):
    """What is right, cut or with a byte of no meaning in it."""
    body = _json({"sessions": [{"tracks": draw(st.lists(_texts, min_size=1))}]})
    place = draw(st.integers(0, len(body) - 1))
    return draw(st.sampled_from([body[:place], body[:place] + b"\xff" + body[place:]]))


malformed = st.one_of(
    _bad_field.map(lambda field: _json({**GOOD, **field})),
    _anything.filter(_is(dict)).map(_json),
    st.binary(max_size=40).filter(lambda body: not body.strip().startswith(b"{")),
    _damaged(),
    st.sampled_from(string.printable)
    .map(lambda c: _json(GOOD) + c.encode())
    .filter(lambda body: body.strip() != _json(GOOD)),
)


@settings(
    max_examples=1000,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(body=malformed)
def test_a_thousand_malformed_requests(client, body):
    response = client.post("/recommend", content=body, headers=JSON)
    assert 400 <= response.status_code < 500, (body, response.text)
    refusal(response, response.status_code)
