"""Tables of the user's own: every format alike, exact times, ties, cutting."""

import collections
import csv
import datetime
import gzip
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.data import table
from skipjax.data.sessions import Sessions
from skipjax.errors import ConfigError, DataError

KUAIRAND = os.environ.get("SKIPJAX_KUAIRAND", "")
COLUMNS = table.Columns(
    session_column="user",
    track_column="item",
    time_column="when",
    skip_column="hated",
    context_columns=("place",),
)
HEADER = ("user", "item", "when", "hated", "place")


def log(num_users=12, seed=0):
    """Rows as tuples of text; times tie often."""
    rng = np.random.default_rng(seed)
    return [
        (
            f"{user:03}",
            str(rng.integers(30)),
            str(1_600_000_000_000 + int(rng.integers(8))),
            str(rng.integers(2)),
            ("home", "NA")[int(rng.integers(2))],
        )
        for user in range(num_users)
        for _ in range(3 + 4 * user)
    ]


def as_csv(rows, header=HEADER, delimiter=","):
    return "".join(delimiter.join(row) + "\n" for row in [header, *rows]).encode()


def as_json_lines(rows, **types):
    objects = [dict(zip(HEADER, row, strict=True)) for row in rows]
    for row in objects:
        row.update({name: kind(row[name]) for name, kind in types.items()})
    return "".join(json.dumps(row) + "\n" for row in objects).encode()


def as_parquet(path, rows, **types):
    columns = {}
    for name, values in zip(HEADER, zip(*rows, strict=True), strict=True):
        column = pa.array(values)
        columns[name] = column.cast(types[name]) if name in types else column
    pq.write_table(
        pa.table(columns), path, row_group_size=50, data_page_size=64, write_page_checksum=True
    )
    return path


def listening(sessions):
    """{session: [(track, level), ...]}."""
    tracks = sessions.track_ids.to_pylist()
    return {
        name: [
            (tracks[sessions.tracks[i]], int(sessions.levels[i]))
            for i in range(sessions.offsets[s], sessions.offsets[s + 1])
        ]
        for s, name in enumerate(sessions.session_ids.to_pylist())
    }


def expected(rows, min_length=4, max_length=20):
    users = collections.defaultdict(list)
    for user, item, when, hated, _ in rows:
        users[user].append((int(when), (item, 2 * int(hated))))
    kept, left_out = {}, []
    for user, events in users.items():
        events = [event for _, event in sorted(events, key=lambda e: e[0])]
        for number, start in enumerate(range(0, len(events), max_length), start=1):
            name = f"{user}#{number}" if len(events) > max_length else user
            piece = events[start : start + max_length]
            if len(piece) >= min_length:
                kept[name] = piece
            else:
                left_out.append(len(piece))
    return kept, {"sessions": len(left_out), "events": sum(left_out)}


@pytest.fixture
def rows():
    return log()


@pytest.fixture
def plain(rows, tmp_path):
    (tmp_path / "log.csv").write_bytes(as_csv(rows))
    return table.prepare(tmp_path / "log.csv", tmp_path / "plain", COLUMNS)


def test_order_ties_cutting_and_what_is_left_out(rows, plain):
    kept, left_out = expected(rows)
    assert listening(plain) == kept
    assert plain.info["left_out"] == left_out
    assert left_out["sessions"] > 1
    assert {len(events) for events in kept.values()} >= {20, 7}
    assert plain.info["options"]["session_column"] == "user"
    assert set(plain.context["place"].to_pylist()) == {"home", "NA"}


def test_a_sample_is_the_beginning(rows, plain, tmp_path):
    sample = table.prepare(tmp_path / "log.csv", tmp_path / "out", COLUMNS, num_sessions=5)
    assert list(listening(sample).items()) == list(listening(plain).items())[:5]


def in_two(folder, rows, suffix):
    folder.mkdir()
    half = len(rows) // 2
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        (folder / f"{name}{suffix}").write_bytes(as_csv(part))
    return folder


def written(path, data):
    path.write_bytes(data)
    return path


INTEGERS = {"user": pa.int64(), "item": pa.uint16(), "when": pa.int64(), "hated": pa.int8()}
WAYS = {
    "gzipped": lambda at, rows: written(at / "l.csv.gz", gzip.compress(as_csv(rows))),
    "tabs": lambda at, rows: written(at / "l.tsv", as_csv(rows, delimiter="\t")),
    "tabs gzipped": lambda at, rows: written(
        at / "l.tsv.gz", gzip.compress(as_csv(rows, delimiter="\t"))
    ),
    "json lines": lambda at, rows: written(at / "l.jsonl", as_json_lines(rows)),
    "json lines gzipped": lambda at, rows: written(
        at / "l.ndjson.gz", gzip.compress(as_json_lines(rows, when=int, hated=int))
    ),
    "another name": lambda at, rows: written(at / "l.log", as_csv(rows)),
    "folder": lambda at, rows: in_two(at / "in", rows, ".csv"),
    "glob": lambda at, rows: f"{in_two(at / 'in', rows, '.csv')}/?.csv",
    "parquet of text": lambda at, rows: as_parquet(at / "l.parquet", rows),
    "parquet of numbers": lambda at, rows: as_parquet(
        at / "l.pq", rows, when=pa.int64(), hated=pa.int8(), item=pa.uint16()
    ),
    "parquet of categories": lambda at, rows: as_parquet(
        at / "l.pq", rows, user=pa.dictionary(pa.int8(), pa.string())
    ),
    "whole floats": lambda at, rows: written(
        at / "l.csv", as_csv([(u, i, w + ".0", *r) for u, i, w, *r in rows])
    ),
    "words": lambda at, rows: written(
        at / "l.csv", as_csv([(u, i, w, ("False", "TRUE")[int(h)], p) for u, i, w, h, p in rows])
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_every_way_gives_the_same(rows, plain, tmp_path, way, block_bytes):
    place = tmp_path / "way"
    place.mkdir()
    sources = WAYS[way](place, rows)
    other = table.prepare(sources, tmp_path / "out", COLUMNS, block_bytes=block_bytes)
    assert other.digest == plain.digest


def test_whole_numbers_as_ids_are_decimal_text(tmp_path):
    rows = [("7", "30", str(i), "0", "x") for i in range(5)]
    as_parquet(tmp_path / "l.parquet", rows, **INTEGERS)
    sessions = table.prepare(tmp_path / "l.parquet", tmp_path / "out", COLUMNS)
    assert listening(sessions) == {"7": [("30", 0)] * 5}


def test_ids_are_never_numbers(tmp_path):
    rows = [(user, item, "1", "0", "x") for user in ("7", "007", "7.0") for item in "abcd"]
    (tmp_path / "l.csv").write_bytes(as_csv(rows))
    sessions = table.prepare(tmp_path / "l.csv", tmp_path / "out", COLUMNS)
    assert set(listening(sessions)) == {"7", "007", "7.0"}


@pytest.mark.parametrize("parquet", [False, True])
def test_times_beyond_the_precision_of_floats(tmp_path, parquet):
    start = 2**62
    assert float(start) == float(start + 4)
    rows = [("u", str(i), str(start + i), "0", "x") for i in (3, 1, 4, 0, 2)]
    if parquet:
        path = as_parquet(tmp_path / "l.parquet", rows, when=pa.int64())
    else:
        path = written(tmp_path / "l.csv", as_csv(rows))
    sessions = table.prepare(path, tmp_path / "out", COLUMNS)
    assert listening(sessions) == {"u": [(str(i), 0) for i in range(5)]}


TIMES = [  # in this order, though not as text
    ("2020-01-02", "2020-01-02T00:00:00.000000001", "2020-01-02 00:00:01", "2020-01-10 00:00"),
    (
        "2020-01-02T12:00:00+14:00",
        "2020-01-01T23:00:00Z",
        "2020-01-01T22:00:00-02:00",
        "2020-01-02T00:30Z",
    ),
    ("-5", "0", "9", "10"),
]


@pytest.mark.parametrize("times", TIMES)
def test_dates_and_times_as_text(tmp_path, times):
    rows = [("u", str(i), times[i], "0", "x") for i in (2, 0, 3, 1)]
    (tmp_path / "l.csv").write_bytes(as_csv(rows))
    sessions = table.prepare(tmp_path / "l.csv", tmp_path / "out", COLUMNS)
    assert listening(sessions) == {"u": [(str(i), 0) for i in range(4)]}


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("ms", "Europe/Stockholm"), pa.date32()]
)
def test_dates_and_times_of_parquet(tmp_path, kind):
    days = [datetime.datetime(2020, 1, day, tzinfo=datetime.UTC) for day in (5, 3, 4, 2)]
    values = [day.date() if kind == pa.date32() else day for day in days]
    columns = {
        "user": ["u"] * 4,
        "item": ["5", "3", "4", "2"],
        "when": pa.array(values, kind),
        "hated": [False, True, False, False],
        "place": [1, 2, 3, 4],
    }
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    sessions = table.prepare(tmp_path / "l.parquet", tmp_path / "out", COLUMNS)
    assert listening(sessions) == {"u": [("2", 0), ("3", 2), ("4", 0), ("5", 0)]}
    assert sessions.context["place"].to_pylist() == [4, 2, 3, 1]
    assert sessions.context["place"].type == pa.int64()


def test_positions_and_levels(tmp_path):
    columns = table.Columns("s", "t", position_column="p", level_column="l")
    rows = [("a", "x", "10", "3"), ("a", "y", "9", "0"), ("a", "z", "2", "1"), ("a", "w", "1", "2")]
    (tmp_path / "l.csv").write_bytes(as_csv(rows, "stpl"))
    sessions = table.prepare(tmp_path / "l.csv", tmp_path / "out", columns)
    assert listening(sessions) == {"a": [("w", 2), ("z", 1), ("y", 0), ("x", 3)]}
    assert sessions.context.num_columns == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give exactly one of position_column and time_column; neither is given"),
        (
            {"position_column": "p", "time_column": "t", "level_column": "l"},
            "exactly one of position_column and time_column; both are given",
        ),
        (
            {"position_column": "p"},
            "nothing tells what was skipped; give level_column",
        ),
        (
            {"position_column": "p", "level_column": "l", "skip_column": "s"},
            "only one of level_column and skip_column; both are given",
        ),
        (
            {"position_column": "p", "level_column": "l", "time_unit": "s"},
            "time_unit is 's', but there is no time_column",
        ),
        (
            {"time_column": "t", "level_column": "l", "time_unit": "h"},
            "time_unit is 'h'; it must be one of s, ms, us, ns",
        ),
        (
            {"position_column": "p", "level_column": "l", "context_columns": ("time",)},
            "context_columns has 'time' twice, or it is a name that events use",
        ),
        (
            {"position_column": "p", "level_column": "l", "track_column": ""},
            "track_column is empty",
        ),
        (
            {"position_column": "p", "level_column": "l", "context_columns": ("a", "a")},
            "context_columns has 'a' twice",
        ),
        (
            {"position_column": "p", "level_column": "l", "context_columns": ("order",)},
            "context_columns has 'order' twice, or it is a name",
        ),
    ],
)
def test_columns_that_do_not_go_together(values, message):
    with pytest.raises(ConfigError, match=message):
        table.Columns(**values)


def test_flipped_bits_in_parquet_pages_are_found(rows, plain, tmp_path):
    data = as_parquet(tmp_path / "l.parquet", rows).read_bytes()
    rng = np.random.default_rng(0)
    end = len(data) - int.from_bytes(data[-8:-4], "little") - 8  # of the pages
    found = 0
    for number, at in enumerate(rng.integers(4, end, 25)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "l.parquet").write_bytes(damaged)
        try:
            sessions = table.prepare(tmp_path / "l.parquet", tmp_path / f"out{number}", COLUMNS)
        except DataError:
            found += 1
        else:
            assert sessions.digest == plain.digest  # a bit that says nothing
    assert found > 15


@pytest.mark.skipif(not KUAIRAND, reason="SKIPJAX_KUAIRAND does not name kuairand_feedback.csv.gz")
class TestKuaiRand:
    COLUMNS = table.Columns(
        session_column="user_id",
        track_column="video_id",
        time_column="time_ms",
        skip_column="is_hate",
        context_columns=("long_view",),
    )

    def test_all_of_it(self, tmp_path):
        everything = table.prepare(KUAIRAND, tmp_path / "all", self.COLUMNS, min_length=1)
        facts = everything.summary()
        assert facts["events"] == 31_837
        assert facts["tracks"] == 7_688
        assert facts["left_out"] == {"sessions": 0, "events": 0}
        assert round(100 * facts["skipped_share"], 1) == 19.6
        users = {name.split("#")[0] for name in everything.session_ids.to_pylist()}
        assert len(users) == 505
        assert facts["length_max"] == 20

    def test_each_user_in_order(self, tmp_path):
        sessions = table.prepare(KUAIRAND, tmp_path / "out", self.COLUMNS)
        with gzip.open(KUAIRAND, "rt") as file:
            rows = [
                (r["user_id"], r["video_id"], r["time_ms"], r["is_hate"], "")
                for r in csv.DictReader(file)
            ]
        kept, left_out = expected(rows)
        assert listening(sessions) == kept
        assert sessions.info["left_out"] == left_out
        assert listening(Sessions.open(tmp_path / "out")) == kept


def test_one_column_cannot_be_session_and_track():
    with pytest.raises(ConfigError, match="session_column and track_column are both 'user'"):
        table.Columns("user", "user", time_column="time", skip_column="skipped")
