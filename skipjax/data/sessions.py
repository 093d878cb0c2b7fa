"""The session store: flat event columns, offsets and a vocabulary, as Arrow files on disk."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from skipjax import files
from skipjax.data import layout
from skipjax.errors import DataError

PLAYED_LEVEL = 0  # not skipped
BRIEFLY_LEVEL = 2  # what a plain yes/no skip flag is stored as
NUM_LEVELS = 4

# What `Sessions.summary` counts of feedback that is no level.
_SHOWN = {
    "played_percent": {"played less than half": lambda x: (x >= 0) & (x < 50)},
    "next_gap_seconds": {"the next play within 30 s": lambda x: (x >= 0) & (x < 30)},
    "reaction": {"liked": lambda x: x > 0, "disliked": lambda x: x < 0},
    "rating": {"rated 2 or less": lambda x: x <= 2},
}


@dataclasses.dataclass(frozen=True)
class Sessions:
    """Listening sessions, their events in order of listening.

    Session s holds events `offsets[s]` to `offsets[s + 1]`.

    Attributes:
      offsets: [S + 1] int64, first event of each session, and the number of events E.
      tracks: [E] int32, index into `track_ids`.
      levels: [E] int8, skip level as in the paper, section 3: 0 not skipped, 1 played very
        briefly, 2 briefly, 3 mostly.
      session_ids: [S] large_string array of ids, all different.
      track_ids: [T] large_string array, sorted; every track has at least one event.
      context: table of E rows with whatever else was logged per event (`context_type`, ...);
        layout.RESERVED has the names whose meaning is fixed.
      info: JSON-able facts of the preparation: `source`, `feedback`, `time_unit` where there are
        times of a known unit ("s", "ms", "us" or "ns"), what was left out, and so on.
      folder: where they were opened, None if nowhere.
    """

    offsets: np.ndarray
    tracks: np.ndarray
    levels: np.ndarray
    session_ids: pa.LargeStringArray
    track_ids: pa.LargeStringArray
    context: pa.Table
    info: dict[str, Any]
    folder: Path | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Sessions":
        """Memory-maps the sessions that `SessionsWriter` left in `folder`.

        Raises:
          DataError: not such a folder, or one of its files is damaged; all are checked.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder.")
        try:
            manifest = files.read_manifest(folder)
        except DataError as error:
            raise DataError(f"{error} Prepare the data again.") from error
        version = manifest.get("format")
        if version != layout.FORMAT_VERSION or not set(layout.CONTENT) <= set(manifest["files"]):
            raise DataError(
                f"{folder} does not hold sessions in format {layout.FORMAT_VERSION} (its "
                f"manifest says {version}). Prepare the data again."
            )
        try:
            events, context, sessions, tracks = (_mapped(folder / n) for n in layout.CONTENT)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{folder} cannot be read ({reason}); prepare it again.") from error
        info = manifest["preparation"]
        if not _consistent(events, context, sessions, tracks, info):
            raise DataError(f"{folder} has files that do not fit together; prepare it again.")
        hashes = [manifest["files"][name]["sha256"] for name in layout.CONTENT]
        return cls(
            offsets=np.concatenate([[0], np.cumsum(sessions["length"], dtype=np.int64)]),
            tracks=_flat(events["track"]).to_numpy(),
            levels=_flat(events["level"]).to_numpy(),
            session_ids=_flat(sessions["session_id"]),
            track_ids=_flat(tracks["track_id"]),
            context=context,
            info=info | {"digest": _digest(*(h.encode() for h in hashes))},
            folder=folder,
        )

    @property
    def num_sessions(self) -> int:
        return len(self.session_ids)

    @property
    def num_events(self) -> int:
        return len(self.tracks)

    @property
    def num_tracks(self) -> int:
        return len(self.track_ids)

    @property
    def digest(self) -> str:
        """Identity of the content: the same if and only if the data is, wherever it lies."""
        if "digest" in self.info:
            return self.info["digest"]
        ids = "\0".join([*self.session_ids.to_pylist(), *self.track_ids.to_pylist()])
        arrays = [self.offsets, self.tracks, self.levels]
        reserved = [name for name in self.context.column_names if name in layout.RESERVED]
        arrays += [self.context[name].to_numpy() for name in reserved]
        names = "\0".join(["", *reserved]) if reserved else ""
        return _digest(*(np.ascontiguousarray(array) for array in arrays), (ids + names).encode())

    @property
    def synthetic(self) -> bool:
        """Whether they are known to be made up, as those of `skipjax demo` are."""
        return self.info.get("synthetic", False) or "demo" in self.info.get("options", {})

    @property
    def feedback(self) -> tuple[str, ...]:
        """Which of layout.FEEDBACK the source logs."""
        return tuple(self.info.get("feedback", ("level",)))

    @functools.cached_property
    def features(self) -> pa.Table | None:
        """One row for each of `track_ids`, null where nothing is known; None without features.

        Raises:
          DataError: they cannot be read.
        """
        if self.folder is None or not (self.folder / layout.FEATURES).exists():
            return None
        try:
            table = _mapped(self.folder / layout.FEATURES)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.folder / layout.FEATURES} cannot be read: {error}") from error
        if table.num_rows != self.num_tracks:
            raise DataError(
                f"{self.folder / layout.FEATURES} has {table.num_rows} rows for "
                f"{self.num_tracks} tracks; prepare the data again."
            )
        return table

    def times(self) -> tuple[np.ndarray, str] | None:
        """When each event was, [E] int64, and the unit: "s", "ms", "us" or "ns".

        Times of day alone do not count, and neither do numbers whose unit is not known: None.
        MSSD's are those of its days and hours.
        """
        columns = self.context.column_names
        if "time" in columns and self.info.get("time_unit"):
            return self.context["time"].to_numpy(), self.info["time_unit"]
        if "date" in columns and "hour_of_day" in columns:
            date, hour = self.context["date"], self.context["hour_of_day"]
            if pa.types.is_date32(date.type) and pa.types.is_integer(hour.type):
                days = date.cast(pa.int32()).to_numpy().astype(np.int64)
                return days * 86_400 + hour.to_numpy().astype(np.int64) * 3_600, "s"
        return None

    def summary(self, skip_levels: Sequence[int] = (1, 2)) -> dict[str, Any]:
        """Facts for printing, JSON-able.

        Args:
          skip_levels: which levels count as skipped; (1, 2) in the paper.

        Returns:
          `sessions`, `events`, `tracks`; `feedback`, what may tell of skips, and `feedback_shares`:
          of events, by what was logged beside levels; `skipped_share` of events by level, and
          `level_shares` of levels 0 to 3; `length_min`, `length_mean`, `length_max`; `left_out`:
          `sessions` and `events` that the preparation left out for being too short, and what else
          it left out under names of its own.
        """
        counts = np.zeros(NUM_LEVELS, np.int64)
        for start in range(0, self.num_events, layout.CHUNK_ROWS):
            chunk = self.levels[start : start + layout.CHUNK_ROWS]
            counts += np.bincount(chunk, minlength=NUM_LEVELS)
        shares = counts / max(self.num_events, 1)
        lengths = np.diff(self.offsets)
        return {
            "sessions": self.num_sessions,
            "events": self.num_events,
            "tracks": self.num_tracks,
            "feedback": list(self.feedback),
            "feedback_shares": self._feedback_shares(),
            "skipped_share": float(sum(shares[level] for level in set(skip_levels))),
            "level_shares": shares.tolist(),
            "length_min": int(lengths.min()),
            "length_mean": float(lengths.mean()),
            "length_max": int(lengths.max()),
            "left_out": dict(self.info.get("left_out", {})),
        }

    def _feedback_shares(self) -> dict[str, float]:
        """Shares of events, by what they say."""
        counts: dict[str, int] = {}
        for name, tests in _SHOWN.items():
            if name not in self.feedback:
                continue
            for chunk in self.context[name].chunks:
                values = chunk.to_numpy()
                for label, test in tests.items():
                    counts[label] = counts.get(label, 0) + int(test(values).sum())
        return {label: count / max(self.num_events, 1) for label, count in counts.items()}


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    table.validate(full=True)  # offsets that lead outside would be followed
    return table


def _consistent(
    events: pa.Table,
    context: pa.Table,
    sessions: pa.Table,
    tracks: pa.Table,
    info: Mapping[str, Any],
) -> bool:
    """Whether all indices and counts agree: manifests can be right about files that are not."""
    kinds = {field.name: field.type for field in context.schema}
    if any(kinds[name] != layout.RESERVED[name] for name in kinds.keys() & layout.RESERVED.keys()):
        return False
    if not {"level", *kinds} >= set(info.get("feedback", [""])) <= set(layout.FEEDBACK):
        return False
    schemas = (events.schema, sessions.schema, tracks.schema)
    if schemas != (layout.EVENTS_SCHEMA, layout.SESSIONS_SCHEMA, layout.TRACKS_SCHEMA):
        return False
    columns = [*events.columns, *context.columns, *sessions.columns, *tracks.columns]
    if any(column.null_count for column in columns):
        return False
    if context.num_columns and context.num_rows != events.num_rows:
        return False
    lengths = sessions["length"].to_numpy()
    return (
        lengths.min(initial=1) >= 1
        and lengths.sum(dtype=np.int64) == events.num_rows
        and _within(events["track"], tracks.num_rows)
        and _within(events["level"], NUM_LEVELS)
    )


def _within(column: pa.ChunkedArray, end: int) -> bool:
    """Whether all values are from 0 to `end`, `end` excluded."""
    numbers = _flat(column).to_numpy()
    return numbers.min(initial=0) >= 0 and numbers.max(initial=0) < max(end, 1)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, without a copy if it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
