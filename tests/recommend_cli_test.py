"""python -m skipjax recommend, similar and evaluate: on a run as main.py leaves it."""

import csv
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runs

from skipjax import train
from skipjax.cli import main as cli
from skipjax.data import sources
from skipjax.data.split import split_as

ROOT = Path(__file__).parent.parent
NAMES = runs.names(60)


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command line; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Untrained."""
    workdir = tmp_path_factory.mktemp("run")
    runs.make_run(workdir, runs.tiny(skip_embedding=True))
    return workdir


def cells(out):
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]


def test_a_run_of_main_py(run, tmp_path, capsys):
    """recommend gives what the test kept in sessions.parquet, evaluate what is in results.json."""
    config = importlib.import_module("configs.tiny").get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.demo.num_sessions = 80
    config.train.num_epochs = 1
    config.eval.keep_top = 12
    config.model.skip_embedding = True
    workdir = tmp_path / "run"
    results = train.train_and_evaluate(config, workdir)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    capsys.readouterr()

    code, out, err = run("evaluate", "--workdir", workdir)
    assert (code, err) == (0, "")
    assert out.startswith("tiny-track on 80 synthetic demo sessions, epoch 1\n")
    found = {row[1]: row[2:4] for row in cells(out)[4:10]}
    full = {row[1]: row[2:4] for row in cells(out)[11:17]}
    for rows, which in ((found, "test"), (full, "test_full")):
        for name in config.eval.metrics:
            wanted = (f"{which}/{name}", f"baseline/popularity/{which}/{name}")
            assert rows[name.upper()] == [f"{results[key]:.4f}" for key in wanted]
    changes = ("--config.eval.metrics=('hr@3',)", "--config.eval.num_candidates=50")
    code, out, err = run("evaluate", "--workdir", workdir, *changes)
    assert (code, err) == (0, "")
    assert [row[1] for row in cells(out)[4:7:2]] == ["HR@3", "HR@3"]

    split = split_as(config.data, sources.load(config.data))
    lengths, _ = split.held_out("test")
    rows = [
        {
            "session": split.session_ids[s].as_py(),
            "track": split.track_ids[int(split.tracks[e]) - 2].as_py(),
            "skipped": bool(split.skipped[e]),
        }
        for s in range(80)
        for e in range(split.starts[s], split.starts[s] + lengths[s])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    columns = ("--session_column=session", "--track_column=track", "--skip_column=skipped")
    code, out, err = run(
        *("recommend", "--workdir", workdir, "--input", tmp_path / "in.parquet", *columns),
        *("--output", tmp_path / "out.parquet", "--k", 12, "--keep_seen"),
    )
    assert (code, err) == (0, "")
    table = pq.read_table(tmp_path / "out.parquet", page_checksum_verification=True)
    kept = pq.read_table(workdir / "sessions.parquet")
    found = table["track_id"].to_pylist()
    assert [found[i : i + 12] for i in range(0, 960, 12)] == kept["top"].to_pylist()
    assert table["session_id"].to_pylist()[::12] == kept["session_id"].to_pylist()
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_recommend_says_what_it_did(run, workdir, tmp_path):
    lines = ["session_id,track_id", "a,t001", "a,t002", "a,x", "b,y", "c,t003", "c,t003"]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    code, out, err = run(
        *("recommend", "--workdir", workdir, "--input", tmp_path / "in.csv"),
        *("--output", tmp_path / "out.csv", "--k", 4),
    )
    assert (code, err) == (0, "")
    said = out.splitlines()
    assert said[0] == "tiny-track, epoch 1 (validation HR@10 0.2500)"
    assert said[1].startswith(
        "2 of 6 events on tracks that the model does not know, such as 'x', 'y'"
    )
    assert said[2].startswith("1 of 3 sessions without a track that the model knows")
    assert said[3].startswith("The model reads skips, and was told of none")
    assert said[4].startswith(f"{tmp_path / 'out.csv'}: 12 recommendations for 3 sessions, in ")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["session_id"] for row in rows] == [*"aaaabbbbcccc"]
    assert [row["rank"] for row in rows] == [*"1234"] * 3
    assert [row["track_id"] for row in rows[4:8]] == NAMES[:4]
    assert [bool(row["score"]) for row in rows] == [True] * 4 + [False] * 4 + [True] * 4
    assert not {row["track_id"] for row in rows[:4]} & {"t001", "t002"}


def test_recommend_may_drop_bad_sessions(run, workdir, tmp_path):
    text = "s\tt\tw\nb\tt001\t2\nb\tt002\t1\na\tt001\t1\na\tnull\t2\n"
    (tmp_path / "in.tsv").write_text(text)
    flags = ("--session_column=s", "--track_column=t", "--time_column=w")
    command = ("recommend", "--workdir", workdir, "--input", tmp_path / "in.tsv", *flags)
    code, out, err = run(*command, "--output", tmp_path / "out.jsonl")
    assert (code, out) == (65, "")
    assert "in.tsv row 5, column t: 'null' is not an id" in err
    assert not (tmp_path / "out.jsonl").exists()
    code, out, err = run(*command, "--output", tmp_path / "out.jsonl", "--on_bad_session=drop")
    assert (code, err) == (0, "")
    assert "Dropped: 1 session; first " in out
    listed = tmp_path / "out.jsonl.dropped.txt"
    assert f"{listed} has a line for each that was dropped" in out
    assert re.fullmatch(r".*in\.tsv row 5, column t: 'null' is not an id\n", listed.read_text())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["session_id"] for row in rows} == {"b"}
    assert len(rows) == 20


def test_similar(run, workdir):
    code, out, err = run("similar", "t007", "--workdir", workdir, "--k=3")
    assert (code, err) == (0, "")
    assert [row[0] for row in cells(out)[4:7]] == ["1", "2", "3"]
    assert out.splitlines()[-1] == "tiny-track, epoch 1 (validation HR@10 0.2500)"
    code, out, err = run("similar", "t07", "--workdir", workdir)
    assert (code, out) == (65, "")
    assert err.startswith("skipjax: the model knows no track 't07'. Do you mean 't0")
    assert err.count("\n") == 1


def test_evaluate_refuses_other_data(run, workdir, tmp_path):
    cache = f"--config.data.cache_dir={tmp_path / 'cache'}"
    code, out, err = run("evaluate", "--workdir", workdir, cache)
    assert (code, out) == (76, "")
    assert "was trained on other data" in err
    config = runs.tiny()
    config.data.cache_dir = str(tmp_path / "cache")
    num_tracks = len(split_as(config.data, sources.load(config.data)).track_ids)
    runs.make_run(tmp_path / "run", config, num_tracks)
    code, out, err = run("evaluate", "--workdir", tmp_path / "run")
    assert (code, out) == (76, "")
    assert "was trained on other data" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["recommend", "--k=0"], 2, "argument --k: '0' is not a whole number of at least 1"),
        (["recommend", "--k=61"], 2, "k is 61; it must be from 1 to 60"),
        (["recommend", "--input=in.json"], 2, "in.json: its name must end in .csv, .tsv or .jsonl"),
        (["recommend", "--output=out"], 2, "out: its name must end in"),
        (["recommend", "--output=in.csv"], 2, "--output is the file of --input, in.csv"),
        (["recommend", "--input=none.csv"], 65, "none.csv: no such file"),
        (["recommend", "--output=no/out.csv"], 73, "no/out.csv: cannot be written: No such file"),
        (["recommend", "--workdir=no"], 76, "no: there is no such folder"),
        (["recommend", "--track_column=trak_id"], 65, "Did you mean 'track_id'?"),
        (["recommend", "--skip_column=a", "--level_column=b"], 2, "are both given"),
        (["similar", "t001", "--k=60"], 2, "k is 60; it must be from 1 to 59"),
        (["similar", "t001", "--workdir=no"], 76, "no: there is no such folder"),
        (["evaluate", "--config.eval.sed=1"], 2, "no field config.eval.sed. Did you mean config"),
        (["evaluate", "--config.model.width=1"], 2, "config.model.width is what the run was trai"),
        (["evaluate", "--config.eval.seed"], 2, "--config.eval.seed has no value"),
        (["evaluate", "--config.eval.seed=x"], 2, "config.eval.seed is 'x'; it must be a whole"),
        (["evaluate", "--workdir=no"], 76, "no/config.json: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run, workdir, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("session_id,track_id\na,t001\n")
    (tmp_path / "in.json").write_text("{}")
    if arguments[0] != "similar":
        defaults = [f"--workdir={workdir}"]
        if arguments[0] == "recommend":
            defaults += ["--input=in.csv", "--output=out.csv"]
        arguments = [arguments[0], *defaults, *arguments[1:]]
    else:
        arguments = ["similar", f"--workdir={workdir}", *arguments[1:]]
    found, out, err = run(*arguments)
    assert (found, out) == (code, ""), err
    assert err.count("\n") == 1
    assert message in err
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "in.json"}


def test_interrupted_it_leaves_nothing(workdir, tmp_path):
    """However far it is."""
    rows = [f"s{s},t{(7 * s + i) % 60:03d}" for s in range(40_000) for i in range(9)]
    (tmp_path / "in.csv").write_text("\n".join(["session_id,track_id", *rows, ""]))
    command = [sys.executable, "-m", "skipjax", "recommend", "--workdir", workdir]
    command += ["--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv"]
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            written = [path.stat().st_size for path in tmp_path.glob(".out.csv*")]
            if written and written[0]:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    said = "skipjax: terminated; nothing unfinished is left behind.\n"
    assert (process.returncode, err) == (143, said)
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize("command", ["recommend", "similar", "evaluate"])
def test_help_is_printed(run, capsys, command):
    with pytest.raises(SystemExit, match="0"):
        run(command, "--help")
    assert f"usage: python -m skipjax {command}" in capsys.readouterr().out
