"""Files of a few formats by their names, and JSON lines taken strictly."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.data import rows
from skipjax.errors import ConfigError, DataError

WANTED = dict.fromkeys(("s", "n", "b"), pa.string())


def read(path, wanted=WANTED, **options):
    blocks = [block for block, _ in rows.read(path, wanted, **options)]
    number = 1
    for block in blocks:
        assert (block.first_row, block.file) == (number, str(path))
        number += block.table.num_rows
    return pa.concat_tables([block.table for block in blocks])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", (rows.CSV, False)),
        ("x/a.b.TSV.gz", (rows.TSV, True)),
        ("a.ndjson", (rows.JSON_LINES, False)),
        ("a.pq", (rows.PARQUET, False)),
    ],
)
def test_names_say_the_format(name, expected):
    assert rows.format_of(name) == expected


@pytest.mark.parametrize("name", ["a", "a.json", "a.parquet.gz", "csv", "a.xlsx", ".gz"])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=r"its name must end in \.csv, \.tsv or \.jsonl"):
        rows.format_of(name)


@pytest.mark.parametrize("block_bytes", [1, 50, 1 << 20])
def test_json_lines(tmp_path, block_bytes):
    """Text stays what it is, whatever it looks like; other fields are passed over."""
    lines = [
        '{"s": "007", "more": {"a": [1, {}]}, "n": 9223372036854775807, "b": true}',
        '{"b": false, "n": -1, "s": "2024-01-01"}',
        '{"s": "\\u00e9\\n \u00e9 {}", "n": 0, "b": true, "new": null}\r',
        '{"s": null, "b": false}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n \n", encoding="utf-8", newline="")
    assert read(tmp_path / "a.jsonl", block_bytes=block_bytes).to_pylist() == [
        {"s": "007", "n": 2**63 - 1, "b": True},
        {"s": "2024-01-01", "n": -1, "b": False},
        {"s": "\u00e9\n \u00e9 {}", "n": 0, "b": True},
        {"s": None, "n": None, "b": False},
    ]


GOOD = b'{"s": "x", "n": 1, "b": true}\n'


@pytest.mark.parametrize("block_bytes", [10, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b'{"s": "x", "n": 1}\n', "has no column 'b'; its columns are s, n"),
        (b'{"s": "x", "n": 1.0, "b": true}\n', "row 1, column n: 1.0 is not text, a whole number"),
        (b'{"s": [1], "n": 1, "b": true}\n', r"row 1, column s: \[1\] is not text"),
        (b'{"s": null, "n": 1, "b": true}\n', "row 1, column s: None is not text"),
        (GOOD + b'{"s": 7, "n": 1, "b": true}\n', "row 2, column s: 7 is not text, as in the fir"),
        (GOOD + b'{"s": "x", "n": "1", "b": true}\n', "row 2, column n: '1' is not a whole number"),
        (GOOD + b'{"s": "x", "n": 1.0, "b": true}\n', "row 2, column n: 1.0 is not a whole number"),
        (
            GOOD + b'{"s": "x", "n": 9223372036854775808, "b": true}\n',
            "is not a whole number of 64",
        ),
        (GOOD + b'{"s": "x", "n": 1, "b": 1}\n', "row 2, column b: 1 is not true or false"),
        (GOOD + b'{"s": "x", "n": true, "b": true}\n', "row 2, column n: True is not a whole"),
        (2 * GOOD + b"[1]\n", r"row 3 is not a JSON object with names: '\[1\]'"),
        (2 * GOOD + b'{"s": "x", "n": 1, "b": tr\n', "row 3 is not one JSON object"),
        (2 * GOOD + b'{"s": "x", "n": 1, "b": tr', "row 3 is not one JSON object"),
        (GOOD + GOOD[:-1] + GOOD, "row 2 is not one JSON object"),
        (GOOD + b"\n" + GOOD, "row 2 is not one JSON object"),
        (GOOD + b'{"s": "x",\n"n": 1, "b": true}\n', "row 2 is not one JSON object"),
        (GOOD + b'{"s": "\xff", "n": 1, "b": true}\n', "row 2 is not UTF-8 text"),
        (GOOD + b'{"s": "x", "s": "y", "n": 1, "b": true}\n', "twice"),
        (GOOD + b'{"s": "\\ud800", "n": 1, "b": true}\n', "surrogate"),
    ],
)
def test_lines_that_are_not_json_lines_are_named(tmp_path, text, message, block_bytes):
    (tmp_path / "a.jsonl").write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "a.jsonl", block_bytes=block_bytes)
    assert "\n" not in str(caught.value)
    assert "a.jsonl" in str(caught.value)


def test_parquet_is_verified(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"s": [f"text {i}" for i in range(500)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    assert read(path, {"s": pa.string()})["s"].cast(pa.string()).equals(table["s"])
    content = bytearray(path.read_bytes())
    content[content.index(b"text 250") + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        read(path, {"s": pa.string()})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"t": ["x"]}, "has no column 's'"),
        ({"s": [["x"]]}, "column s, holds list.*, not single values"),
        ({"s": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.parquet", {"s": pa.string()})


def test_a_file_that_is_not_there(tmp_path):
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match=f"{name}: cannot be read: "):
            read(tmp_path / name)
