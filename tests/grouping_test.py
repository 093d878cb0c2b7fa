"""Sequences cut by pauses, then by length, against a slow and obvious reference."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from sessions_test import block, digest, in_blocks, listening, write

from skipjax.data import grouping
from skipjax.data.columns import context_name
from skipjax.data.grouping import Refined
from skipjax.errors import ConfigError


def reference(rows, gap, min_length, max_length, num_sessions=0):
    """What `listening` must be, and how many sessions and events are left out."""
    sequences = {}
    for name, track, order, level in rows:
        sequences.setdefault(name, []).append((order, (track, level)))
    kept, left_out = [], [0, 0]
    for name in sorted(sequences, key=lambda n: (digest(n), n)):
        events = sorted(sequences[name], key=lambda pair: pair[0])
        runs = [[events[0]]]
        for before, event in itertools.pairwise(events):
            if gap is not None and event[0] - before[0] > gap:
                runs.append([])
            runs[-1].append(event)
        pieces = [run[i : i + max_length] for run in runs for i in range(0, len(run), max_length)]
        for number, piece in enumerate(pieces, start=1):
            if num_sessions and len(kept) == num_sessions:
                break
            if len(piece) < min_length:
                left_out = [left_out[0] + 1, left_out[1] + len(piece)]
            else:
                cut = f"{name}#{number}" if len(pieces) > 1 else name
                kept.append((cut, [event for _, event in piece]))
    return kept, left_out


@pytest.mark.parametrize("seed", range(12))
def test_pauses_and_lengths(tmp_path, seed):
    """For any size of blocks and of what is sorted at a time."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{rng.integers(6)}", f"t{rng.integers(9)}", int(rng.integers(0, 900)) * 1000, 0)
        for _ in range(150)
    ]
    options = {"min_length": 1 + seed % 3, "max_length": 4 + seed, "num_sessions": seed % 4 * 5}
    expected, (sessions, events) = reference(rows, 30_000, **options)
    for size in (7, 150):
        made = write(
            tmp_path / str(size),
            in_blocks(rows, size),
            gap_minutes=0.5,
            time_unit="ms",
            partition_rows=size,
            **options,
        )
        assert listening(made) == expected
        assert made.info["left_out"] == {"sessions": sessions, "events": events}
        assert made.info["options"]["gap_minutes"] == 0.5


def test_a_pause_is_more_than_the_gap_and_does_not_overflow(tmp_path):
    times = [-(2**63), 0, 30, 61, 2**63 - 1]
    rows = [("a", f"t{i}", order, 0) for i, order in enumerate(times)]
    made = write(tmp_path / "out", [block(rows)], gap_minutes=0.5, time_unit="s", min_length=1)
    assert [len(events) for _, events in listening(made)] == [1, 2, 1, 1]


def test_a_gap_needs_a_unit(tmp_path):
    rows = [("a", f"t{i}", i, 0) for i in range(5)]
    with pytest.raises(ConfigError, match="gap_minutes is 30, but it is not known what"):
        write(tmp_path / "out", [block(rows)], gap_minutes=30)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("newest_first", [False, True])
def test_ties(tmp_path, newest_first):
    rows = [("a", f"t{i}", order, 0) for i, order in enumerate([5, 5, 3, 3, 3, 1])]
    for size in (1, 4, 6):
        out = tmp_path / f"{size}"
        made = write(out, in_blocks(rows, size), newest_first=newest_first)
        (_, events) = listening(made)[0]
        expected = "543210" if newest_first else "523401"
        assert [track for track, _ in events] == [f"t{i}" for i in expected]


def test_rows_that_are_not_kept_leave_no_trace(tmp_path):
    rows = [("a", f"t{i}", i, 0) for i in range(8)] + [("b", "only", 0, 0)]
    kept = [i % 2 == 0 for i in range(8)] + [False]
    made = write(tmp_path / "out", [block(rows, kept=pa.array(kept))])
    assert listening(made) == [("a", [(f"t{i}", 0) for i in (0, 2, 4, 6)])]
    assert made.track_ids.to_pylist() == ["t0", "t2", "t4", "t6"]


@pytest.mark.parametrize("partition_rows", [20, 1000])
@pytest.mark.parametrize("num_sessions", [0, 1, 3])
def test_what_is_refined_is_counted_as_far_as_it_is_used(tmp_path, partition_rows, num_sessions):
    """Every other row goes, and of one session all; what is left out of sessions that are not
    reached does not count."""
    names = sorted("abcdef", key=digest)
    rows = [(name, f"t{i}", i, 0) for name in names for i in range(10)]

    def refine(groups):
        place = np.arange(groups.table.num_rows) - np.repeat(groups.starts, groups.sizes)
        ids = np.repeat(np.array(groups.ids.to_pylist()), groups.sizes)
        kept, left = grouping.only(groups, (place % 2 == 0) & (ids != names[1]))
        gone = groups.sizes.copy()
        gone[left] -= kept.sizes
        return Refined(kept, {"halves": gone}, left)

    made = write(
        tmp_path / "out",
        [block(rows)],
        refine=refine,
        num_sessions=num_sessions,
        partition_rows=partition_rows,
    )
    wanted = [name for name in names if name != names[1]][: num_sessions or None]
    assert made.session_ids.to_pylist() == wanted
    reached = names[: names.index(wanted[-1]) + 1] if num_sessions else names
    halves = sum(10 if name == names[1] else 5 for name in reached)
    assert made.info["left_out"]["halves"] == halves


def test_context_has_names_of_its_own():
    assert context_name("track") != "track"
