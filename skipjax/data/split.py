"""Leave-one-out: the last track is for testing, the one before it for validation."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa

from skipjax.data.sessions import Sessions
from skipjax.data.spool import hash_ids
from skipjax.errors import ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT

_SHUFFLE_SEED = 0


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Sessions in model ids, with the spans of a leave-one-out split.

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
      DataError: nothing is left.
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
