"""MSSD logs: every way they come in gives the same sessions, and bad ones can be dropped."""

import csv
import datetime
import gzip
import hashlib
import io
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


def refused(tmp_path, sources, message, error=DataError, **options):
    """Prepares into a new place: one line that says `message`, and nothing is left."""
    with pytest.raises(error, match=message) as caught:
        mssd.prepare(sources, tmp_path / "place" / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize("block_bytes", [300, 1 << 20])
def test_bad_rows_are_named_whatever_block_they_are_in(tmp_path, block_bytes):
    """The rest of what is refused stands in bad_input_test.py."""
    rows = log_rows(range(23))
    rows[200] |= {"hour_of_day": "24"}
    (tmp_path / NAMES[0]).write_bytes(as_csv(rows))
    refused(
        tmp_path,
        tmp_path / NAMES[0],
        "_000000000000.csv row 202, column hour_of_day: '24' is not an hour from 0 to 23",
        block_bytes=block_bytes,
    )


@pytest.mark.parametrize("block_bytes", [300, 1 << 20])
@pytest.mark.parametrize("num_sessions", [0, 20])
def test_bad_sessions_are_dropped_whole(tmp_path, logs, block_bytes, num_sessions):
    """Wherever their rows lie, and as if they had never been there."""
    first, second = log_rows(range(20)), log_rows(range(20, 30))
    first[3] |= {"hour_of_day": "24"}  # of session 0
    del first[40]  # of session 3
    moved = first.pop()  # of session 19: a good one, in two files
    second[-1] |= {"track_id_clean": "", "premium": ""}  # of session 29
    second += [moved, *log_rows([5])[:1]]  # session 5 has a row twice, in two files
    for name, rows in zip(NAMES, (first, second), strict=True):
        (tmp_path / name).write_bytes(as_csv(rows))
    dropped = {
        f"0_session-{s}": (10 + s % 11 + more, place, reason)
        for s, more, place, reason in (
            (0, 0, (NAMES[0], 5), "column hour_of_day: '24' is not an hour from 0 to 23"),
            (3, -1, (NAMES[0], 46), "has 12 of its 13 positions; 8 is missing"),
            (29, 0, (NAMES[1], 148), "column track_id_clean: '' is not an id"),
            (5, 1, (NAMES[1], 150), "has position 1 twice: in "),
        )
    }
    numbers = [s for s in range(30) if f"0_session-{s}" not in dropped]
    (tmp_path / "good.csv").write_bytes(as_csv(log_rows(numbers)))
    options = {"num_sessions": num_sessions, "block_bytes": block_bytes}
    expected = mssd.prepare(tmp_path / "good.csv", tmp_path / "expected", **options)
    sources = [tmp_path / name for name in NAMES]
    out = tmp_path / "out"
    sessions = mssd.prepare(sources, out, on_bad_session="drop", **options)
    assert sessions.digest == expected.digest
    with open(out / "dropped.csv", newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [line["session_id"] for line in listed] == [
        name for name in dropped if not num_sessions or precedes(name, sessions)
    ]
    assert len(listed) == (1 if num_sessions else 4)
    for line in listed:
        events, (file, row), reason = dropped[line["session_id"]]
        assert int(line["events"]) == events
        assert (line["file"], int(line["row"])) == (str(tmp_path / file), row)
        assert line["reason"].startswith(reason)
    assert sessions.info["dropped"] == {
        "sessions": len(listed),
        "events": sum(int(line["events"]) for line in listed),
        "rows": 0,
    }


def precedes(name, sessions):
    """Whether a session's hash is before that of the last one that is kept."""
    last = sessions.session_ids[-1].as_py()
    first, second = (hashlib.blake2b(n.encode(), digest_size=8).digest() for n in (name, last))
    return first < second


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
