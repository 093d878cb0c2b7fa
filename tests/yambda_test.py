"""Yambda, flat and sequential, in its own types: pauses, reactions, and whatever may be wrong."""

import csv
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.cli.main import main
from skipjax.data import yambda
from skipjax.data.sessions import Sessions
from skipjax.errors import DataError

TYPES = {
    "uid": pa.uint32(),
    "timestamp": pa.uint32(),
    "item_id": pa.uint32(),
    "is_organic": pa.uint8(),
    "event_type": pa.dictionary(pa.int32(), pa.string()),
    "played_ratio_pct": pa.uint16(),
    "track_length_seconds": pa.uint32(),
}
EVENTS = ("listen", "like", "dislike", "unlike", "undislike")
GAP = 5.0  # minutes


@pytest.fixture(autouse=True)
def not_synced(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def log(seed=0, listeners=9, events=60, shares=(0.7, 0.1, 0.1, 0.05, 0.05)):
    """Rows of `multi_event`, as published: by listener and time, times multiples of 5."""
    rng = np.random.default_rng(seed)
    rows = []
    for uid in rng.choice(2**32 - 1, listeners, replace=False).tolist():
        for time in sorted(rng.integers(0, 8 * events, events).tolist()):
            event = str(rng.choice(EVENTS, p=shares))
            listen = event == "listen"
            rows.append(
                {
                    "uid": uid,
                    "timestamp": 5 * time,
                    "item_id": int(rng.choice([1, 9, 10, 100, 2**32 - 1])),
                    "is_organic": int(rng.integers(2)),
                    "event_type": event,
                    "played_ratio_pct": int(rng.integers(0, 120)) if listen else None,
                    "track_length_seconds": 200 if listen else None,
                }
            )
    return sorted(rows, key=lambda row: (row["uid"], row["timestamp"]))


def listens(rows):
    return [row for row in rows if row["event_type"] == "listen"]


def flat(path, rows, names=TYPES, **types):
    arrays = {
        name: pa.array([row[name] for row in rows], types.get(name, kind))
        for name, kind in TYPES.items()
        if name in names
    }
    pq.write_table(pa.table(arrays), path, row_group_size=37, write_page_checksum=True)
    return path


def sequential(path, rows, names=TYPES, large=False):
    listeners = {}
    for row in rows:
        listeners.setdefault(row["uid"], []).append(row)
    of = pa.large_list if large else pa.list_
    arrays = {"uid": pa.array(listeners, TYPES["uid"])}
    for name in names:
        if name != "uid":
            lists = [[row[name] for row in listener] for listener in listeners.values()]
            kind = pa.string() if name == "event_type" else TYPES[name]
            arrays[name] = pa.array(lists, of(kind))
    pq.write_table(pa.table(arrays), path, row_group_size=3)
    return path


def expected(rows, gap_minutes, min_length=4, max_length=20):
    """{session: [play, ...]}, each with its `reaction`, and how many reactions belong to none."""
    sequences, lost = {}, 0
    for row in rows:
        plays = sequences.setdefault(str(row["uid"]), [[]])
        last = plays[-1][-1] if plays[-1] else None
        over = bool(gap_minutes) and (
            last is not None and row["timestamp"] - last["timestamp"] > 60 * gap_minutes
        )
        if row["event_type"] == "listen":
            if over:
                plays.append([])
            plays[-1].append(row | {"reaction": 0})
            continue
        same = [] if over else [play for play in plays[-1] if play["item_id"] == row["item_id"]]
        if same:
            same[-1]["reaction"] = {"like": 1, "dislike": -1}.get(row["event_type"], 0)
        else:
            lost += 1
    kept = {}
    for name, runs in sequences.items():
        pieces = [r[i : i + max_length] for r in runs for i in range(0, len(r), max_length)]
        for number, piece in enumerate(pieces, start=1):
            if len(piece) >= min_length:
                kept[f"{name}#{number}" if len(pieces) > 1 else name] = piece
    return kept, lost


def told(sessions, *columns):
    """{session: [(track, *columns), ...]}."""
    tracks = sessions.track_ids.to_pylist()
    values = [sessions.context[name].to_pylist() for name in columns]
    events = list(zip((tracks[t] for t in sessions.tracks), *values, strict=True))
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return {
        name: events[start:stop]
        for name, (start, stop) in zip(sessions.session_ids.to_pylist(), ends, strict=True)
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gap_minutes", [GAP, 0])
def test_plays_reactions_and_pauses(tmp_path, seed, gap_minutes):
    rows = log(seed)
    kept, lost = expected(rows, gap_minutes)
    path = flat(tmp_path / "multi_event.parquet", rows)
    sessions = yambda.prepare(path, tmp_path / "out", gap_minutes=gap_minutes)
    assert told(sessions, "time", "played_percent", "reaction", "is_organic") == {
        name: [
            (
                str(play["item_id"]),
                play["timestamp"],
                play["played_ratio_pct"],
                play["reaction"],
                bool(play["is_organic"]),
            )
            for play in plays
        ]
        for name, plays in kept.items()
    }
    assert lost > 0
    assert sessions.info["left_out"]["reactions"] == lost
    assert sessions.feedback == ("played_percent", "reaction")
    times, unit = sessions.times()
    assert (times.dtype, unit) == (np.int64, "s")
    assert not sessions.levels.any()


def test_only_plays(tmp_path):
    rows = listens(log())
    path = flat(tmp_path / "listens.parquet", rows, [n for n in TYPES if n != "event_type"])
    sessions = yambda.prepare(path, tmp_path / "out", gap_minutes=GAP)
    assert set(told(sessions)) == set(expected(rows, GAP)[0])
    assert sessions.context.column_names == ["time", "played_percent", "is_organic"]
    assert sessions.feedback == ("played_percent",)
    assert sessions.summary()["left_out"].keys() == {"sessions", "events"}
    assert sessions.summary()["feedback_shares"]["played less than half"] > 0


def test_the_same_however_it_is_stored_and_read(tmp_path, monkeypatch):
    rows = log()
    digests = set()
    for number, (store, options) in enumerate(
        [
            (flat, {}),
            (sequential, {}),
            (lambda p, r: sequential(p, r, large=True), {}),
            (lambda p, r: flat(p, r, event_type=pa.large_string(), uid=pa.int64()), {}),
            (lambda p, r: flat(p, r, timestamp=pa.int64(), item_id=pa.uint64()), {}),
            (flat, {"block_rows": 7}),
            (sequential, {"block_rows": 7}),
            (lambda p, r: flat(p, r[::-1][::-1]), {"block_rows": 1000}),
        ]
    ):
        path = store(tmp_path / f"{number}.parquet", rows)
        out = tmp_path / f"out{number}"
        digests.add(yambda.prepare(path, out, gap_minutes=GAP, **options).digest)
    assert len(digests) == 1


def test_listeners_in_several_files_in_any_order(tmp_path):
    rows = log()
    whole = yambda.prepare(flat(tmp_path / "all.parquet", rows), tmp_path / "whole")
    half = rows[len(rows) // 2]["uid"]
    parts = [[r for r in rows if (r["uid"] < half) == first] for first in (True, False)]
    for names in ("ab", "ba"):
        paths = [flat(tmp_path / f"{n}.parquet", p) for n, p in zip(names, parts, strict=True)]
        for number, given in enumerate((paths, paths[::-1])):
            sessions = yambda.prepare(given, tmp_path / f"{names}{number}")
            assert sessions.digest == whole.digest


def test_of_a_folder_what_has_most(tmp_path):
    rows = log()
    folder = tmp_path / "flat"
    folder.mkdir()
    flat(folder / "listens.parquet", listens(rows), [n for n in TYPES if n != "event_type"])
    flat(folder / "likes.parquet", rows, ("uid", "timestamp", "item_id", "is_organic"))
    assert [path.name for path in yambda.files(folder)] == ["listens.parquet"]
    flat(folder / "multi_event.parquet", rows)
    assert [path.name for path in yambda.files(folder)] == ["multi_event.parquet"]
    with pytest.raises(DataError, match=r"multi_event\.parquet holds the plays of .*; name one"):
        yambda.files([folder / "multi_event.parquet", folder / "listens.parquet"])


def test_a_share_beyond_16_bits_is_kept_as_the_largest(tmp_path):
    rows = listens(log(listeners=1))
    rows[0]["played_ratio_pct"] = 65_535
    path = flat(tmp_path / "l.parquet", rows)
    sessions = yambda.prepare(path, tmp_path / "out", gap_minutes=0, max_length=1000)
    assert max(sessions.context["played_percent"].to_pylist()) == 32_767


THIRD = 42  # a row of the first listener's, a play


def changed(**values):
    """Rows with another value in row THIRD; the listener's."""

    def change(rows):
        rows[THIRD] = rows[THIRD] | values
        return rows

    return change


BAD_VALUES = {
    "no listener": (changed(uid=None), "column uid: None is not a value"),
    "no time": (changed(timestamp=None), "column timestamp: None is not an integer"),
    "no track": (changed(item_id=None), "column item_id: None is not a whole number of at least 0"),
    "no flag": (changed(is_organic=None), "column is_organic: None is not a whole number from 0"),
    "no share": (
        changed(played_ratio_pct=None),
        "column played_ratio_pct: None is not a whole number of at least 0",
    ),
    "another flag": (changed(is_organic=2), "column is_organic: 2 is not a whole number from 0 to"),
    "another event": (
        changed(event_type="skip"),
        "column event_type: 'skip' is not one of listen, like, dislike, unlike, undislike",
    ),
    "no event": (changed(event_type=None), "column event_type: None is not a value"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
@pytest.mark.parametrize("store", [flat, sequential])
def test_a_bad_value_is_named_or_costs_its_listener_alone(tmp_path, capsys, name, store):
    change, says = BAD_VALUES[name]
    rows = log()
    rows[THIRD] |= {"event_type": "listen", "played_ratio_pct": 3}
    listener = rows[THIRD]["uid"]
    good = yambda.prepare(
        flat(tmp_path / "good.parquet", [r for r in rows if r["uid"] != listener]),
        tmp_path / "good",
    )
    if store is sequential and name == "no listener":
        rows = [r | {"uid": None} if r["uid"] == listener else r for r in rows]
        place = "row 1,"
    else:
        rows, place = change(rows), f"row {THIRD + 1},"
    path = store(tmp_path / "l.parquet", rows)
    command = ["prepare", "yambda", str(path), "--out", str(tmp_path / "out")]
    assert main(command) == 65
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{place} {says}" in err
    assert "leave out bad sessions with --on_bad_session=drop" in err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--on_bad_session=drop"]) == 0
    sessions = Sessions.open(tmp_path / "out")
    with open(tmp_path / "out" / "dropped.csv", newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert says in listed[0]["reason"]
    if name == "no listener":
        assert {line["session_id"] for line in listed} == {""}
        assert sessions.info["dropped"]["sessions"] == 0
    else:
        assert [line["session_id"] for line in listed] == [str(listener)]
        assert sessions.digest == good.digest


BAD_FILES = {
    "a column less": (
        lambda p, rows: flat(p, rows, [n for n in TYPES if n != "played_ratio_pct"]),
        "has no column 'played_ratio_pct'; its columns are uid, timestamp",
    ),
    "text for numbers": (
        lambda p, rows: flat(p, [r | {"uid": "u"} for r in rows], uid=pa.string()),
        "column uid, holds string, not whole numbers.",
    ),
    "floats for numbers": (
        lambda p, rows: flat(p, rows, played_ratio_pct=pa.float64()),
        "column played_ratio_pct, holds double, not whole numbers.",
    ),
    "numbers for events": (
        lambda p, rows: flat(p, [r | {"event_type": 1} for r in rows], event_type=pa.int8()),
        "column event_type, holds int8, not text.",
    ),
    "half sequential": (
        lambda p, rows: flat(
            p, [r | {"item_id": [1]} for r in rows], item_id=pa.list_(pa.uint32())
        ),
        "column item_id, holds list<element: uint32>, but timestamp uint32: neither flat nor",
    ),
    "no rows": (lambda p, rows: flat(p, []), "has no rows."),
    "half a file": (
        lambda p, rows: p.write_bytes(flat(p, rows).read_bytes()[:-900]),
        "is damaged, cut short or not what its name says",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, capsys, name):
    make, says = BAD_FILES[name]
    make(tmp_path / "l.parquet", log())
    for policy in ("error", "drop"):
        command = ["prepare", "yambda", str(tmp_path / "l.parquet"), f"--on_bad_session={policy}"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 65
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err
        assert os.listdir(tmp_path) == ["l.parquet"]


def test_lists_of_different_lengths_are_refused(tmp_path):
    path = sequential(tmp_path / "l.parquet", log())
    table = pq.read_table(path)
    lists = table["is_organic"].to_pylist()
    lists[4] = lists[4][1:]
    table = table.set_column(3, "is_organic", pa.array(lists, table["is_organic"].type))
    pq.write_table(table, path)
    with pytest.raises(DataError, match="row 5, column is_organic: this list is not as long as"):
        yambda.prepare(path, tmp_path / "out")


def test_progress_tells_of_reading_sorting_and_writing(tmp_path):
    path, seen = flat(tmp_path / "l.parquet", log()), {}
    yambda.prepare(
        path,
        tmp_path / "out",
        block_rows=50,
        progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)),
    )
    assert list(seen) == ["reading", "sorting", "writing"]
    assert all(steps == sorted(steps) for steps in seen.values())
    assert all(steps[-1][0] == steps[-1][1] for steps in seen.values())


def test_a_time_beyond_those_published_is_refused(tmp_path):
    rows = log()
    rows[THIRD]["timestamp"] = 2**32
    path = flat(tmp_path / "l.parquet", rows, timestamp=pa.int64())
    with pytest.raises(DataError, match="4294967296 is not a number of seconds from 0 to 42949672"):
        yambda.prepare(path, tmp_path / "out")


def test_events_without_listens(tmp_path):
    path = flat(tmp_path / "l.parquet", [r for r in log() if r["event_type"] != "listen"])
    with pytest.raises(DataError, match=r"l\.parquet has no listens"):
        yambda.prepare(path, tmp_path / "out")
