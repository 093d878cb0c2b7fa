"""Leave-one-out: the last track is for testing, the one before it for validation."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa

from skipjax.data.sessions import NUM_LEVELS, Sessions
from skipjax.data.spool import hash_ids
from skipjax.errors import ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT, check_ids

_SHUFFLE_SEED = 0
_MOST_TRACKS = 2**31 - 1 - FIRST_TRACK_ID


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Sessions in model ids, with the spans of a leave-one-out split.

    Its ids are checked when it is made, so that none of a batch has to be: a device would clamp
    those outside the table, or wrap them, and say nothing.

    Of a session of n tracks, training sees the first n - 2, ids and skips; validation asks for
    track n - 1 given those; the test asks for track n given all before it.

    Attributes:
      tracks: [E] int32 ids. Real tracks start at FIRST_TRACK_ID, by falling count in the training
        spans, ties by track id; those without a count come last, and are ranked all the same.
      skipped: [E] bool.
      starts: [S] int64, first event of each kept session.
      lengths: [S] int32, tracks of each kept session, held-out ones included.
      session_ids: [S] ids as in the source.
      track_ids: [V - FIRST_TRACK_ID] ids as in the source; entry i has the id FIRST_TRACK_ID + i.
      train_counts: [V] int64, events in training spans.
      left_out: how many sessions were left out, by reason.
      digest: identity of the data this was made from.

    Raises:
      DataError: there is no session, one does not lie within the events, or an id that is not in
        the table, or, in a session, not a track's.
    """

    tracks: np.ndarray
    skipped: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    session_ids: pa.Array
    track_ids: pa.Array
    train_counts: np.ndarray
    left_out: dict[str, int]
    digest: str

    def __post_init__(self):
        events, ends = len(self.tracks), self.starts + self.lengths
        if (
            not self.num_sessions
            or self.starts.min() < 0
            or self.lengths.min() <= HELD_OUT
            or ends.max() > events
        ):
            raise DataError(
                f"{self.num_sessions} sessions are not spans of {events} events; give one at "
                f"least, each with a start and a length of more than {HELD_OUT}."
            )
        if len(self.track_ids) != self.num_ids - FIRST_TRACK_ID or len(self.skipped) != events:
            raise DataError(
                f"{len(self.track_ids)} track_ids, {self.num_ids} train_counts, {events} tracks "
                f"and {len(self.skipped)} skipped do not fit together."
            )
        check_ids(self.tracks, self.num_ids, "tracks")
        if self.tracks.dtype != np.int32:
            raise DataError(f"tracks holds {self.tracks.dtype}; give int32, as devices do.")
        no_track = self.tracks < FIRST_TRACK_ID
        if no_track.any():  # as in sessions that were left out, whose events are kept
            bounds = np.stack([self.starts, ends], axis=1).reshape(-1)
            inside = np.logical_or.reduceat(np.append(no_track, False), bounds)[::2]
            if inside.any():
                raise DataError(
                    f"session {np.argmax(inside)} has an id below {FIRST_TRACK_ID}, which is no "
                    "track's."
                )

    @property
    def num_sessions(self) -> int:
        return len(self.starts)

    @property
    def num_ids(self) -> int:
        """V, PAD and MASK included."""
        return len(self.train_counts)

    @functools.cached_property
    def session_hashes(self) -> np.ndarray:
        """[S] uint64, a function of each session's id alone."""
        return hash_ids(self.session_ids)

    def held_out(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        """The input lengths [S] and targets [S] int32 of "valid" or "test"."""
        lengths = self.lengths - {"valid": 2, "test": 1}[which]
        return lengths, self.tracks[self.starts + lengths]


def split_as(data: Any, sessions: Sessions) -> LeaveOneOut:
    """`leave_one_out` of `sessions` as `config.data` says.

    Sessions that their preparation left out for being too short are counted, too.
    """
    split = leave_one_out(
        sessions,
        min_length=data.min_length,
        max_length=data.max_length,
        skip_levels=tuple(data.skip_levels),
        require_skip=data.require_skip,
        labels=data.labels,
    )
    short = sessions.info.get("left_out", {}).get("sessions", 0)
    if short:
        least = sessions.info["options"]["min_length"]
        reason = f"shorter than {least} tracks"
        split.left_out[reason] = split.left_out.get(reason, 0) + short
    return split


def leave_one_out(
    sessions: Sessions,
    *,
    min_length: int,
    max_length: int,
    skip_levels: tuple[int, ...],
    require_skip: bool = False,
    labels: str = "logged",
) -> LeaveOneOut:
    """Splits sessions, and gives tracks the ids that models use.

    Args:
      sessions: what to split.
      min_length: shorter sessions are left out and counted; at least 4, so that a training span
        has a track to learn from and one to predict.
      max_length: of the model, which must hold the longest session.
      skip_levels: the levels that count as skipped; (1, 2) in the paper.
      require_skip: leave out sessions without a skip in the training span.
      labels: "logged", or "shuffled": which events of training spans were skipped is drawn anew,
        as many of all sessions' together, and the same for every run. If skips carry a signal,
        learning from these must be worse.

    Raises:
      ConfigError: an impossible length or choice, or sessions longer than `max_length`.
      DataError: nothing is left, or `sessions` holds a track or level that there is not.
    """
    if min_length < HELD_OUT + 2:
        raise ConfigError(f"config.data.min_length is {min_length}; it must be at least 4.")
    if not set(skip_levels) <= {0, 1, 2, 3}:
        raise ConfigError(
            f"config.data.skip_levels is {tuple(skip_levels)}; levels are 0, 1, 2 and 3."
        )
    if labels not in ("logged", "shuffled"):
        raise ConfigError(
            f"config.data.labels is {labels!r}; choose one of ('logged', 'shuffled')."
        )
    _check(sessions)
    lengths = np.diff(sessions.offsets)
    if lengths.size and lengths.max() > max_length:
        raise ConfigError(
            f"the data has sessions of {lengths.max()} tracks, but config.data.max_length is "
            f"{max_length}; raise it, or prepare the data with shorter sessions."
        )
    skipped = np.isin(sessions.levels, skip_levels)
    kept = lengths >= min_length
    left_out = {f"shorter than {min_length} tracks": int((~kept).sum())}
    if require_skip:
        skips = np.concatenate([[0], np.cumsum(skipped)])
        ends = np.maximum(sessions.offsets[1:] - HELD_OUT, sessions.offsets[:-1])
        has_skip = skips[ends] > skips[sessions.offsets[:-1]]
        left_out["without a skip in training"] = int((kept & ~has_skip).sum())
        kept &= has_skip
    if not kept.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"no session is left of {len(lengths)} ({reasons}); lower config.data.min_length, "
            "turn off config.data.require_skip, or prepare more data."
        )

    in_session = np.repeat(kept, lengths)
    to_end = np.repeat(sessions.offsets[1:], lengths) - np.arange(len(sessions.tracks))
    num_tracks = len(sessions.track_ids)
    used = np.bincount(sessions.tracks[in_session], minlength=num_tracks) > 0
    trained = in_session & (to_end > HELD_OUT)
    counts = np.bincount(sessions.tracks[trained], minlength=num_tracks)
    if labels == "shuffled":
        skipped[trained] = np.random.default_rng(_SHUFFLE_SEED).permutation(skipped[trained])
    # Stable: the store's vocabulary is sorted by track id, which settles ties.
    order = np.argsort(np.where(used, -counts, 1), kind="stable")[: used.sum()]
    ids = np.zeros(num_tracks, np.int32)
    ids[order] = np.arange(FIRST_TRACK_ID, FIRST_TRACK_ID + len(order), dtype=np.int32)
    return LeaveOneOut(
        tracks=ids[sessions.tracks],
        skipped=skipped,
        starts=sessions.offsets[:-1][kept],
        lengths=lengths[kept].astype(np.int32),
        session_ids=sessions.session_ids.filter(pa.array(kept)),
        track_ids=sessions.track_ids.take(pa.array(order)),
        train_counts=np.concatenate([np.zeros(FIRST_TRACK_ID, np.int64), counts[order]]),
        left_out=left_out,
        digest=sessions.digest,
    )


def _check(sessions: Sessions) -> None:
    """Raises DataError for columns that do not fit together, or an id or level that there is not.

    Those of a prepared folder do, but sessions can be made otherwise.
    """
    offsets, events = sessions.offsets, len(sessions.tracks)
    ends = (offsets[0], offsets[-1]) if len(offsets) else None
    if (
        ends != (0, events)
        or len(offsets) != sessions.num_sessions + 1
        or len(sessions.levels) != events
        or (np.diff(offsets) < 0).any()
    ):
        raise DataError(
            f"{len(offsets)} offsets, {sessions.num_sessions} session_ids, {events} tracks and "
            f"{len(sessions.levels)} levels do not fit together; offsets are those of each session "
            "and of the end, and rise from 0 to the number of events."
        )
    if sessions.num_tracks > _MOST_TRACKS:
        raise DataError(
            f"there are {sessions.num_tracks} track_ids; ids are int32, so {_MOST_TRACKS} at most."
        )
    check_ids(sessions.tracks, sessions.num_tracks, "tracks")
    check_ids(sessions.levels, NUM_LEVELS, "levels")
