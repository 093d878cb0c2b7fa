"""What looks like what, and that a wrong or missing kind ends in one line that names the right."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from configs.common import get_config
from skipjax.cli.main import main
from skipjax.data import demo, recognise, sources
from skipjax.data.sessions import Sessions
from skipjax.errors import SkipjaxError

RECORD = {
    "ts": "2020-01-01T00:00:00Z",
    "ms_played": 1,
    "spotify_track_uri": f"spotify:track:{1:022}",
}
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t4\n"
LASTFM = "user_000001\t2009-05-04T23:08:57Z\tid\tDeep Dish\t\tA Night In June\n"
YAMBDA = {"uid": [1], "timestamp": [5], "item_id": [3], "is_organic": [1], "played_ratio_pct": [7]}


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def parquet(name, columns):
    return lambda folder: pq.write_table(pa.table(columns), folder / name)


def mssd_logs(folder):
    demo.write_logs(folder / "in", num_sessions=3, num_tracks=200)
    for path in (folder / "in").iterdir():
        path.rename(folder / path.name)
    (folder / "in").rmdir()


MADE = {
    "mssd": mssd_logs,
    "yambda": parquet("listens.parquet", YAMBDA),
    "yambda sequential": parquet("multi_event.parquet", {k: [v] for k, v in YAMBDA.items()}),
    "lastfm": text("userid-timestamp-artid-artname-traid-traname.tsv", LASTFM),
    "spotify": text("Streaming_History_Audio_2020_0.json", json.dumps([RECORD])),
    "spotify older": text("endsong_0.json", "[\n" + json.dumps(RECORD, indent=1) + "]"),
    "inter": text("ml-100k.inter", INTER),
    "table": text("log.csv", "who,what,when\n1,2,3\n"),
    "table tabs": text("log.tsv", "who\twhat\n1\t2\n"),
    "table lines": text("log.jsonl", '{"who": 1}\n'),
    "table parquet": parquet("log.parquet", {"who": [1]}),
}
FIRST = {
    "a short history": (
        text("StreamingHistory0.json", '[{"endTime": "2020-01-01 00:00", "msPlayed": 1}]'),
        "ask Spotify for the extended streaming history",
    ),
    "a zip archive": (
        lambda folder: (folder / "my.zip").write_bytes(b"PK\3\4 and more"),
        "it is a zip archive; unpack it first",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_each_is_recognised_by_file_and_by_folder(tmp_path, name):
    MADE[name](tmp_path)
    (path,) = tmp_path.iterdir()
    kind = name.split(" ")[0]
    assert recognise.kinds(path) == recognise.kinds(tmp_path) == [kind]
    assert recognise.kinds([str(path)]) == recognise.kinds(str(tmp_path / "*")) == [kind]
    other = path.with_name(f"renamed{''.join(path.suffixes[-1:])}")
    path.rename(other)
    assert recognise.kinds(other) == [kind]
    assert recognise.advice(other, kind) == ""


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (name, asked)
        for name in MADE
        for asked in ("mssd", "yambda", "lastfm", "spotify", "inter", "table")
        if not name.startswith(("table", asked))
    ],
)
def test_the_wrong_kind_ends_in_a_line_that_names_the_right(tmp_path, capsys, name, asked):
    kind = name.split(" ")[0]
    (tmp_path / "in").mkdir()
    MADE[name](tmp_path / "in")
    (path,) = (tmp_path / "in").iterdir()
    for source in (path, path.parent):
        command = ["prepare", asked, str(source), "--out", str(tmp_path / "out")]
        if asked == "table":
            command += ["--session_column=s", "--time_column=t", "--skip_column=k"]
        assert main(command) in (2, 65)
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"(python -m skipjax prepare {kind})" in err
        assert "By its looks, this is " in err
        assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("name", MADE)
def test_a_kind_that_is_left_out_is_named(tmp_path, capsys, name):
    MADE[name](tmp_path)
    (path,) = tmp_path.iterdir()
    for source in (path, tmp_path):
        assert main(["prepare", str(source), "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"{source}: say what kind of log it is, before it; by its looks, this is " in err
        assert f"(python -m skipjax prepare {name.split(' ')[0]})." in err


@pytest.mark.parametrize("name", FIRST)
def test_what_no_reader_reads(tmp_path, capsys, name):
    make, says = FIRST[name]
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    for command in (["prepare", "spotify", str(path)], ["prepare", str(path)]):
        assert main([*command, "--out", str(tmp_path / "out")]) == 65
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err


def test_what_is_prepared_already(tmp_path, capsys):
    demo.write_logs(tmp_path / "in", num_sessions=20, num_tracks=200)
    out = str(tmp_path / "out")
    assert main(["prepare", "mssd", str(tmp_path / "in"), "--out", out]) == 0
    for command in (["prepare", "mssd", out], ["prepare", out]):
        capsys.readouterr()
        assert main([*command, "--out", str(tmp_path / "again")]) == 65
        err = capsys.readouterr().err
        assert "it holds sessions that are prepared already; give it as config.data.path" in err


def test_what_is_not_recognised(tmp_path, capsys):
    (tmp_path / "x").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_text("")
    (tmp_path / "broken.parquet").write_text("PAR1")
    (tmp_path / "broken.csv.gz").write_bytes(b"\x1f\x8b\0")
    os.mkfifo(tmp_path / "pipe")  # which is not waited for
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "none"):
        assert recognise.kinds(path) == []
        assert recognise.advice(path, "mssd") == ""
    assert main(["prepare", str(tmp_path / "x"), "--out", str(tmp_path / "out")]) == 2
    assert "say what kind of log it is, before it: mssd, yambda, " in capsys.readouterr().err


def test_a_folder_with_several(tmp_path, capsys):
    MADE["yambda"](tmp_path)
    MADE["inter"](tmp_path)
    MADE["table"](tmp_path)  # says nothing beside those
    assert recognise.kinds(tmp_path) == ["inter", "yambda"]
    assert main(["prepare", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "prepare inter) or Yambda's listens (python -m skipjax prepare yambda)." in err


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("inter", "mssd", "RecBole's interactions (config.data.source 'inter')"),
        ("yambda", "prepared", "Yambda's listens (config.data.source 'yambda')"),
        ("spotify", "lastfm", "extended streaming history (config.data.source 'spotify')"),
    ],
)
def test_a_run_says_so_too(tmp_path, name, source, says):
    (tmp_path / "in").mkdir()
    MADE[name](tmp_path / "in")
    data = ConfigDict(get_config().data)
    data.source, data.path = source, str(tmp_path / "in")
    data.cache_dir = str(tmp_path / "cache")
    with pytest.raises(SkipjaxError) as caught:
        sources.load(data)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_advice_is_right(tmp_path):
    """What is recognised is then read as that."""
    rows = "".join(LASTFM.replace("T23:08", f"T23:0{i}") for i in range(5))
    (tmp_path / "l.tsv").write_text(rows)
    (kind,) = recognise.kinds(tmp_path)
    assert main(["prepare", kind, str(tmp_path / "l.tsv"), "--out", str(tmp_path / "out")]) == 0
    assert Sessions.open(tmp_path / "out").num_events == 5
