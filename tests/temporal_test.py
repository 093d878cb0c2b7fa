"""The split in time, against a loop over the sessions."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_sessions, random_listening
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax.data.layout import UNITS_PER_SECOND
from skipjax.data.parts import parts_table
from skipjax.data.split import split_as
from skipjax.errors import ConfigError, DataError

HOUR = 3600


def fields(test_hours=24.0, valid_hours=24.0, gap_minutes=30.0, **changes):
    """A run's `config.data`."""
    temporal = SimpleNamespace(
        test_hours=test_hours, valid_hours=valid_hours, gap_minutes=gap_minutes
    )
    values = {
        "split": "temporal",
        "temporal": temporal,
        "min_length": 2,
        "max_length": 20,
        "min_plays": 1,
        "skip_levels": (1, 2),
        "skip_below_percent": 50.0,
        "skip_dislikes": True,
        "skip_rating": 2.0,
        "require_skip": False,
        "labels": "logged",
    }
    return SimpleNamespace(**{**values, **changes})


def timed(listening, seconds, unit="s", session_ids=None, **info):
    """Sessions whose events were at these seconds, [[s, ...], ...]."""
    times = [UNITS_PER_SECOND[unit] * s for session in seconds for s in session]
    context = {"time": pa.array(times, pa.int64())}
    return make_sessions(
        listening, session_ids=session_ids, context=context, time_unit=unit, **info
    )


def random_timed(rng, num_sessions=40, hours=100, low=1, high=8, **options):
    """Sessions that begin within so many hours, on the minute, and last up to an hour or so."""
    listening = random_listening(rng, num_sessions, 25, low=low, high=high)
    seconds = []
    for session in listening:
        start = 60 * int(rng.integers(60 * hours))
        steps = 60 * rng.integers(0, 12, len(session))
        seconds.append((start + np.cumsum(steps) - steps[0]).tolist())
    return listening, seconds, timed(listening, seconds, **options)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    test_hours=st.sampled_from([1.5, 12.0, 24.0]),
    valid_hours=st.sampled_from([0.5, 12.0, 30.0]),
    gap_minutes=st.sampled_from([0.0, 1.0, 30.0, 400.0]),
    min_plays=st.sampled_from([1, 1, 3, 6]),
    require_skip=st.booleans(),
    unit=st.sampled_from(sorted(UNITS_PER_SECOND)),
)
def test_the_split_in_time_is_the_loop(
    seed, test_hours, valid_hours, gap_minutes, min_plays, require_skip, unit
):
    rng = np.random.default_rng(seed)
    listening, seconds, sessions = random_timed(rng, hours=int(rng.integers(1, 100)), unit=unit)
    data = fields(
        test_hours, valid_hours, gap_minutes, min_plays=min_plays, require_skip=require_skip
    )
    newest = max(map(max, seconds))
    test_from = newest - test_hours * HOUR
    valid_from = test_from - valid_hours * HOUR

    plays = Counter(track for session in listening for track, _ in session)
    expected, left_out, rare = {}, Counter(), 0
    for s, (session, times) in enumerate(zip(listening, seconds, strict=True)):
        events = [
            (track, level, time)
            for (track, level), time in zip(session, times, strict=True)
            if plays[track] >= min_plays
        ]
        rare += len(session) - len(events)
        if len(events) < 2:
            left_out["shorter than 2 tracks"] += 1
            continue
        start, end = events[0][2], events[-1][2]
        if start >= test_from:
            which = "test"
        elif start >= valid_from and end < test_from - gap_minutes * 60:
            which = "valid"
        elif end < valid_from - gap_minutes * 60:
            which = "train"
        else:
            left_out["at a boundary of the split in time"] += 1
            continue
        if which == "train" and require_skip and not any(e[1] in (1, 2) for e in events):
            left_out["without a skip in training"] += 1
            continue
        expected[s] = (which, events)
    if {which for which, _ in expected.values()} != {"train", "valid", "test"}:
        with pytest.raises((ConfigError, DataError)) as caught:
            split_as(data, sessions)
        assert len(str(caught.value).splitlines()) == 1
        return

    split = split_as(data, sessions)
    table = parts_table(split)
    assert dict(zip(*(column.to_pylist() for column in table.columns), strict=True)) == {
        f"s{s}": which for s, (which, _) in expected.items()
    }
    assert {reason: n for reason, n in split.left_out.items() if n} == dict(left_out)
    assert sum(split.left_out.values()) + split.num_sessions == len(listening)
    assert sum(split.left_out_events.values()) == rare
    counts = Counter(
        track for which, events in expected.values() if which == "train" for track, *_ in events
    )
    tracks = {track for _, events in expected.values() for track, *_ in events}
    tracks = sorted(tracks, key=lambda track: (-counts[track], track))
    assert split.track_ids.to_pylist() == tracks
    assert split.train_counts.tolist() == [0, 0, *(counts[track] for track in tracks)]
    times = np.array([time for session in seconds for time in session])
    source = np.arange(len(times)) if split.source_events is None else split.source_events
    for which, back in (("train", 0), ("valid", 1), ("test", 1)):
        own = [events for part, events in expected.values() if part == which]
        starts, lengths = split.spans(which)
        for events, start, length in zip(own, starts, lengths, strict=True):
            span = slice(start, start + length)
            read = events[: len(events) - back]
            assert [tracks[v - 2] for v in split.tracks[span]] == [track for track, *_ in read]
            assert split.skipped[span].tolist() == [level in (1, 2) for _, level, _ in read]
            assert times[source[span]].tolist() == [time for *_, time in read]
            if which == "train":  # said once more, as nothing is worse than what is wrong here
                assert max(times[source[span]]) < valid_from - gap_minutes * 60
        if back:
            _, targets = split.held_out(which)
            assert [tracks[v - 2] for v in targets] == [events[-1][0] for events in own]
    cold = [counts[events[-1][0]] == 0 for which, events in expected.values() if which == "test"]
    assert split.cold_share("test") == pytest.approx(np.mean(cold))
    learned = [
        event[1] in (1, 2) for which, own in expected.values() for event in own if which == "train"
    ]
    assert split.skip_share() == pytest.approx(np.mean(learned))


def sessions_at(*hours, length=3):
    """A session of so many tracks, a minute apart, at each hour."""
    listening = [[(f"t{i}", i % 2) for i in range(length)] for _ in hours]
    return timed(listening, [[int(HOUR * h) + 60 * i for i in range(length)] for h in hours])


def test_boundaries_are_half_open():
    """The last event is at 100:00, so that the test begins at 76:00 and validation at 52:00."""
    step = 1 / 60
    hours = {
        "train": [1, 51.5 - 3 * step],  # which ends a minute before the gap
        "valid": [52, 75.5 - 3 * step],
        "test": [76, 100 - 2 * step],
    }
    none = [51.5 - 2 * step, 51.9, 52 - step, 75.5 - 2 * step, 75.9, 76 - step]
    at = sorted([hour for some in hours.values() for hour in some] + none)
    split = split_as(fields(), sessions_at(*at))
    table = parts_table(split).to_pylist()
    for which, some in hours.items():
        ids = [f"s{at.index(hour)}" for hour in some]
        assert [row["session_id"] for row in table if row["part"] == which] == ids
    assert split.left_out["at a boundary of the split in time"] == len(none)
    assert split.name == "temporal: last 24 h, gap 30 min"


@pytest.mark.parametrize(
    ("hours", "changes", "message"),
    [
        (
            (100,),
            {},
            "the only session starts in the last 24 h, so there is none to train on; lower",
        ),
        (
            (80, 100),
            {},
            r"all 2 sessions .* lower config\.data\.temporal\.test_hours\. The data spans",
        ),
        (
            (1, 60, 100),
            {"test_hours": 0.01},
            r"of 3 sessions, none starts in the last 0\.01 h, .* raise config\.data\.temporal\.tes",
        ),
        (
            (1, 2, 100),
            {},
            r"of 3 sessions, none starts in the 24 h before the last 24 h and ends 30 min before "
            r"those, so there is none to validate with; raise config\.data\.temporal\.valid_hours",
        ),
        (
            (60, 100),
            {},
            r"of 2 sessions, none ends 30 min before the last 48 h, so there is none to train on; "
            r"lower config\.data\.temporal\.test_hours or config\.data\.temporal\.valid_hours",
        ),
    ],
)
def test_a_part_without_sessions_names_the_field(hours, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        split_as(fields(**changes), sessions_at(*hours))
    assert len(str(caught.value).splitlines()) == 1


def test_sessions_without_times_are_refused():
    sessions = make_sessions([[("a", 0), ("b", 0)]] * 3)
    with pytest.raises(ConfigError, match=r"config\.data\.split is 'temporal', but .* no times"):
        split_as(fields(), sessions)
    unknown = sessions_at(1, 60, 100)
    del unknown.info["time_unit"]
    with pytest.raises(ConfigError, match=r"--config\.data\.table\.time_unit=s"):
        split_as(fields(), unknown)


def test_times_are_exact_where_floats_are_not():
    """Nanoseconds since 1970 take 61 bits, a float has 53; so do hours that lead before all."""
    far = 1_700_000_000 * 10**9
    hours = (1, 60, 80, 100)
    seconds = [[int(HOUR * h) + 60 * i for i in range(3)] for h in hours]
    nanoseconds = [[far + 10**9 * s for s in session] for session in seconds]
    last = nanoseconds[-1][-1]
    test_from = last - 24 * HOUR * 10**9
    for shift, which in ((0, "test"), (-1, None)):
        nanoseconds[2][0] = test_from + shift
        listening = [[(f"t{i}", 0) for i in range(3)] for _ in hours]
        context = {"time": pa.array([t for session in nanoseconds for t in session], pa.int64())}
        split = split_as(fields(), make_sessions(listening, context=context, time_unit="ns"))
        parts = {row["session_id"]: row["part"] for row in parts_table(split).to_pylist()}
        assert parts.get("s2") == which
    context = {"time": pa.array(np.iinfo(np.int64).min + np.arange(12))}
    earliest = make_sessions(listening, context=context, time_unit="ns")
    with pytest.raises(ConfigError, match="all 4 sessions start in the last 1e"):
        split_as(fields(test_hours=1e6, valid_hours=1e6), earliest)


def test_the_order_of_listening_need_not_be_that_of_times():
    """The last event of a session is its newest only if the log says so."""
    listening = [[("a", 0), ("b", 0), ("c", 0)]] * 4
    seconds = [[HOUR, 2 * HOUR, HOUR], [60 * HOUR] * 3, [100 * HOUR] * 3, [HOUR, 52 * HOUR, HOUR]]
    split = split_as(fields(), timed(listening, seconds))
    parts = [row["part"] for row in parts_table(split).to_pylist()]
    assert (parts, split.left_out["at a boundary of the split in time"]) == (
        ["train", "valid", "test"],
        1,
    )


@pytest.mark.parametrize("labels", ["logged", "shuffled", "ignored"])
def test_what_comes_after_training_does_not_move_it(rng, labels):
    """Tracks and labels of the other parts, shuffled labels and all."""
    listening, seconds, sessions = random_timed(rng, low=2)
    data = fields(30.0, 20.0, labels=labels)
    before = split_as(data, sessions)
    trained = set(before.ids_of("train").to_pylist())
    assert len(trained) >= 5
    first = next(s for s in range(len(listening)) if f"s{s}" in trained)
    listening[first] = [(f"t{i:04d}", 1) for i in range(20)]  # so that ids stay what they are
    seconds[first] = seconds[first][:1] * 20
    splits = []
    for change in (False, True):
        moved = [
            [(f"t{(7 * i) % 20:04d}", (level + 2) % 4) for i, (_, level) in enumerate(session)]
            if change and f"s{s}" not in trained
            else [(f"t{int(track[1:]) % 20:04d}", level) for track, level in session]
            for s, session in enumerate(listening)
        ]
        splits.append(split_as(data, timed(moved, seconds)))
    one, two = splits
    assert (one.tracks != two.tracks).any()
    assert one.track_ids.equals(two.track_ids)
    np.testing.assert_array_equal(one.train_counts, two.train_counts)
    starts, lengths = one.spans("train")
    for start, length in zip(starts, lengths, strict=True):
        span = slice(start, start + length)
        np.testing.assert_array_equal(one.tracks[span], two.tracks[span])
        np.testing.assert_array_equal(one.skipped[span], two.skipped[span])


# With rare tracks taken out, events are not where the source has them.
@pytest.mark.parametrize("min_plays", [1, 16])
@pytest.mark.parametrize("name", ["leave_one_out", "temporal"])
def test_gaps_after_training_do_not_move_its_labels(rng, name, min_plays):
    listening, seconds, _ = random_timed(rng, num_sessions=60, low=6)
    gaps = rng.integers(0, 600, sum(map(len, listening)))
    data = fields(30.0, 20.0, split=name, min_length=4, min_plays=min_plays)

    def skipped(gaps):
        """Of the source's events, which are training's and which count as skipped."""
        context = {
            "time": pa.array([s for session in seconds for s in session], pa.int64()),
            "next_gap_seconds": pa.array(gaps, pa.int32()),
        }
        info = {"feedback": ["next_gap_seconds"], "time_unit": "s"}
        split = split_as(data, make_sessions(listening, context=context, **info))
        trained, labels = np.zeros((2, len(gaps)), bool)
        assert (split.source_events is None) == (min_plays == 1)
        source = np.arange(len(gaps)) if split.source_events is None else split.source_events
        for start, length in zip(*split.spans("train"), strict=True):
            trained[source[start : start + length]] = True
        labels[source] = split.skipped
        return trained, labels

    trained, before = skipped(gaps)
    assert before[trained].any()
    assert not before[trained].all()
    _, after = skipped(np.where(trained, gaps, 600 - gaps))
    np.testing.assert_array_equal(after[trained], before[trained])
    assert (after != before).any()
    _, moved = skipped(np.where(trained, gaps // 3, gaps))
    assert (moved[~trained] != before[~trained]).any()


def test_min_plays_leaves_no_rare_track(rng):
    listening, _, sessions = random_timed(rng, low=2)
    plays = Counter(track for session in listening for track, _ in session)
    split = split_as(fields(30.0, 20.0, min_plays=8), sessions)
    assert all(plays[track] >= 8 for track in split.track_ids.to_pylist())
    assert 0 < len(split.track_ids) < len(plays)
    rare = sum(n for n in plays.values() if n < 8)
    assert split.left_out_events == {"of tracks with fewer than 8 plays": rare}
    assert len(split.tracks) == sessions.num_events - rare
    # Where no track is so rare, nothing is copied, and nothing is said.
    same = split_as(fields(30.0, 20.0, min_plays=min(plays.values())), sessions)
    assert same.left_out_events == {}
    assert same.source_events is None
    with pytest.raises(
        DataError, match=r"no session is left of 40 \(40 shorter than 2 tracks, .* "
    ):
        split_as(fields(min_plays=10_000), sessions)


def test_a_part_that_is_no_part_is_refused(rng):
    split = split_as(fields(30.0, 20.0), random_timed(rng, low=2)[2])
    train = split.parts["train"]
    for wrong in (
        dataclasses.replace(train, sessions=train.sessions[:0]),
        dataclasses.replace(train, sessions=train.sessions + split.num_sessions),
        dataclasses.replace(train, sessions=-1 - train.sessions),
        dataclasses.replace(train, held_out=int(split.lengths[train.sessions].min())),
    ):
        with pytest.raises(DataError, match="sessions are not spans of"):
            dataclasses.replace(split, parts={**split.parts, "train": wrong})


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("table", " The data spans 20 h from 1970-01-04; is time_unit right?"),
        ("spotify", " The data spans 20 h from 1970-01-04."),
        ("yambda", " The data spans 20 h."),
    ],
)
def test_less_data_than_the_split_asks_for_is_said(source, told):
    sessions = sessions_at(80, 100)
    sessions.info["source"] = source
    with pytest.raises(ConfigError) as error:
        split_as(fields(), sessions)
    assert str(error.value).endswith(told)
