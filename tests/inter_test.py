"""RecBole's atomic files, and that a log is the same in whatever form it is given."""

import collections
import gzip
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipjax.cli.main import main
from skipjax.data import inter, table
from skipjax.data.sessions import Sessions
from skipjax.errors import ConfigError, DataError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tplace:token"
GAP = 1.0  # minutes


@pytest.fixture(autouse=True)
def not_synced(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def log(seed=0, users=9, events=40):
    """[(user, item, rating, time, place), ...] as text, in any order, without ties."""
    rng = np.random.default_rng(seed)
    rows = [
        (
            str(user),
            f"{rng.integers(30):03}",
            str(rng.choice([0.5, 2.0, 2.5, 4.0, 5.0])),
            str(880_000_000 + int(at)),
            ("home", "NA", '"')[int(rng.integers(3))],
        )
        for user in range(users)
        for at in rng.choice(60 * events, events, replace=False)
    ]
    return [rows[i] for i in rng.permutation(len(rows))]


def as_inter(rows, header=HEADER, whole="{}.0"):
    lines = [header, *("\t".join((*r[:3], whole.format(r[3]), *r[4:])) for r in rows)]
    return "".join(line + "\n" for line in lines).encode()


def expected(rows, gap=60 * GAP):
    users = collections.defaultdict(list)
    for user, item, rating, at, place in rows:
        users[user].append((int(at), item, float(rating), place))
    kept = {}
    for user, events in users.items():
        runs = [[]]
        for event in sorted(events):
            if runs[-1] and event[0] - runs[-1][-1][0] > gap:
                runs.append([])
            runs[-1].append(event)
        pieces = [run[i : i + 20] for run in runs for i in range(0, len(run), 20)]
        for number, piece in enumerate(pieces, start=1):
            if len(piece) >= 4:
                kept[f"{user}#{number}" if len(pieces) > 1 else user] = piece
    return kept


def told(sessions):
    tracks = sessions.track_ids.to_pylist()
    events = [
        (row["time"], tracks[track], row["rating"], row["place"])
        for track, row in zip(sessions.tracks, sessions.context.to_pylist(), strict=True)
    ]
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return {
        name: events[a:b]
        for name, (a, b) in zip(sessions.session_ids.to_pylist(), ends, strict=True)
    }


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """One log as (command, path, options of the command), in every form."""
    folder = tmp_path_factory.mktemp("forms")
    rows = log()
    names = ("user", "item", "stars", "when", "place")
    (folder / "a.inter").write_bytes(as_inter(rows))
    (folder / "plain.inter").write_bytes(as_inter(rows, whole="{}"))
    (folder / "b.inter.gz").write_bytes(gzip.compress(as_inter(rows)))
    quoted = [tuple('""""' if value == '"' else value for value in row) for row in rows]
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [mark.join(row) + "\n" for row in (names, *quoted)]
        (folder / name).write_text("".join(lines))
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    (folder / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in objects))
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    texts = pa.table(columns)
    pq.write_table(texts, folder / "a.parquet")
    typed = {
        "user": pa.array(map(int, columns["user"]), pa.int32()),
        "stars": pa.array(map(float, columns["stars"])),
        "when": pa.array(map(int, columns["when"]), pa.uint32()),
    }
    for name, array in typed.items():
        texts = texts.set_column(names.index(name), name, array)
    pq.write_table(texts, folder / "b.parquet")
    pq.write_table(
        texts.set_column(2, "stars", typed["stars"].cast("float32")), folder / "c.parquet"
    )
    options = [
        f"--{role}_column={name}"
        for role, name in zip(("session", "track", "rating", "time"), names, strict=False)
    ]
    tables = ("a.csv", "a.tsv", "a.jsonl", "a.parquet", "b.parquet", "c.parquet")
    return rows, [
        *(("inter", folder / name, []) for name in ("a.inter", "plain.inter", "b.inter.gz")),
        *(("table", folder / name, options) for name in tables),
    ]


def test_the_same_sessions_from_every_form(forms, tmp_path):
    rows, given = forms
    digests = set()
    for number, (kind, path, options) in enumerate(given):
        out = tmp_path / str(number)
        common = ["--time_unit=s", f"--gap_minutes={GAP}", "--context_columns=place"]
        assert main(["prepare", kind, str(path), "--out", str(out), *options, *common]) == 0
        sessions = Sessions.open(out)
        digests.add(sessions.digest)
        assert sessions.feedback == ("rating",)
        assert sessions.times()[1] == "s"
    assert told(sessions) == expected(rows)
    assert len(digests) == 1


def test_the_same_for_any_block_size_and_order_of_files(tmp_path):
    rows = log()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.inter").write_bytes(as_inter(rows[:100]))
    (folder / "b.inter").write_bytes(as_inter(rows[100:]).replace(b"\n", b"\r\n"))
    options = {"time_unit": "s", "gap_minutes": GAP, "context_columns": ("place",)}
    digests = {
        inter.prepare(given, tmp_path / f"{size}{i}", block_bytes=size, **options).digest
        for size in (100, 1 << 20)
        for i, given in enumerate((folder, [folder / "b.inter", folder / "a.inter"]))
    }
    assert len(digests) == 1
    assert told(Sessions.open(tmp_path / "1000")) == expected(rows)


def header(*fields):
    return "\t".join(fields)


@pytest.mark.parametrize(
    ("fields", "values", "feedback"),
    [
        (("rating:float", "timestamp:float"), ("3", "{}"), ("rating",)),
        (("timestamp:token", "rating:token"), ("{}", "3"), ("rating",)),
        (("level:token", "position:float"), ("2", "{}.0"), ("level",)),
        (("skipped:float", "timestamp:float"), ("1", "{}"), ("level",)),
        (("level:token", "skip:token", "time:float"), ("1", "0", "{}"), ("level",)),
        (("played_percent:float", "timestamp:float"), ("49.9", "{}"), ("played_percent",)),
        (
            ("rating:float", "played_ratio_pct:float", "position:token", "timestamp:float"),
            ("2", "", "7", "{}"),
            ("played_percent", "rating"),
        ),
        (("rating:float", "timestamp:float", "names:token_seq"), ("3", "{}", "a b"), ("rating",)),
    ],
)
@pytest.mark.parametrize("ids", [("user_id", "item_id"), ("session_id", "track_id")])
def test_fields_are_found_by_name_and_type(tmp_path, fields, values, feedback, ids):
    fields = [f"{name}:token" for name in ids] + list(fields)
    lines = ["\t".join(fields)]
    lines += ["\t".join(["a", f"t{i}", *(v.format(9 - i) for v in values)]) for i in range(5)]
    (tmp_path / "l.inter").write_text("".join(line + "\n" for line in lines))
    sessions = inter.prepare(tmp_path / "l.inter", tmp_path / "out")
    assert [sessions.track_ids[int(t)].as_py() for t in sessions.tracks] == [
        f"t{i}" for i in (4, 3, 2, 1, 0)
    ]
    assert sessions.feedback == feedback
    if "level" in feedback:
        assert set(sessions.levels.tolist()) == ({1} if "skip:token" in fields else {2})
    if "played_percent" in feedback:
        percent = 49 if "49.9" in values else -1
        assert sessions.context["played_percent"].to_pylist() == [percent] * 5


GOOD = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["u_id:token", *GOOD[1:]], "has no field for whose it is: one of session_id, user_id"),
        (["user_id:float", *GOOD[1:]], "has no field for whose it is"),
        (["user_id:token", "i:token", *GOOD[2:]], "has no field for the track"),
        (["user_id:token", "item_id:token_seq", *GOOD[2:]], "has no field for the track"),
        ([*GOOD[:3], "t:float"], "has no field for when it was: one of timestamp, time, time_ms"),
        (
            [*GOOD[:2], "r:float", GOOD[3]],
            "has no field that tells what was skipped, such as level",
        ),
        (["user_id", *GOOD[1:]], "its first line must name fields with their types"),
        (["user_id:int", *GOOD[1:]], "its first line must name fields with their types"),
        ([*GOOD, "user_id:token"], "has 2 columns named 'user_id'"),
    ],
)
def test_a_header_that_says_too_little(tmp_path, capsys, fields, says):
    lines = ["\t".join(fields), *("\t".join(["1"] * len(fields)) for _ in range(5))]
    (tmp_path / "l.inter").write_text("".join(line + "\n" for line in lines))
    command = ["prepare", "inter", str(tmp_path / "l.inter"), "--out", str(tmp_path / "out")]
    assert main(command) == 65
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err
    assert os.listdir(tmp_path) == ["l.inter"]


@pytest.mark.parametrize(
    ("cell", "value", "says"),
    [
        (0, "", "column user_id: '' is not an id"),
        (1, "NaN", "column item_id: 'NaN' is not an id"),
        (2, "", "column rating: '' is not a rating from -1e+09 to 1e+09"),
        (2, "nan", "column rating: 'nan' is not a rating"),
        (2, "inf", "column rating: 'inf' is not a rating"),
        (2, "0x10", "column rating: '0x10' is not a rating"),
        (2, "1e99", "column rating: '1e99' is not a rating"),
        (3, "7.5", "column timestamp: '7.5' is not an integer: whole numbers are needed, so round"),
        (3, "1.5e0", "column timestamp: '1.5e0' is not an integer: whole numbers are needed"),
        (3, "9" * 19, f"column timestamp: '{'9' * 19}' is not within 64 bits: it is too large"),
        (3, "1e19", "column timestamp: '1e19' is not within 64 bits: it is too large"),
        (3, "", "column timestamp: '' is not an integer"),
    ],
)
def test_a_bad_value_is_named_or_costs_its_user_alone(tmp_path, capsys, cell, value, says):
    rows = log()
    bad = list(rows[42])
    bad[cell] = value
    lost = cell == 0
    path = tmp_path / "l.inter"
    path.write_bytes(as_inter([*rows[:42], tuple(bad), *rows[43:]], whole="{}"))
    command = ["prepare", "inter", str(path), "--out", str(tmp_path / "out"), "--time_unit=s"]
    command += ["--context_columns=place"]
    assert main(command) == 65
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"l.inter row 44, {says}" in err
    assert main([*command, f"--gap_minutes={GAP}", "--on_bad_session=drop"]) == 0
    good = [r for i, r in enumerate(rows) if (i != 42 if lost else r[0] != rows[42][0])]
    assert told(Sessions.open(tmp_path / "out")) == expected(good)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.split(b"\n")[0] + b"\n", "has a header but no rows."),
        (lambda d: b"", "its first line must name fields with their types"),
        (lambda d: d[:-1], "may be cut short, since no line break follows"),
        (lambda d: d.replace(b"\t", b",", 50), "its first line must name fields"),
        (lambda d: d + b"1\t2\n", "has 2 columns instead of 5"),
        (lambda d: gzip.compress(d)[:-9], "is damaged, cut short or not what its name says"),
    ],
)
def test_a_bad_file_is_named(tmp_path, capsys, change, says):
    (tmp_path / "l.inter").write_bytes(change(as_inter(log())))
    command = ["prepare", "inter", str(tmp_path / "l.inter"), "--context_columns=place"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 65
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err


def test_what_is_asked_for_and_not_there(tmp_path):
    (tmp_path / "l.inter").write_bytes(as_inter(log()))
    with pytest.raises(DataError, match="has no field 'where'; its fields are user_id:token, "):
        inter.prepare(tmp_path / "l.inter", tmp_path / "out", context_columns=("where",))
    with pytest.raises(ConfigError, match="'timestamp' holds whole numbers, and it is not known"):
        inter.prepare(tmp_path / "l.inter", tmp_path / "out", gap_minutes=30)
    other = as_inter(log(), header=HEADER.replace("rating", "stars"))
    (tmp_path / "m.inter").write_bytes(other)
    with pytest.raises(DataError, match=r"m\.inter has no column 'rating'; its columns are"):
        inter.prepare(tmp_path, tmp_path / "out")


COLUMNS = {"session_column": "user", "track_column": "item", "rating_column": "stars"}


def test_dates_are_nanoseconds_and_have_gaps(tmp_path):
    rows = [f"u,t{i},{i % 6},2020-01-01T00:{at:02}:00" for i, at in enumerate([0, 1, 2, 33, 34])]
    (tmp_path / "l.csv").write_text("\n".join(["user,item,stars,when", *rows]) + "\n")
    columns = table.Columns(**COLUMNS, time_column="when")
    sessions = table.prepare(
        tmp_path / "l.csv", tmp_path / "out", columns, gap_minutes=30, min_length=1
    )
    assert np.diff(sessions.offsets).tolist() == [3, 2]
    times, unit = sessions.times()
    assert unit == "ns"
    assert times[0] == 1_577_836_800 * 10**9


def test_a_gap_between_positions_is_refused(tmp_path):
    columns = table.Columns(**COLUMNS, position_column="when")
    with pytest.raises(ConfigError, match="gap_minutes is 30, but positions are no times"):
        table.prepare(tmp_path / "l.csv", tmp_path / "out", columns, gap_minutes=30)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([0, 49, 50, 100, None], pa.uint8()), [0, 49, 50, 100, -1]),
        (pa.array([0.0, 49.99, 50.0, 32767.0, None]), [0, 49, 50, 32767, -1]),
        (pa.array(["0", "49.99", "", "1e2", None]), [0, 49, -1, 100, -1]),
        (pa.array(["0", "0", "", "7", "7"]).dictionary_encode(), [0, 0, -1, 7, 7]),
    ],
)
def test_percentages(tmp_path, array, expected):
    columns = {"user": ["u"] * 5, "item": list("abcde"), "at": list(range(5)), "part": array}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    given = table.Columns("user", "item", time_column="at", percent_column="part")
    sessions = table.prepare(tmp_path / "l.parquet", tmp_path / "out", given)
    assert sessions.context["played_percent"].to_pylist() == expected
    assert sessions.feedback == ("played_percent",)
    assert sessions.times() is None  # of what unit, nobody said


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (pa.array([1, 2, 3, 4, -1]), "-1 is not a percentage from 0 to 32767"),
        (pa.array([1, 2, 3, 4, 2**60]), "1152921504606846976 is not a percentage"),
        (pa.array([1.0, 2, 3, 4, float("nan")]), "nan is not a percentage"),
        (pa.array(["1", "2", "3", "4", " "]), "' ' is not a percentage"),
        (pa.array([True] * 5), "column part, holds bool, not a percentage"),
    ],
)
def test_bad_percentages(tmp_path, array, says):
    columns = {"user": ["u"] * 5, "item": list("abcde"), "at": list(range(5)), "part": array}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    given = table.Columns("user", "item", time_column="at", percent_column="part")
    with pytest.raises(DataError, match=says):
        table.prepare(tmp_path / "l.parquet", tmp_path / "out", given)


def test_whole_times_with_an_exponent(tmp_path):
    found = []
    for whole in ("{}.0", "{}e0", "{}.000E+00"):
        path = tmp_path / f"{len(found)}.inter"
        path.write_bytes(as_inter(log(), whole=whole))
        folder = tmp_path / f"out-{len(found)}"
        found.append(inter.prepare(path, folder, time_unit="s", gap_minutes=GAP).digest)
    assert len(set(found)) == 1
