"""Logs in the form of Last.fm-1K: no header, newest first, quotes, tracks without an id."""

import csv
import datetime
import gzip
import io
import os
import tarfile

import numpy as np
import pytest

from skipjax.cli.main import main
from skipjax.data import lastfm
from skipjax.data.sessions import Sessions
from skipjax.errors import DataError

START = datetime.datetime(2006, 8, 13, 23, 59, tzinfo=datetime.UTC)
DASH = " — "
GAP = 10.0  # minutes


@pytest.fixture(autouse=True)
def not_synced(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def log(seed=0, users=7, plays=80):
    """[(user, seconds, artist id, artist, track id, track), ...], newest first by user."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, users + 1):
        for seconds in sorted(rng.integers(0, 300 * plays, plays).tolist(), reverse=True):
            number = int(rng.integers(12))
            artist = ('The "Quoted', "Sigur Rós", 'A"B"', "null", "AC/DC")[number % 5]
            track = f"{number:08d}-aaaa" if number % 3 else ""
            rows.append((f"user_{user:06}", seconds, "", artist, track, f"Track '{number}"))
    return rows


def stamp(seconds):
    return (START + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_tsv(rows, end="\n"):
    lines = ["\t".join((user, stamp(at), *rest)) for user, at, *rest in rows]
    return "".join(line + end for line in lines).encode()


def put(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def expected(rows, gap_minutes, min_length=4, max_length=20):
    """{session: [(track, seconds, next gap), ...]}."""
    users = {}
    for user, at, _, artist, track, title in reversed(rows):
        users.setdefault(user, []).append((at, track or f"{artist}{DASH}{title}"))
    kept = {}
    for user, plays in users.items():
        runs, gap = [[]], None
        for i, (at, track) in enumerate(plays):
            if gap is not None and gap_minutes and gap > 60 * gap_minutes:
                runs.append([])
            gap = plays[i + 1][0] - at if i + 1 < len(plays) else None
            runs[-1].append((track, at, -1 if gap is None else min(gap, 86_400)))
        pieces = [r[i : i + max_length] for r in runs for i in range(0, len(r), max_length)]
        for number, piece in enumerate(pieces, start=1):
            if len(piece) >= min_length:
                kept[f"{user}#{number}" if len(pieces) > 1 else user] = piece
    return kept


def told(sessions):
    tracks = sessions.track_ids.to_pylist()
    times, unit = sessions.times()
    assert unit == "ns"
    first = int(START.timestamp()) * 10**9
    gaps = sessions.context["next_gap_seconds"].to_pylist()
    assert not ((times - first) % 10**9).any()
    events = [
        (tracks[t], (int(at) - first) // 10**9, gap)
        for t, at, gap in zip(sessions.tracks, times, gaps, strict=True)
    ]
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return {
        name: events[start:stop]
        for name, (start, stop) in zip(sessions.session_ids.to_pylist(), ends, strict=True)
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gap_minutes", [GAP, 0])
def test_plays_pauses_and_the_time_to_the_next(tmp_path, seed, gap_minutes):
    rows = log(seed)
    path = put(tmp_path / "l.tsv", as_tsv(rows))
    sessions = lastfm.prepare(path, tmp_path / "out", gap_minutes=gap_minutes)
    assert told(sessions) == expected(rows, gap_minutes)
    assert sessions.feedback == ("next_gap_seconds",)
    assert sessions.info["inferred"] is True
    assert sessions.context.column_names == ["time", "next_gap_seconds"]


def test_the_gap_to_the_next_play_goes_over_the_end_of_a_session_but_not_of_a_day(tmp_path):
    ends = [0, 60, 120, 180, 4000, 4060, 4120, 4180 + 10**6]
    rows = [("u", at, "", "a", f"t{i}", "x") for i, at in enumerate(ends)][::-1]
    sessions = lastfm.prepare(put(tmp_path / "l.tsv", as_tsv(rows)), tmp_path / "out", min_length=1)
    gaps = [gap for events in told(sessions).values() for _, _, gap in events]
    assert gaps == [60, 60, 60, 3820, 60, 60, 86_400, -1]


def test_ties_are_newest_first(tmp_path):
    rows = [("u", 60, "", "a", f"t{i}", "x") for i in range(5)]
    sessions = lastfm.prepare(put(tmp_path / "l.tsv", as_tsv(rows)), tmp_path / "out")
    assert [track for track, _, _ in told(sessions)["u"]] == ["t4", "t3", "t2", "t1", "t0"]


@pytest.mark.parametrize(
    ("artist", "title", "name"),
    [
        ("Björk", "Jóga", "Björk — Jóga"),
        ("  a\x0bb ", " c  d", "a b — c d"),
        ('"', '""', '" — ""'),
        ("a\rb", "c\u3000d", "a b — c d"),
        ("", "title", "— title"),
        ("NA", "null", "NA — null"),
    ],
)
def test_tracks_without_an_id_have_the_name_of_their_title(tmp_path, artist, title, name):
    rows = [("u", at, "x", artist, "", title) for at in range(4)]
    sessions = lastfm.prepare(put(tmp_path / "l.tsv", as_tsv(rows)), tmp_path / "out")
    assert sessions.track_ids.to_pylist() == [name]


def test_plays_with_neither_id_nor_title_are_left_out_and_counted(tmp_path):
    rows = log()
    lost = [("user_000003", 7, "", "artist", "", title) for title in ("", " ", "\t".strip())]
    path = put(tmp_path / "l.tsv", as_tsv([*rows[:9], *lost, *rows[9:]]))
    sessions = lastfm.prepare(path, tmp_path / "out", gap_minutes=GAP)
    assert told(sessions) == expected(rows, GAP)
    assert sessions.info["left_out"]["plays without a track"] == 3


def tarred(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_the_same_however_it_is_packed_and_read(tmp_path):
    rows = log()
    data, half = as_tsv(rows), rows[len(rows) // 2][0]
    parts = [[r for r in rows if (r[0] < half) == first] for first in (True, False)]
    name = "lastfm-dataset-1K/userid-timestamp-artid-artname-traid-traname.tsv"
    profile = b"#id\tgender\tage\tcountry\tregistered\n"
    plain = put(tmp_path / "plain" / "l.tsv", data)
    put(tmp_path / "plain" / "userid-profile.tsv", profile)
    folder = put(tmp_path / "parts" / "a.tsv", as_tsv(parts[1])).parent
    put(folder / "b.tsv.gz", gzip.compress(as_tsv(parts[0])))
    sources = [
        (plain, {}),
        (plain.parent, {}),
        (plain, {"block_bytes": 1000}),
        (put(tmp_path / "l.tsv.gz", gzip.compress(data)), {}),
        (put(tmp_path / "returns.tsv", as_tsv(rows, end="\r\n")), {}),
        (put(tmp_path / "mark.tsv", b"\xef\xbb\xbf" + data), {"block_bytes": 500}),
        (put(tmp_path / "blank.tsv", data + b"\n\n"), {}),
        (tarred(tmp_path / "l.tar.gz", {name: data, "x/userid-profile.tsv": profile}), {}),
        (folder, {}),
        ([folder / "b.tsv.gz", folder / "a.tsv"], {"block_bytes": 3000}),
    ]
    digests = {
        lastfm.prepare(source, tmp_path / f"out{number}", **options).digest
        for number, (source, options) in enumerate(sources)
    }
    assert len(digests) == 1


THIRD = 42


@pytest.mark.parametrize(
    ("column", "value", "says", "lost"),
    [
        (0, "", "column userid: '' is not an id", True),
        (0, "null", "column userid: 'null' is not an id", True),
        (1, "", "column timestamp: '' is not a date and time with a zone", False),
        (1, "2009-05-04 23:08:57", "column timestamp: '2009-05-04 23:08:57' is not", False),
        (1, "2009-13-04T23:08:57Z", "column timestamp: '2009-13-04T23:08:57Z' is not", False),
        (1, "1241478537", "column timestamp: '1241478537' is not a date and time", False),
        (4, "NaN", "column traid: 'NaN' is not an id", False),
        (4, "x" * 1001, "column traid: 'xxx", False),
    ],
)
def test_a_bad_value_is_named_or_costs_its_user_alone(tmp_path, capsys, column, value, says, lost):
    rows = log()
    lines = as_tsv(rows).decode().splitlines()
    cells = lines[THIRD].split("\t")
    cells[column] = value
    lines[THIRD] = "\t".join(cells)
    path = put(tmp_path / "l.tsv", "".join(line + "\n" for line in lines).encode())
    command = ["prepare", "lastfm", str(path), "--out", str(tmp_path / "out")]
    assert main(command) == 65
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"l.tsv row {THIRD + 1}, {says}" in err
    assert os.listdir(tmp_path) == ["l.tsv"]
    assert main([*command, "--on_bad_session=drop"]) == 0
    user = rows[THIRD][0]
    good = [r for i, r in enumerate(rows) if (i != THIRD if lost else r[0] != user)]
    assert told(Sessions.open(tmp_path / "out")) == expected(good, lastfm.GAP_MINUTES)
    with open(tmp_path / "out" / "dropped.csv", newline="", encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert (line["session_id"], line["row"]) == ("" if lost else user, str(THIRD + 1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.replace(b"\t", b",", 300), "row 1 has 1 columns instead of 6"),
        (lambda d: d.replace(b"user_000004", b"user\t4", 1), "has 7 columns instead of 6"),
        (lambda d: d[:-1], "may be cut short, since no line break follows"),
        (lambda d: d + b"user", "has 1 columns instead of 6"),
        (lambda d: d.replace(b"Track", b"\xff", 1), "is not UTF-8 text"),
        (lambda d: b"", "l.tsv is empty."),
        (lambda d: b"\n\n", "l.tsv is empty."),
        (lambda d: gzip.compress(d)[:-9], "is damaged, cut short or not what its name says"),
    ],
)
def test_a_bad_file_is_named(tmp_path, capsys, change, says):
    path = put(tmp_path / "l.tsv", change(as_tsv(log())))
    for policy in ("error", "drop"):
        command = ["prepare", "lastfm", str(path), f"--on_bad_session={policy}"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 65
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err
        assert os.listdir(tmp_path) == ["l.tsv"]


def test_a_folder_without_logs(tmp_path):
    put(tmp_path / "logs" / "userid-profile.tsv", b"#id\n")
    with pytest.raises(DataError, match=r"has no \.tsv or .* file; it holds userid-profile"):
        lastfm.prepare(tmp_path / "logs", tmp_path / "out")
