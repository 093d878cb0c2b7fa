"""python -m skipjax serve: as a command, and as a process that is talked to and then ended."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runs
from services import NAMES, STRANGE, recommender

from skipjax import serving
from skipjax.cli import main as cli
from skipjax.errors import SkipjaxError
from skipjax.serving import server
from skipjax.serving.answering import Answerer

ROOT = Path(__file__).parent.parent
GOOD = json.dumps({"sessions": [{"tracks": ["t001"]}], "k": 3}).encode()


def ask(port, method, path, body=None, headers=None):
    """(status, headers, content) of a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


def exchange(port, sent):
    """What comes back for some bytes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        parts = iter(lambda: connection.recv(1 << 16), b"")
        return b"".join(parts)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two runs of one config; the second reads skips."""
    folders = []
    for reads in (False, True):
        folder = tmp_path_factory.mktemp("runs") / ("reads" if reads else "plain")
        runs.make_run(folder, runs.tiny(skip_embedding=reads), len(NAMES))
        tracks = pq.read_table(folder / "tracks.parquet")
        tracks = tracks.set_column(0, "track_id", pa.array(NAMES, pa.large_string()))
        pq.write_table(tracks, folder / "tracks.parquet")
        folders.append(str(folder))
    return folders


HEAD = b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
POST = b"POST /recommend" + HEAD
RAW = {
    "no HTTP at all": b"hello\r\n\r\n",
    "nothing but bytes": bytes(range(256)) * 8,
    "a header without end": b"GET /" + HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET /" + HEAD + b"X: 1\r\n" * 10_000 + b"\r\n",
    "a long address": b"GET /" + b"x" * 9000 + HEAD + b"\r\n",
    "a letter in the address": "GET /ü".encode() + HEAD + b"\r\n",
    "a space in the address": b"GET /a b" + HEAD + b"\r\n",
    "no host": b"GET /models HTTP/1.1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a length below 0": POST + b"Content-Length: -1\r\n\r\n",
    "a length of letters": POST + b"Content-Length: x\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: x\r\n\r\n",
    "a bad chunk": POST
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


def test_the_process(workdirs):
    """Started, asked in every way, overrun, and ended with requests in flight: none is lost."""
    command = [sys.executable, "-m", "skipjax", "serve", f"--model={workdirs[0]}", "--port=0"]
    pipe, quick = subprocess.PIPE, {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=quick, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.fullmatch(
                r"http://127\.0\.0\.1:(\d+) serves tiny-track \(60 tracks\); "
                r"warm after \d+\.\d s\n",
                line,
            )
            assert found, (line, process.stderr.read() if process.poll() is not None else "")
            port = int(found[1])
            assert ask(port, "GET", "/healthz")[0] == 200
            for track in STRANGE:
                status, _, answer = ask(port, "GET", f"/tracks/{quote(track, safe='')}/similar?k=1")
                assert (status, answer["track_id"]) == (200, track)
            answer = exchange(port, b"HEAD /models" + HEAD + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"\r\n\r\n")  # and no more
            for what, sent in RAW.items():
                status_line, _, rest = exchange(port, sent).partition(b"\r\n")
                assert re.match(rb"HTTP/1.1 4\d\d ", status_line), what
                assert list(json.loads(rest.partition(b"\r\n\r\n")[2])) == ["detail"], what
            # Nobody has to say how much there is for too much to be noticed.
            chunks = (b" " * (1 << 20) for _ in range(7))
            status, headers, answer = ask(port, "POST", "/recommend", chunks)
            assert (status, headers["Connection"]) == (413, "close")
            old = b"POST /recommend HTTP/1.0\r\nContent-Type: application/json\r\n"
            answer = exchange(port, old + f"Content-Length: {len(GOOD)}\r\n\r\n".encode() + GOOD)
            assert answer.startswith(b"HTTP/1.1 200 ")

            sessions = [{"tracks": NAMES[i % 40 :][:9], "session_id": str(i)} for i in range(1024)]
            body = json.dumps({"sessions": sessions, "k": 2}).encode()
            with ThreadPoolExecutor(4) as pool:
                flying, left = [], 0
                # All are there: one is being worked on, the others wait.
                while left < 2 or waiting(port) <= 1024 * (left - 2):
                    for _ in range(0 if left else 4):
                        flying.append(pool.submit(ask, port, "POST", "/recommend", body))
                    left = sum(not future.done() for future in flying)
                process.send_signal(signal.SIGTERM)
                for future in flying:
                    status, _, answer = future.result()
                    assert status == 200
                    ids = [session["session_id"] for session in answer["sessions"]]
                    assert ids == [str(i) for i in range(1024)]
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert out == ""
    assert re.fullmatch(r"skipjax: terminated[^\n]*\n", err)
    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/healthz")


def waiting(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(re.search(r'^skipjax_queue_sessions\{model="tiny-track"\} (.*)$', text, re.M)[1])


def test_ctrl_c_ends_it(monkeypatch):
    """In this process, after the answer of what was asked."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Answerer, "warm_up", lambda *_: 0.0)
    listening = server.listen("localhost", 0)
    port = listening.getsockname()[1]
    found = []

    def ready(seconds):
        threading.Thread(target=use).start()

    def use():
        found.append(ask(port, "POST", "/recommend", GOOD)[0])
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            server.serve({"plain": recommender()}, listening, on_ready=ready)
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [200]


@pytest.mark.parametrize(
    ("cut", "how"), [("late", "terminated"), ("last", "terminated"), ("forced", "interrupted")]
)
def test_what_is_not_answered_at_the_end_is_said(monkeypatch, capfd, cut, how):
    """A body that is half there, an answer that takes too long, and Ctrl-C twice."""
    interrupted = how == "interrupted"
    code = signal.SIGINT if interrupted else signal.SIGTERM
    monkeypatch.setattr(server, "_LATE_SECONDS", 0.2 if cut == "late" else 0.3)
    monkeypatch.setattr(server, "_LAST_SECONDS", {"late": 60, "last": 0.5, "forced": 60}[cut])
    monkeypatch.setattr(Answerer, "warm_up", lambda *_: 0.0)
    released, begun = threading.Event(), threading.Event()

    def stuck(*_):
        begun.set()
        released.wait(60)
        raise MemoryError

    monkeypatch.setattr(Answerer, "best", stuck)
    listening = server.listen("127.0.0.1", 0)
    connection = socket.create_connection(listening.getsockname(), timeout=60)
    connection.sendall(
        b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(GOOD)}\r\n\r\n".encode()
        + (GOOD[:9] if cut == "late" else GOOD)
    )
    found = []

    def use():
        if cut == "late":
            while not active():
                pass
        else:
            begun.wait(60)
        os.kill(os.getpid(), code)
        if cut == "forced":
            time.sleep(0.2)
            os.kill(os.getpid(), code)
        with connection:
            found.append(connection.recv(1 << 16) if cut == "late" else b"")
            with contextlib.suppress(ConnectionResetError):
                found.append(connection.recv(1 << 16))
        released.set()

    def active():
        return any(connection.awaits_body() for connection in servers[0].server_state.connections)

    servers = []
    made = server._Server.__init__
    monkeypatch.setattr(
        server._Server, "__init__", lambda self, *a: (servers.append(self), made(self, *a))[1]
    )
    user = threading.Thread(target=use)
    with pytest.raises(SkipjaxError, match=f"^{how}; 1 request was not answered.$") as caught:
        server.serve({"plain": recommender()}, listening, on_ready=lambda _: user.start())
    user.join()
    assert caught.value.exit_code == 128 + code
    assert found[0].startswith(b"HTTP/1.1 408 ") == (cut == "late")
    assert capfd.readouterr() == ("", "")  # no traceback


def test_a_model_that_cannot_be_warmed_up_ends_it(monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(Answerer, "warm_up", fail)
    with pytest.raises(SkipjaxError, match=r"^a model cannot be warmed up: no room\.$"):
        server.serve({"plain": recommender()}, server.listen("127.0.0.1", 0), on_ready=print)


@pytest.fixture
def run(capsys):
    """Runs a command line; returns exit code, stdout and stderr."""

    def call(*arguments):
        code = cli.main(["serve", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--port=0"], 2, "the following arguments are required: --model"),
        (["--model=no", "--port=65536"], 2, "--port is 65536; give one from 0 (any free one)"),
        (["--model=no", "--port=x"], 2, "argument --port: 'x' is not a whole number"),
        (["--model=no", "--port=0"], 76, "no: there is no such folder."),
        (["--model=no", "--port=0", "--host=192.0.2.1"], 2, "'192.0.2.1' is no address of this"),
        (["--model=no", "--port=0", "--host=no.invalid"], 2, "'no.invalid' is no address of this"),
        (["--model=no", "--port=0", "--host=" + "a." * 200], 2, "is no address of this machine"),
        (["--model=no", "--prot=0"], 2, "Did you mean --port?"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, code, message):
    found, out, err = run(*arguments)
    assert (found, out) == (code, ""), err
    assert err.count("\n") == 1
    assert message in err


def test_a_port_in_use_is_one_line(run):
    with server.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        code, out, err = run("--model=no", f"--port={port}")
    assert (code, out) == (75, "")
    assert err.startswith(f"skipjax: port {port} of 127.0.0.1 is in use; give another --port")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_what_is_not_installed_is_named(run, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith("skipjax.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(serving, "server")
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("--model=no", "--port=0")
    assert (code, out) == (2, "")
    assert f"the service needs {package}, which is not installed: pip install" in err
    assert "'skipjax[serve]'." in err


def test_who_may_ask_is_said_and_models_of_one_config_are_told_apart(
    run, monkeypatch, workdirs, tmp_path
):
    served = []

    def serve(recommenders, listening, *, on_ready, verbose):
        served.append(list(recommenders))
        on_ready(1.25)

    monkeypatch.setattr(server, "serve", serve)
    code, out, err = run(f"--model={workdirs[0]}", f"--model={workdirs[1]}", "--port=0")
    assert (code, err, out.count("\n")) == (0, "", 1)
    code, out, err = run(f"--model={workdirs[0]}", "--port=0", "--host=0.0.0.0")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("There is no authentication: whoever can reach 0.0.0.0 may ask")
    assert re.match(r"http://127.0.0.1:\d+ serves tiny-track \(60 tracks\); warm after 1.2", second)
    assert served == [["plain", "reads"], ["tiny-track"]]
    code, out, err = run(f"--model={workdirs[0]}", f"--model={workdirs[0]}", "--port=0")
    assert (code, out) == (2, "")
    assert f"--model {workdirs[0]} is given twice ({workdirs[0]}); give it once." in err
    code, out, err = run(f"--model={workdirs[0]}", f"--model={workdirs[0]}/", "--port=0")
    assert (code, out) == (2, "")
    assert f"/ is given twice, as {workdirs[0]}, too ({workdirs[0]}); give it once." in err
    other = tmp_path / "plain"
    shutil.copytree(workdirs[0], other)
    code, out, err = run(f"--model={workdirs[0]}", f"--model={other}", "--port=0")
    assert (code, out) == (2, "")
    assert f"--model {other}: there is a model 'plain' already; rename the folder" in err
