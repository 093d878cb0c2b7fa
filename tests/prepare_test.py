"""python -m skipjax: what it prints, where, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax import __version__
from skipjax.cli import main as cli
from skipjax.cli import prepare
from skipjax.data import demo, mssd
from skipjax.data.sessions import Sessions


@pytest.fixture
def logs(tmp_path):
    demo.write_logs(tmp_path / "logs", num_sessions=80, num_tracks=300)
    return str(tmp_path / "logs")


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command line; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def test_prepare_mssd(run, logs, tmp_path):
    code, out, err = run("prepare", "mssd", logs, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    sessions = Sessions.open(tmp_path / "out")
    facts = sessions.summary()
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in out.splitlines()]
    cells = dict(pair for pair in cells if len(pair) == 2)
    assert cells["sessions"] == "80"
    assert cells["events"] == f"{facts['events']:,}"
    assert cells["tracks"] == f"{facts['tracks']:,}"
    assert cells["skipped (levels 1 and 2)"] == f"{facts['skipped_share']:.2%}"
    assert cells["level 1, played very briefly"] == f"{facts['level_shares'][1]:.2%}"
    assert cells["session length"] == "10 to 20"
    assert cells["left out, shorter than 4"] == "0 sessions"
    assert f"--config.data.path={tmp_path / 'out'}\n" in out


def test_prepare_mssd_takes_its_options(run, logs, tmp_path):
    (log,) = os.listdir(logs)
    options = ["--sessions", "9", "--min_length", "5", "--max_length", "12"]
    assert run("prepare", "mssd", f"{logs}/{log}", "--out", tmp_path / "out", *options)[0] == 0
    expected = mssd.prepare(
        logs, tmp_path / "expected", num_sessions=9, min_length=5, max_length=12
    )
    assert Sessions.open(tmp_path / "out").digest == expected.digest
    code, out, _ = run("prepare", "mssd", logs, "--out", tmp_path / "all", "--sessions", "900")
    assert code == 0
    assert "there were only 80 sessions" in out


def test_prepare_table(run, tmp_path):
    lines = ["who\twhat\twhen\tbad\tplace", *(f"u\t{i}\t{9 - i}\t{i % 2}\thome" for i in range(6))]
    (tmp_path / "log.tsv").write_text("\n".join(lines) + "\n")
    columns = {"session": "who", "track": "what", "time": "when", "skip": "bad"}
    options = [f"--{name}_column={column}" for name, column in columns.items()]
    code, out, err = run(
        *("prepare", "table", tmp_path / "log.tsv", "--out", tmp_path / "out"),
        *options,
        "--context_columns=place,bad",
    )
    assert (code, err) == (0, "")
    assert "50.00%" in out
    sessions = Sessions.open(tmp_path / "out")
    tracks = sessions.track_ids.to_pylist()
    assert [tracks[t] for t in sessions.tracks] == list("543210")
    assert sessions.context.column_names == ["time", "place", "bad"]


def test_what_is_dropped_is_said(run, logs, tmp_path):
    (log,) = os.listdir(logs)
    path = tmp_path / "logs" / log
    lines = path.read_text().splitlines(keepends=True)
    names = [line.split(",")[0] for line in lines]
    columns = lines[0].split(",")
    for row, column in ((3, "track_id_clean"), (60, "session_id")):
        values = lines[row].split(",")
        values[columns.index(column)] = ""
        lines[row] = ",".join(values)
    path.write_text("".join(lines))
    code, _, err = run("prepare", "mssd", logs, "--out", tmp_path / "out")
    assert (code, os.listdir(tmp_path)) == (65, ["logs"])
    fix = "correct it, or leave out bad sessions with --on_bad_session=drop.\n"
    assert f"csv row 61, column session_id: '' is not an id; {fix}" in err
    options = ["--out", tmp_path / "out", "--on_bad_session=drop"]
    code, out, err = run("prepare", "mssd", logs, *options)
    assert (code, err) == (0, "")
    events = names.count(names[3]) + names.count(names[60]) - 1
    assert (
        f"Dropped: 2 sessions ({events} events) and 1 row whose session cannot be told; "
        f"{tmp_path}/out/dropped.csv lists them.\n"
    ) in out
    assert len((tmp_path / "out" / "dropped.csv").read_text().splitlines()) == 4
    assert Sessions.open(tmp_path / "out").num_sessions == 78


def test_demo_and_prepare(run, tmp_path):
    options = ["--sessions", "70", "--tracks", "200", "--seed", "3", "--skip_share", "0.15"]
    code, out, err = run("demo", "--out", tmp_path / "logs", *options)
    assert (code, err) == (0, "")
    assert "1 log file of synthetic sessions" in out
    assert f"python -m skipjax prepare mssd {tmp_path / 'logs'} --out DIR" in out
    demo.write_logs(tmp_path / "same", num_sessions=70, num_tracks=200, seed=3, skip_share=0.15)
    (name,) = os.listdir(tmp_path / "same")
    assert (tmp_path / "logs" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    assert run("prepare", "mssd", tmp_path / "logs", "--out", tmp_path / "out")[0] == 0
    assert Sessions.open(tmp_path / "out").num_sessions == 70


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prepar"], 2, "there is no command 'prepar'; there are .* Did you mean 'prepare'?"),
        (["xyz"], 2, "there is no command 'xyz'; there are prepare, "),
        (["prepare", "msd"], 2, "there is no kind of log 'msd'; .* Did you mean 'mssd'?"),
        (["prepare", "mssd"], 2, "the following arguments are required: SRC, --out"),
        (["prepare", "mssd", "x", "--out", "o", "--session", "3"], 2, "Did you mean --sessions?"),
        (["prepare", "mssd", "x", "--out", "o", "--sessions=-3"], 2, "'-3' is not a whole number"),
        (["prepare", "mssd", "x", "--out", "o", "--sessions=3.5"], 2, "'3.5' is not a whole numb"),
        (["prepare", "mssd", "x", "--out", "o", "--sessions=0"], 2, "whole number of at least 1"),
        (["prepare", "mssd", "x", "--out", "o", "--min_length=30"], 2, "at most max_length (20)"),
        (
            ["prepare", "mssd", "x", "--out", "o", "--on_bad_session=skip"],
            2,
            "--on_bad_session: invalid choice: 'skip'",
        ),
        (["prepare", "mssd", "nowhere", "--out", "o"], 65, "nowhere: no such file or folder."),
        (["prepare", "mssd", "no\nwhere\x1b", "--out", "o"], 65, r"no\nwhere\x1b: no such file"),
        (["prepare", "mssd", "logs", "--out", "logs"], 73, "logs exists already"),
        (["prepare", "mssd", "logs", "--out", "/dev/null/o"], 73, "/dev/null/o: cannot be"),
        (["prepare", "table", "x", "--out", "o"], 2, "exactly one of position_column and time_col"),
        (["demo"], 2, "the following arguments are required: --out"),
        (["demo", "--out", "o", "--skip_share", "7"], 2, "skip_share"),
        (["demo", "--out", "o", "--sessions", "0"], 2, "num_sessions"),
        (["demo", "--out", "logs"], 73, "logs exists already"),
    ],
)
def test_mistakes_end_in_one_line(run, logs, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    actual, out, err = run(*arguments)
    assert (actual, out) == (code, "")
    assert err.startswith("skipjax: ")
    assert err.count("\n") == 1
    for part in message.split(" .* "):
        assert part in err
    assert os.listdir(tmp_path) == ["logs"]


def test_help(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert run() == (2, "", out)
    assert run("--version") == (0, f"skipjax {__version__}\n", "")
    code, out, _ = run("prepare", "--help")
    assert code == 0
    assert all(f"  {kind} " in out for kind in prepare.KINDS)


def test_ctrl_c_ends_quietly(run, logs, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("skipjax.data.writer.SessionsWriter.add", interrupted)
    code, out, err = run("prepare", "mssd", logs, "--out", tmp_path / "deep" / "out")
    said = "skipjax: interrupted; nothing unfinished is left behind.\n"
    assert (code, out, err) == (130, "", said)
    assert os.listdir(tmp_path) == ["logs"]


def test_as_a_process(logs, tmp_path):
    command = [sys.executable, "-m", "skipjax", "prepare", "mssd", logs, "--out"]
    done = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert "sessions" in done.stdout
    assert done.stderr == ""
    failed = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True)
    assert failed.returncode == 73
    assert failed.stderr.startswith("skipjax: ")
    assert failed.stdout == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(tmp_path, number, code):
    """A pipe that never ends stands for a long file."""
    log, deep = tmp_path / "log.csv", tmp_path / "deep"
    os.mkfifo(log)
    pipe = os.open(log, os.O_RDWR)  # unlike O_WRONLY, does not wait for a reader
    command = [sys.executable, "-m", "skipjax", "prepare", "mssd", log, "--out", deep / "out"]
    # Where the tests themselves run in the background, SIGINT is ignored, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 30
        while not (deep.exists() and os.listdir(deep)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert os.listdir(deep) != []
        process.send_signal(number)
    finally:
        time.sleep(0.2)  # lets it open the pipe, if it has not yet
        os.close(pipe)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    said = {130: "interrupted", 143: "terminated"}[code]
    assert err == f"skipjax: {said}; nothing unfinished is left behind.\n"
    assert os.listdir(tmp_path) == ["log.csv"]


def put_yambda(folder):
    rows = 12
    numbers = np.arange(rows, dtype=np.uint32)
    columns = {
        "uid": numbers * 0 + 7,
        "timestamp": 5 * numbers,
        "item_id": numbers % 5,
        "is_organic": (numbers % 2).astype(np.uint8),
        "event_type": pa.array(["listen"] * 10 + ["dislike", "like"]),
        "played_ratio_pct": pa.array([7, 90] * 5 + [None] * 2, pa.uint16()),
        "track_length_seconds": pa.array([200] * 10 + [None] * 2, pa.uint32()),
    }
    pq.write_table(pa.table(columns), folder / "multi_event.parquet")


def put_lastfm(folder):
    rows = [f"u\t2009-05-04T23:{59 - i:02}:00Z\t\ta\t\t{'t' * (i > 0)}" for i in range(9)]
    (folder / "l.tsv").write_text("".join(row + "\n" for row in rows))


def put_spotify(folder):
    values = [
        {
            "ts": f"2020-01-01T00:{i:02}:00Z",
            "ms_played": 1000,
            "spotify_track_uri": f"spotify:track:{i:022}" if i else None,
            "skipped": i < 3,
        }
        for i in range(9)
    ]
    (folder / "endsong_0.json").write_text(json.dumps(values))


def put_inter(folder):
    rows = [f"u\ti{i}\t{i % 5 + 1}\t{i}" for i in range(10)]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "l.inter").write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize(
    ("kind", "put", "cells"),
    [
        (
            "yambda",
            put_yambda,
            {
                "feedback logged": "share played, likes and dislikes",
                "played less than half": "50.00%",
                "liked": "10.00%",
                "disliked": "10.00%",
            },
        ),
        (
            "lastfm",
            put_lastfm,
            {
                "feedback logged": "time to the next play (skips are inferred)",
                "the next play within 30 s": "0.00%",
                "left out, plays without a track": "1",
            },
        ),
        (
            "spotify",
            put_spotify,
            {
                "feedback logged": "skip levels",
                "level 1, played very briefly": "25.00%",
                "left out, plays without a track": "1",
            },
        ),
        ("inter", put_inter, {"feedback logged": "ratings", "rated 2 or less": "40.00%"}),
    ],
)
def test_what_is_said_of_each_kind(run, tmp_path, kind, put, cells):
    (tmp_path / "in").mkdir()
    put(tmp_path / "in")
    code, out, err = run("prepare", kind, tmp_path / "in", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    lines = [[cell.strip() for cell in line.split("│")[1:3]] for line in out.splitlines()]
    said = dict(pair for pair in lines if len(pair) == 2)
    assert cells.items() <= said.items()
    assert ("skipped (levels 1 and 2)" in said) == (kind == "spotify")
    assert Sessions.open(tmp_path / "out").info["source"] == kind


@pytest.mark.parametrize("kind", prepare.KINDS)
def test_each_kind_has_its_help(run, capsys, kind):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["prepare", kind, "--help"])
    assert exit_.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"python -m skipjax prepare {kind} SRC" in said
    assert ("--gap_minutes" in said) == (kind != "mssd")
    assert ("--features" in said) == (kind == "mssd")
    assert ("--rating_column" in said) == (kind == "table")
    assert ("--time_unit" in said) == (kind in ("table", "inter"))
    default = 30 if kind in ("yambda", "lastfm", "spotify") else 0
    assert kind == "mssd" or f"0 never does (default: {default})" in said


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "half"])
def test_a_gap_is_a_number(run, tmp_path, value):
    code, _, err = run("prepare", "yambda", tmp_path, "--out", "o", f"--gap_minutes={value}")
    assert code == 2
    assert f"--gap_minutes: '{value}' is not a number of at least 0" in err


def test_a_gap_without_a_unit_names_the_flag(run, tmp_path):
    put_inter(tmp_path)
    source = tmp_path / "l.inter"
    code, _, err = run("prepare", "inter", source, "--out", tmp_path / "o", "--gap_minutes=30")
    assert code == 2
    assert "give time_unit: s, ms, us, ns." in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("s", "2001-09-09 01:46 to 2001-09-09 01:49"),
        ("ms", "1970-01-12 13:46 to 1970-01-12 13:46"),
    ],
)
def test_the_times_are_shown_as_dates(run, tmp_path, unit, told):
    rows = "".join(f"a,t{i},{10**9 + 60 * i},0\n" for i in range(4))
    (tmp_path / "l.csv").write_text("user,item,when,hated\n" + rows)
    table = ["prepare", "table", tmp_path / "l.csv", "--session_column=user"]
    table += ["--track_column=item", "--time_column=when", "--skip_column=hated"]
    code, out, _ = run(*table, f"--time_unit={unit}", "--out", tmp_path / "out")
    assert code == 0
    assert told in out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\n\n", "l.csv is empty."),
        ("\nuser,item\n", "l.csv: its first line is blank; remove it."),
        (
            f"user,item,when,hated\na,t,{2**62},0\n",
            f"'{2**62}' is not a time in s from 1900 to 2261 (is time_unit right?)",
        ),
    ],
)
def test_blank_tables_and_times_of_no_listener(run, tmp_path, text, says):
    (tmp_path / "l.csv").write_text(text)
    table = ["prepare", "table", tmp_path / "l.csv", "--session_column=user", "--time_unit=s"]
    table += ["--track_column=item", "--time_column=when", "--skip_column=hated"]
    code, _, err = run(*table, "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (65, 1)
    assert says in err
