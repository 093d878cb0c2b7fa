"""A split: sessions in model ids, and the parts of them to train, validate and test with."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from skipjax.data.hashes import hash_ids
from skipjax.errors import DataError
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT, LEAVE_ONE_OUT, check_ids


@dataclasses.dataclass(frozen=True)
class Part:
    """Some sessions of a split, and how much of each is read.

    Attributes:
      sessions: [N] int64, rows of the split's sessions.
      held_out: how many tracks at the end of each are not read; the first of these is the target,
        where one is asked for.
    """

    sessions: np.ndarray
    held_out: int


@dataclasses.dataclass(frozen=True)
class Split:
    """Sessions in model ids, and the parts of them to train on, to validate with and to test with.

    Its ids are checked when it is made, so that none of a batch has to be: a device would clamp
    those outside the table, or wrap them, and say nothing.

    By leave-one-out, all parts have all sessions. Of a session of n tracks, training sees the first
    n - 2, ids and skips; validation asks for track n - 1 given those; the test asks for track n
    given all before it. By time, each session is in one part. Training sees all of its own;
    validation and test ask for the last track of theirs given all before it.

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
      parts: "train", "valid" and "test".
      name: of the split, for results.
      skipped_means: what counts as skipped, in words.
      left_out_events: how many events were left out of sessions, by reason.
      source_events: [E] int64, which of the source's events these are; None where they are all.
      synthetic: whether they are known to be made up.

    Raises:
      DataError: there is no session, one does not lie within the events or has nothing to read, or
        an id that is not in the table, or, in a session, not a track's.
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
    parts: Mapping[str, Part]
    name: str = LEAVE_ONE_OUT
    skipped_means: str = ""
    left_out_events: dict[str, int] = dataclasses.field(default_factory=dict)
    source_events: np.ndarray | None = None
    synthetic: bool = False

    def __post_init__(self):
        events, ends = len(self.tracks), self.starts + self.lengths
        held_out = max(part.held_out for part in self.parts.values())
        if (
            not self.num_sessions
            or self.starts.min() < 0
            or ends.max() > events
            or any(not self._readable(part) for part in self.parts.values())
        ):
            raise DataError(
                f"{self.num_sessions} sessions are not spans of {events} events; give one at "
                f"least, each with a start and a length of more than {held_out}."
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

    def _readable(self, part: Part) -> bool:
        rows = part.sessions
        within = len(rows) and rows.min() >= 0 and rows.max() < self.num_sessions
        return bool(within) and bool((self.lengths[rows] > part.held_out).all())

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

    def spans(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        """What is read of each session of a part: first events [N] and lengths [N]."""
        part = self.parts[which]
        return self.starts[part.sessions], self.lengths[part.sessions] - part.held_out

    def held_out(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        """The input lengths [N] and targets [N] int32 of "valid" or "test"."""
        starts, lengths = self.spans(which)
        return lengths, self.tracks[starts + lengths]

    def ids_of(self, which: str) -> pa.Array:
        """[N] ids as in the source of a part's sessions."""
        return self.session_ids.take(pa.array(self.parts[which].sessions))

    def skip_share(self) -> float:
        """The share of training's events that count as skipped."""
        starts, lengths = self.spans("train")
        bounds = np.stack([starts, starts + lengths], axis=1).reshape(-1)
        # Every other sum is of a span; one more event, for the last of them may end the array.
        skips = np.add.reduceat(np.append(self.skipped, False), bounds, dtype=np.int64)[::2]
        return float(skips.sum() / lengths.sum())

    def cold_share(self, which: str) -> float:
        """The share of the targets of "valid" or "test" that training never sees."""
        return float((self.train_counts[self.held_out(which)[1]] == 0).mean())


def everywhere(num_sessions: int) -> dict[str, Part]:
    """The parts of leave-one-out."""
    rows = np.arange(num_sessions)
    return {which: Part(rows, back) for which, back in held_out_of("leave_one_out").items()}


def parts_table(split: Split) -> pa.Table | None:
    """session_id and part of each session; None where every session is in every part."""
    if all(len(part.sessions) == split.num_sessions for part in split.parts.values()):
        return None
    names = np.empty(split.num_sessions, object)
    for which, part in split.parts.items():
        names[part.sessions] = which
    return pa.table({"session_id": split.session_ids, "part": pa.array(names, pa.string())})


def held_out_of(name: str) -> dict[str, int]:
    """Tracks at the end of each session of a part that are not read."""
    return {"train": HELD_OUT[name], "valid": max(HELD_OUT[name], 1), "test": 1}
