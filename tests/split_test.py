import dataclasses
import os
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_sessions, random_listening
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax.data.parts import parts_table
from skipjax.data.split import leave_one_out, split_as
from skipjax.errors import ConfigError, DataError

PAPER = {"min_length": 4, "max_length": 20, "skip_levels": (1, 2)}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_split_is_the_loop(seed, require_skip):
    rng = np.random.default_rng(seed)
    listening = random_listening(rng, num_sessions=12, num_tracks=15, low=1, high=8)
    listening.append([("t0000", 1), ("t0001", 1), ("t0001", 0), ("t0002", 2)])
    split = leave_one_out(make_sessions(listening), **PAPER, require_skip=require_skip)

    kept = [s for s in listening if len(s) >= 4]
    short = len(listening) - len(kept)
    if require_skip:
        kept = [s for s in kept if any(level in (1, 2) for _, level in s[:-2])]
    counts = Counter(track for s in kept for track, _ in s[:-2])
    tracks = sorted({track for s in kept for track, _ in s}, key=lambda t: (-counts[t], t))
    assert split.track_ids.to_pylist() == tracks
    assert split.train_counts.tolist() == [0, 0, *(counts[t] for t in tracks)]
    assert split.num_ids == 2 + len(tracks)
    assert split.cold_share("test") == np.mean([counts[s[-1][0]] == 0 for s in kept])
    learned = [level in (1, 2) for s in kept for _, level in s[:-2]]
    assert split.skip_share() == pytest.approx(np.mean(learned))
    assert (split.name, parts_table(split)) == ("leave-one-out", None)
    assert split.left_out["shorter than 4 tracks"] == short
    assert split.num_sessions == len(kept)
    for i, session in enumerate(kept):
        events = slice(split.starts[i], split.starts[i] + split.lengths[i])
        assert [tracks[v - 2] for v in split.tracks[events]] == [t for t, _ in session]
        assert split.skipped[events].tolist() == [level in (1, 2) for _, level in session]
    for which, back in (("valid", 2), ("test", 1)):
        lengths, targets = split.held_out(which)
        assert lengths.tolist() == [len(s) - back for s in kept]
        assert [tracks[v - 2] for v in targets] == [s[-back][0] for s in kept]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_rare_tracks_are_taken_out_before_lengths_count(seed, min_plays):
    rng = np.random.default_rng(seed)
    listening = random_listening(rng, num_sessions=12, num_tracks=15, low=1, high=8)
    data = types.SimpleNamespace(
        split="leave_one_out", min_plays=min_plays, require_skip=False, labels="logged", **PAPER
    )
    data.skip_below_percent, data.skip_dislikes, data.skip_rating = 50.0, True, 2.0
    plays = Counter(track for session in listening for track, _ in session)
    often = [[event for event in s if plays[event[0]] >= min_plays] for s in listening]
    ids = [f"s{i}" for i in range(12)]
    kept = [(i, s) for i, s in zip(ids, often, strict=True) if len(s) >= 4]
    if not kept:
        with pytest.raises(DataError, match="no session is left of 12"):
            split_as(data, make_sessions(listening))
        return
    split = split_as(data, make_sessions(listening))
    alone = leave_one_out(
        make_sessions([s for _, s in kept], session_ids=[i for i, _ in kept]), **PAPER
    )
    assert split.session_ids.equals(alone.session_ids)
    assert split.track_ids.equals(alone.track_ids)
    np.testing.assert_array_equal(split.train_counts, alone.train_counts)
    for which in ("train", "valid", "test"):
        for (start, length), (other, same) in zip(
            zip(*split.spans(which), strict=True),
            zip(*alone.spans(which), strict=True),
            strict=True,
        ):
            assert length == same
            for name in ("tracks", "skipped"):
                own, expected = (getattr(one, name) for one in (split, alone))
                np.testing.assert_array_equal(
                    own[start : start + length], expected[other : other + same]
                )
    rare = sum(n for n in plays.values() if n < min_plays)
    assert sum(split.left_out_events.values()) == rare
    assert split.left_out == {"shorter than 4 tracks": 12 - len(kept)}


def test_held_out_tracks_do_not_move_the_vocabulary():
    listening = [[("a", 0), ("b", 0), ("b", 0), ("c", 0), ("d", 0)]]
    before = leave_one_out(make_sessions(listening), **PAPER)
    listening[0][3:] = [("d", 2), ("c", 1)]
    after = leave_one_out(make_sessions(listening), **PAPER)
    assert before.track_ids.to_pylist() == after.track_ids.to_pylist() == ["b", "a", "c", "d"]
    np.testing.assert_array_equal(before.train_counts, after.train_counts)


def test_what_counts_as_skipped_is_the_runs_choice():
    sessions = make_sessions([[("a", 0), ("b", 1), ("c", 2), ("d", 3)]])
    for levels in ((1, 2), (1,), (1, 2, 3), ()):
        split = leave_one_out(sessions, min_length=4, max_length=20, skip_levels=levels)
        assert split.skipped.tolist() == [level in levels for level in range(4)]


def test_session_hashes_depend_on_the_id_alone():
    listening = random_listening(np.random.default_rng(1), num_sessions=3)
    one = leave_one_out(make_sessions(listening, session_ids=["x", "y", "z"]), **PAPER)
    two = leave_one_out(make_sessions(listening[::-1], session_ids=["z", "q", "x"]), **PAPER)
    assert one.session_hashes[0] == two.session_hashes[2]
    assert one.session_hashes[2] == two.session_hashes[0]
    assert len(set(one.session_hashes.tolist())) == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"min_length": 3}, ConfigError, "min_length is 3; it must be at least 4"),
        ({"max_length": 4}, ConfigError, "sessions of 5 tracks, but config.data.max_length is 4"),
        ({"skip_levels": (1, 4)}, ConfigError, r"skip_levels is \(1, 4\)"),
        ({"min_length": 6}, DataError, r"no session is left of 2 \(2 shorter than 6 tracks\)"),
        ({"require_skip": True}, DataError, "2 without a skip in training"),
    ],
)
def test_what_cannot_be_split_is_said(change, error, message):
    sessions = make_sessions([[("a", 0)] * 5, [("b", 0)] * 4])
    with pytest.raises(error, match=message):
        leave_one_out(sessions, **{**PAPER, **change})


def test_the_vocabulary_is_the_same_in_every_process(tmp_path):
    program = f"""
import sys
from skipjax.data import demo, mssd
from skipjax.data.split import leave_one_out
logs, out = ({str(tmp_path)!r} + "/" + name + sys.argv[1] for name in ("logs", "out"))
demo.write_logs(logs, num_sessions=60, num_tracks=200)
sessions = mssd.prepare(logs, out)
split = leave_one_out(sessions, min_length=4, max_length=20, skip_levels=(1, 2))
print(sessions.digest, *split.track_ids.to_pylist())
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", program, seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    (line,) = printed
    assert len(line.split()) > 100


def test_shuffled_and_ignored_labels_are_only_of_training(rng):
    sessions = make_sessions(random_listening(rng, num_sessions=60, low=2, high=9))
    logged = leave_one_out(sessions, **PAPER)
    shuffled = leave_one_out(sessions, **PAPER, labels="shuffled")
    again = leave_one_out(sessions, **PAPER, labels="shuffled")
    np.testing.assert_array_equal(shuffled.skipped, again.skipped)
    trained = np.zeros(len(logged.skipped), bool)
    for start, length in zip(logged.starts, logged.lengths, strict=True):
        trained[start : start + length - 2] = True
    np.testing.assert_array_equal(shuffled.skipped[~trained], logged.skipped[~trained])
    assert shuffled.skipped[trained].sum() == logged.skipped[trained].sum()
    assert (shuffled.skipped != logged.skipped).mean() > 0.2
    ignored = leave_one_out(sessions, **PAPER, labels="ignored")
    np.testing.assert_array_equal(ignored.skipped, logged.skipped & ~trained)
    with pytest.raises(ConfigError, match=r"config\.data\.labels is 'random'; choose one of"):
        leave_one_out(sessions, **PAPER, labels="random")


INT64 = np.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tracks": lambda s: s.tracks - 1}, r"tracks\[0\] is -1; there are 3, 0 to 2"),
        ({"tracks": lambda s: s.tracks + 1}, r"tracks\[8\] is 3; there are 3, 0 to 2"),
        # These would be ids of other tracks, as int32.
        ({"tracks": lambda s: s.tracks.astype(INT64) + 2**31}, r"tracks\[0\] is 2147483648;"),
        ({"tracks": lambda s: s.tracks.astype(INT64) + 2**32}, r"tracks\[0\] is 4294967296;"),
        ({"tracks": lambda s: s.tracks.astype(np.uint64) - 1}, r"is 18446744073709551615;"),
        ({"tracks": lambda s: s.tracks * 1.0}, "tracks holds float64; ids must be whole numbers"),
        ({"levels": lambda s: s.levels + 4}, r"levels\[0\] is 4; there are 4, 0 to 3"),
        ({"levels": lambda s: s.levels - 1}, r"levels\[0\] is -1; there are 4, 0 to 3"),
        ({"levels": lambda s: s.levels[1:]}, "12 tracks and 11 levels do not fit together"),
        ({"offsets": lambda s: s.offsets[:-1]}, "3 offsets, 3 session_ids, .* do not fit"),
        ({"offsets": lambda s: s.offsets[:0]}, "0 offsets, 3 session_ids, .* do not fit"),
        ({"offsets": lambda s: s.offsets + 1}, "do not fit together; offsets are those of each"),
        ({"offsets": lambda s: s.offsets[[0, 2, 1, 3]]}, "and rise from 0 to the number of events"),
        ({"session_ids": lambda s: s.session_ids[:2]}, "4 offsets, 2 session_ids, .* do not fit"),
        ({"track_ids": lambda s: pa.nulls(2**31 - 2)}, "ids are int32, so 2147483645 at most"),
    ],
)
def test_ids_that_there_are_not_never_become_others(change, message):
    sessions = make_sessions([[("a", 0)] * 5, [("b", 0)] * 3, [("c", 0)] * 4])
    changed = {name: make(sessions) for name, make in change.items()}
    with pytest.raises(DataError, match=message) as caught:
        leave_one_out(dataclasses.replace(sessions, **changed), **PAPER)
    assert len(str(caught.value).splitlines()) == 1


def test_tracks_of_any_integer_type_give_the_same_split():
    sessions = make_sessions([[("a", 0), ("b", 1), ("c", 0), ("d", 2)]])
    expected = leave_one_out(sessions, **PAPER)
    for dtype in (np.int64, np.uint8):
        changed = dataclasses.replace(sessions, tracks=sessions.tracks.astype(dtype))
        split = leave_one_out(changed, **PAPER)
        np.testing.assert_array_equal(split.tracks, expected.tracks)
        assert split.tracks.dtype == np.int32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tracks": lambda s: s.tracks + 2}, r"tracks\[0\] is 4; there are 4, 0 to 3"),
        ({"tracks": lambda s: -s.tracks}, r"tracks\[0\] is -2; there are 4"),
        ({"tracks": lambda s: s.tracks.astype(INT64) + 2**31}, r"tracks\[0\] is 2147483650;"),
        ({"tracks": lambda s: s.tracks.astype(INT64)}, "tracks holds int64; give int32"),
        ({"tracks": lambda s: s.tracks - 1}, r"tracks\[5\] is -1"),
        ({"tracks": lambda s: np.maximum(s.tracks - 1, 0)}, "session 0 has an id below 2, which"),
        ({"starts": lambda s: s.starts - [0, 3]}, "session 1 has an id below 2, which is no"),
        ({"starts": lambda s: s.starts - [0, 1]}, "session 1 has an id below 2, which is no"),
        ({"starts": lambda s: s.starts[::-1] - [0, 0]}, "2 sessions are not spans of 12 events"),
        ({"starts": lambda s: s.starts - 1}, "are not spans of 12 events; give one at least"),
        ({"starts": lambda s: s.starts + 1}, "are not spans of 12 events"),
        ({"lengths": lambda s: s.lengths - 2}, "each with a start and a length of more than 2"),
        ({"starts": lambda s: s.starts[:0], "lengths": lambda s: s.lengths[:0]}, "0 sessions are"),
        ({"skipped": lambda s: s.skipped[1:]}, "12 tracks and 11 skipped do not fit together"),
        ({"track_ids": lambda s: s.track_ids[:1]}, "1 track_ids, 4 train_counts, .* do not fit"),
    ],
)
def test_a_split_made_by_hand_is_checked_once(change, message):
    """So that none of its batches has to be."""
    sessions = make_sessions([[("a", 0)] * 5, [("b", 0)] * 3, [("c", 0)] * 4])
    split = leave_one_out(sessions, **PAPER)
    assert split.tracks.tolist() == 5 * [2] + 3 * [0] + 4 * [3]
    assert dataclasses.replace(split).num_sessions == 2
    with pytest.raises(DataError, match=message):
        dataclasses.replace(split, **{name: make(split) for name, make in change.items()})
