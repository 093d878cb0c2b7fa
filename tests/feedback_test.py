"""What counts as skipped, against loops over the events."""

import dataclasses
import statistics
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax.data.feedback import skip_rule, skipped_events
from skipjax.data.layout import FEEDBACK, RESERVED
from skipjax.errors import ConfigError


def rules(**changes):
    defaults = {
        "skip_levels": (1, 2),
        "skip_below_percent": 50.0,
        "skip_dislikes": True,
        "skip_rating": 2.0,
    }
    return SimpleNamespace(**{**defaults, **changes})


def logged(tracks, levels=None, feedback=(), **columns):
    """One session of these tracks, with what is logged of each."""
    levels = levels or [0] * len(tracks)
    context = {name: pa.array(values, RESERVED[name]) for name, values in columns.items()}
    listening = [list(zip(tracks, levels, strict=True))]
    return make_sessions(listening, context=context, feedback=list(feedback))


def usual_gap(sessions, training, track):
    gaps = sessions.context["next_gap_seconds"].to_pylist()
    of = {}
    for t, gap, trained in zip(sessions.tracks.tolist(), gaps, training, strict=True):
        if trained and 0 <= gap <= 20 * 60:
            of.setdefault(t, []).append(gap)
    own = of.get(track, [])
    some = own if len(own) >= 3 else [gap for gaps in of.values() for gap in gaps]
    return statistics.median(some) if some else 0


def loop(sessions, data, training):
    """The rules as the contract of a run has them, event by event."""
    columns = {name: sessions.context[name].to_pylist() for name in sessions.context.column_names}
    result = []
    for e, track in enumerate(sessions.tracks.tolist()):
        skipped = False
        if "level" in sessions.feedback:
            skipped |= int(sessions.levels[e]) in data.skip_levels
        if "played_percent" in sessions.feedback:
            skipped |= 0 <= columns["played_percent"][e] < data.skip_below_percent
        if "next_gap_seconds" in sessions.feedback and columns["next_gap_seconds"][e] >= 0:
            usual = usual_gap(sessions, training, track)
            skipped |= 100 * columns["next_gap_seconds"][e] < data.skip_below_percent * usual
        if "reaction" in sessions.feedback and data.skip_dislikes:
            skipped |= columns["reaction"][e] == -1
        if "rating" in sessions.feedback:
            skipped |= columns["rating"][e] <= data.skip_rating
        result.append(skipped)
    return result


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    feedback=st.sets(st.sampled_from(FEEDBACK)),
    levels=st.sampled_from([(1, 2), (), (3,), (0, 1, 2, 3)]),
    below=st.sampled_from([0.0, 33.3, 50.0, 100.0]),
    dislikes=st.booleans(),
    rating=st.sampled_from([0.0, 2.0, 3.5]),
    trained=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_skipped_is_the_loop(seed, feedback, levels, below, dislikes, rating, trained):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    gaps = rng.choice([-1, 0, 30, 99, 100, 180, 200, 1199, 1200, 1201, 86400], n)
    sessions = logged(
        [f"t{t}" for t in rng.integers(0, 6, n)],
        rng.integers(0, 4, n).tolist(),
        feedback,
        played_percent=rng.choice([-1, 0, 33, 34, 49, 50, 99, 100, 120], n),
        next_gap_seconds=gaps,
        reaction=rng.choice([-1, 0, 1], n),
        rating=rng.choice([0.5, 2.0, 2.5, 3.5, 5.0, np.nan], n),
    )
    data = rules(
        skip_levels=levels, skip_below_percent=below, skip_dislikes=dislikes, skip_rating=rating
    )
    training = rng.random(n) < trained
    found = skipped_events(sessions, data, training)
    assert found.dtype == bool
    assert found.tolist() == loop(sessions, data, training)
    assert skipped_events(sessions, data).tolist() == loop(sessions, data, [True] * n)


def test_one_rule_is_enough_and_what_is_not_logged_says_nothing():
    columns = {"played_percent": [10, 90, 90, -1], "reaction": [0, -1, 1, 0]}
    tracks, levels = ["a", "b", "c", "d"], [0, 0, 2, 0]
    for feedback, expected in (
        (("level", "played_percent", "reaction"), [True, True, True, False]),
        (("played_percent",), [True, False, False, False]),
        (("reaction",), [False, True, False, False]),
        ((), [False] * 4),
    ):
        sessions = logged(tracks, levels, feedback, **columns)
        assert skipped_events(sessions, rules()).tolist() == expected


def test_sooner_than_usual_is_half_the_median_of_at_most_20_minutes():
    # "a" has gaps of its own: 100, 200 and 300; "b" has two, so it takes the median of all.
    tracks = ["a", "a", "a", "a", "b", "b", "b", "b"]
    gaps = [100, 200, 300, 3600, 99, 101, 86400, -1]
    sessions = logged(tracks, None, ("next_gap_seconds",), next_gap_seconds=gaps)
    # Of a: half of 200. Of b: half of the median of 100, 200, 300, 99 and 101, which is 101.
    assert skipped_events(sessions, rules()).tolist() == 8 * [False]
    below = [100 < 0.6 * 200, *3 * [False], 99 < 0.6 * 101, *3 * [False]]
    assert below == [True, *7 * [False]]
    assert skipped_events(sessions, rules(skip_below_percent=60.0)).tolist() == below
    soon = skipped_events(sessions, rules(skip_below_percent=99.0))
    assert soon.tolist() == [True, *3 * [False], True, *3 * [False]]


def test_what_is_usual_is_learnt_from_training_alone():
    tracks = ["a"] * 6
    gaps = [100, 200, 300, 40, 40, 40]
    training = np.array([True] * 3 + [False] * 3)
    sessions = logged(tracks, None, ("next_gap_seconds",), next_gap_seconds=gaps)
    assert skipped_events(sessions, rules(), training).tolist() == 3 * [False] + 3 * [True]
    # With those, 70 would be usual, and none of them soon.
    assert not skipped_events(sessions, rules()).any()
    moved = logged(tracks, None, ("next_gap_seconds",), next_gap_seconds=gaps[:3] + [900] * 3)
    assert skipped_events(moved, rules(), training).tolist() == 6 * [False]
    nothing = skipped_events(sessions, rules(), np.zeros(6, bool))
    assert not nothing.any()


def test_levels_that_there_are_not_are_named():
    with pytest.raises(ConfigError, match=r"skip_levels is \(1, 4\); levels are 0, 1, 2 and 3"):
        skipped_events(logged(["a"], [0], ("level",)), rules(skip_levels=(1, 4)))


@pytest.mark.parametrize(
    ("feedback", "changes", "expected"),
    [
        (("level",), {}, "skip level 1 or 2"),
        (("level",), {"skip_levels": ()}, "skip level none"),
        (("played_percent", "reaction"), {}, "played below 50 % or disliked"),
        (("played_percent", "reaction"), {"skip_dislikes": False}, "played below 50 %"),
        (("rating",), {"skip_rating": 2.5}, "rated 2.5 or less"),
        (
            ("next_gap_seconds",),
            {"skip_below_percent": 33.3},
            "inferred: the next play came within 33.3 % of the usual time",
        ),
        ((), {}, ""),
    ],
)
def test_the_rules_in_words(feedback, changes, expected):
    columns = {"played_percent": [1], "reaction": [0], "rating": [1], "next_gap_seconds": [1]}
    sessions = logged(["a"], [0], feedback, **columns)
    assert skip_rule(sessions, rules(**changes)) == expected


def test_a_column_of_yes_and_no_is_named():
    sessions = logged(["a"], [0], ("level",))
    sessions = dataclasses.replace(
        sessions, info={**sessions.info, "options": {"skip_column": "x"}}
    )
    assert skip_rule(sessions, rules()) == "marked in column x"
    # Here it is not what the column says.
    assert skip_rule(sessions, rules(skip_levels=(0, 2))) == "skip level 0 or 2"
