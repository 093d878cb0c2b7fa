"""Spotify's extended streaming history, as its users get it."""

import csv
import datetime
import gzip
import json
import os

import numpy as np
import pytest

from skipjax.cli.main import main
from skipjax.data import spotify
from skipjax.data.sessions import Sessions
from skipjax.errors import DataError

START = datetime.datetime(2020, 2, 28, 22, 0, tzinfo=datetime.UTC)
SECRETS = ("my name", "203.0.113.7", "Mozilla", "NZ", "iOS 13.4")


@pytest.fixture(autouse=True)
def not_synced(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def play(seconds, **values):
    """An object as in the files of 2020 to 2022, which have all fields that others lack."""
    at = (START + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "ts": at,
        "username": SECRETS[0],
        "platform": SECRETS[4],
        "ms_played": 180_000,
        "conn_country": SECRETS[3],
        "ip_addr_decrypted": SECRETS[1],
        "user_agent_decrypted": SECRETS[2],
        "master_metadata_track_name": "Name",
        "master_metadata_album_artist_name": "Artist",
        "master_metadata_album_album_name": "Album",
        "spotify_track_uri": "spotify:track:4iV5W9uYEdYUVa79Axb7Rh",
        "episode_name": None,
        "episode_show_name": None,
        "spotify_episode_uri": None,
        "reason_start": "trackdone",
        "reason_end": "trackdone",
        "shuffle": False,
        "skipped": False,
        "offline": False,
        "offline_timestamp": 0,
        "incognito_mode": False,
        **values,
    }


def history(seed=0, plays=120):
    rng = np.random.default_rng(seed)
    seconds = np.cumsum(rng.integers(1, 3000, plays))
    return [
        play(
            int(at),
            ms_played=int(rng.integers(0, 60_000)),
            spotify_track_uri=f"spotify:track:{rng.integers(20):022}",
            reason_start=str(rng.choice(["clickrow", "trackdone", "fwdbtn"])),
            reason_end=str(rng.choice(["trackdone", "fwdbtn", "backbtn", "endplay"])),
            shuffle=bool(rng.integers(2)),
            skipped=[True, False, None][rng.integers(3)],
            offline=[True, False, None][rng.integers(3)],
        )
        for at in seconds.tolist()
    ]


def level(value):
    if value["skipped"] is None:
        return 2 * (value["reason_end"] in ("fwdbtn", "backbtn") and value["ms_played"] < 30_000)
    return (1 if value["ms_played"] < 10_000 else 2) if value["skipped"] else 0


def put(path, values, **options):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, **options), encoding="utf-8")
    return path


def told(sessions):
    """[[(track, level, context), ...], ...] in the order of the store."""
    tracks = sessions.track_ids.to_pylist()
    rows = sessions.context.to_pylist()
    events = [
        (tracks[t], int(v), row)
        for t, v, row in zip(sessions.tracks, sessions.levels, rows, strict=True)
    ]
    return [events[a:b] for a, b in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)]


def kept(value):
    at = datetime.datetime.fromisoformat(value["ts"])
    context = {
        "time": int(at.timestamp()) * 10**9,
        "ms_played": value["ms_played"],
        "shuffle": bool(value["shuffle"]),
        "reason_start": value["reason_start"] or "unknown",
        "offline": bool(value["offline"]),
    }
    return value["spotify_track_uri"], level(value), context


def in_sessions(values, gap_seconds=1800, min_length=4, max_length=20):
    runs = [[]]
    for value in map(kept, sorted(values, key=lambda value: value["ts"])):
        last = runs[-1][-1][2]["time"] if runs[-1] else None
        if last is not None and value[2]["time"] - last > gap_seconds * 10**9:
            runs.append([])
        runs[-1].append(value)
    pieces = [run[i : i + max_length] for run in runs for i in range(0, len(run), max_length)]
    return [piece for piece in pieces if len(piece) >= min_length]


@pytest.mark.parametrize("seed", range(3))
def test_plays_their_levels_and_pauses(tmp_path, seed):
    values = history(seed)
    path = put(tmp_path / "Streaming_History_Audio_2020_0.json", values)
    sessions = spotify.prepare(path, tmp_path / "out")
    assert told(sessions) == in_sessions(values)
    assert sessions.feedback == ("level",)
    assert sessions.times()[1] == "ns"
    assert {name.split("#")[0] for name in sessions.session_ids.to_pylist()} == {"listener-1"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"skipped": True, "ms_played": 9_999}, 1),
        ({"skipped": True, "ms_played": 10_000}, 2),
        ({"skipped": False, "ms_played": 0, "reason_end": "fwdbtn"}, 0),
        ({"skipped": None, "ms_played": 29_999, "reason_end": "fwdbtn"}, 2),
        ({"skipped": None, "ms_played": 0, "reason_end": "backbtn"}, 2),
        ({"skipped": None, "ms_played": 30_000, "reason_end": "fwdbtn"}, 0),
        ({"skipped": None, "ms_played": 0, "reason_end": "trackdone"}, 0),
        ({"skipped": None, "ms_played": 0, "reason_end": None}, 0),
    ],
)
def test_levels(tmp_path, values, expected):
    path = put(tmp_path / "endsong_0.json", [play(i, **values) for i in range(4)])
    assert spotify.prepare(path, tmp_path / "out").levels.tolist() == [expected] * 4


def test_what_is_no_music_is_left_out_and_counted(tmp_path):
    values = history()
    episode = {"spotify_track_uri": None, "spotify_episode_uri": "spotify:episode:1"}
    others = [
        play(5, **episode),
        play(6, spotify_track_uri=None, audiobook_chapter_uri="spotify:chapter:1"),
        play(7, spotify_track_uri=None),
        play(8, ts="not a time", **episode),  # of what is not read nothing is asked
    ]
    path = put(tmp_path / "endsong_0.json", [*values[:50], *others, *values[50:]])
    sessions = spotify.prepare(path, tmp_path / "out")
    assert told(sessions) == in_sessions(values)
    left_out = sessions.info["left_out"]
    assert left_out["podcasts and audiobooks"] == 3
    assert left_out["plays without a track"] == 1


def test_plays_that_are_there_twice_are_left_out_and_counted(tmp_path):
    """As where two exports overlap; the later has fewer fields. What differs stays."""
    values = history()
    new = [
        {k: v for k, v in value.items() if not k.endswith("_decrypted") and k != "username"}
        for value in values[40:]
    ]
    new[0]["offline_timestamp"] = 1
    differs = dict(new[50], ms_played=new[50]["ms_played"] + 1)
    folder = put(tmp_path / "my" / "endsong_0.json", values[:90]).parent
    put(folder / "Streaming_History_Audio_2020_1.json", [*new, differs, new[3]])
    sessions = spotify.prepare(folder, tmp_path / "out")
    assert told(sessions) == in_sessions([*values[:91], differs, *values[91:]])
    assert sessions.info["left_out"]["plays that are there twice"] == 51


def test_nothing_private_is_kept(tmp_path):
    path = put(tmp_path / "endsong_0.json", history())
    spotify.prepare(path, tmp_path / "out")
    stored = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    assert b"listener-1" in stored
    for secret in SECRETS:
        assert secret.encode() not in stored


def test_the_same_however_it_is_written_and_read(tmp_path):
    values = history()
    whole = put(tmp_path / "endsong_0.json", values)
    split = put(tmp_path / "split" / "Streaming_History_Audio_0.json", values[70:], indent=2)
    put(tmp_path / "split" / "Streaming_History_Audio_1.json", values[:70])
    put(tmp_path / "split" / "Streaming_History_Video_1.json", values)
    put(tmp_path / "split" / "Userdata.json", {"username": "x"})
    packed = tmp_path / "endsong_2.json.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    marked = tmp_path / "endsong_3.json"
    marked.write_bytes(b"\xef\xbb\xbf \n" + whole.read_bytes() + b"\n ")
    sources = [
        (whole, {}),
        (whole, {"block_bytes": 1}),
        (whole, {"block_bytes": 700}),
        (split.parent, {}),
        (sorted(split.parent.glob("*Audio*"))[::-1], {"block_bytes": 1000}),
        (packed, {}),
        (marked, {"block_bytes": 3}),
        (put(tmp_path / "endsong_4.json", values, indent=None, ensure_ascii=False), {}),
    ]
    digests = {
        spotify.prepare(source, tmp_path / f"out{number}", **options).digest
        for number, (source, options) in enumerate(sources)
    }
    assert len(digests) == 1


def test_folders_are_listeners(tmp_path):
    one, two = history(1), history(2)
    for name, values in (("b", one), ("a", two)):
        named = [value | {"username": name} for value in values]
        put(tmp_path / name / "endsong_0.json", named[:60])
        put(tmp_path / name / "endsong_1.json", named[60:])
    digests = set()
    for number, names in enumerate(("ab", "ba")):
        out = tmp_path / f"out{number}"
        sessions = spotify.prepare([tmp_path / name for name in names], out)
        digests.add(sessions.digest)
        found = dict(zip(sessions.session_ids.to_pylist(), told(sessions), strict=True))
        for listener, values in (("listener-1#", two), ("listener-2#", one)):
            mine = [events for name, events in found.items() if name.startswith(listener)]
            assert mine == in_sessions(values)
    assert len(digests) == 1


def test_two_accounts_in_a_folder_are_refused(tmp_path):
    put(tmp_path / "my" / "endsong_0.json", history(1))
    put(tmp_path / "my" / "endsong_1.json", [v | {"username": "other"} for v in history(2)])
    with pytest.raises(DataError, match="history of more than one account; give each") as caught:
        spotify.prepare(tmp_path / "my", tmp_path / "out")
    assert "other" not in str(caught.value)


THIRD = 42


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ts": None}, "column ts: None is not a date and time with a zone"),
        ({"ts": 1582927200}, "column ts: '1582927200' is not a date and time with a zone"),
        ({"ts": "2020-02-30T00:00:00Z"}, "column ts: '2020-02-30T00:00:00Z' is not"),
        ({"ms_played": None}, "column ms_played: None is not a value"),
        ({"ms_played": -1}, "column ms_played: '-1' is not a whole number from 0 to"),
        ({"ms_played": 1.5}, "column ms_played: '1.5' is not a whole number"),
        ({"ms_played": True}, "column ms_played: 'true' is not a whole number"),
        ({"skipped": "yes"}, "column skipped: 'yes' is not true, false or null"),
        ({"skipped": 1}, "column skipped: '1' is not true, false or null"),
        ({"shuffle": "maybe"}, "column shuffle: 'maybe' is not true, false or null"),
        ({"offline": []}, "column offline: '[...]' is not true, false or null"),
        ({"ts": "\ud800"}, "column ts: '\\\\ud800' is not a date and time with a zone"),
        ({"spotify_track_uri": ""}, "column spotify_track_uri: '' is not an id"),
        ({"spotify_track_uri": "http://x"}, "column spotify_track_uri: 'http://x' is not spotify:"),
        ({"spotify_track_uri": 5}, "column spotify_track_uri: '5' is not spotify:track: with 22"),
    ],
)
def test_a_bad_value_is_named_or_costs_its_listener_alone(tmp_path, capsys, values, says):
    good, bad = history(1), history(2)
    bad[THIRD] |= values
    put(tmp_path / "in" / "endsong_0.json", bad)
    put(tmp_path / "other" / "endsong_0.json", good)
    command = ["prepare", "spotify", str(tmp_path / "in"), str(tmp_path / "other")]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 65
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"endsong_0.json row {THIRD + 1}, {says}" in err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--on_bad_session=drop"]) == 0
    assert told(Sessions.open(tmp_path / "out")) == in_sessions(good)
    with open(tmp_path / "out" / "dropped.csv", newline="", encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert (line["session_id"], line["row"]) == ("listener-1", str(THIRD + 1))
    assert line["file"] == str(tmp_path / "in" / "endsong_0.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lambda t: "", "is empty; remove it"),
        (lambda t: " \n", "is empty; remove it"),
        (lambda t: "[]", "has no objects."),
        (lambda t: "{}", "is not a JSON array of objects; it begins with '{}'."),
        (lambda t: "[1]", "object 1 is no object: '1]'."),
        (lambda t: "[" + t + ",]", "object 2 is no object: ']'."),
        (lambda t: "[" + t + t + "]", "object 2: a comma is missing before it."),
        (lambda t: "[" + t, "is cut short: its array has no end"),
        (lambda t: "[" + t[:-9], "object 1 is not JSON or is cut short"),
        (lambda t: "[" + t.replace(":", ";", 1) + "]", "object 1 is not JSON or is cut short"),
        (lambda t: "[" + "[" * 10**5, "object 1 is no object: '[[["),
        (lambda t: '[{"a":' * 10**5, "object 1 is not JSON or is cut short"),
        (lambda t: "[" + t + "] [", "goes on after its array: '['."),
        (
            lambda t: '[{"ts": "2020-01-01T00:00:00Z", "ms_played": 1}]',
            "object 1, has no column 'spotify_track_uri'; its columns are ts, ms_played.",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, capsys, text, says):
    path = tmp_path / "endsong_0.json"
    path.write_text(text(json.dumps(play(0))))
    for policy in ("error", "drop"):
        command = ["prepare", "spotify", str(path), f"--on_bad_session={policy}"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 65
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err
        assert os.listdir(tmp_path) == ["endsong_0.json"]


def test_other_damage(tmp_path, capsys):
    path = tmp_path / "endsong_0.json"
    good = json.dumps(history()).encode()
    for data, says in (
        (good.replace(b"Name", b"\xff\xfe", 1), "is not UTF-8 text"),
        (good[:-1] + b"\xc3", "is not UTF-8 text"),
        (gzip.compress(good)[:-9], "is damaged, cut short or not what its name says"),
        (b'[{"ts": "' + b"x" * (2 << 20), "object 1 is not JSON or is cut short"),
    ):
        path.write_bytes(data)
        assert main(["prepare", "spotify", str(path), "--out", str(tmp_path / "out")]) == 65
        assert says in capsys.readouterr().err


def test_a_folder_with_other_files(tmp_path):
    put(tmp_path / "my" / "Userdata.json", {})
    with pytest.raises(
        DataError, match=r"has no Streaming_History_Audio\* or endsong\* file; it holds Userdata"
    ):
        spotify.prepare(tmp_path / "my", tmp_path / "out")


def test_what_is_no_track_is_left_out_and_an_empty_file_passed_over(tmp_path):
    local = [play(i, spotify_track_uri=f"spotify:local:a:b:c:{i}") for i in range(3)]
    put(tmp_path / "in" / "endsong_0.json", history() + local)
    put(tmp_path / "in" / "endsong_1.json", [])
    sessions = spotify.prepare(tmp_path / "in", tmp_path / "out")
    assert told(sessions) == in_sessions(history())
    assert sessions.info["left_out"]["plays without a track"] == 3


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"spotify_episode_uri": "spotify:episode:1"}, " (all are podcasts or audiobooks)"),
        ({}, ""),
    ],
)
def test_a_history_without_tracks(tmp_path, values, why):
    put(
        tmp_path / "in" / "endsong_0.json",
        [play(i, spotify_track_uri=None, **values) for i in range(20)],
    )
    with pytest.raises(DataError) as error:
        spotify.prepare(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "in" / "endsong_0.json"
    assert str(error.value) == (f"{path}: none of its 20 entries is a track that was played{why}.")


def test_the_only_listener_is_not_to_be_dropped(tmp_path, capsys):
    put(tmp_path / "in" / "endsong_0.json", [*history(), play(0, ms_played=-1)])
    command = ["prepare", "spotify", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 65
    err = capsys.readouterr().err
    assert err.endswith("; correct or remove the entry.\n")
    assert main([*command, "--on_bad_session=drop"]) == 65
    assert "dropped were 1 listener's log (121 events), first " in capsys.readouterr().err
