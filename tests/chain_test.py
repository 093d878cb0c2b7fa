"""Each source from its logs to a study: prepared, audited, trained on, compared.

All log the same listening, so whatever they log of a skip, the same plays must be the skipped ones.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import logs
import numpy as np
import pyarrow.parquet as pq
import pytest
from logs import listening

from skipjax.cli.config_flags import config_of
from skipjax.cli.main import main
from skipjax.data import sources
from skipjax.data.sessions import Sessions
from skipjax.data.split import split_as
from skipjax.train import train_and_evaluate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # of ml_collections
    pytest.mark.usefixtures("traced_once", "trains_here"),
]

ROOT = Path(__file__).parent.parent
SHORT = (
    "--config.train.num_epochs=1",
    "--config.train.batch_size=16",
    "--config.sampling.num_negatives=20",
    "--config.eval.num_candidates=20",
)
TABLE1 = ["HR@1", "HR@5", "HR@10", "HR@20"]
LEVELS, PLAYED = "skip level 1 or 2", "played below 50 %"


@dataclasses.dataclass(frozen=True)
class Source:
    """What is put, how the command and a config read it, and the rule that a run then has."""

    kind: str
    put: Callable
    means: str
    command: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    listeners: int = 6


SOURCES = {
    "mssd": Source("mssd", logs.put_mssd, LEVELS),
    "yambda listens": Source(
        "yambda", lambda path, plays: logs.put_yambda(path, plays, reactions=False), PLAYED
    ),
    "yambda multi_event": Source("yambda", logs.put_yambda, f"{PLAYED} or disliked"),
    "yambda sequential": Source(
        "yambda",
        lambda path, plays: logs.put_yambda(path, plays, sequential=True),
        f"{PLAYED} or disliked",
    ),
    "lastfm": Source(
        "lastfm",
        lambda path, plays: logs.put_lastfm(path / "lastfm-dataset-1K.tar.gz", plays),
        "inferred: the next play came within 50 % of the usual time",
    ),
    "spotify": Source("spotify", logs.put_spotify, LEVELS, listeners=1),
    "inter": Source(
        "inter",
        lambda path, plays: logs.put_inter(path / "ml.inter", plays),
        "rated 2 or less",
        ("--time_unit=s", "--gap_minutes=30"),
        ("table.time_unit=s", "gap_minutes=30"),
    ),
    "table": Source(
        "table",
        lambda path, plays: logs.put_plays(path / "plays.csv", plays),
        "marked in column skipped",
        (
            "--session_column=user",
            "--track_column=track",
            "--time_column=time",
            "--time_unit=s",
            "--skip_column=skipped",
            "--gap_minutes=30",
        ),
        (
            "table.session_column=user",
            "table.track_column=track",
            "table.time_column=time",
            "table.time_unit=s",
            "table.skip_column=skipped",
            "gap_minutes=30",
        ),
    ),
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(ROOT)


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]


def prepared(source, tmp_path):
    """The path of the logs, that of the sessions, and what was heard."""
    plays = listening(source.listeners)
    path, out = source.put(tmp_path / "in", plays), tmp_path / "prepared"
    assert main(["prepare", source.kind, str(path), f"--out={out}", *source.command]) == 0
    return path, out, plays


def from_logs(source, path, tmp_path):
    """Flags of a run that reads the logs itself."""
    return [
        f"--config.data.source={source.kind}",
        f"--config.data.path={path}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        *(f"--config.data.{field}" for field in source.fields),
    ]


def from_prepared(out):
    return ["--config.data.source=prepared", f"--config.data.path={out}"]


def expected(source, plays):
    """Of each session its tracks, counted from 0, and whether each was skipped; sorted."""
    sessions = [[] for _ in range(1 + plays[-1].session)]
    for play in plays:
        # Before a pause, soon and late look alike.
        told = source.kind != "lastfm" or play.position < play.length - 1
        sessions[play.session].append((play.track - 100, play.skipped and told))
    return sorted(sessions)


def found(sessions, data):
    skipped = split_as(data, sessions).skipped
    events = list(zip(sessions.tracks.tolist(), skipped.tolist(), strict=True))
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return sorted(events[start:stop] for start, stop in ends)


def test_from_logs_to_the_table_of_a_study(source, tmp_path, capsys):
    path, out, plays = prepared(source, tmp_path)
    sessions = Sessions.open(out)
    config = config_of("configs/tiny.py", [*from_prepared(out), *SHORT])
    assert sessions.num_tracks == len({play.track for play in plays})
    assert found(sessions, config.data) == expected(source, plays)
    inferred = source.kind == "lastfm"
    assert sessions.info.get("inferred", False) is inferred
    # The same, whoever reads the logs.
    own = config_of("configs/tiny.py", from_logs(source, path, tmp_path))
    assert sources.load(own.data).digest == sessions.digest

    capsys.readouterr()
    assert main(["audit", str(out), f"--out={tmp_path / 'audit'}"]) == 0
    said, complaints = capsys.readouterr()
    assert complaints == ""
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert audit["source"] == source.kind
    assert (audit["digest"], audit["skipped_means"]) == (sessions.digest, source.means)
    findings = {finding["name"]: finding for finding in audit["findings"]}
    assert findings["feedback"]["numbers"]["inferred"] is inferred
    if inferred:  # of the last play of a session the rule can say nothing
        assert findings["skips_by_position"]["severity"] == "warning"
    skips = np.mean([skipped for some in expected(source, plays) for _, skipped in some])
    assert findings["skip_share"]["numbers"]["share"] == pytest.approx(skips)
    page = (tmp_path / "audit" / "audit.html").read_text()
    for finding in audit["findings"]:
        assert finding["title"] in said
        assert finding["title"] in page

    results = train_and_evaluate(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert (results["data"], results["split"]) == (sessions.digest, "leave-one-out")
    assert results["skipped_means"] == source.means
    assert results["sessions"] == sessions.num_sessions
    assert results["synthetic"] is False

    workdir = tmp_path / "study"
    command = ["study", "--config=configs/table1.py", "--quick", "--seeds=1", "--arms=causal_track"]
    assert main([*command, f"--workdir={workdir}", *from_prepared(out), *SHORT]) == 0
    study = json.loads((workdir / "study.json").read_text())
    assert (study["digest"], study["skipped_means"]) == (sessions.digest, source.means)
    head, _, *rows = (workdir / "study.md").read_text().split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    assert cells[0] == ["", "causal S-", "causal S+ track"]
    assert [row[0] for row in cells[1:]] == [
        f"{name}, {ranking}" for ranking in ("sampled", "all tracks") for name in TABLE1
    ]
    of_arm = {arm["key"]: arm["metrics"] for arm in study["arms"]}
    hits = of_arm["causal"]["test_full/hr@10"]["mean"]
    assert cells[7][1].strip("*") == f"{hits:.4f}".removeprefix("0")
    for file in ("study.md", "report.html"):
        assert f"skipped means {source.means}" in (workdir / file).read_text()


@pytest.mark.parametrize("name", ["mssd", "yambda multi_event", "lastfm", "inter"])
def test_by_time(name, tmp_path):
    """MSSD's times are hours."""
    source = SOURCES[name]
    _, out, plays = prepared(source, tmp_path)
    flags = [*from_prepared(out), *SHORT, "--config.data.split=temporal"]
    results = train_and_evaluate(config_of("configs/tiny.py", flags), tmp_path / "run")
    assert results["split"] == "temporal: last 24 h, gap 30 min"
    hour = 3600
    spans = {}
    for play in plays:
        at = play.seconds - play.seconds % hour if name == "mssd" else play.seconds
        spans.setdefault(play.session, []).append((at, play.track - 100))
    newest = max(some[-1][0] for some in spans.values())
    parts = {"train": [], "valid": [], "test": []}
    for some in spans.values():
        (start, _), (end, target) = some[0], some[-1]
        if start >= newest - 24 * hour:
            parts["test"].append(target)
        elif start >= newest - 48 * hour and end < newest - 24.5 * hour:
            parts["valid"].append(target)
        elif end < newest - 48.5 * hour:
            parts["train"].append(target)
    assert results["parts"] == {which: len(targets) for which, targets in parts.items()}
    table = pq.read_table(tmp_path / "run" / "sessions.parquet")
    tracks = Sessions.open(out).track_ids.to_pylist()
    assert sorted(map(tracks.index, table["target"].to_pylist())) == sorted(parts["test"])


@pytest.mark.usefixtures("quick_start")
def test_main_reads_logs_itself(tmp_path):
    source = SOURCES["yambda multi_event"]
    path, out, _ = prepared(source, tmp_path)
    flags = [*from_logs(source, path, tmp_path), *SHORT, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "main.py", "--config=configs/tiny.py", *flags],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"] == Sessions.open(out).digest
    assert (results["source"], results["skipped_means"]) == ("yambda", source.means)
