"""MSSD logs: every way they come in gives the same sessions; every fault is named and refused."""

import datetime
import gzip
import io
import os
import tarfile

import pytest

from skipjax.data import mssd
from skipjax.errors import ConfigError, DataError, OutputError

COLUMNS = (
    "session_id",
    "session_position",
    "session_length",
    "track_id_clean",
    "skip_1",
    "skip_2",
    "skip_3",
    "not_skipped",
    "context_switch",
    "no_pause_before_play",
    "short_pause_before_play",
    "long_pause_before_play",
    "hist_user_behavior_n_seekfwd",
    "hist_user_behavior_n_seekback",
    "hist_user_behavior_is_shuffle",
    "hour_of_day",
    "date",
    "premium",
    "context_type",
    "hist_user_behavior_reason_start",
    "hist_user_behavior_reason_end",
)

FLAGS = {  # skip_1, skip_2, skip_3, not_skipped
    1: ("true", "true", "true", "false"),
    2: ("false", "true", "true", "false"),
    3: ("false", "false", "true", "false"),
    0: ("false", "false", "false", "true"),
    "neither": ("false", "false", "false", "false"),
}
KINDS = (0, 1, 2, 3, "neither")
CONTEXTS = ("user_collection", "catalog", "radio")
NAMES = ("log_0_20180715_000000000000.csv", "log_1_20180716_000000000000.csv")


def log_rows(sessions=range(30)):
    """Rows as dicts; session s has 10 + s % 11 tracks."""
    return [
        dict.fromkeys(COLUMNS, "0")
        | {
            "session_id": f"0_session-{s}",
            "session_position": str(position),
            "session_length": str(10 + s % 11),
            "track_id_clean": f"t_{(s * 7 + position * 3) % 40:03}",
            "hist_user_behavior_is_shuffle": "true" if s % 3 == 0 else "false",
            "hour_of_day": str(s % 24),
            "date": f"2018-07-{1 + s % 31:02}",
            "premium": "false" if s % 5 == 0 else "true",
            "context_type": CONTEXTS[s % 3],
            "hist_user_behavior_reason_start": "fwdbtn",
            "hist_user_behavior_reason_end": "trackdone",
        }
        | dict(
            zip(
                ("skip_1", "skip_2", "skip_3", "not_skipped"),
                FLAGS[KINDS[(s + position) % 5]],
                strict=True,
            )
        )
        for s in sessions
        for position in range(1, 11 + s % 11)
    ]


def as_csv(rows, columns=COLUMNS, end="\n"):
    lines = [",".join(columns), *(",".join(row[c] for c in columns) for row in rows)]
    return "".join(line + end for line in lines).encode()


def pack(path, members):
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    for name, sessions in zip(NAMES, (range(20), range(20, 30)), strict=True):
        (folder / name).write_bytes(as_csv(log_rows(sessions)))
    return folder


@pytest.fixture
def plain(logs, tmp_path):
    return mssd.prepare(logs, tmp_path / "plain")


def test_what_is_read(plain):
    assert plain.num_sessions == 30
    assert plain.num_events == sum(10 + s % 11 for s in range(30))
    assert plain.num_tracks == 40
    assert plain.info["source"] == "mssd"
    context = plain.context.to_pydict()
    assert list(context) == ["context_type", "premium", "hour_of_day", "shuffle", "date"]
    names = plain.session_ids.to_pylist()
    assert names != sorted(names)  # by hash
    for i, name in enumerate(names):
        s = int(name.removeprefix("0_session-"))
        events = range(plain.offsets[i], plain.offsets[i + 1])
        assert len(events) == 10 + s % 11
        for position, event in enumerate(events, start=1):
            track = plain.track_ids[plain.tracks[event]].as_py()
            assert track == f"t_{(s * 7 + position * 3) % 40:03}"
            assert plain.levels[event] == (0, 1, 2, 3, 0)[(s + position) % 5]
            assert context["context_type"][event] == CONTEXTS[s % 3]
            assert context["premium"][event] == (s % 5 != 0)
            assert context["shuffle"][event] == (s % 3 == 0)
            assert context["hour_of_day"][event] == s % 24
            assert context["date"][event] == datetime.date(2018, 7, 1 + s % 31)


def gzipped(logs, out):
    out.mkdir()
    for path in logs.iterdir():
        (out / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
    return out


def in_tar(logs, out, suffix=".tar.gz", inner="", others=True):
    packed = gzip.compress if inner else bytes
    members = {
        f"training_set/{p.name}{inner}": packed(p.read_bytes()) for p in sorted(logs.iterdir())
    }
    if others:
        members |= {
            "track_features/tf_mini.csv": b"track_id\nt_1\n",
            "training_set/._" + NAMES[0]: b"\0\5\26\7",
            "README.md": b"# logs",
        }
    out.mkdir()
    pack(out / f"logs{suffix}", members)
    return out / f"logs{suffix}"


def rewritten(change):
    def make(logs, out):
        out.mkdir()
        for path in logs.iterdir():
            (out / path.name).write_bytes(change(path.read_bytes()))
        return out

    return make


def reordered(data):
    rows = [line.split(",") for line in data.decode().splitlines()]
    return "".join(",".join(["x", *reversed(row)]) + "\n" for row in rows).encode()


def shuffled_rows(data):
    header, *rows = data.decode().splitlines(keepends=True)
    return (header + "".join(rows[::-1])).encode()


def resaved(data):
    """As spreadsheets and pandas save it."""
    lines = data.replace(b"true", b"True").replace(b"false", b"FALSE").decode().splitlines()
    at = COLUMNS.index("date")
    rows = [line.split(",") for line in lines]
    for row in rows[1:]:
        row[at] = "/".join(reversed(row[at].split("-")))
    return b"\xef\xbb\xbf" + "".join(",".join(row) + "\r\n" for row in rows).encode()


WAYS = {
    "list of files": lambda logs, out: sorted(map(str, logs.iterdir()))[::-1],
    "glob": lambda logs, out: f"{logs}/log_*.csv",
    "gzipped": gzipped,
    "gzipped under a plain name": rewritten(gzip.compress),
    "tar.gz": in_tar,
    "tar": lambda logs, out: in_tar(logs, out, ".tar"),
    "tar of gz": lambda logs, out: in_tar(logs, out, ".tar", ".gz"),
    "folder of tar": lambda logs, out: in_tar(logs, out, ".tgz").parent,
    "other columns, other order": rewritten(reordered),
    "rows in another order": rewritten(shuffled_rows),
    "saved again": rewritten(resaved),
    "no line break at the end": rewritten(bytes.rstrip),
    "blank lines at the end": rewritten(lambda data: data + b"\n\n\r\n"),
    "quoted": rewritten(lambda data: data.replace(b"catalog", b'"catalog"')),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block_bytes", [200, 1 << 20])
def test_every_way_gives_the_same(logs, plain, tmp_path, way, block_bytes):
    sources = WAYS[way](logs, tmp_path / "in")
    assert mssd.prepare(sources, tmp_path / "out", block_bytes=block_bytes).digest == plain.digest


def test_a_sample_does_not_depend_on_the_order_of_files(logs, plain, tmp_path):
    ids = plain.session_ids.to_pylist()
    first = mssd.prepare(logs, tmp_path / "first", num_sessions=7)
    for path, name in zip(sorted(logs.iterdir()), ("log_9.csv", "log_8.csv"), strict=True):
        path.rename(logs / name)
    second = mssd.prepare(logs, tmp_path / "second", num_sessions=7, block_bytes=300)
    assert first.digest == second.digest
    assert first.session_ids.to_pylist() == ids[:7]
    assert mssd.prepare(logs, tmp_path / "more", num_sessions=99).digest == plain.digest


def test_lengths(logs, plain, tmp_path):
    short = mssd.prepare(logs, tmp_path / "short", max_length=12, min_length=4)
    pieces = {
        name: int(n)
        for name, n in zip(
            short.session_ids.to_pylist(), short.offsets[1:] - short.offsets[:-1], strict=True
        )
    }
    for s in range(30):
        n = 10 + s % 11
        if n <= 12:
            assert pieces[f"0_session-{s}"] == n
        else:
            assert pieces[f"0_session-{s}#1"] == 12
            assert pieces.get(f"0_session-{s}#2", 0) == (n - 12 if n >= 16 else 0)
    remainders = [(10 + s % 11) - 12 for s in range(30) if 12 < 10 + s % 11 < 16]
    assert short.info["left_out"] == {"sessions": len(remainders), "events": sum(remainders)}
    long = mssd.prepare(logs, tmp_path / "long", min_length=15)
    assert long.info["left_out"]["sessions"] == sum(10 + s % 11 < 15 for s in range(30))


def changed(row, **values):
    def change(rows):
        rows[row] = rows[row] | values
        return rows

    return change


def without(row):
    return lambda rows: rows[:row] + rows[row + 1 :]


def swapped(column, value):
    return lambda rows: [row | {column: value} if i == 14 else row for i, row in enumerate(rows)]


# Row 14 is in line 16 of the file. What is done to the rows, and what the message must say.
BAD_ROWS = {
    "hex": (swapped("session_position", "0x5"), "row 16, column session_position: '0x5' is not"),
    "space": (swapped("session_position", " 5"), "row 16, column session_position: ' 5' is not"),
    "underscore": (swapped("session_length", "1_1"), "column session_length: '1_1' is not a"),
    "other digits": (swapped("session_length", "١١"), "column session_length: '١١' is not"),
    "negative": (swapped("session_position", "-5"), "'-5' is not a whole number from 1 to"),
    "zero": (swapped("session_position", "0"), "'0' is not a whole number from 1 to"),
    "beyond": (swapped("session_position", "12"), "'12' is not within the session's length, 11"),
    "empty number": (swapped("session_length", ""), "column session_length: '' is not"),
    "hour": (swapped("hour_of_day", "24"), "row 16, column hour_of_day: '24' is not an hour"),
    "date": (swapped("date", "2018-02-30"), "row 16, column date: '2018-02-30' is not a date"),
    "year": (swapped("date", "1999"), "column date: '1999' is not a date YYYY-MM-DD"),
    "month first": (swapped("date", "07/15/2018"), "column date: '07/15/2018' is not a date"),
    "flag": (swapped("premium", "yes"), "column premium: 'yes' is not true or false"),
    "flag number": (swapped("skip_2", "1"), "row 16, column skip_2: '1' is not true or false"),
    "empty flag": (swapped("premium", ""), "column premium: '' is not true or false"),
    "empty id": (swapped("session_id", ""), "row 16, column session_id: '' is not an id"),
    "blank id": (swapped("track_id_clean", "  "), "column track_id_clean: '  ' is not an id"),
    "NaN id": (swapped("track_id_clean", "NaN"), "column track_id_clean: 'NaN' is not an id"),
    "null id": (swapped("track_id_clean", "null"), "'null' is not an id"),
    "NUL id": (swapped("track_id_clean", "t\0"), r"'t\\x00' is not an id"),
    "skip_1 only": (
        changed(14, skip_1="true", skip_2="false", skip_3="true", not_skipped="false"),
        "row 16, column skip_2: 'false' is not true, though skip_1 is",
    ),
    "skip_2 only": (
        changed(14, skip_1="false", skip_2="true", skip_3="false", not_skipped="false"),
        "row 16, column skip_3: 'false' is not true, though skip_2 is",
    ),
    "skipped and not": (
        changed(14, skip_1="false", skip_2="false", skip_3="true", not_skipped="true"),
        "row 16, column not_skipped: 'true' is not false, though skip_3 is",
    ),
    "cut short": (
        lambda rows: rows[:14],
        r"session 0_session-1 has 4 of its 11 positions; 5 is missing, and its last row is .*csv "
        "row 15; is a file cut short",
    ),
    "row missing": (without(14), "session 0_session-1 has 10 of its 11 positions; 5 is missing"),
    "row twice": (
        lambda rows: [*rows, rows[14]],
        "session 0_session-1 has position 5 twice: in .*csv row 16 and in .*csv row 342; was a",
    ),
    "lengths differ": (
        swapped("session_length", "12"),
        "session 0_session-1 is 11 tracks long in .*csv row 12, but 12 in .*csv row 16",
    ),
}


def refused(tmp_path, sources, message, error=DataError, **options):
    """Prepares into a new place: one line that says `message`, and nothing is left."""
    with pytest.raises(error, match=message) as caught:
        mssd.prepare(sources, tmp_path / "place" / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_rows_are_named(tmp_path, fault):
    change, message = BAD_ROWS[fault]
    rows = log_rows(range(23))
    assert len(rows) == 340
    (tmp_path / NAMES[0]).write_bytes(as_csv(change(rows)))
    refused(tmp_path, tmp_path / NAMES[0], message)
    refused(tmp_path, tmp_path / NAMES[0], message, block_bytes=1000)


GOOD = as_csv(log_rows(range(5)))
FIRST_ROW_END = GOOD.index(b"\n", GOOD.index(b"\n") + 1) + 1
BAD_BYTES = {
    "empty": (b"", "log_0.csv is empty"),
    "header only": (GOOD[: GOOD.index(b"\n") + 1], "log_0.csv has a header but no rows"),
    "header only, no line break": (GOOD[: GOOD.index(b"\n")], "has a header but no rows"),
    "missing column": (
        GOOD.replace(b"skip_2", b"skip2", 1),
        "has no column 'skip_2'; its columns are session_id, .* Did you mean 'skip2'",
    ),
    "column twice": (
        GOOD.replace(b"skip_2", b"skip_1", 1),
        "has 2 columns named 'skip_1'|no column 'skip_2'",
    ),
    "narrow row": (
        GOOD[:FIRST_ROW_END] + b"a,b\n" + GOOD[FIRST_ROW_END:],
        "log_0.csv row 3 has 2 columns where the header has 21: 'a,b'",
    ),
    "blank line": (
        GOOD[:FIRST_ROW_END] + b"\n" + GOOD[FIRST_ROW_END:],
        "log_0.csv row 3, column session_length: '' is not",
    ),
    "wide row": (GOOD[: FIRST_ROW_END - 1] + b",9\n", "row 2 has 22 columns where the header has"),
    "not UTF-8": (
        GOOD[:FIRST_ROW_END] + GOOD[FIRST_ROW_END:].replace(b"t_", b"t\xff", 1),
        "log_0.csv row 3 is not UTF-8 text",
    ),
    "UTF-16": (GOOD.decode().encode("utf-16"), "log_0.csv is not UTF-8 text"),
    "line break in quotes": (
        GOOD.replace(b"user_collection", b'"user\ncollection"'),
        "between row 2 and .*: a value has a line break in it|row 2 has 19 columns",
    ),
    "half a gz": (gzip.compress(GOOD)[:-300], "log_0.csv is damaged, cut short or not what"),
    "gz cut at the end": (gzip.compress(GOOD)[:-8], "log_0.csv is damaged, cut short"),
    "flipped bit in gz": (
        bytes(b ^ (i == 400) for i, b in enumerate(gzip.compress(GOOD))),
        "log_0.csv is damaged, cut short or not what its name says",
    ),
}


@pytest.mark.parametrize("fault", BAD_BYTES)
def test_bad_files_are_named(tmp_path, fault):
    data, message = BAD_BYTES[fault]
    (tmp_path / "log_0.csv").write_bytes(data)
    refused(tmp_path, tmp_path / "log_0.csv", message)


def cut_tar(logs, tmp_path, suffix, cut):
    path = in_tar(logs, tmp_path / "in", suffix, others=False)
    data = path.read_bytes()
    path.write_bytes(data[: cut(data)])
    return path


@pytest.mark.parametrize(
    ("suffix", "cut", "message"),
    [
        (".tar.gz", lambda data: len(data) // 2, "damaged, cut short"),
        (".tar.gz", lambda data: len(data) - 8, "damaged, cut short"),
        (".tar", lambda data: len(data) // 2, "damaged, cut short"),
        (".tar", lambda data: data.index(b"training_set", 600), r"no end-of-archive mark"),
        (".tar", lambda data: 0, "damaged, cut short"),
    ],
    ids=["half a tar.gz", "no checksum", "half a tar", "one member less", "empty"],
)
def test_cut_archives_are_refused(logs, tmp_path, suffix, cut, message):
    refused(tmp_path, cut_tar(logs, tmp_path, suffix, cut), message)


def test_an_archive_is_never_unpacked(logs, tmp_path):
    """Neither a path that leads outside nor a link is followed or made."""
    path = in_tar(logs, tmp_path / "in", ".tar")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("log_link.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        info = tarfile.TarInfo("../../escaped.csv")
        data = as_csv(log_rows([77]))
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    sessions = mssd.prepare(path, tmp_path / "out")
    assert "0_session-77" in sessions.session_ids.to_pylist()
    assert sorted(os.listdir(tmp_path)) == ["in", "logs", "out"]


def test_a_bad_member_is_named(tmp_path):
    pack(tmp_path / "logs.tar", {"log_0.csv": GOOD, "sub/log_1.csv": b"a,b\n1,2\n"})
    refused(tmp_path, tmp_path / "logs.tar", r"logs\.tar:sub/log_1\.csv has no column 'session_id'")
    pack(tmp_path / "other.tar", {"readme.txt": b"hello"})
    refused(tmp_path, tmp_path / "other.tar", r"other\.tar has no \.csv or \.csv\.gz member")


def test_bad_paths_are_named(logs, tmp_path):
    refused(tmp_path, tmp_path / "none.csv", r"none\.csv: no such file or folder")
    refused(tmp_path, f"{logs}/*.tsv", "no file matches")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "empty has no .csv or .*; it is empty")
    refused(tmp_path, tmp_path, "it holds empty/, logs/")
    refused(tmp_path, [logs, logs / NAMES[0]], "is given twice; name each file once")


def test_the_same_file_under_another_name_is_found(logs, tmp_path):
    (logs / "log_copy.csv").write_bytes((logs / NAMES[0]).read_bytes())
    refused(tmp_path, logs, "has position 1 twice: in .*log_0_.* and in .*log_copy.csv row")


def test_other_refusals(logs, tmp_path):
    refused(tmp_path, logs, "no session has 21 or more events", min_length=21, max_length=30)
    refused(tmp_path, logs, "min_length", ConfigError, min_length=21)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputError, match="exists already"):
        mssd.prepare(logs, tmp_path / "taken")


def test_progress_reaches_the_total(logs, tmp_path):
    seen = {}
    mssd.prepare(
        logs,
        tmp_path / "out",
        block_bytes=1000,
        progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)),
    )
    size = sum(path.stat().st_size for path in logs.iterdir())
    assert list(seen) == ["reading", "sorting", "writing"]
    assert len(seen["reading"]) > 10
    assert all(total == size for _, total in seen["reading"])
    for steps in seen.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]
