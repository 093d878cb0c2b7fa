"""The sessions as training would use them, in pieces that fit in memory."""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import layout
from skipjax.data.parts import Split
from skipjax.data.sessions import Sessions
from skipjax.data.split import split_as
from skipjax.errors import ConfigError, DataError
from skipjax.ids import HELD_OUT

CHUNK_EVENTS = 1 << 21
HOUR = "hour_of_day"
HELD_BACK = HELD_OUT["leave_one_out"]
_PIECE = "#[0-9]+$"  # what preparation adds to the id of a sequence that it cuts


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some sessions, those of a listener together; e events in s sessions.

    Attributes:
      rows: [s] which sessions, numbers of the split.
      events: [e] where each event stands in the columns of the prepared sessions.
      times: [e] int64, or None.
      session: [e] which of the s.
      place: [e] how many events of its session come before it.
      left: [e] how many come after it.
      tracks: [e] int32 model ids.
      skipped: [e] bool.
      listeners: [s] number of the listener, consecutive.
    """

    rows: np.ndarray
    events: np.ndarray
    times: np.ndarray | None
    session: np.ndarray
    place: np.ndarray
    left: np.ndarray
    tracks: np.ndarray
    skipped: np.ndarray
    listeners: np.ndarray

    @property
    def trained(self) -> np.ndarray:
        """[e] bool, events that leave-one-out trains on."""
        return self.left >= HELD_BACK

    @property
    def followed(self) -> np.ndarray:
        """[e - 1] bool, whether an event and the one after it are of one session."""
        return self.session[1:] == self.session[:-1]


@dataclasses.dataclass(frozen=True)
class Data:
    """
    Attributes:
      sessions: as prepared.
      split: them by leave-one-out, whichever split the run takes: S sessions.
      config: of the run.
    """

    sessions: Sessions
    split: Split
    config: Any

    @classmethod
    def of(cls, sessions: Sessions, config: Any) -> "Data":
        """
        Raises:
          ConfigError: a field of `config.data` that this data cannot be used with.
          DataError: it leaves no session.
        """
        return cls(sessions, _split(sessions, config.data, "leave_one_out"), config)

    def in_time(self) -> Split:
        """The sessions by the split in time.

        Raises:
          ConfigError: that is not possible, with the reason.
        """
        return _split(self.sessions, self.config.data, "temporal")

    def possible(self, kind: str, **changes: Any) -> bool:
        """Whether the sessions can be split so, with these fields of `config.data` changed."""
        config = copy.deepcopy(self.config.data)
        config.update_from_flattened_dict(
            {name.replace("__", "."): value for name, value in changes.items()}
        )
        try:
            _split(self.sessions, config, kind)
        except (ConfigError, DataError):
            return False
        return True

    @property
    def num_sessions(self) -> int:
        return self.split.num_sessions

    @functools.cached_property
    def num_events(self) -> int:
        return int(self.split.lengths.sum(dtype=np.int64))

    @functools.cached_property
    def num_listeners(self) -> int:
        return len(np.unique(self.listeners))

    @property
    def synthetic(self) -> bool:
        return self.sessions.synthetic

    @property
    def has_times(self) -> bool:
        return self._timed is not None

    @functools.cached_property
    def _timed(self) -> tuple[np.ndarray, str] | None:
        return self.sessions.times()

    @functools.cached_property
    def per_second(self) -> int:
        """Units of time in a second."""
        return layout.UNITS_PER_SECOND[self._timed[1]]

    @functools.cached_property
    def resolution_seconds(self) -> float:
        """The largest number of seconds that all times lie whole multiples of apart."""
        found, first = 0, None
        for chunk in self.chunks():
            first = chunk.times[0] if first is None else first
            found = np.gcd(found, np.gcd.reduce(np.abs(chunk.times - first)))
            if found == 1:
                break
        return float(found) / self.per_second

    @functools.cached_property
    def logged_hours(self) -> np.ndarray | None:
        """[E] int8, the hour of the day of each event in a column of its own, or None."""
        context = self.sessions.context
        if HOUR not in context.column_names:
            return None
        if not pa.types.is_integer(context.schema.field(HOUR).type):
            return None
        return (context[HOUR].to_numpy() % 24).astype(np.int8)

    def _source(self, events: np.ndarray) -> np.ndarray:
        """Where events of the split stand in the columns of the prepared sessions."""
        taken = self.split.source_events
        return events if taken is None else taken[events]

    @functools.cached_property
    def begins(self) -> np.ndarray:
        """[S] int64, the time of each session's first event."""
        return self._timed[0][self._source(self.split.starts)]

    @functools.cached_property
    def cut(self) -> np.ndarray:
        """[S] bool, sessions that are pieces of a longer sequence, by their ids."""
        found = pc.match_substring_regex(self.split.session_ids, _PIECE)
        return found.to_numpy(zero_copy_only=False)

    @functools.cached_property
    def listeners(self) -> np.ndarray:
        """[S] int64, equal for pieces of one sequence; whose session it is cannot be told else."""
        if not self.cut.any():
            return np.arange(self.num_sessions)
        names = pc.replace_substring_regex(self.split.session_ids, _PIECE, "")
        codes = names.dictionary_encode()
        return codes.indices.to_numpy().astype(np.int64)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """[S] sessions in which those of a listener come one after the other, in their order."""
        codes = self.listeners
        if (np.diff(codes) >= 0).all():
            return np.arange(self.num_sessions)
        return np.argsort(codes, kind="stable")

    def chunks(self, most_sessions: int | None = None) -> Iterator[Chunk]:
        """Yields all sessions, about CHUNK_EVENTS events at a time, no listener in two chunks.

        Args:
          most_sessions: to stop after the chunk that reaches so many. Sessions are stored by a hash
            of their sequence's id, so that the first ones are a uniform sample.
        """
        order = self.order
        lengths = self.split.lengths[order].astype(np.int64)
        ends = np.cumsum(lengths)
        codes = self.listeners[order]
        first_of_listener = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        stops = np.append(first_of_listener[1:], len(order))
        start = 0
        while start < len(order):
            if most_sessions is not None and start >= most_sessions:
                break
            before = ends[start - 1] if start else 0
            wanted = np.searchsorted(ends, before + CHUNK_EVENTS, side="right")
            # The last listener's end within that, or at least one listener.
            number = np.searchsorted(stops, wanted, side="right") - 1
            stop = stops[max(number, np.searchsorted(stops, start, side="right"))]
            yield self._chunk(order[start:stop])
            start = int(stop)

    def _chunk(self, rows: np.ndarray) -> Chunk:
        split = self.split
        lengths = split.lengths[rows].astype(np.int64)
        firsts = np.cumsum(lengths) - lengths
        session = np.repeat(np.arange(len(rows)), lengths)
        place = np.arange(len(session)) - firsts[session]
        events = place + split.starts[rows][session]
        source = self._source(events)
        codes = self.listeners[rows]
        return Chunk(
            rows=rows,
            events=source,
            times=self._timed[0][source] if self.has_times else None,
            session=session,
            place=place,
            left=lengths[session] - 1 - place,
            tracks=split.tracks[events],
            skipped=split.skipped[events],
            listeners=np.cumsum(np.concatenate([[False], codes[1:] != codes[:-1]])),
        )


def _split(sessions: Sessions, data: Any, split: str) -> Split:
    """By `config.data`, but with this split, the logged labels, and lengths that it can use.

    That a model is too short for the sessions is a finding, no reason to stop.
    """
    data = data.copy_and_resolve_references()
    with data.unlocked():
        data.split, data.labels = split, "logged"
        data.min_length = max(data.min_length, HELD_OUT[split] + 2)
        data.max_length = max(data.max_length, int(np.diff(sessions.offsets).max(initial=0)))
    return split_as(data, sessions)
