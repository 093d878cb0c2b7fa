"""Made-up listening logs in MSSD's own schema, from a process in which skips tell of taste.

Nobody heard any of this: the shares are those of MSSD's 10,000-session mini log, the rest is the
process below, and whatever is measured on such logs is synthetic.

Tracks lie in albums of ALBUM_TRACKS, albums in styles of STYLE_TRACKS. A style is a random unit
vector; the vector z of a track is that of its style with noise, at length 1. Popularity is
Zipf-Mandelbrot over the tracks in a random order: w(r) = (r + POPULARITY_SHIFT)^-POPULARITY_DECAY
for the track of rank r = 1, 2, ...

A session is about one track, drawn by popularity or, in a NICHE_SHARE of sessions, from all alike:
the track's style is the session's, its vector the session's taste. Each next track is one of these:

1. The one after the last track on its album, whose end leads back to its start. Probability
   FOLLOW, by whether the last track was skipped; times FOLLOW_SHUFFLED in shuffled sessions.
2. Else one off taste, from all tracks by popularity. Probability OFF_TASTE, by the context; times
   OFF_TASTE_AFTER_SKIP after a skip, since leaving a track leads back to taste.
3. Else one of the session's style, from its n tracks in order the one at n · u^STYLE_SKEW for a
   uniform u, so that the first are its best known.

One heard in this session before gives way to the one after it on its album. The listener's
dislike of event i is

    dislike_i = (1 - z_i · taste) + MOOD · mood + MOMENTUM · dislike_{i-1} + NOISE · noise_i

with a standard normal mood per session and noise per event. The most disliked events are skip_1,
the next skip_2, and so on: thresholds, a set for each position and one for the last of a session,
are quantiles of a pilot sample of the same process, so that shares come out as asked. Reasons
follow the skips, but are labels only: "backbtn" brings no track back.
"""

import dataclasses
import datetime
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from skipjax.errors import ConfigError

VERSION = 1  # of the output: raise it with any change to what the same arguments give

FILE_SESSIONS = 196_000  # about what one MSSD log file holds
BLOCK_SESSIONS = 28_000  # made at a time; divides FILE_SESSIONS
PILOT_SESSIONS = 20_000
MIN_TRACKS = 100
FIRST_DATE = datetime.date(2018, 7, 15)

MIN_LENGTH, MAX_LENGTH = 10, 20
FULL_LENGTH_SHARE = 0.416  # have MAX_LENGTH tracks; shorter lengths are equally likely
MEAN_LENGTH = (
    FULL_LENGTH_SHARE * MAX_LENGTH + (1 - FULL_LENGTH_SHARE) * (MIN_LENGTH + MAX_LENGTH - 1) / 2
)  # 16.79

ALBUM_TRACKS = 12
STYLE_TRACKS = 6 * ALBUM_TRACKS
LATENT_SIZE = 6
LATENT_NOISE = 0.2
# These three: of a million tracks about 52,000 are heard in 10,000 sessions and 700,000 in
# 450,000; the top track in about 11 % of sessions, with 5,000 tracks as with a million.
POPULARITY_DECAY = 1.85
POPULARITY_SHIFT = 30.0
NICHE_SHARE = 0.25
STYLE_SKEW = 2

FOLLOW = np.array([0.6, 0.25])  # after a played and after a skipped track
FOLLOW_SHUFFLED = 0.4
OFF_TASTE_AFTER_SKIP = 0.6
MOOD, MOMENTUM, NOISE = 0.2, 0.15, 0.35

CONTEXTS = {  # events in MSSD's mini log, and how often the next track is one off taste
    "user_collection": (67_430, 0.4),
    "catalog": (38_263, 0.4),
    "editorial_playlist": (35_663, 0.6),
    "radio": (21_107, 0.7),
    "personalized_playlist": (2_976, 0.5),
    "charts": (2_441, 0.8),
}
CONTEXT_COUNTS, OFF_TASTE = np.array(list(CONTEXTS.values())).T
CONTEXT_SWITCH_SHARE = 0.03  # of events that are not a session's first
SHUFFLE_SHARE, PREMIUM_SHARE = 0.309, 0.810
PAUSE_SHARES = np.array([0.77, 0.09, 0.14])  # none, short, long
SEEK_SHARE = 0.03  # of events, forward and back alike

# Events have a degree: 0 not_skipped, 1 neither that nor skip_3, 2 skip_3, 3 skip_2, 4 skip_1.
DEGREE_SHARES = np.array([1 - 0.3329, 0.6484, 0.5172, 0.4215])  # of at least 1, 2, 3, 4
LAST_SKIP_SHARE = 0.404  # of skip_2 at the last position
SKIP_DEGREE = 3  # counts as skipped
MINUTES = np.array([3.6, 3.4, 2.0, 0.6, 0.2])  # heard, by degree

END_REASONS = ["trackdone", "fwdbtn", "backbtn", "endplay", "logout", "remote", "trackerror"]
REASONS = [*END_REASONS, "clickrow", "appload", "playbtn"]
END_SHARES = np.array(  # [is last, is skip_3, reason]
    [
        [
            [0.985, 0.006, 0.000, 0.006, 0.001, 0.001, 0.001],
            [0.013, 0.761, 0.126, 0.096, 0.001, 0.003, 0.000],
        ],
        [
            [0.633, 0.000, 0.000, 0.360, 0.004, 0.003, 0.000],
            [0.000, 0.430, 0.020, 0.530, 0.015, 0.005, 0.000],
        ],
    ]
)
NEXT_START = np.array([0, 1, 2, 7, 8, 5, 6])  # reason_start after each reason_end
FIRST_START_SHARES = np.array([0.05, 0.07, 0, 0, 0, 0.01, 0, 0.64, 0.194, 0.036])
HOUR_WEIGHTS = np.repeat([2, 1, 5, 8, 9, 11, 12, 7], 3)  # of a session's start, midnight first

# What a stream of random numbers is for: the second word of its seed.
_TRACKS, _TRACK_IDS, _PILOT, _BLOCKS, _SESSION_IDS = range(5)


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    """T tracks: `ids`, `vectors` [T, LATENT_SIZE], and `popularity` cumulated, [T]."""

    ids: pa.StringArray
    vectors: np.ndarray
    popularity: np.ndarray

    def popular(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count] tracks drawn by popularity."""
        return _pick(self.popularity, rng.random(count))

    def followers(self, tracks: np.ndarray) -> np.ndarray:
        """The track after each on its album."""
        ends = (tracks % ALBUM_TRACKS == ALBUM_TRACKS - 1) | (tracks == len(self.ids) - 1)
        return np.where(ends, tracks - tracks % ALBUM_TRACKS, tracks + 1)


@dataclasses.dataclass(frozen=True)
class _Block:
    """N sessions: `lengths` and `shuffled` [N], the rest [N, MAX_LENGTH] and padded."""

    lengths: np.ndarray
    shuffled: np.ndarray
    contexts: np.ndarray
    switches: np.ndarray
    tracks: np.ndarray
    degrees: np.ndarray


def write_logs(
    folder: str | os.PathLike,
    *,
    num_sessions: int = 4_000,
    num_tracks: int = 5_000,
    seed: int = 0,
    skip_share: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Writes made-up sessions as `log_<n>_<YYYYMMDD>_000000000000.csv` files, as MSSD has them.

    The same arguments and NumPy version give the same bytes. The id of a track or session depends
    on `seed` and its index alone. Memory is that of the catalogue and of BLOCK_SESSIONS sessions.

    Args:
      folder: made if it is not there; files of the same names are replaced, others left.
      num_sessions: of 10 to 20 tracks each.
      num_tracks: of the catalogue; the rarest may not be heard.
      seed: of every draw.
      skip_share: share of events with skip_2, which are those the paper counts as skipped; the
        other skip columns change in proportion. None is for MSSD's shares.
      progress: called with the sessions written, `num_sessions`, and what is being done.

    Returns:
      The files, in order.

    Raises:
      ConfigError: a count, seed or share for which there are no logs.
    """
    _check(num_sessions, num_tracks, seed, skip_share)
    catalogue = _catalogue(num_tracks, seed)
    pilot_rng = np.random.default_rng((seed, _PILOT))
    _, thresholds = _listen(catalogue, pilot_rng, PILOT_SESSIONS, shares=_shares(skip_share))
    # pyarrow's own header has quotes around the names.
    options = csv.WriteOptions(include_header=False, quoting_style="none")

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, num_sessions, FILE_SESSIONS)):
        digit, date = number % 10, FIRST_DATE + datetime.timedelta(days=number // 10)
        paths.append(folder / f"log_{digit}_{date:%Y%m%d}_000000000000.csv")
        stop = min(start + FILE_SESSIONS, num_sessions)
        with paths[-1].open("wb") as file:
            for first in range(start, stop, BLOCK_SESSIONS):
                count = min(BLOCK_SESSIONS, stop - first)
                rng = np.random.default_rng((seed, _BLOCKS, first))
                block, _ = _listen(catalogue, rng, count, thresholds=thresholds)
                ids = _ids(f"{digit}_", np.random.default_rng((seed, _SESSION_IDS, first)), count)
                table = _table(block, rng, ids, catalogue.ids, date)
                if first == start:
                    file.write((",".join(table.column_names) + "\n").encode())
                csv.write_csv(table, file, options)
                if progress is not None:
                    progress(first + count, num_sessions, "writing demo sessions")
    return paths


def _check(num_sessions, num_tracks, seed, skip_share) -> None:
    if num_sessions < 1:
        raise ConfigError(f"num_sessions is {num_sessions}; it must be at least 1.")
    if num_tracks < MIN_TRACKS:
        raise ConfigError(f"num_tracks is {num_tracks}; it must be at least {MIN_TRACKS}.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0.")
    if skip_share is not None and not 0 < skip_share < 1:
        raise ConfigError(f"skip_share is {skip_share}; it must be above 0 and below 1.")


def _shares(skip_share: float | None) -> tuple[np.ndarray, np.ndarray]:
    """DEGREE_SHARES before the last position and at it, for `skip_share` over all positions."""
    mssd = DEGREE_SHARES[SKIP_DEGREE - 1]

    def scaled(values: np.ndarray | float, share: float) -> np.ndarray:
        if share <= mssd:
            return np.multiply(values, share / mssd)
        return 1 - np.subtract(1, values) * (1 - share) / (1 - mssd)  # so that none passes 1

    share = mssd if skip_share is None else skip_share
    last = scaled(DEGREE_SHARES, scaled(LAST_SKIP_SHARE, share))
    before = (MEAN_LENGTH * scaled(DEGREE_SHARES, share) - last) / (MEAN_LENGTH - 1)
    return before, last


def _catalogue(num_tracks: int, seed: int) -> _Catalogue:
    rng = np.random.default_rng((seed, _TRACKS))
    styles = _unit(rng.standard_normal((-(-num_tracks // STYLE_TRACKS), LATENT_SIZE), np.float32))
    noise = rng.standard_normal((num_tracks, LATENT_SIZE), np.float32)
    ranks = 1 + rng.permutation(num_tracks)
    return _Catalogue(
        ids=_ids("t_", np.random.default_rng((seed, _TRACK_IDS)), num_tracks),
        vectors=_unit(styles[np.arange(num_tracks) // STYLE_TRACKS] + LATENT_NOISE * noise),
        popularity=_cumulated((ranks + POPULARITY_SHIFT) ** -POPULARITY_DECAY),
    )


def _listen(
    catalogue: _Catalogue,
    rng: np.random.Generator,
    count: int,
    *,
    thresholds: np.ndarray | None = None,
    shares: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[_Block, np.ndarray]:
    """`count` sessions of the process above, position by position, and the thresholds used.

    Thresholds of dislike are [MAX_LENGTH + 1, 4]: a row for each position, and one for the last
    of a session. Where `shares` are given instead, they are made so that these come out.
    """
    calibrating = thresholds is None
    if calibrating:
        thresholds = np.zeros((MAX_LENGTH + 1, len(DEGREE_SHARES)))
    is_full = _even(rng, count) < FULL_LENGTH_SHARE
    lengths = np.where(is_full, MAX_LENGTH, rng.integers(MIN_LENGTH, MAX_LENGTH, count))
    shuffled = _even(rng, count) < SHUFFLE_SHARE

    shape = (count, MAX_LENGTH)
    switches = rng.random(shape) < CONTEXT_SWITCH_SHARE
    switches[:, 0] = False
    uniform = rng.random(shape)
    uniform[:, 0] = _even(rng, count)
    since = np.maximum.accumulate(np.where(switches, np.arange(MAX_LENGTH), 0), axis=1)
    contexts = np.take_along_axis(_pick(_cumulated(CONTEXT_COUNTS), uniform), since, axis=1)

    is_niche = _even(rng, count) < NICHE_SHARE
    niche = rng.integers(len(catalogue.ids), size=count)
    about = np.where(is_niche, niche, catalogue.popular(rng, count))
    taste = catalogue.vectors[about]
    style_start = about - about % STYLE_TRACKS
    style_size = np.minimum(STYLE_TRACKS, len(catalogue.ids) - style_start)

    mood = MOOD * rng.standard_normal(count)
    dislike, last_dislike = np.zeros(count), np.zeros(count)
    skipped = np.zeros(count, bool)
    tracks, degrees = np.zeros(shape, np.int32), np.zeros(shape, np.int8)
    for i in range(MAX_LENGTH):
        off_taste = OFF_TASTE[contexts[:, i]] * np.where(skipped, OFF_TASTE_AFTER_SKIP, 1)
        in_style = (style_size * rng.random(count) ** STYLE_SKEW).astype(np.int64)
        track = np.where(
            rng.random(count) < off_taste, catalogue.popular(rng, count), style_start + in_style
        )
        if i > 0:
            follow = FOLLOW[skipped.astype(int)] * np.where(shuffled, FOLLOW_SHUFFLED, 1)
            followers = catalogue.followers(tracks[:, i - 1])
            track = np.where(rng.random(count) < follow, followers, track)
            heard = (tracks[:, :i] == track[:, None]).any(axis=1)
            track = np.where(heard, catalogue.followers(track), track)
        tracks[:, i] = track

        distance = 1 - (catalogue.vectors[track] * taste).sum(axis=1)
        noise = NOISE * rng.standard_normal(count)
        dislike = distance + mood + MOMENTUM * dislike + noise
        is_last = lengths == i + 1
        last_dislike[is_last] = dislike[is_last]
        if calibrating and i + 1 < MAX_LENGTH:
            thresholds[i] = np.quantile(dislike[lengths > i + 1], 1 - shares[0])
        limits = thresholds[np.where(is_last, MAX_LENGTH, i)]
        degrees[:, i] = (dislike[:, None] > limits).sum(axis=1)
        skipped = degrees[:, i] >= SKIP_DEGREE
    if calibrating:
        thresholds[MAX_LENGTH] = np.quantile(last_dislike, 1 - shares[1])
    return _Block(lengths, shuffled, contexts, switches, tracks, degrees), thresholds


def _table(
    block: _Block,
    rng: np.random.Generator,
    session_ids: pa.Array,
    track_ids: pa.Array,
    date: datetime.date,
) -> pa.Table:
    """The 21 columns of MSSD in its order, with all that nothing else depends on."""
    count = len(block.lengths)
    valid = np.arange(MAX_LENGTH) < block.lengths[:, None]
    session, column = np.nonzero(valid)
    degree = block.degrees[valid]
    num_events = len(session)

    is_last = (column + 1 == block.lengths[session]).astype(int)
    end_limits = np.cumsum(END_SHARES, axis=-1)[is_last, (degree >= 2).astype(int), :-1]
    ends = np.zeros(valid.shape, np.int8)
    ends[valid] = (rng.random((num_events, 1)) >= end_limits).sum(axis=1)
    first_starts = _pick(_cumulated(FIRST_START_SHARES), _even(rng, count))
    starts = np.column_stack([first_starts, NEXT_START[ends[:, :-1]]])[valid]

    minutes = MINUTES[block.degrees]
    start_hour = _pick(_cumulated(HOUR_WEIGHTS), _even(rng, count)) + rng.random(count)
    passed = np.cumsum(minutes, axis=1) - minutes
    hour = (start_hour[:, None] + passed / 60).astype(np.int8)[valid]
    dates = [str(date), str(date + datetime.timedelta(days=1))]
    pause = _pick(_cumulated(PAUSE_SHARES), rng.random(num_events))
    premium = _even(rng, count) < PREMIUM_SHARE
    columns = {
        "session_id": session_ids.take(pa.array(session)),
        "session_position": column + 1,
        "session_length": block.lengths[session],
        "track_id_clean": track_ids.take(pa.array(block.tracks[valid])),
        "skip_1": degree >= 4,
        "skip_2": degree >= 3,
        "skip_3": degree >= 2,
        "not_skipped": degree == 0,
        "context_switch": block.switches[valid].astype(np.int8),
        "no_pause_before_play": (pause == 0).astype(np.int8),
        "short_pause_before_play": (pause == 1).astype(np.int8),
        "long_pause_before_play": (pause == 2).astype(np.int8),
        "hist_user_behavior_n_seekfwd": (rng.random(num_events) < SEEK_SHARE).astype(np.int8),
        "hist_user_behavior_n_seekback": (rng.random(num_events) < SEEK_SHARE).astype(np.int8),
        "hist_user_behavior_is_shuffle": block.shuffled[session],
        "hour_of_day": hour % 24,
        "date": _words(dates, hour // 24),
        "premium": premium[session],
        "context_type": _words(list(CONTEXTS), block.contexts[valid]),
        "hist_user_behavior_reason_start": _words(REASONS, starts),
        "hist_user_behavior_reason_end": _words(END_REASONS, ends[valid]),
    }
    return pa.table(columns)


def _ids(prefix: str, rng: np.random.Generator, count: int) -> pa.StringArray:
    """`prefix` and a random UUID each; the first ones do not depend on `count`."""
    octets = np.frombuffer(rng.bytes(16 * count), np.uint8).reshape(count, 16).copy()
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40  # version 4
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80  # of RFC 9562
    digits = np.stack([octets >> 4, octets & 0x0F], axis=-1).reshape(count, 32)
    pattern = f"{prefix}{'x' * 8}-{'x' * 4}-{'x' * 4}-{'x' * 4}-{'x' * 12}"
    text = np.tile(np.frombuffer(pattern.encode(), np.uint8), (count, 1))
    text[:, [i for i, letter in enumerate(pattern) if letter == "x"]] = np.frombuffer(
        b"0123456789abcdef", np.uint8
    )[digits]
    offsets = len(pattern) * np.arange(count + 1, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


def _even(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count] uniform draws, one from each of `count` equal parts of [0, 1), in random order."""
    return rng.permutation((np.arange(count) + rng.random(count)) / count)


def _cumulated(weights: np.ndarray) -> np.ndarray:
    return np.cumsum(weights) / np.sum(weights)


def _pick(cumulated: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The index that each uniform draw stands for, by weights that are `cumulated`."""
    return np.minimum(np.searchsorted(cumulated, uniform, side="right"), len(cumulated) - 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _words(words: Sequence[str], index: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index), pa.array(words))
