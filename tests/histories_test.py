"""Histories from files, tables and lists: the same whatever the format, blocks and order."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from skipjax.data import histories
from skipjax.data.histories import Columns
from skipjax.errors import ConfigError, DataError

COLUMNS = Columns(position_column="position", skip_column="skipped")


def plain(found):
    """[(session id, [(track, skipped), ...]), ...] of many histories."""
    sessions = []
    for some in found:
        tracks = some.tracks.dictionary_decode().to_pylist()
        skipped = [None] * len(tracks) if some.skipped is None else some.skipped.tolist()
        events = list(zip(tracks, skipped, strict=True))
        for number, name in enumerate(some.session_ids.to_pylist()):
            sessions.append((name, events[some.offsets[number] : some.offsets[number + 1]]))
    return sessions


def make_rows(rng, num_sessions=40, ids=str):
    rows = [
        {
            "session_id": ids(900 + s),
            "track_id": f"t{rng.integers(30):02d}",
            "position": int(i),
            "skipped": bool(rng.integers(2)),
        }
        for s in range(num_sessions)
        for i in rng.permutation(rng.integers(1, 30))
    ]
    return rows


def slow(rows):
    """Sessions in the order of their first rows, each by position."""
    sessions: dict = {}
    for row in rows:
        sessions.setdefault(row["session_id"], []).append(row)
    return [
        (name, [(r["track_id"], r["skipped"]) for r in sorted(some, key=lambda r: r["position"])])
        for name, some in sessions.items()
    ]


def write(path, rows):
    name, table = path.name, pa.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=50, write_page_checksum=True)
        return path
    if "jsonl" in name:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(table, sink, pa_csv.WriteOptions(delimiter="\t" * ("tsv" in name) or ","))
        text = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.parquet", "A.PARQUET.parquet"],
)
def test_any_format_and_any_blocks_give_the_same(tmp_path, rng, name):
    rows = make_rows(rng)
    path, expected, calls = write(tmp_path / name, rows), slow(rows), []
    for block_bytes in (40, 3000, 1 << 20):
        found = list(histories.read(path, COLUMNS, block_bytes=block_bytes))
        assert plain(found) == expected
        assert name.endswith("parquet") or (len(found) > 1) == (block_bytes < 10_000)
    done = list(histories.read(path, COLUMNS, progress=lambda *args: calls.append(args)))
    assert plain(done) == expected
    assert calls[-1] == (path.stat().st_size, path.stat().st_size, "recommending")


def test_blocks_of_parquet_cut_sessions(tmp_path, rng, monkeypatch):
    rows = make_rows(rng, ids=int)
    path = write(tmp_path / "a.parquet", rows)
    for size in (1, 7, 100):
        monkeypatch.setattr("skipjax.data.rows._PARQUET_ROWS", size)
        found = list(histories.read(path, COLUMNS))
        assert len(found) > 1
        assert found[0].session_ids.type == pa.int64()
        assert plain(found) == slow(rows)


class Frame:
    """A data frame of somebody else's."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", ["table", "batch", "frame", "categories", "views", "both"])
def test_tables_may_have_their_rows_anywhere(rng, monkeypatch, kind):
    rows = make_rows(rng)
    rows = [rows[i] for i in rng.permutation(len(rows))]
    table = pa.Table.from_pylist(rows)
    if kind in ("categories", "both"):
        for name in ("session_id", "track_id"):
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].dictionary_encode())
    if kind in ("views", "both"):
        column = table["track_id"].combine_chunks()
        if kind == "both":
            texts = column.dictionary.cast(pa.string_view())
            column = pa.DictionaryArray.from_arrays(column.indices, texts)
        else:
            column = column.cast(pa.string_view())
        table = table.set_column(1, "track_id", column)
    given = {"batch": lambda: table.combine_chunks().to_batches()[0], "frame": lambda: Frame(table)}
    sessions = given.get(kind, lambda: table)()
    assert histories.is_table(sessions)
    for size in (1 << 17, 60, 1):
        monkeypatch.setattr(histories, "_ROWS", size)
        found = list(histories.from_table(sessions, COLUMNS))
        assert plain(found) == slow(rows)
        assert (len(found) > 1) == (size < 1000)


def test_order_comes_from_rows_positions_or_times():
    table = pa.table(
        {
            "session_id": ["a"] * 4,
            "track_id": ["x", "y", "z", "w"],
            "place": [3, 1, 2, 1],
            "time": [
                "2024-05-05T10:00Z",
                "2024-05-05T12:00+03",
                "2024-05-06T00:00Z",
                "2024-05-05T09:00Z",
            ],
        }
    )
    for columns, expected in (
        (Columns(), "xyzw"),
        (Columns(position_column="place"), "ywzx"),  # ties as they stand
        (Columns(time_column="time"), "ywxz"),
    ):
        ((_, events),) = plain(histories.from_table(table, columns))
        assert [track for track, _ in events] == list(expected)
        assert {skipped for _, skipped in events} == {None}


def test_levels_are_skips_as_asked_for():
    table = pa.table({"session_id": ["a"] * 4, "track_id": list("wxyz"), "level": [0, 1, 2, 3]})
    columns = Columns(level_column="level")
    for levels in ((1, 2), (3,), ()):
        (found,) = histories.from_table(table, columns, skip_levels=levels)
        assert found.skipped.tolist() == [level in levels for level in range(4)]


def test_lists():
    found = histories.from_lists(
        (iter(session) for session in [["a", 7, np.int64(8)], [], ("a",)]),
        [[True, False, np.True_], [], [False]],
    )
    assert plain([found]) == [
        (0, [("a", True), ("7", False), ("8", True)]),
        (1, []),
        (2, [("a", False)]),
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("block_bytes", [60, 1 << 20])
def test_a_session_that_comes_back_is_named(tmp_path, ending, block_bytes, monkeypatch):
    monkeypatch.setattr("skipjax.data.rows._PARQUET_ROWS", block_bytes // 20)
    ids = [*"aabbbcccdddeeefffg", "b", "h"]
    rows = [{"session_id": name, "track_id": f"t{i}"} for i, name in enumerate(ids)]
    path = write(tmp_path / f"a.{ending}", rows)
    row = 19 + (ending == "csv")
    with pytest.raises(DataError, match=rf"row {row}: session 'b' comes back.*sort the rows"):
        list(histories.read(path, Columns(), block_bytes=block_bytes))


BAD = "session_id,track_id,position,skipped\n{}\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,,0,1", "row 2, column track_id: '' is not an id"),
        ("a,nan,0,1", "row 2, column track_id: 'nan' is not an id"),
        ("a,x,0,1\na,x,1.5,0", "row 3, column position: '1.5' is not an integer"),
        ("a,x,0,maybe", "row 2, column skipped: 'maybe' is not true/1 or false/0"),
        ("a,x,0", "row 2 has 3 columns where the header has 4"),
    ],
)
def test_a_bad_value_is_named(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text(BAD.format(rows))
    with pytest.raises(DataError, match=message):
        list(histories.read(tmp_path / "a.csv", COLUMNS))


@pytest.mark.parametrize("block_bytes", [40, 1 << 20])
def test_sessions_with_a_bad_value_may_be_dropped(tmp_path, block_bytes):
    """A row of no session stands in nobody's way, not even in the midst of one."""
    rows = ["a,x,1,0", "a,y,0,1", "b,x,0,0", "b,,1,0", ",y,0,1", "b,z,2,0", "c,x,1,1", ",z,2,0"]
    rows += ["c,y,0,0", "d,x,?,0", "e,z,0,0"]
    (tmp_path / "a.csv").write_text(BAD.format("\n".join(rows)))
    found = list(
        histories.read(tmp_path / "a.csv", COLUMNS, on_bad_session="drop", block_bytes=block_bytes)
    )
    assert plain(found) == [
        ("a", [("y", True), ("x", False)]),
        ("c", [("y", False), ("x", True)]),
        ("e", [("z", False)]),
    ]
    assert sum(some.dropped for some in found) == 2
    assert sum(some.dropped_rows for some in found) == 2
    first = next(some.faults[0] for some in found if some.faults)
    assert "a.csv row " in first
    table = pa_csv.read_csv(tmp_path / "a.csv").select(["session_id", "track_id"])
    found = list(histories.from_table(table, Columns(), on_bad_session="drop"))
    assert [name for name, _ in plain(found)] == ["a", "c", "d", "e"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"position_column": "p", "time_column": "t"}, "position_column and time_column are both"),
        ({"level_column": "p", "skip_column": "t"}, "level_column and skip_column are both given"),
        ({"session_column": ""}, "session_column is empty"),
        ({"session_column": "x", "track_column": "x"}, "are both 'x'; name two columns"),
    ],
)
def test_columns_that_do_not_go_together(columns, message):
    with pytest.raises(ConfigError, match=message):
        Columns(**columns)
