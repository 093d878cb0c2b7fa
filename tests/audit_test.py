"""Findings about made sessions whose answers a reader can check, and the page that tells them."""

import copy
import dataclasses
import html
import importlib
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_sessions
from scipy import stats

from skipjax.audit import auc as measures
from skipjax.audit import data as audit_data
from skipjax.audit import future, popularity, settings, thresholds
from skipjax.audit.finding import SEVERITIES, graded, share
from skipjax.audit.run import audit
from skipjax.cli.main import main
from skipjax.data.candidates import Candidates
from skipjax.data.sessions import Sessions
from skipjax.data.split import split_as
from skipjax.errors import ConfigError
from skipjax.limits import check_data_limits

HOUR, DAY = 3600, 86_400


def made(listening, *, times=None, unit="s", ids=None, info=None, **context) -> Sessions:
    """Sessions of [[(track, level), ...], ...], with times and other columns of all events."""
    sessions = make_sessions(listening, session_ids=ids)
    columns = {name: pa.array(values) for name, values in context.items()}
    found = {"source": "test"} | (info or {})
    if times is not None:
        columns["time"] = pa.array(times, pa.int64())
        found["time_unit"] = unit
    return dataclasses.replace(sessions, context=pa.table(columns), info=found)


def listening(*sessions):
    """Sessions written as words: "a b c*" has tracks a, b, c, of which c was skipped."""
    return [
        [(name.rstrip("*"), 2 if name.endswith("*") else 0) for name in text.split()]
        for text in sessions
    ]


def config(**changes):
    found = settings.defaults()
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        inside = found
        for part in section.split("__"):
            inside = inside[part]
        inside[field] = value
    return found


def findings(sessions, **changes):
    found = audit(sessions, config(**changes), "made")
    return {finding["name"]: finding for finding in found["findings"]}


def test_defaults_are_those_of_the_config_file():
    common = importlib.import_module("configs.common").get_config()
    mine = settings.defaults()
    for section, values in mine.items():
        for field, value in values.items():
            assert common[section][field] == value, f"{section}.{field}"


def test_severities_and_shares_in_words():
    assert [graded(x, note=1, warning=2, serious=3) for x in (0, 1, 2.5, 3)] == [
        *reversed(SEVERITIES)
    ]
    assert [share(x) for x in (0, 0.0004, 0.196, 0.5, 0.9999, 1)] == [
        "0 %", "less than 0.1 %", "19.6 %", "50 %", "more than 99.9 %", "100 %",
    ]  # fmt: skip
    limits = [v for k, v in vars(thresholds).items() if k.isupper()]
    assert len(limits) > 20


def test_sizes_lengths_and_what_was_left_out():
    sessions = made(
        listening("a b c d", "a b c d e f", "a b", "b c d e"),
        ids=["x", "u#1", "y", "u#2"],
        info={
            "left_out": {"sessions": 2, "events": 3},
            "dropped": {"sessions": 1, "rows": 2},
            "options": {"min_length": 2},
        },
    )
    found = findings(sessions)
    size = found["size"]["numbers"]
    assert (size["sessions"], size["events"], size["tracks"]) == (3, 14, 6)
    assert (size["prepared_sessions"], size["prepared_events"]) == (4, 16)
    assert size["left_out"] == {"shorter than 4 tracks": 1, "shorter than 2 tracks": 2}
    assert size["left_out_share"] == 3 / 6
    assert found["size"]["severity"] == "warning"
    assert size["dropped"] == {"sessions": 1, "rows": 2}
    assert "dropped 1 session and 2 rows" in found["size"]["sentence"]
    assert size["listeners"] == 2
    lengths = found["lengths"]["numbers"]
    assert lengths["sessions_by_length"] == {"4": 2, "6": 1}
    assert (lengths["min"], lengths["max"], lengths["median"]) == (4, 6, 4)
    assert lengths["mean"] == 14 / 3
    assert lengths["pieces_share"] == lengths["cut_to_length_share"] == 2 / 3


def test_pieces_between_pauses_were_not_cut_to_length():
    sessions = made(
        listening("a b c d", "a b c d e f", "a b c d"),
        ids=["u#1", "u#2", "v"],
        info={"options": {"gap_minutes": 30, "max_length": 6}},
    )
    found = findings(sessions)["lengths"]["numbers"]
    assert (found["pieces_share"], found["cut_to_length_share"]) == (2 / 3, 1 / 3)


def test_rare_tracks_leave_their_times_and_context_behind():
    # x is heard once, so its event is left out, and with it the time that goes back.
    sessions = made(
        listening("a b x c a*", "a b c a"),
        times=[1, 2, 0, 3, 4, 5, 6, 7, 8],
        part=list("nnynnnnnn"),
    )
    assert findings(sessions)["order"]["numbers"]["falls"] == 1
    found = findings(sessions, data__min_plays=2)
    assert found["order"]["numbers"]["falls"] == 0
    assert found["order"]["numbers"]["neighbours"] == 6
    assert found["size"]["numbers"]["left_out_events"] == {"of tracks with fewer than 2 plays": 1}


def test_skip_shares():
    sessions = made(
        listening("a* b c d e*", "a* b* c d", "a b c d"),
        premium=[True] * 5 + [False] * 8,
        hour_of_day=[3] * 9 + [4] * 4,
    )
    found = findings(sessions)
    skips = found["skip_share"]["numbers"]
    assert (skips["skips"], skips["share"]) == (4, 4 / 13)
    assert skips["sessions_with_a_skip"] == 2 / 3
    position = found["skips_by_position"]["numbers"]
    assert position["plays"] == [3, 3, 3, 3, 1]
    assert position["shares"] == [2 / 3, 1 / 3, 0, 0, 1]
    assert (position["first"], position["last"], position["not_last"]) == (2 / 3, 1 / 3, 3 / 10)
    premium = found["skips_by_context:premium"]["numbers"]["values"]
    assert premium["true"] == {"plays": 5, "skips": 2, "share": 2 / 5}
    assert premium["false"] == {"plays": 8, "skips": 2, "share": 2 / 8}
    hours = found["skips_by_hour"]["numbers"]["values"]
    assert hours["3"] == {"plays": 9, "skips": 4, "share": 4 / 9}
    assert hours["5"] == {"plays": 0, "skips": 0, "share": None}
    alike = findings(made(listening("a* b c* d", "a b* c d")))["skips_by_position"]
    assert (alike["severity"], alike["numbers"]["last"]) == ("warning", 0)
    rule = found["feedback"]
    assert rule["numbers"]["events_by_level"] == [9, 0, 4, 0]
    assert rule["sentence"].startswith("Skipped means ")
    assert rule["numbers"]["rule"] in rule["sentence"]


@pytest.mark.parametrize(("unit", "size"), [("s", 1), ("ms", 10**3), ("ns", 10**9)])
def test_hours_come_from_times_where_there_is_no_column(unit, size):
    # Of the year 2026, whose nanoseconds no float64 holds.
    times = [1_770_000_000 // DAY * DAY + t for t in (5 * HOUR, 5 * HOUR + 1, 6 * HOUR, 29 * HOUR)]
    found = findings(made(listening("a b* c d"), times=[size * t for t in times], unit=unit))
    assert found["order"]["numbers"]["resolution_seconds"] == 1
    assert found["temporal"]["numbers"]["hours"] == 24
    hours = found["skips_by_hour"]["numbers"]["values"]
    assert (hours["5"]["plays"], hours["5"]["skips"], hours["6"]["plays"]) == (3, 1, 1)


@pytest.mark.parametrize(("texts", "word"), [(["a b c d"], "No"), (["a* b* c* d*"], "Every")])
def test_skips_everywhere_or_nowhere_are_serious(texts, word):
    found = findings(made(listening(*texts)))["skip_share"]
    assert found["severity"] == "serious"
    assert found["sentence"].startswith(word)


def test_other_feedback_than_levels_is_named_with_what_is_known_of_it():
    percent = np.array([10, 80, -1, 100], np.int16)
    found = findings(
        made(
            listening("a b c d"),
            played_percent=percent,
            info={"feedback": ["played_percent"], "inferred": True},
        )
    )
    rule = found["feedback"]
    assert rule["numbers"]["known"] == {"played_percent": 3 / 4}
    assert "played below 50 %" in rule["sentence"]
    assert "known for 75 %" in rule["sentence"]
    assert rule["severity"] == "note"
    assert "by ear or eye" in rule["advice"]
    assert found["skip_share"]["numbers"]["share"] == 1 / 4
    assert "skips_by_context:played_percent" not in found


def test_ties_and_falls_of_time():
    sessions = made(listening("a b c d e", "a b c d"), times=[1, 1, 2, 7, 6, 10, 10, 10, 11])
    found = findings(sessions)["order"]
    numbers = found["numbers"]
    assert (numbers["neighbours"], numbers["ties"], numbers["falls"]) == (7, 3, 1)
    assert numbers["sessions_with_falls"] == 1
    assert numbers["resolution_seconds"] == 1
    assert found["severity"] == "serious"
    fine = findings(made(listening("a b c d"), times=[3, 4, 9, 10]))["order"]
    assert (fine["severity"], fine["numbers"]["ties"]) == ("ok", 0)


def test_coarse_times_are_no_ties():
    hours = [2 * HOUR] * 3 + [3 * HOUR]
    found = findings(made(listening("a b c d"), times=hours))
    assert found["order"]["numbers"]["resolution_seconds"] == HOUR
    assert "the hour only" in found["order"]["sentence"]
    assert found["order"]["severity"] == "note"
    assert found["duplicates"]["numbers"]["plays"] is None


def test_duplicates():
    texts = ["a b c d", "a b c* d", "a b c d", "d c b a", "a b c d e", "a b c d"]
    found = findings(made(listening(*texts)))["duplicates"]["numbers"]
    assert found["sessions"] == 2
    assert found["sessions_with_the_same_tracks"] == 3
    times = [[10, 11, 12, 13], [20, 21, 22, 23], [10, 11, 12, 13], [3, 4, 5, 6], [1, 2, 3, 4, 5]]
    times += [[10, 11, 12, 14]]
    times = [moment for session in times for moment in session]
    found = findings(made(listening(*texts), times=times))["duplicates"]
    assert found["numbers"]["sessions"] == 1
    assert found["severity"] == "serious", "1 of 6 sessions"


def test_plays_logged_twice():
    sessions = made(listening("a b a c c d", "a b c d"), times=[5, 5, 5, 6, 6, 7, 5, 5, 5, 9])
    found = findings(sessions)["duplicates"]["numbers"]
    assert found["plays"] == 2, "a at 5 and c at 6, of one session each"
    assert found["sessions"] == 0


def test_repeat_listens():
    sessions = made(listening("a a b a c c", "b d e a f", "x y z x"), ids=["u#1", "u#2", "v"])
    found = findings(sessions)["repeats"]["numbers"]
    assert found["immediate"] == 2
    assert found["immediate_share"] == 2 / (5 + 4 + 3)
    assert found["in_session"] == 3 + 1, "two more a and one more c, and one more x"
    assert found["in_earlier_session"] == 2, "b and a"
    assert found["targets_heard"] == 2, "c and x"
    assert found["targets_ahead"] == 0
    ahead = findings(made(listening("a b c d", "e d f g"), ids=["u#1", "u#2"]))
    assert ahead["repeats"]["numbers"]["targets_ahead"] == 1
    held_out = findings(made(listening("a b c d", "e f d g"), ids=["u#1", "u#2"]))
    assert held_out["repeats"]["numbers"]["targets_ahead"] == 0


def daily(days=4, each=3):
    """Sessions of four tracks a minute apart, `each` on each day an hour apart from noon."""
    starts = [DAY * day + HOUR * (12 + i) for day in range(days) for i in range(each)]
    return [start + 60 * i for start in starts for i in range(4)]


def test_the_split_in_time_and_its_boundaries():
    # Ends on day 3, 14:03, so the test begins on day 2, 14:03, and validation on day 1, 14:03.
    sessions = made(listening(*["a b c d"] * 12), times=daily())
    found = findings(sessions)["temporal"]
    assert found["numbers"]["parts"] == {"train": 5, "valid": 2, "test": 3}
    assert found["numbers"]["at_a_boundary"] == 2, "those that begin at 14:00 on days 1 and 2"
    assert sum(found["numbers"]["sessions_by_bin"]) == 12
    assert found["severity"] == "note", "no more, as the run does not use it"
    chosen = findings(sessions, data__split="temporal")["temporal"]
    assert chosen["severity"] == "serious", "3 test sessions"


def test_a_split_in_time_that_cannot_be_is_no_error():
    sessions = made(listening(*["a b c d"] * 3), times=daily(1))
    found = findings(sessions)["temporal"]
    assert (found["severity"], found["numbers"]["parts"]) == ("note", None)
    assert found["advice"] == "", "no test period leaves something for all three parts"
    assert findings(sessions, data__split="temporal")["temporal"]["severity"] == "serious"


def test_the_hours_that_are_proposed_give_a_test_period():
    sessions = made(listening(*["a b c d"] * 120), times=daily(40))
    found = findings(sessions, data__temporal__test_hours=1.0, data__temporal__valid_hours=1.0)
    hours = float(re.search(r"test_hours=(\d+)", found["temporal"]["advice"])[1])
    again = findings(sessions, data__temporal__test_hours=hours, data__temporal__valid_hours=hours)
    # From 14:00 on day 37 to 14:03 on day 39 there are 7 of 120, and 49 hours begun.
    assert (hours, again["temporal"]["numbers"]["parts"]["test"]) == (49, 7)


def test_without_times_it_says_that_it_cannot_tell():
    found = findings(made(listening(*["a b* c d"] * 3)))
    for name in ("order", "temporal", "future", "future_markov", "skips_by_hour"):
        assert not found[name]["known"], name
        assert "cannot be told" in found[name]["sentence"]
        assert found[name]["severity"] == "note"
    assert found["duplicates"]["known"]
    assert "temporal" not in found["cold"]["numbers"]


def test_cold_targets():
    texts = ["a b c d", "a b d c", "b a c e", "a b c b"]
    times = [DAY * day + 60 * i for day in range(4) for i in range(4)]
    sessions = made(listening(*texts), times=times)
    found = findings(sessions, data__temporal__test_hours=12.0)["cold"]
    # Training spans have a and b alone, so d, c and e are cold.
    assert found["numbers"]["leave_one_out"] == 3 / 4
    assert found["severity"] == "serious"
    assert found["numbers"]["temporal"] == 0, "the last session alone is asked for b"
    assert found["numbers"]["test_sessions"] == {"leave_one_out": 4, "temporal": 1}


def test_popularity():
    found = findings(made(listening("a a b c", "a d e f", "a a g h", "a a i j")))["popularity"]
    numbers = found["numbers"]
    assert (numbers["most_plays"], numbers["one_play_tracks"]) == (7, 9)
    assert numbers["one_play_share"] == 9 / 10
    assert numbers["top_1_percent"] == numbers["top_10_percent"] == 7 / 16, "one track of ten"
    assert popularity.gini(np.array([3, 3, 3])) == 0
    assert popularity.gini(np.array([0, 0, 0, 8])) == 3 / 4
    # Of two numbers, half their difference as a share of their sum.
    assert popularity.gini(np.array([1, 4])) == pytest.approx((4 - 1) / 5 / 2)


def test_the_most_popular_baseline():
    # Ten tracks are trained on twice each, and seven of ten targets are among them.
    texts = [f"{x} {x} p {y}" for x, y in zip("abcdefghij", "bcdefghxyz", strict=True)]
    found = findings(made(listening(*texts)))["most_popular"]["numbers"]
    assert found["hr@10"] == 7 / 10
    # With an eleventh as often, all of them tie at rank 11.
    found = findings(made(listening(*texts, "k k p k")))["most_popular"]["numbers"]
    assert found["hr@10"] == 0


def test_the_sampled_rank_of_the_most_popular_is_a_chance():
    better, others, drawn = np.array([0, 5, 30, 99]), 99, 40
    np.testing.assert_allclose(
        popularity._chance_of_hit(better, others, drawn),
        stats.hypergeom.cdf(9, others, better, drawn),
        atol=1e-9,
    )


def in_order(texts):
    """Sessions a day apart, in the order of time."""
    return [DAY * day + i for day, text in enumerate(texts) for i in range(len(text.split()))]


def test_a_planted_leak_is_found():
    # The first three sessions ask for y after x, which only the last three train on.
    texts = ["a b x y", "c d x y", "e f x y", "x y g h", "x y i j", "x y k l"]
    found = findings(made(listening(*texts), times=in_order(texts)))
    leak = found["future"]["numbers"]
    assert leak["pair"] == {"earlier": 0, "later": 3 / 6, "only_later": 3 / 6}
    assert leak["target"] == {"earlier": 0, "later": 3 / 6, "only_later": 3 / 6}
    markov = found["future_markov"]["numbers"]
    assert (markov["hr@10"], markov["hr@10_earlier"]) == (3 / 6, 0)
    reverse = findings(made(listening(*texts[::-1]), times=in_order(texts)))
    assert reverse["future"]["numbers"]["pair"] == {"earlier": 3 / 6, "later": 0, "only_later": 0}


def test_the_worth_of_the_future_is_not_that_of_more_sessions():
    """What follows x drifts: sessions soon after tell more than those before or at random."""
    rng = np.random.default_rng(0)
    texts, still = [], []
    for week in range(40):
        for _ in range(10):
            # Training tells of this week and the tests of last week's: the past knows nothing.
            texts.append(f"x t{week:02d}n{rng.integers(3)} p x t{week + 1:02d}n{rng.integers(3)}")
            still.append(f"x n{rng.integers(3)} p x n{rng.integers(3)}")
    drifting = findings(made(listening(*texts), times=in_order(texts)))["future_markov"]
    assert drifting["numbers"]["hr@10_earlier"] == 0
    assert drifting["severity"] == "serious"
    steady = findings(made(listening(*still), times=in_order(still)))["future_markov"]
    assert steady["numbers"]["hr@10"] == 1
    assert steady["numbers"]["hr@10_earlier"] > 0.98, "all but the first sessions"
    assert steady["severity"] == "ok"


def test_what_came_before_in_the_session_itself_is_always_known():
    """Ten sessions that each repeat a pair of their own: it ties with nine others at most."""
    texts = [f"x f{i} p x f{i}" for i in range(10)]
    found = findings(made(listening(*texts), times=in_order(texts)))["future_markov"]["numbers"]
    assert found["hr@10_earlier"] == found["hr@10_as_many_at_random"] == found["hr@10"] == 1


def random_sessions(rng, num_sessions=60, num_tracks=12):
    texts = [
        " ".join(
            f"t{rng.integers(num_tracks)}{'*' if rng.random() < 0.4 else ''}"
            for _ in range(rng.integers(4, 9))
        )
        for _ in range(num_sessions)
    ]
    starts = rng.integers(0, 40, num_sessions) * HOUR
    times = [
        int(start + 30 * i)
        for start, text in zip(starts, texts, strict=True)
        for i in range(len(text.split()))
    ]
    ids = [f"u{i // 3}#{i % 3 + 1}" for i in range(num_sessions)]
    return texts, starts, made(listening(*texts), times=times, ids=ids)


def test_the_future_as_loops_have_it(rng, monkeypatch):
    texts, starts, sessions = random_sessions(rng)
    monkeypatch.setattr(audit_data, "CHUNK_EVENTS", 50)
    found = findings(sessions)
    heard = [[name.rstrip("*") for name in text.split()] for text in texts]
    spans = [names[:-2] for names in heard]
    pairs = [list(itertools.pairwise(names)) for names in spans]
    shares = {"pair": [0, 0, 0], "target": [0, 0, 0]}
    hits = {"hr@10": [], "hr@10_earlier": []}
    for i, names in enumerate(heard):
        wanted = {"pair": (names[-2], names[-1]), "target": names[-1]}
        for what, inside in (("pair", pairs), ("target", spans)):
            earlier = any(wanted[what] in inside[j] for j in range(60) if starts[j] < starts[i])
            later = any(wanted[what] in inside[j] for j in range(60) if starts[j] > starts[i])
            for k, one in enumerate((earlier, later, later and not earlier)):
                shares[what][k] += one
        for name, most in (("hr@10", np.inf), ("hr@10_earlier", starts[i])):
            followers = [
                b for j in range(60) if starts[j] <= most for a, b in pairs[j] if a == names[-2]
            ]
            count = followers.count(names[-1])
            ahead = sum(followers.count(other) >= count for other in set(followers))
            hits[name].append(count > 0 and ahead <= future._CUTOFF)
    for what, numbers in shares.items():
        expected = [number / 60 for number in numbers]
        assert list(found["future"]["numbers"][what].values()) == pytest.approx(expected)
    for name, values in hits.items():
        assert found["future_markov"]["numbers"][name] == pytest.approx(np.mean(values))
    again = [sum(len(n) - len(set(n)) for n in heard)]
    assert found["repeats"]["numbers"]["in_session"] == again[0]


def test_ten_places_are_ten():
    """Of eleven followers as frequent as the target, none is a hit; of ten, all are."""
    for number, rate in ((11, 0.0), (10, 1.0)):
        texts = [f"x f{i} p x f{i}" for i in range(number)]
        found = findings(made(listening(*texts), times=in_order(texts)))["future_markov"]
        assert found["numbers"]["hr@10"] == rate


def test_neither_chunks_nor_the_order_of_columns_change_what_is_found(rng, monkeypatch):
    _, _, sessions = random_sessions(rng)
    whole = audit(sessions, config(), "made")
    assert audit(sessions, config(), "made") == whole, "the same again"
    monkeypatch.setattr(audit_data, "CHUNK_EVENTS", 30)
    parts = audit(sessions, config(), "made")
    for one in (whole, parts):
        signal = next(found for found in one["findings"] if found["name"] == "signal")
        del signal["numbers"]["shuffled"], signal["sentence"]  # dealt out anew chunk by chunk
    assert parts == whole


def test_listeners_come_together_wherever_their_sessions_lie():
    texts = ["a b c d", "p q r s", "e d f g"]
    found = findings(made(listening(*texts), ids=["u#1", "v", "u#2"]))["repeats"]["numbers"]
    assert (found["in_earlier_session"], found["targets_ahead"]) == (1, 1)


# Skip labels.


def with_labels(rng, label, num_sessions=400, num_tracks=50, **context):
    """Sessions of 8 tracks; `label(track, place, hour)` is the chance of a skip."""
    tracks = rng.integers(num_tracks, size=(num_sessions, 8))
    hours = np.repeat(rng.integers(24, size=(num_sessions, 1)), 8, axis=1)
    chance = label(tracks, np.arange(8)[None].repeat(num_sessions, axis=0), hours)
    skipped = rng.random(tracks.shape) < chance
    events = [
        [(f"t{t:02d}", 2 * int(s)) for t, s in zip(*rows, strict=True)]
        for rows in zip(tracks, skipped, strict=True)
    ]
    columns = {name: made_of(skipped).reshape(-1) for name, made_of in context.items()}
    return made(events, hour_of_day=hours.reshape(-1).astype(np.int8), **columns)


def baselines(finding):
    return {row["name"]: row for row in finding["numbers"]["baselines"]}


def test_labels_without_a_pattern_are_said_to_have_none(rng):
    found = findings(with_labels(rng, lambda tracks, places, hours: 0.4 + 0 * tracks))["signal"]
    assert found["severity"] == "serious"
    assert found["sentence"].startswith("Labels carry no signal that these baselines can see (AUC")
    whole = baselines(found)["all"]
    assert whole["low"] <= 0.5 <= whole["high"]
    assert found["numbers"]["held_out"]["events"] == 2 * 400
    assert "listener" not in baselines(found), "no listener has two sessions"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("track", lambda tracks, places, hours: np.where(tracks % 2, 0.8, 0.2)),
        ("hour", lambda tracks, places, hours: np.where(hours < 12, 0.8, 0.2)),
    ],
)
def test_a_planted_signal_is_found(rng, name, label):
    found = findings(with_labels(rng, label))["signal"]
    assert found["severity"] == "ok"
    rows = baselines(found)
    # A skip is of the kind that is skipped more with chance .8, a play of the other with .8.
    same, right = 2 * 0.8 * 0.2, 0.8 * 0.8
    assert rows[name]["auc"] == pytest.approx(right + same / 2, abs=0.04)
    assert rows["all"]["auc"] >= rows[name]["auc"] - 0.02
    shuffled = found["numbers"]["shuffled"]
    assert shuffled["low"] <= 0.5 <= shuffled["high"]


def test_previous_skips_tell_of_the_next(rng):
    """Sessions of all skips and sessions of all plays: what came before tells all."""
    kind = rng.integers(2, size=200)
    texts = [" ".join(f"t{t}{'*' * k}" for t in rng.integers(30, size=6)) for k in kind]
    found = findings(made(listening(*texts)))["signal"]
    rows = baselines(found)
    assert rows["previous"]["auc"] == rows["session"]["auc"] == 1.0
    assert found["severity"] == "warning", "too good to be true"
    assert "almost without error" in found["sentence"]


def test_held_out_labels_of_earlier_sessions_are_not_read(rng):
    """Of listeners who differ in held-out labels alone, the listener's rate knows nothing."""
    texts, ids = [], []
    for listener in range(150):
        for piece in range(2):
            skips = [*(rng.random(6) < 0.5), *[listener % 2 == 0] * 2]
            texts.append(" ".join(f"t{rng.integers(40)}{'*' * bool(skip)}" for skip in skips))
            ids.append(f"u{listener}#{piece + 1}")
    rows = baselines(findings(made(listening(*texts), ids=ids))["signal"])
    assert rows["listener"]["auc"] == pytest.approx(0.5, abs=0.08)
    # Of a last track, the label before it is known; which way it points, training cannot tell.
    assert abs(rows["previous"]["auc"] - 0.5) > 0.2


def test_what_was_logged_of_the_play_itself_is_not_read_but_named(rng):
    def reason(skipped):
        return np.where(skipped, "fwdbtn", "trackdone")

    def coin(tracks, places, hours):
        return 0.4 + 0 * tracks

    found = findings(with_labels(np.random.default_rng(7), coin, reason_end=reason))
    without = findings(with_labels(np.random.default_rng(7), coin))
    assert found["signal"] == without["signal"]
    # Texts are dictionaries in a prepared folder, and not here.
    assert "skips_by_context:reason_end" not in found

    encoded = with_labels(np.random.default_rng(7), coin, reason_end=reason)
    table = encoded.context
    column = table["reason_end"].combine_chunks().dictionary_encode()
    index = table.column_names.index("reason_end")
    encoded = dataclasses.replace(encoded, context=table.set_column(index, "reason_end", column))
    named = findings(encoded)["skips_by_context:reason_end"]
    assert named["severity"] == "warning"
    assert named["numbers"]["auc"] == 1.0
    assert "logged after the play" in named["advice"]


def test_too_few_skips_to_tell(rng):
    found = findings(made(listening(*["a b* c d", "b c a d*"] * 3)))["signal"]
    assert not found["known"]
    assert "cannot be told: 3 skips among 12 held-out plays" in found["sentence"]


def test_auc_is_a_share_of_pairs(rng):
    scores, labels = rng.integers(5, size=60), rng.random(60) < 0.4
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[labels] for b in scores[~labels]
    ]
    assert measures.auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert measures.auc(scores, np.zeros(60, bool)) is None


def test_the_interval_of_an_auc_knows_its_clusters(rng):
    """Events of one cluster are copies, so the interval is that of the clusters."""
    scores, labels = rng.random(100), rng.random(100) < 0.5
    once = measures.auc_interval(scores, labels, np.arange(100), seed=0)
    copies = [np.repeat(x, 9) for x in (scores, labels)]
    clustered = measures.auc_interval(*copies, np.repeat(np.arange(100), 9), seed=0)
    np.testing.assert_allclose(clustered, once)
    alone = measures.auc_interval(*copies, np.arange(900), seed=0)
    assert alone[2] - alone[1] < 0.6 * (once[2] - once[1])
    covered = 0
    for _ in range(40):
        labels = rng.random(150) < 0.5
        found = measures.auc_interval(rng.normal(labels * 0.5), labels, np.arange(150), seed=0)
        covered += found[1] <= stats.norm.cdf(0.5 / np.sqrt(2)) <= found[2]
    assert covered >= 34


def test_logistic_regression_is_where_its_slope_is_zero(rng):
    x = rng.normal(size=(300, 3)) * [1, 5, 0.1] + [0, 3, -1]
    y = rng.random(300) < 1 / (1 + np.exp(-(0.5 + x[:, 0] - 0.2 * x[:, 1])))
    fitted = measures.LogisticRegression(x, y)
    p = 1 / (1 + np.exp(-fitted(x)))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    weights = np.linalg.lstsq(standard, fitted(x) - fitted(x).mean(), rcond=None)[0]
    np.testing.assert_allclose(standard.T @ (p - y) + weights, 0, atol=1e-6)
    assert p.mean() == pytest.approx(y.mean())
    constant = measures.LogisticRegression(np.ones((4, 1)), np.array([True, False, True, True]))
    np.testing.assert_allclose(constant(np.ones((1, 1))), np.log(3))


# What a config asks of the data.


def test_flags_for_small_data_let_a_run_begin():
    sessions = made(listening(*(f"t{i} t{i + 1} t{i + 2} t{i + 3}" for i in range(30))))
    assert "--config.data.max_length=4" in findings(sessions, data__max_length=3)["sizes"]["advice"]
    found = findings(sessions)["sizes"]
    assert found["severity"] == "serious"
    assert found["numbers"]["flags"] == [
        "--config.eval.num_candidates=29",  # 33 tracks less a session's 4
        "--config.sampling.scope=full",
        "--config.train.batch_size=30",
    ]
    assert all(flag in found["advice"] for flag in found["numbers"]["flags"])
    common = importlib.import_module("configs.common").get_config()
    split = split_as(common.data, sessions)
    with pytest.raises(ConfigError):
        check_data_limits(common, split)
    common.eval.num_candidates, common.sampling.scope, common.train.batch_size = 29, "full", 30
    check_data_limits(common, split)
    Candidates(split, 29, 0)
    with pytest.raises(ConfigError):
        Candidates(split, 30, 0)
    enough = findings(
        sessions, eval__num_candidates=29, sampling__scope="full", train__batch_size=30
    )
    assert enough["sizes"]["numbers"]["flags"] == []


# JSON, command and page.

SCHEMA = {
    "format": int, "skipjax": str, "name": str, "source": str, "synthetic": bool, "digest": str,
    "split": str, "skipped_means": str, "config": dict, "thresholds": dict, "findings": list,
}  # fmt: skip
FINDING = {
    "name": str, "title": str, "severity": str, "sentence": str, "numbers": dict, "advice": str,
    "known": bool,
}  # fmt: skip
ALWAYS = {
    "size", "lengths", "feedback", "skip_share", "skips_by_position", "skips_by_hour", "order",
    "duplicates", "repeats", "temporal", "cold", "sizes", "popularity", "most_popular", "future",
    "future_markov", "signal",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder with times, cut listeners, context and a signal."""
    from skipjax.data import table

    rng = np.random.default_rng(0)
    rows = ["user,track,time,skipped,device"]
    for user in range(60):
        moment = int(rng.integers(0, 30 * DAY))
        for _ in range(25):
            track = int(rng.integers(40))
            moment += int(rng.integers(30, 300))
            skipped = int(rng.random() < (0.7 if track % 3 else 0.1))
            device = ("phone", "desktop")[int(rng.integers(2))]
            rows.append(f"u{user},t{track},{moment},{skipped},{device}")
    place = tmp_path_factory.mktemp("audit")
    (place / "plays.csv").write_text("\n".join(rows) + "\n")
    columns = table.Columns(
        session_column="user", track_column="track", time_column="time", time_unit="s",
        skip_column="skipped", context_columns=("device",),
    )  # fmt: skip
    table.prepare(place / "plays.csv", place / "prepared", columns)
    return place / "prepared"


@pytest.fixture(scope="module")
def found(folder):
    return audit(Sessions.open(folder), config(), folder.name)


def test_json_has_the_schema_that_it_promises(found):
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found, "as it is after reading"
    assert {key: type(value) for key, value in found.items()} == SCHEMA
    assert {finding["name"] for finding in found["findings"]} == ALWAYS | {
        "skips_by_context:device"
    }
    for finding in found["findings"]:
        assert {key: type(value) for key, value in finding.items()} == FINDING
        assert finding["severity"] in SEVERITIES
        assert re.fullmatch(r"\S.*[.)]", finding["sentence"]), finding["sentence"]
        if finding["known"]:
            assert finding["numbers"]
    order = [SEVERITIES.index(finding["severity"]) for finding in found["findings"]]
    assert order == sorted(order)


def test_a_prepared_folder_is_read_as_it_was_logged(found):
    numbers = {finding["name"]: finding["numbers"] for finding in found["findings"]}
    assert numbers["size"]["listeners"] == 60
    assert numbers["size"]["sessions"] == 120, "25 events are cut into 20 and 5"
    assert numbers["lengths"]["pieces_share"] == 1
    assert numbers["order"]["ties"] == 0
    assert set(numbers["skips_by_context:device"]["values"]) == {"phone", "desktop"}
    assert [row["name"] for row in numbers["signal"]["baselines"]] == [
        "track", "session", "listener", "previous", "position", "popularity", "hour", "all",
    ]  # fmt: skip
    assert numbers["signal"]["baselines"][0]["auc"] > 0.7


def command(*arguments) -> int:
    return main(["audit", *map(str, arguments)])


def test_the_command_writes_beside_the_folder(folder, capsys):
    before = sorted(path.name for path in folder.iterdir())
    assert command(f"{folder}/") == 0
    beside = folder.with_name("prepared-audit")
    assert sorted(path.name for path in beside.iterdir()) == ["audit.html", "audit.json"]
    assert sorted(path.name for path in folder.iterdir()) == before
    out = capsys.readouterr().out
    assert str(beside / "audit.html") in out
    written = json.loads((beside / "audit.json").read_text())
    lines = out.splitlines()
    said = [line for line in lines if line.split()[0] in SEVERITIES]
    assert len(said) == len(written["findings"])
    for line, finding in zip(said, written["findings"], strict=True):
        assert finding["severity"] in line
        assert f"{finding['title']}: {finding['sentence']}" in line


@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")
def test_fields_of_the_config_are_those_of_the_run(folder, tmp_path, capsys):
    flags = ["--config.data.min_plays=5", "--config.data.temporal.test_hours=48"]
    assert command(folder, "--out", tmp_path / "one", *flags) == 0
    written = json.loads((tmp_path / "one" / "audit.json").read_text())
    assert written["config"]["data.min_plays"] == 5
    assert command(folder, "--out", tmp_path / "two", "--config=configs/tiny.py", *flags) == 0
    assert (tmp_path / "two" / "audit.json").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["DIR", "--out", "DIR/inside"], 2, "manifest"),
        (["DIR", "--out", "DIR"], 2, "manifest"),
        (["DIR", "--config.data.min_playz=2"], 2, "min_playz"),
        (["DIR", "--config.data.min_plays=0"], 2, "config.data.min_plays"),
        (["DIR", "--config.data.split=time"], 2, "choose one of"),
        (["DIR", "--config=no.py"], 2, "no such file"),
        (["DIR", "--outt=x"], 2, "Did you mean --out?"),
        (["nowhere"], 65, "no such folder"),
        (["DIR/../plays.csv"], 65, "is a file"),
        (["DIR/.."], 65, "manifest"),
        (["DIR", "--config.data.min_plays=1000"], 65, "no session is left"),
        (["DIR", "--out", "DIR/../plays.csv"], 73, "no folder"),
    ],
)
def test_mistakes_end_in_a_line(folder, tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    given = [argument.replace("DIR", str(folder)) for argument in arguments]
    assert command(*given) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_jax_is_not_imported(folder, tmp_path):
    program = (
        "import sys; from skipjax.cli.main import main; "
        f"code = main(['audit', {str(folder)!r}, '--out', {str(tmp_path / 'out')!r}]); "
        "sys.exit(code or any(name in sys.modules for name in ('jax', 'flax', 'orbax')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


mpl = pytest.importorskip("matplotlib")

from study_report_test import FRAMES, Page, browser, svgs  # noqa: E402, F401 (a fixture)

from skipjax.audit import report  # noqa: E402 (after the check for matplotlib)

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x> & $\\frac{ ]]> \u202e音楽"


@pytest.fixture(scope="module")
def page(found) -> str:
    return report.report(found)


def test_the_page_says_what_was_found(found, page):
    parsed = Page(page)
    text = " ".join(" ".join(parsed.text).replace("\u00a0", " ").split())
    for finding in found["findings"]:
        assert finding["title"] in text
    plain = re.sub("</?code>", "", page).replace("\u00a0", " ")
    for finding in found["findings"]:
        assert html.escape(finding["sentence"]) in plain
        assert html.escape(finding["advice"]) in plain
    counts = [f["severity"] for f in found["findings"]]
    assert f"{counts.count('ok')} checks found nothing to worry about" in text
    assert parsed.tags["script"] == 0
    assert len(set(parsed.ids)) == len(parsed.ids)
    for link in parsed.links:
        assert link.startswith("data:") or link.removeprefix("#") in parsed.ids
    assert "://" not in page
    assert parsed.tags["figure"] == 9
    assert len(parsed.images) == 2 * 9
    assert all(len(image["alt"]) > 20 for image in parsed.images)
    assert report.report(json.loads(json.dumps(found))) == page, "the same bytes again"


def test_flags_are_set_as_code():
    text = report._with_code("5 %: --config.data.min_plays=5, or prepare with --gap_minutes.")
    assert text == (
        "5\u00a0%: <code>--config.data.min_plays=5</code>, or prepare with "
        "<code>--gap_minutes</code>."
    )


def test_a_page_without_times_signal_or_context_is_whole():
    bare = audit(made(listening("a b* c d", "b c d e")), config(), HOSTILE)
    text = report.report(bare | {"source": HOSTILE})
    parsed = Page(text)
    assert parsed.tags["script"] == 0
    assert parsed.tags["img"] == 2 * parsed.tags["figure"] > 0
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert "\u202e" not in text
    assert "Synthetic" not in text
    assert "Synthetic data." in report.report(bare | {"synthetic": True})


def test_no_request_leaves_the_page(browser, page):  # noqa: F811
    policy = re.search("<meta http-equiv=[^>]*>", page)[0]
    dom, asked, urls = browser("page", page=page.replace(policy, ""))
    assert "<h1>Data audit</h1>" in dom
    assert asked == ["/page.html"]
    assert {url for url in urls if not url.startswith("data:")} == set()


def test_it_fits_phone_and_desktop_by_night(browser, found, page):  # noqa: F811
    long = "x" * 300
    one = copy.deepcopy(found) | {"name": long, "source": long}
    one["findings"][0] |= {"sentence": f"{long}.", "advice": f"--config.{long}=5", "title": long}
    dom, _, _ = browser("frames", True, page=page, long=report.report(one), frames=FRAMES)
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    for frame, width in zip(seen, (360, 1200, 360), strict=True):
        assert (frame["window"], frame["closed"], frame["opened"]) == (width, width, width)
        assert (frame["light"], frame["dark"], frame["broken"]) == (0, 9, 0)
        assert frame["paper"] == "rgb(20, 23, 27)"


def test_tiny_data_is_given_no_advice_that_leaves_nothing():
    found = findings(made(listening(*["a b c d"] * 3), times=daily(1)))
    assert "a session may have all the tracks there are" in found["sizes"]["sentence"]
    for name in ("popularity", "cold", "temporal"):
        assert "min_plays=5" not in found[name]["advice"]
    (alone,) = (f for n, f in findings(made(listening("a a a a"))).items() if n == "most_popular")
    assert "sampled" not in alone["sentence"]
