"""Files of recommendations: any format reads back the same, whole or not at all."""

import csv
import gzip
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.data import recommendations
from skipjax.data.catalogue import Catalogue
from skipjax.errors import OutputError

NAMES = ["a", 'q"uo,te', "tab\there", "line\nbreak", "é{}\\"]


def make_table(session_ids):
    scores = np.array([[0.1, -0.0, 3e20], [1e-7, 2.0, -np.inf], [np.nan] * 3], np.float32)
    ids = np.array([[2, 3, 4], [6, 5, 0], [2, 3, 4]], np.int32)
    catalogue = Catalogue(pa.array(NAMES, pa.large_string()), np.zeros(5, np.int64))
    return recommendations.table_of(session_ids, scores, ids, catalogue)


EXPECTED = [
    (0, "a", np.float32(0.1), 1),
    (0, 'q"uo,te', 0.0, 2),
    (0, "tab\there", np.float32(3e20), 3),
    (1, "é{}\\", np.float32(1e-7), 1),
    (1, "line\nbreak", 2.0, 2),
    (2, "a", None, 1),
    (2, 'q"uo,te', None, 2),
    (2, "tab\there", None, 3),
]


def test_tables():
    table = make_table(pa.array(["x", "y", "z"]))
    assert table.schema == pa.schema(
        {
            "session_id": pa.string(),
            "track_id": pa.large_string(),
            "score": pa.float32(),
            "rank": pa.int32(),
        }
    )
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows == [("xyz"[s], track, score, rank) for s, track, score, rank in EXPECTED]
    assert make_table(pa.array([4, 5, 6]))["session_id"].to_pylist()[0] == 4


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.pq"])
@pytest.mark.parametrize("ids", [['x"', "y,", "z\t"], [7, 8, 9]])
def test_any_format_reads_back_the_same(tmp_path, name, ids):
    path, table = tmp_path / name, make_table(pa.array(ids))
    path.write_text("what was there before")
    with recommendations.new_file(path) as write:
        write(table)
        write(table)
        assert path.read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name.endswith("pq"):
        found = pq.read_table(path, page_checksum_verification=True)
        assert found.equals(pa.concat_tables([table, table]))
        return
    with (gzip.open if name.endswith("gz") else open)(
        path, "rt", newline="", encoding="utf-8"
    ) as f:
        text = f.read()
    names = ("session_id", "track_id", "score", "rank")
    if "jsonl" in name:
        rows = [json.loads(line) for line in text.splitlines()]
        assert all(tuple(row) == names for row in rows)
    else:
        lines = csv.reader(text.splitlines(True), delimiter="\t" if "tsv" in name else ",")
        header, *lines = lines
        assert tuple(header) == names
        kind = type(ids[0])
        rows = [
            {
                "session_id": kind(s),
                "track_id": track,
                "score": float(x) if x else None,
                "rank": int(r),
            }
            for s, track, x, r in lines
        ]
    expected = 2 * [(ids[s], track, score, rank) for s, track, score, rank in EXPECTED]
    for row, wanted in zip(rows, expected, strict=True):
        assert (row["session_id"], row["track_id"], row["rank"]) == (
            wanted[0],
            wanted[1],
            wanted[3],
        )
        assert row["score"] is None if wanted[2] is None else np.float32(row["score"]) == wanted[2]


def test_damage_to_parquet_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    names = [hashlib.sha256(bytes([i])).hexdigest() for i in range(50)]  # nothing to compress
    catalogue = Catalogue(pa.array(names, pa.large_string()), np.zeros(50, np.int64))
    ids = np.arange(2, 52, dtype=np.int32)[None]
    scores = np.zeros((1, 50), np.float32)
    with recommendations.new_file(path) as write:
        write(recommendations.table_of(pa.array(["x"]), scores, ids, catalogue))
    content = bytearray(path.read_bytes())
    content[content.index(names[25].encode()[20:40])] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="checksum"):
        pq.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
def test_an_error_leaves_what_was_there(tmp_path, name):
    def broken():
        with recommendations.new_file(tmp_path / name) as write:
            write(make_table(pa.array(["x", "y", "z"])))
            raise ZeroDivisionError

    (tmp_path / name).write_text("before")
    with pytest.raises(ZeroDivisionError):
        broken()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "before")]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(OutputError, match=r"no/a\.csv: cannot be written: No such file"),
        recommendations.new_file(tmp_path / "no" / "a.csv"),
    ):
        pass
