"""Made-up listening logs in MSSD's own schema, reproducible to the byte.

Nobody heard any of it: `listening` makes the sessions, which here get ids, and the columns that
nothing else depends on. Reasons follow the skips, but are labels only: "backbtn" brings no track
back.
"""

import datetime
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from skipjax.data import listening
from skipjax.data.listening import Catalogue, Listening
from skipjax.errors import ConfigError

VERSION = 1  # of the output: raise it with any change to what the same arguments give

FILE_SESSIONS = 196_000  # about what one MSSD log file holds
BLOCK_SESSIONS = 28_000  # made at a time; divides FILE_SESSIONS
MIN_TRACKS, MAX_TRACKS = 100, 50_000_000  # the ids of more do not fit into one Arrow array
FIRST_DATE = datetime.date(2018, 7, 15)

PREMIUM_SHARE = 0.810
PAUSE_SHARES = np.array([0.77, 0.09, 0.14])  # none, short, long
SEEK_SHARE = 0.03  # of events, forward and back alike
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
    catalogue = Catalogue.drawn(np.random.default_rng((seed, _TRACKS)), num_tracks)
    track_ids = _ids("t_", np.random.default_rng((seed, _TRACK_IDS)), num_tracks)
    pilot_rng = np.random.default_rng((seed, _PILOT))
    thresholds = listening.skip_thresholds(catalogue, pilot_rng, skip_share)
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
                block = listening.listen(catalogue, rng, count, thresholds)
                ids = _ids(f"{digit}_", np.random.default_rng((seed, _SESSION_IDS, first)), count)
                table = _table(block, rng, ids, track_ids, date)
                if first == start:
                    file.write((",".join(table.column_names) + "\n").encode())
                csv.write_csv(table, file, options)
                if progress is not None:
                    progress(first + count, num_sessions, "writing demo sessions")
    return paths


def _check(num_sessions, num_tracks, seed, skip_share) -> None:
    if num_sessions < 1:
        raise ConfigError(f"num_sessions is {num_sessions}; it must be at least 1.")
    if not MIN_TRACKS <= num_tracks <= MAX_TRACKS:
        raise ConfigError(
            f"num_tracks is {num_tracks}; it must be from {MIN_TRACKS} to {MAX_TRACKS}."
        )
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0.")
    if skip_share is not None and not 0 < skip_share < 1:
        raise ConfigError(f"skip_share is {skip_share}; it must be above 0 and below 1.")


def _table(
    block: Listening,
    rng: np.random.Generator,
    session_ids: pa.Array,
    track_ids: pa.Array,
    date: datetime.date,
) -> pa.Table:
    """The 21 columns of MSSD in its order, with all that nothing else depends on."""
    count = len(block.lengths)
    valid = np.arange(listening.MAX_LENGTH) < block.lengths[:, None]
    session, column = np.nonzero(valid)
    degree = block.degrees[valid]
    num_events = len(session)

    is_last = (column + 1 == block.lengths[session]).astype(int)
    end_limits = np.cumsum(END_SHARES, axis=-1)[is_last, (degree >= 2).astype(int), :-1]
    ends = np.zeros(valid.shape, np.int8)
    ends[valid] = (rng.random((num_events, 1)) >= end_limits).sum(axis=1)
    first_starts = _drawn(FIRST_START_SHARES, listening.even(rng, count))
    starts = np.column_stack([first_starts, NEXT_START[ends[:, :-1]]])[valid]

    minutes = MINUTES[block.degrees]
    start_hour = _drawn(HOUR_WEIGHTS, listening.even(rng, count)) + rng.random(count)
    passed = np.cumsum(minutes, axis=1) - minutes
    hour = (start_hour[:, None] + passed / 60).astype(np.int8)[valid]
    dates = [str(date), str(date + datetime.timedelta(days=1))]
    pause = _drawn(PAUSE_SHARES, rng.random(num_events))
    premium = listening.even(rng, count) < PREMIUM_SHARE
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
        "context_type": _words(list(listening.CONTEXTS), block.contexts[valid]),
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


def _drawn(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return listening.pick(listening.cumulated(weights), uniform)


def _words(words: Sequence[str], index: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index), pa.array(words))
