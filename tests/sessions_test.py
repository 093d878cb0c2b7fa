"""SessionsWriter against a slow and obvious reference, and what opening finds."""

import csv
import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest

from skipjax import files
from skipjax.data import hashes, layout, spool, vocabulary
from skipjax.data.blocks import Block
from skipjax.data.sessions import Sessions
from skipjax.data.writer import SessionsWriter
from skipjax.errors import ConfigError, DataError, OutputError


def block(rows, file="log", first_row=2, **extra):
    """A block of (session, track, order, level) rows."""
    session, track, order, level = zip(*rows, strict=True)
    columns = {
        "session_id": pa.array(session, pa.string()),
        "track_id": pa.array(track, pa.string()).dictionary_encode(),
        "order": pa.array(order, pa.int64()),
        "level": pa.array(level, pa.int8()),
    }
    return Block(pa.table(columns | extra), file, first_row)


def write(folder, blocks, **options):
    with SessionsWriter(folder, source="test", **options) as writer:
        for one in blocks:
            writer.add(one)
    return Sessions.open(folder)


def listening(sessions):
    """[(id, [(track id, level), ...]), ...] in the order of the store."""
    tracks = sessions.track_ids.to_pylist()
    events = [(tracks[t], int(v)) for t, v in zip(sessions.tracks, sessions.levels, strict=True)]
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return [
        (name, events[start:stop])
        for name, (start, stop) in zip(sessions.session_ids.to_pylist(), ends, strict=True)
    ]


def reference(rows, min_length, max_length, num_sessions):
    """What `listening` must be, and how many sessions and events are left out."""
    sequences = {}
    for session, track, order, level in rows:
        sequences.setdefault(session, []).append((order, (track, level)))
    kept, short_sessions, short_events = [], 0, 0
    for name in sorted(sequences, key=lambda n: (digest(n), n)):
        events = [event for _, event in sorted(sequences[name], key=lambda pair: pair[0])]
        for number, start in enumerate(range(0, len(events), max_length)):
            if num_sessions and len(kept) == num_sessions:
                break
            piece = events[start : start + max_length]
            if len(piece) < min_length:
                short_sessions, short_events = short_sessions + 1, short_events + len(piece)
            else:
                cut = len(events) > max_length
                kept.append((f"{name}#{number + 1}" if cut else name, piece))
    return kept, {"sessions": short_sessions, "events": short_events}


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "é", "a b", "007", "7", "x" * 50]),
        st.sampled_from(["t1", "t2", "T1", "ü", "10", "9"]),
        st.integers(-2, 3) | st.sampled_from([2**62, 2**62 + 1, -(2**63)]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=60,
)


@hypothesis.given(
    rows=ROWS,
    block_rows=st.integers(1, 60),
    partition_rows=st.integers(1, 60),
    min_length=st.integers(1, 4),
    extra_length=st.integers(0, 4),
    num_sessions=st.integers(0, 6),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_sessions_are_what_a_dict_of_lists_would_give(
    rows, block_rows, partition_rows, min_length, extra_length, num_sessions
):
    max_length = min_length + extra_length
    expected, left_out = reference(rows, min_length, max_length, num_sessions)
    numbers = pa.array(np.arange(len(rows)))
    words = pa.array([f"word {i % 3}" for i in range(len(rows))])
    blocks = [
        block(
            rows[i : i + block_rows],
            number=numbers[i : i + block_rows],
            word=words[i : i + block_rows],
            odd=pa.array([n % 2 == 1 for n in range(len(rows))])[i : i + block_rows],
        )
        for i in range(0, len(rows), block_rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = {
            "min_length": min_length,
            "max_length": max_length,
            "num_sessions": num_sessions,
            "partition_rows": partition_rows,
        }
        if not expected:
            with pytest.raises(DataError, match="no session has"):
                write(out, blocks, **options)
            assert os.listdir(folder) == []
            return
        sessions = write(out, blocks, **options)
        assert listening(sessions) == expected
        assert sessions.info["left_out"] == left_out
        assert sessions.track_ids.to_pylist() == sorted(
            {track for _, events in expected for track, _ in events}
        )
        # Each event's context is that of the row it came from.
        context = sessions.context.to_pydict()
        for event, number in enumerate(context["number"]):
            _, track, _, level = rows[number]
            assert track == sessions.track_ids[sessions.tracks[event]].as_py()
            assert level == sessions.levels[event]
            assert context["word"][event] == f"word {number % 3}"
            assert context["odd"][event] == (number % 2 == 1)
        assert len(set(context["number"])) == sessions.num_events


@hypothesis.given(
    rows=ROWS,
    faulty=st.sets(st.integers(0, 59), max_size=12),
    block_rows=st.integers(1, 60),
    partition_rows=st.integers(1, 60),
    num_sessions=st.integers(0, 4),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_dropping_is_as_if_bad_sessions_had_never_been_there(
    rows, faulty, block_rows, partition_rows, num_sessions
):
    bad = {rows[i][0]: 0 for i in faulty if i < len(rows)}
    lost = [i for i in faulty if i < len(rows) and rows[i][0] == "7"]  # have no id at all
    bad.pop("7", None)
    for row in rows:
        if row[0] in bad:
            bad[row[0]] += 1
    good = [row for i, row in enumerate(rows) if row[0] not in bad and i not in lost]
    expected, left_out = reference(good, 1, 20, num_sessions)
    blocks = [
        dataclasses.replace(
            block(
                [("" if n in lost else row[0], *row[1:]) for n, row in part],
                first_row=start + 2,
            ),
            faults={n - start: f"fault {n}" for n, _ in part if n in faulty},
        )
        for start in range(0, len(rows), block_rows)
        for part in [list(enumerate(rows))[start : start + block_rows]]
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = {"num_sessions": num_sessions, "partition_rows": partition_rows, "min_length": 1}
        if not expected:
            first = f"first log row {min(faulty) + 2}, fault {min(faulty)}"
            with pytest.raises(DataError, match=f"no good session has .* {first}"):
                write(out, blocks, on_bad_session="drop", **options)
            return
        sessions = write(out, blocks, on_bad_session="drop", **options)
        assert listening(sessions) == expected
        assert sessions.info["left_out"] == left_out
        with open(out / layout.DROPPED, newline="", encoding="utf-8") as file:
            listed = list(csv.DictReader(file))
    if num_sessions and len(expected) == num_sessions:  # what would come later is not looked at
        last = digest(expected[-1][0].split("#")[0])
        bad = {name: events for name, events in bad.items() if digest(name) < last}
    firsts = {name: min(i for i in faulty if i < len(rows) and rows[i][0] == name) for name in bad}
    assert [(int(x["row"]), x["session_id"], x["reason"]) for x in listed] == sorted(
        [(i + 2, "", f"fault {i}") for i in lost]
        + [(i + 2, name, f"fault {i}") for name, i in firsts.items()]
    )
    assert sessions.info["dropped"] == {
        "sessions": len(bad),
        "events": sum(bad.values()),
        "rows": len(lost),
    }


def test_what_comes_after_the_last_session_that_is_kept_is_not_counted(tmp_path, monkeypatch):
    """Not even if it was sorted with it: the counts must not depend on how memory is divided."""
    monkeypatch.setattr("skipjax.data.writer.hash_ids", lambda ids: np.full(len(ids), 7, np.uint64))
    rows = [(name, "t", -i, 0) for name in "abcdef" for i in range(4)]
    faults = {16: "of e", 6: "second of b", 5: "first of b"}
    faulty = dataclasses.replace(block(rows), faults=faults)
    sessions = write(tmp_path / "out", [faulty], on_bad_session="drop", num_sessions=3)
    assert sessions.session_ids.to_pylist() == ["a", "c", "d"]
    assert sessions.info["dropped"] == {"sessions": 1, "events": 4, "rows": 0}
    lines = (tmp_path / "out" / layout.DROPPED).read_text().splitlines()
    assert lines == ["session_id,events,file,row,reason", "b,4,log,7,first of b"]


def digest(name):
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def many_rows(num_sessions=300, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (f"s{s}", f"t{rng.integers(50)}", position, int(rng.integers(4)))
        for s in range(num_sessions)
        for position in range(int(rng.integers(2, 26)))
    ]


def in_blocks(rows, size):
    return [
        block(
            rows[i : i + size], first_row=i + 2, word=pa.array([r[1] for r in rows[i : i + size]])
        )
        for i in range(0, len(rows), size)
    ]


def test_neither_order_of_rows_nor_blocks_nor_partitions_change_a_byte(tmp_path):
    rows = many_rows()
    plain = write(tmp_path / "plain", in_blocks(rows, 10_000))
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    other = write(tmp_path / "other", in_blocks(shuffled, 77), partition_rows=40)
    assert plain.digest == other.digest
    assert len(plain.digest) == 64
    for name in layout.CONTENT:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_other_content_has_another_digest(tmp_path):
    rows = many_rows()
    digests = {write(tmp_path / "a", in_blocks(rows, 999)).digest}
    for number, change in enumerate(
        [(rows[5][0], "other track", *rows[5][2:]), (*rows[5][:3], (rows[5][3] + 1) % 4)]
    ):
        changed = [*rows[:5], change, *rows[6:]]
        digests.add(write(tmp_path / str(number), in_blocks(changed, 999)).digest)
    assert len(digests) == 3


def test_a_sample_is_the_beginning_of_a_larger_one(tmp_path):
    rows = many_rows()
    everything = listening(write(tmp_path / "all", in_blocks(rows, 1000)))
    for n in (1, 10, 200):
        sample = listening(write(tmp_path / str(n), in_blocks(rows[::-1], 100), num_sessions=n))
        assert sample == everything[:n]
    assert len(everything) > 200


def test_pruning_by_declared_length_changes_nothing(tmp_path, monkeypatch):
    """With lengths known, sessions beyond the sample are dropped while reading, unseen."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 26, 400)
    rows = [(f"s{s}", "t", p, 0) for s, n in enumerate(lengths) for p in range(1, int(n) + 1)]
    length = [int(n) for n in lengths for _ in range(n)]
    plain = write(tmp_path / "plain", in_blocks(rows, 500), num_sessions=60)
    monkeypatch.setattr(hashes, "PENDING_HASHES", 10)
    keep, spooled = spool.Spool.add, []

    def add(self, rows):
        spooled.append(rows.num_rows)
        keep(self, rows)

    monkeypatch.setattr(spool.Spool, "add", add)
    declared = [
        block(
            rows[i : i + 50],
            length=pa.array(length[i : i + 50], pa.int32()),
            word=pa.array([row[1] for row in rows[i : i + 50]]),
        )
        for i in range(0, len(rows), 50)
    ]
    pruned = write(tmp_path / "pruned", declared[::-1], num_sessions=60)
    assert pruned.digest == plain.digest
    assert pruned.info["left_out"] == plain.info["left_out"]
    assert pruned.info["left_out"]["sessions"] > 0
    assert sum(spooled) < 2 / 3 * len(rows)


def test_sessions_with_the_same_hash_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("skipjax.data.writer.hash_ids", lambda ids: np.full(len(ids), 7, np.uint64))
    rows = [(f"s{i % 3}", f"t{i}", i, i % 4) for i in range(30)]
    sessions = write(tmp_path / "out", in_blocks(rows, 4), partition_rows=2)
    assert listening(sessions) == [
        (f"s{s}", [(f"t{i}", i % 4) for i in range(s, 30, 3)]) for s in range(3)
    ]


def test_ids_that_cutting_would_make_twice_are_refused(tmp_path):
    rows = [("a", "t", i, 0) for i in range(45)] + [("a#2", "t", i, 0) for i in range(5)]
    with pytest.raises(DataError, match="'a#2', but the data has a session of that id"):
        write(tmp_path / "out", in_blocks(rows, 100))
    assert os.listdir(tmp_path) == []
    sessions = write(tmp_path / "out", in_blocks(rows, 100), max_length=50)
    assert sorted(sessions.session_ids.to_pylist()) == ["a", "a#2"]


def test_open_maps_flat_columns_without_copying(tmp_path):
    sessions = write(tmp_path / "out", in_blocks(many_rows(), 1000))
    assert sessions.tracks.dtype == np.int32
    assert sessions.levels.dtype == np.int8
    assert sessions.offsets.dtype == np.int64
    assert not sessions.tracks.flags.owndata
    assert not sessions.tracks.flags.writeable
    with pa.memory_map(str(tmp_path / "out" / layout.EVENTS)) as source:
        assert pa.ipc.open_file(source).num_record_batches == 1
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*layout.CONTENT, "manifest.json"])


def test_large_files_are_written_chunk_by_chunk(tmp_path, monkeypatch):
    rows = many_rows()
    plain = write(tmp_path / "plain", in_blocks(rows, 1000))
    monkeypatch.setattr(layout, "CHUNK_ROWS", 100)
    chunked = write(tmp_path / "chunked", in_blocks(rows, 1000))
    assert listening(chunked) == listening(plain)
    assert chunked.context.to_pydict() == plain.context.to_pydict()
    assert chunked.context["word"].num_chunks > 1
    assert chunked.summary() == plain.summary()


def test_summary(tmp_path):
    rows = [("a", f"t{i}", i, level) for i, level in enumerate([0, 1, 2, 3, 1])]
    rows += [("b", f"t{i}", i, 0) for i in range(9)] + [("c", "t", 0, 0)]
    facts = write(tmp_path / "out", [block(rows)]).summary()
    assert facts == {
        "sessions": 2,
        "events": 14,
        "tracks": 9,
        "feedback": ["level"],
        "feedback_shares": {},
        "skipped_share": 3 / 14,
        "level_shares": [10 / 14, 2 / 14, 1 / 14, 1 / 14],
        "length_min": 5,
        "length_mean": 7.0,
        "length_max": 9,
        "left_out": {"sessions": 1, "events": 1},
    }
    assert Sessions.open(tmp_path / "out").summary([3])["skipped_share"] == 1 / 14


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [*layout.CONTENT, "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, lambda path: path.write_bytes(path.read_bytes()[:-9]), Path.unlink],
    ids=["flipped", "truncated", "missing"],
)
def test_damage_is_found_on_open(tmp_path, name, damage):
    write(tmp_path / "out", in_blocks(many_rows(), 1000))
    damage(tmp_path / "out" / name)
    with pytest.raises(DataError, match="out"):
        Sessions.open(tmp_path / "out")


def test_open_refuses_other_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        Sessions.open(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        Sessions.open(tmp_path)
    write(tmp_path / "out", in_blocks(many_rows(), 1000))
    with files.new_folder(tmp_path / "other", format=99) as folder:
        for name in layout.CONTENT:
            (folder / name).write_bytes((tmp_path / "out" / name).read_bytes())
    with pytest.raises(DataError, match=r"format 2 \(its manifest says 99\)"):
        Sessions.open(tmp_path / "other")


@pytest.mark.parametrize(
    "options",
    [
        {"min_length": 0},
        {"min_length": 5, "max_length": 4},
        {"num_sessions": -1},
        {"max_length": 2**31},
        {"on_bad_session": "skip"},
        {"gap_minutes": -1},
    ],
)
def test_options_that_make_no_sense(tmp_path, options):
    with pytest.raises(ConfigError):
        SessionsWriter(tmp_path / "out", source="test", **options)


def test_no_rows(tmp_path):
    with pytest.raises(DataError, match="no rows"), SessionsWriter(tmp_path / "o", source="test"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_session_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_MOST_ROWS", 40)
    rows = [("a", "t", i, 0) for i in range(30)] + [("b", "t", i, 0) for i in range(41)]
    with pytest.raises(DataError, match="session 'b' has more than 40 rows; are ids of sessions"):
        write(tmp_path / "out", in_blocks(rows, 7), partition_rows=20)
    assert os.listdir(tmp_path) == []


def test_more_values_than_32_bits_tell_apart_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "_MOST_TEXTS", 5)
    rows = [("a", f"t{i}", i, 0) for i in range(6)]
    with pytest.raises(DataError, match="more than 5 different values, too many for 32-bit ids"):
        write(tmp_path / "out", in_blocks(rows, 7))
    assert write(tmp_path / "out", in_blocks(rows[:5], 7)).num_tracks == 5


@pytest.mark.parametrize("most", [1 << 25, 12, 0])
def test_numbers_are_the_texts_they_are_written_as(tmp_path, monkeypatch, most):
    """Also where one comes that is too great for the table of numbers, or where texts do."""
    rows = [("a", str(number), i, 0) for i, number in enumerate([7, 30, 7, 10, 9, 11, 0, 30, 12])]
    expected = write(tmp_path / "texts", in_blocks(rows, 2))
    monkeypatch.setattr(vocabulary, "_NUMBERS", most)
    blocks = []
    for number, one in enumerate(in_blocks(rows, 2)):
        tracks = one.table["track_id"].cast(pa.string()).cast(pa.uint32())
        if number != 3:
            one = dataclasses.replace(one, table=one.table.set_column(1, "track_id", tracks))
        blocks.append(one)
    sessions = write(tmp_path / "numbers", blocks)
    assert sessions.track_ids.to_pylist() == ["0", "10", "11", "12", "30", "7", "9"]
    assert sessions.digest == expected.digest


def test_what_else_is_known_of_events(tmp_path):
    rows = [("a", f"t{i}", i, 0) for i in range(5)]
    extra = {
        "time": pa.array(range(5), pa.int64()),
        "played_percent": pa.array([0, 49, 50, -1, 100], pa.int16()),
        "next_gap_seconds": pa.array([0, 29, 30, 31, -1], pa.int32()),
        "reaction": pa.array([0, 1, -1, 0, 0], pa.int8()),
        "rating": pa.array([1, 2, 2.5, 4, 5], pa.float32()),
    }
    feedback = ("played_percent", "next_gap_seconds", "reaction", "rating")
    with SessionsWriter(
        tmp_path / "out", source="test", feedback=feedback, time_unit="ms"
    ) as writer:
        writer.add(block(rows, **extra))
    sessions = Sessions.open(tmp_path / "out")
    assert sessions.feedback == feedback
    assert sessions.context.to_pydict() == pa.table(extra).to_pydict()
    times, unit = sessions.times()
    assert (times.tolist(), times.dtype, unit) == ([0, 1, 2, 3, 4], np.int64, "ms")
    assert sessions.summary()["feedback_shares"] == {
        "played less than half": 2 / 5,
        "the next play within 30 s": 2 / 5,
        "liked": 1 / 5,
        "disliked": 1 / 5,
        "rated 2 or less": 2 / 5,
    }
    in_memory = dataclasses.replace(sessions, info={})
    other = sessions.context.set_column(3, "reaction", pa.array([0, 1, 1, 0, 0], pa.int8()))
    assert in_memory.digest == dataclasses.replace(sessions, info={}).digest
    assert in_memory.digest != dataclasses.replace(sessions, info={}, context=other).digest


def test_times_whose_unit_is_not_known_are_none(tmp_path):
    rows = [("a", f"t{i}", i, 0) for i in range(4)]
    known = write(tmp_path / "out", [block(rows, time=pa.array(range(4), pa.int64()))])
    assert known.times() is None
    assert known.context["time"].to_pylist() == [0, 1, 2, 3]
    assert write(tmp_path / "none", [block(rows)]).times() is None


@pytest.mark.parametrize(
    ("name", "kind"), [("time", pa.int32()), ("rating", pa.float64()), ("reaction", pa.int64())]
)
def test_reserved_names_have_their_types(tmp_path, name, kind):
    rows = [("a", f"t{i}", i, 0) for i in range(4)]
    with pytest.raises(DataError, match="files that do not fit together"):
        write(tmp_path / "out", [block(rows, **{name: pa.array(range(4), kind)})])


def test_feedback_is_what_there_is(tmp_path):
    rows = [("a", f"t{i}", i, 0) for i in range(4)]
    with pytest.raises(DataError, match="files that do not fit together"):
        write(tmp_path / "out", [block(rows)], feedback=("rating",))


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.Spool, "add", full)
    with pytest.raises(OutputError, match="out cannot be written: No space left on device"):
        write(tmp_path / "out", in_blocks(many_rows(), 1000))
    assert os.listdir(tmp_path) == []


def test_progress_ends_at_the_total(tmp_path):
    seen = {}
    write(
        tmp_path / "out",
        in_blocks(many_rows(), 1000),
        progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)),
    )
    assert list(seen) == ["sorting", "writing"]
    for steps in seen.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1] > 0
