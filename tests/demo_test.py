"""Demo logs: MSSD's schema and shares, reproducible bytes, and structure that can be learnt."""

import datetime
import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from skipjax.data import demo
from skipjax.errors import ConfigError

COLUMNS = (
    "session_id,session_position,session_length,track_id_clean,skip_1,skip_2,skip_3,not_skipped,"
    "context_switch,no_pause_before_play,short_pause_before_play,long_pause_before_play,"
    "hist_user_behavior_n_seekfwd,hist_user_behavior_n_seekback,hist_user_behavior_is_shuffle,"
    "hour_of_day,date,premium,context_type,hist_user_behavior_reason_start,"
    "hist_user_behavior_reason_end"
)
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
ROWS = 167_880  # of MSSD's mini log, whose counts are asked for below


class Log:
    """The columns of log files, decoded: `log["skip_2"]` is a NumPy array."""

    def __init__(self, paths):
        strings = csv.ConvertOptions(column_types={"date": pa.string()})
        table = pa.concat_tables([csv.read_csv(path, convert_options=strings) for path in paths])
        self.columns = {
            name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names
        }
        self.starts = np.flatnonzero(self["session_position"] == 1)
        self.lengths = self["session_length"][self.starts]
        self.session = np.repeat(np.arange(len(self.starts)), self.lengths)
        self.track_ids, self.tracks = np.unique(self["track_id_clean"], return_inverse=True)

    def __getitem__(self, name):
        return self.columns[name]

    def share(self, name, value=True):
        return (self[name] == value).mean()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return demo.write_logs(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def log(paths):
    return Log(paths)


def test_files_are_as_mssd_has_them(paths):
    assert [path.name for path in paths] == ["log_0_20180715_000000000000.csv"]
    header, first, *_ = paths[0].read_text().split("\n")
    assert header == COLUMNS
    flag, binary = "(true|false)", "[01]"
    pattern = (
        f"0_{UUID},1,(1[0-9]|20),t_{UUID},{flag},{flag},{flag},{flag},"
        f"{binary},{binary},{binary},{binary},{binary},{binary},{flag},"
        f"[0-9]+,2018-07-1[56],{flag},[a-z_]+,[a-z]+,[a-z]+"
    )
    assert re.fullmatch(pattern, first)


def test_every_id_is_well_formed_and_sessions_differ(log):
    session_ids = log["session_id"][log.starts]
    assert all(re.fullmatch(f"0_{UUID}", name) for name in session_ids)
    assert all(re.fullmatch(f"t_{UUID}", name) for name in log.track_ids)
    assert len(set(session_ids)) == len(session_ids) == 4_000
    # Nearly the whole catalogue turns up.
    assert 0.95 * 5_000 < len(log.track_ids) <= 5_000


def test_sessions_hold_together(log):
    assert set(log.lengths) == set(range(10, 21))
    assert log.lengths.sum() == len(log.session)
    assert log.lengths.mean() == pytest.approx(ROWS / 10_000, abs=0.1)
    np.testing.assert_array_equal(
        log["session_position"], np.arange(len(log.session)) - log.starts[log.session] + 1
    )
    names = ("session_id", "session_length", "premium", "hist_user_behavior_is_shuffle")
    for name in names:
        np.testing.assert_array_equal(log[name], log[name][log.starts][log.session])


def test_time_passes_within_a_session(log):
    days = np.array([datetime.date.fromisoformat(day).toordinal() for day in log["date"]])
    hours = 24 * days + log["hour_of_day"]
    assert set(log["hour_of_day"]) == set(range(24))
    passed = np.diff(hours)[log.session[1:] == log.session[:-1]]
    assert set(passed) == {0, 1}
    assert len(set(log["date"])) == 2  # of one file's sessions, some pass midnight


def test_skips_are_nested(log):
    skip_1, skip_2, skip_3 = log["skip_1"], log["skip_2"], log["skip_3"]
    assert not (skip_1 & ~skip_2).any()
    assert not (skip_2 & ~skip_3).any()
    assert not (skip_3 & log["not_skipped"]).any()
    assert (~skip_3 & ~log["not_skipped"]).mean() == pytest.approx(0.019, abs=0.005)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("skip_1", True, 0.4215),
        ("skip_2", True, 0.5172),
        ("skip_3", True, 0.6484),
        ("not_skipped", True, 0.3329),
        ("hist_user_behavior_is_shuffle", True, 0.309),
        ("premium", True, 0.81),
        ("context_type", "user_collection", 67_430 / ROWS),
        ("context_type", "catalog", 38_263 / ROWS),
        ("context_type", "editorial_playlist", 35_663 / ROWS),
        ("context_type", "radio", 21_107 / ROWS),
        ("context_type", "personalized_playlist", 2_976 / ROWS),
        ("context_type", "charts", 2_441 / ROWS),
        ("hist_user_behavior_reason_start", "fwdbtn", 79_912 / ROWS),
        ("hist_user_behavior_reason_start", "trackdone", 55_075 / ROWS),
        ("hist_user_behavior_reason_start", "clickrow", 17_514 / ROWS),
        ("hist_user_behavior_reason_start", "backbtn", 13_034 / ROWS),
        ("hist_user_behavior_reason_start", "appload", 1_942 / ROWS),
        ("hist_user_behavior_reason_end", "fwdbtn", 81_389 / ROWS),
        ("hist_user_behavior_reason_end", "trackdone", 57_701 / ROWS),
        ("hist_user_behavior_reason_end", "endplay", 14_823 / ROWS),
        ("hist_user_behavior_reason_end", "backbtn", 13_129 / ROWS),
    ],
)
def test_shares_are_mssds(log, name, value, expected):
    tolerance = min(0.02, expected / 4)  # so that what never occurs does not pass
    assert log.share(name, value) == pytest.approx(expected, abs=tolerance)


def test_last_tracks_are_skipped_less(log):
    is_last = log["session_position"] == log["session_length"]
    assert log["skip_2"][is_last].mean() == pytest.approx(0.404, abs=0.025)  # of 4,000 events


def test_the_top_track_is_in_a_ninth_of_sessions(log):
    pairs = np.unique(np.stack([log.session, log.tracks]), axis=1)
    top = np.bincount(pairs[1]).max() / len(log.starts)
    assert top == pytest.approx(0.11, abs=0.02)


def test_reasons_follow_one_another(log):
    start, end = log["hist_user_behavior_reason_start"], log["hist_user_behavior_reason_end"]
    within = log.session[1:] == log.session[:-1]
    for reason in ("trackdone", "fwdbtn", "backbtn"):
        next_starts = start[1:][within & (end[:-1] == reason)]
        assert len(next_starts) > 1_000
        assert (next_starts == reason).all()
    assert log["skip_3"][end == "fwdbtn"].mean() > 0.98
    assert log["not_skipped"][end == "trackdone"].mean() > 0.9


def test_exactly_one_kind_of_pause(log):
    kinds = ["no_pause_before_play", "short_pause_before_play", "long_pause_before_play"]
    assert (sum(log[kind] for kind in kinds) == 1).all()


def test_context_changes_only_at_a_switch(log):
    context, switch = log["context_type"], log["context_switch"]
    assert not switch[log.starts].any()
    changed = (context[1:] != context[:-1]) & (log.session[1:] == log.session[:-1])
    assert changed.any()
    assert switch[1:][changed].all()


def test_same_arguments_same_bytes(tmp_path):
    def content(name, **kwargs):
        paths = demo.write_logs(tmp_path / name, num_sessions=200, num_tracks=300, **kwargs)
        return [path.read_bytes() for path in paths]

    first = content("a", seed=3)
    assert content("b", seed=3) == first
    assert content("c", seed=4) != first
    assert content("d", seed=3, skip_share=0.15) != first


def test_track_ids_do_not_depend_on_sizes(tmp_path):
    few = Log(demo.write_logs(tmp_path / "few", num_sessions=100, num_tracks=200))
    many = Log(demo.write_logs(tmp_path / "many", num_sessions=900, num_tracks=300))
    other = Log(demo.write_logs(tmp_path / "other", num_sessions=100, num_tracks=200, seed=1))
    assert len(np.intersect1d(few.track_ids, many.track_ids)) > 0.95 * len(few.track_ids)
    assert len(np.intersect1d(few.track_ids, other.track_ids)) == 0


def test_many_sessions_go_to_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FILE_SESSIONS", 20)
    monkeypatch.setattr(demo, "BLOCK_SESSIONS", 10)
    calls = []
    paths = demo.write_logs(
        tmp_path, num_sessions=215, num_tracks=100, progress=lambda *args: calls.append(args)
    )
    expected = [f"log_{i}_20180715_000000000000.csv" for i in range(10)]
    assert [path.name for path in paths] == [*expected, "log_0_20180716_000000000000.csv"]
    logs = [Log([path]) for path in paths]
    assert [len(log.starts) for log in logs] == [20] * 10 + [15]
    for number, log in enumerate(logs):
        assert {name.split("_")[0] for name in log["session_id"]} == {str(number % 10)}
    assert len(np.unique(Log(paths)["session_id"])) == 215
    assert [done for done, _, _ in calls] == [*range(10, 211, 10), 215]
    assert {total for _, total, _ in calls} == {215}


@pytest.mark.parametrize("skip_share", [0.15, 0.8])
def test_skip_share(tmp_path, skip_share):
    log = Log(demo.write_logs(tmp_path, skip_share=skip_share))
    assert log.share("skip_2") == pytest.approx(skip_share, abs=0.01)
    assert log.share("skip_1") < log.share("skip_2") < log.share("skip_3")
    if skip_share < 0.5:
        assert log.share("skip_1") == pytest.approx(0.4215 / 0.5172 * skip_share, abs=0.01)
        assert log.share("skip_3") == pytest.approx(0.6484 / 0.5172 * skip_share, abs=0.01)


@pytest.mark.parametrize(("num_sessions", "num_tracks"), [(1, 100), (2, 109), (150, 300)])
def test_small_logs(tmp_path, num_sessions, num_tracks):
    log = Log(demo.write_logs(tmp_path, num_sessions=num_sessions, num_tracks=num_tracks))
    assert len(log.starts) == num_sessions
    assert len(log.track_ids) <= num_tracks


def test_the_next_track_can_be_learnt(log):
    """The most frequent followers of the last track beat the most popular tracks threefold."""
    last = log.starts + log.lengths - 1
    num_tracks = len(log.track_ids)
    in_training = log["session_length"] - log["session_position"] >= 2
    popular = np.argsort(-np.bincount(log.tracks[in_training]))[:10]
    popular_hits = np.isin(log.tracks[last], popular).mean()

    follows = in_training[1:] & (log.session[1:] == log.session[:-1])
    pairs = log.tracks[:-1][follows] * num_tracks + log.tracks[1:][follows]
    pairs, counts = np.unique(pairs, return_counts=True)
    order = np.lexsort([-counts, pairs // num_tracks])
    previous = pairs[order] // num_tracks
    rank = np.arange(len(order)) - np.searchsorted(previous, previous)
    asked = log.tracks[last - 1] * num_tracks + log.tracks[last]
    follower_hits = np.isin(asked, pairs[order][rank < 10]).mean()
    assert follower_hits > 3 * popular_hits > 0.06


def test_skips_tell_of_taste(tmp_path):
    """The tracks a listener stays with are heard together elsewhere; those they leave, less."""
    log = Log(demo.write_logs(tmp_path, num_sessions=2_000, num_tracks=1_000))
    num_tracks = len(log.track_ids)
    heard = np.zeros((len(log.starts), num_tracks), np.float32)
    heard[log.session, log.tracks] = 1
    here, elsewhere = heard[::2], heard[1::2]
    together = elsewhere.T @ elsewhere
    counts = np.maximum(np.diag(together), 1)
    together /= np.sqrt(counts[:, None] * counts[None, :])
    np.fill_diagonal(together, 0)

    played = np.zeros_like(heard)
    played[log.session[~log["skip_2"]], log.tracks[~log["skip_2"]]] = 1
    played = played[::2]
    skipped = here - played
    enough = (played.sum(axis=1) >= 2) & (skipped.sum(axis=1) >= 1)
    played, skipped = played[enough], skipped[enough]
    near = played @ together  # of any track to the played ones of a session
    num_played, num_skipped = played.sum(axis=1), skipped.sum(axis=1)
    to_played = (near * played).sum(axis=1) / (num_played * (num_played - 1))
    to_skipped = (near * skipped).sum(axis=1) / (num_played * num_skipped)
    assert to_played.mean() > 1.3 * to_skipped.mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_sessions": 0}, "num_sessions is 0"),
        ({"num_tracks": 99}, "num_tracks is 99; it must be from 100 to"),
        ({"seed": -1}, "seed is -1"),
        ({"skip_share": 0.0}, "skip_share is 0.0"),
        ({"skip_share": 1.0}, "skip_share is 1.0"),
    ],
)
def test_impossible_arguments_leave_nothing(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        demo.write_logs(tmp_path / "logs", **arguments)
    assert not (tmp_path / "logs").exists()
