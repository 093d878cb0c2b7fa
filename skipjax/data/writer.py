"""How sessions are made: rows in any order in, a prepared folder out, in bounded memory."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import features, grouping, layout
from skipjax.data.blocks import Block, Origins, ReadBlocks, in_turn
from skipjax.data.columns import EventColumns, encoded
from skipjax.data.dropped import Dropped, described
from skipjax.data.grouping import Groups, Refined
from skipjax.data.hashes import Smallest, hash_ids
from skipjax.data.inputs import Progress, Sources
from skipjax.data.spool import PARTITION_ROWS, Spool
from skipjax.errors import ConfigError, DataError, OutputError
from skipjax.files import new_folder

_GIVEN = ("session_id", "track_id", "order", "level", "length", "kept")  # all else is context
_MOST_EVENTS = 2**31 - 1  # of a session: lengths are int32
Refine = Callable[[Groups], Refined]


class Settings(TypedDict, total=False):
    """What every reader's `prepare` takes besides its own and gives to `SessionsWriter`."""

    num_sessions: int
    min_length: int
    max_length: int
    on_bad_session: str
    progress: Progress | None


class SessionsWriter:
    """Groups rows into sessions and writes them as a folder for `Sessions.open`.

    A context manager: the folder appears when the block ends without an error, or not at all.
    Memory grows with the number of different tracks, never with the number of rows; and with the
    number of sessions whose ids look like those of pieces, `x#1`, by some 100 bytes each.

    `info`, JSON-able facts, may be added to until the end.

    Sessions are ordered by a hash of their source's id, so neither the order of files nor the
    size of blocks changes the result, and the first N of them are a uniform sample, which is
    what `num_sessions` takes.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        source: str,
        options: Mapping[str, Any] | None = None,
        min_length: int = 4,
        max_length: int = 20,
        num_sessions: int = 0,
        on_bad_session: str = "error",
        feedback: Sequence[str] = ("level",),
        time_unit: str = "",
        gap_minutes: float = 0,
        newest_first: bool = False,
        refine: Refine | None = None,
        whole: str = "session",
        track_features: Sources | None = None,
        progress: Progress | None = None,
        partition_rows: int = PARTITION_ROWS,
    ):
        """
        Args:
          folder: where to; must not exist, or be empty.
          source: kept in the sessions' `info`.
          options: JSON-able; kept there too.
          min_length: shorter sessions, and shorter remainders of cut ones, are left out.
          max_length: longer sequences are cut into sessions of this length, named `id#1`, ...
          num_sessions: how many to keep, those of sequences drawn uniformly; 0 keeps all.
          on_bad_session: "error", or "drop" to leave out whole sessions that have a row with a
            fault, or not all their positions once; they are listed in layout.DROPPED. What
            concerns a whole file is an error all the same.
          feedback: which of layout.FEEDBACK the rows have; kept in `info`.
          time_unit: of `order`, a key of layout.UNITS_PER_SECOND; '' if it is no time, or one of
            unknown unit. May be set until the end, as `writer.time_unit`.
          gap_minutes: sequences are cut where two events are further apart, before they are cut
            to length; 0 does not.
          newest_first: rows that tie come from the last to the first.
          refine: is given sorted sequences before they are cut, each of them whole.
          whole: what is dropped where a row has a fault: "session", or what sessions are cut from.
          track_features: files of MSSD's, to be laid beside the tracks.
          progress: called with bytes done, bytes in all, and what is being done.
          partition_rows: how many rows may be sorted in memory at a time.

        Raises:
          ConfigError: lengths or counts that make no sense.
        """
        if on_bad_session not in ("error", "drop"):
            raise ConfigError(
                f"on_bad_session is {on_bad_session!r}; it must be 'error' or 'drop'."
            )
        if max_length > _MOST_EVENTS:
            raise ConfigError(f"max_length ({max_length}) must be at most {_MOST_EVENTS}.")
        if not 1 <= min_length <= max_length:
            raise ConfigError(
                f"min_length ({min_length}) must be at least 1 and at most max_length "
                f"({max_length})."
            )
        if num_sessions < 0:
            raise ConfigError(f"num_sessions ({num_sessions}) must be 0 (all) or more.")
        if gap_minutes < 0:
            raise ConfigError(f"gap_minutes ({gap_minutes}) must be 0 (no cuts) or more.")
        self.time_unit = time_unit
        self._gap_minutes = gap_minutes
        self._newest_first = newest_first
        self._refine = refine
        self._whole = {"of": whole} if whole != "session" else {}
        self._track_features = track_features
        self._folder = folder
        self._min_length, self._max_length = min_length, max_length
        self._num_sessions = num_sessions
        self._dropping = on_bad_session == "drop"
        self._progress = progress or (lambda done, total, what: None)
        self._partition_rows = partition_rows
        self.info: dict[str, Any] = {
            "source": source,
            "options": {
                **(options or {}),
                "min_length": min_length,
                "max_length": max_length,
                "num_sessions": num_sessions,
                "on_bad_session": on_bad_session,
                **({"gap_minutes": gap_minutes} if gap_minutes else {}),
            },
            "feedback": list(feedback),
        }
        self._left_out = {"sessions": 0, "events": 0}
        self._events: EventColumns | None = None  # made when the first block tells of the context
        self._context: pa.Schema | None = None
        # Which sessions will be dropped is not known before all rows are there.
        self._bound = Smallest(num_sessions) if num_sessions and not self._dropping else None
        self._origins = Origins()
        self._named_like_pieces: set[str] = set()

    def __enter__(self) -> "SessionsWriter":
        try:
            with contextlib.ExitStack() as stack:
                self._work = stack.enter_context(
                    new_folder(self._folder, format=layout.FORMAT_VERSION, preparation=self.info)
                )
                self._temporary = self._work / "temporary"
                self._temporary.mkdir()
                self._spool = Spool(self._temporary / "spool")
                if self._dropping:
                    self._dropped = Dropped(self._temporary / "dropped", self._origins.of)
                    stack.callback(_without_errors, self._dropped.close)
                stack.callback(_without_errors, self._spool.give_up)
                self._stack = stack.pop_all()
        except OSError as error:
            raise self._not_written(error) from error
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._stack.__exit__(*error)
            if isinstance(error[1], OSError):
                raise self._not_written(error[1]) from error[1]
            return
        try:
            with self._stack:
                self._finish()
                shutil.rmtree(self._temporary)
        except OSError as failure:
            raise self._not_written(failure) from failure

    def blocks(self, paths: Sequence[Path], read: ReadBlocks) -> Iterator[Block]:
        """`in_turn` of the files to add; faults of rows are noted where sessions may be dropped."""
        return in_turn(paths, read, note_faults=self._dropping, progress=self._progress)

    def add(self, block: Block) -> None:
        """Takes rows in, in any order and from any number of files.

        Args:
          block: of a table with the columns
            session_id, track_id: text, dictionary-encoded or not; tracks may be whole numbers;
            order: int64, what to sort a session's events by; ties stay in the order they came;
            level: int8, skip level 0 to 3;
            length: int32, optional: how many events the session has. They must then be in
              `order` 1 to length, each once, and short sessions can be told early;
            kept: bool, optional: rows that are not are left out;
            anything else: context, of booleans, integers, dates or text, without nulls.
            Sessions of rows with a fault are dropped; where the fault is that there is no session
            id, that is ''.
        """
        table = block.table
        names = [name for name in table.column_names if name not in _GIVEN]
        context = pa.schema([table.schema.field(name) for name in names])
        if self._context is None:
            self._context = context
            self._events = EventColumns(context, self._temporary)
        if context != self._context:
            raise DataError(
                f"{block.file} has other context columns, or of other types, than the files "
                f"before it: {_described(context)}, not {_described(self._context)}."
            )
        sessions = encoded(table["session_id"])
        hashes = hash_ids(sessions.dictionary)
        codes = sessions.indices.to_numpy()
        rows = self._origins.add(block)
        if self._dropping:
            table = table.append_column("fault", _as_column(block.faults or {}, len(codes)))
            told = pc.not_equal(sessions.dictionary, "").to_numpy(zero_copy_only=False)[codes]
            for row in np.flatnonzero(~told):
                self._dropped.add_row(int(rows[row]), table["fault"][int(row)].as_py())
            table, codes, rows = _only(told, table, codes, rows)
        if "kept" in table.column_names:
            table, codes, rows = _only(table["kept"].to_numpy(), table, codes, rows)
        self._note_names(sessions.dictionary)
        if self._bound and "length" in table.column_names:
            # Each of these gives at least one session, so those beyond the bound are not needed.
            long = table["length"].to_numpy() >= self._min_length
            self._bound.add(hashes[np.unique(codes[long])])
            kept = hashes[codes] <= self._bound.bound
            table, codes, rows = _only(kept, table, codes, rows)
        if not len(codes):
            return
        columns = {
            "hash": hashes[codes],
            "session_id": pa.DictionaryArray.from_arrays(pa.array(codes), sessions.dictionary),
            "row": rows,
            "order": table["order"],
            **self._events.encode(table),
        }
        for name in ("length", "fault"):
            if name in table.column_names:
                columns[name] = table[name]
        self._spool.add(pa.table(columns))

    @property
    def gap(self) -> int | None:
        """The longest time between events that stay together, in units of `order`; None if any.

        Raises:
          ConfigError: gaps are asked for, but the unit of `order` is not known.
        """
        if not self._gap_minutes:
            return None
        if not self.time_unit:
            raise ConfigError(
                f"gap_minutes is {self._gap_minutes:g}, but it is not known what the numbers that "
                "order events are; give time_unit."
            )
        return int(self._gap_minutes * 60 * layout.UNITS_PER_SECOND[self.time_unit])

    def leave_out(self, what: str, count: int) -> None:
        """Adds to what `info["left_out"]` will say."""
        self._left_out[what] = self._left_out.get(what, 0) + count

    def _finish(self) -> None:
        if not self._origins.rows:
            raise DataError("there are no rows to make sessions of.")
        bound = np.uint64(2**64 - 1)
        if self._bound:
            self._bound.settle()
            bound = self._bound.bound
        counts = {"sessions": 0, "events": 0}
        sessions = self._sessions(bound, counts)
        layout.write_batches(
            self._work / layout.SESSIONS,
            layout.SESSIONS_SCHEMA,
            layout.evenly(sessions, layout.SESSION_ROWS),
        )
        if not counts["sessions"]:
            raise self._nothing_left()
        counts["tracks"] = self._events.write(self._work, counts["events"], self._progress)
        if self._track_features is not None:
            self.info["features"] = features.write(
                self._track_features,
                self._work,
                self._events.track_ids,
                self._events.places,
                progress=self._progress,
            )
        self.info |= {"counts": counts, "left_out": self._left_out}
        if self.time_unit:
            self.info["time_unit"] = self.time_unit
        if self._dropping:
            self.info["dropped"] = self._dropped.counts | self._whole
            self._dropped.write(self._work / layout.DROPPED)

    def _sessions(self, bound: np.uint64, counts: dict[str, int]) -> Iterator[pa.Table]:
        """Yields the sessions in order, appending their events and adding to `counts`."""
        self._spool.close()
        total, done = self._spool.size(), 0

        def sorted_so_far(size: int) -> None:
            nonlocal done
            done += size
            self._progress(done, total, "sorting")

        for table in self._spool.partitions(bound, sorted_so_far, self._partition_rows):
            wanted = self._num_sessions - counts["sessions"] if self._num_sessions else None
            if wanted == 0:
                continue  # goes on only to delete the files
            everything = grouping.group(table, self._newest_first)
            bad = self._bad(everything)
            good = grouping.without(everything, bad) if bad.any() else everything
            refined = Refined(good, {})
            if self._refine and len(good.sizes):
                refined = self._refine(good)
            groups = refined.groups
            pieces = grouping.cut(
                groups,
                min_length=self._min_length,
                max_length=self._max_length,
                breaks=grouping.after_gaps(groups, self.gap),
                at_most=wanted,
            )
            last = None  # of the good sequences that count, if not all do
            if len(pieces.lengths) == wanted:
                last = refined.places[pieces.reached - 1]
            if bad.any():
                if last is not None:  # what comes later does not count
                    bad &= np.cumsum(~bad) <= last
                self._dropped.add_sessions(everything, bad)
            self._check_names(pieces.made_ids)
            self._events.append(groups.table, pieces.kept)
            self._left_out["sessions"] += pieces.short_sessions
            self._left_out["events"] += pieces.short_events
            for name, numbers in refined.left_out.items():
                numbers = numbers if last is None else numbers[: last + 1]
                self.leave_out(name, int(numbers.sum()))
            counts["sessions"] += len(pieces.lengths)
            counts["events"] += int(pieces.lengths.sum())
            yield pa.table([pieces.ids, pieces.lengths], schema=layout.SESSIONS_SCHEMA)

    def _bad(self, groups: Groups) -> np.ndarray:
        """[s] bool, which sessions are to be dropped; the first is an error if none may be."""
        bad = np.zeros(len(groups.sizes), bool)
        if "length" in groups.table.column_names:
            bad = grouping.incomplete(groups)
        if self._dropping:
            return bad | grouping.any_row(groups, groups.table["fault"].is_valid().to_numpy())
        if bad.any():
            number = int(np.argmax(bad))
            _, what, fix = grouping.what_is_missing(groups, number, self._origins.of)
            raise DataError(f"session {groups.ids[number].as_py()!r} {what}; {fix}")
        return bad

    def _nothing_left(self) -> DataError:
        short = f"({self._left_out['sessions']} were shorter)"
        if not self._dropping or not self._dropped.first:
            return DataError(
                f"no session has {self._min_length} or more events {short}; lower min_length."
            )
        return DataError(
            f"no good session has {self._min_length} or more events {short}; dropped were "
            f"{described(self._dropped.counts | self._whole)}, first {self._dropped.first}."
        )

    def _not_written(self, error: OSError) -> OutputError:
        return OutputError(f"{self._folder} cannot be written: {error.strerror or error}.")

    def _note_names(self, ids: pa.Array) -> None:
        alike = pc.match_substring_regex(ids, "#[0-9]+$")
        self._named_like_pieces.update(ids.filter(alike).to_pylist())

    def _check_names(self, made_ids: list[str]) -> None:
        for name in made_ids if self._named_like_pieces else ():
            if name in self._named_like_pieces:
                raise DataError(
                    f"a sequence longer than {self._max_length} is cut into pieces, one of them "
                    f"to be named {name!r}, but the data has a session of that id already; "
                    "rename it, or raise max_length."
                )


def _without_errors(close: Callable[[], None]) -> None:
    """Closes what is closed already, unless there was an error, of which one is enough."""
    with contextlib.suppress(OSError):
        close()


def _only(kept: np.ndarray, table: pa.Table, *arrays: np.ndarray) -> tuple[Any, ...]:
    """The rows of a table and of arrays beside it for which `kept` is true."""
    if kept.all():
        return table, *arrays
    return table.filter(pa.array(kept)), *(array[kept] for array in arrays)


def _as_column(faults: Mapping[int, str], rows: int) -> pa.Array:
    """[rows] text, null where there is no fault."""
    if not faults:
        return pa.nulls(rows, pa.string())
    return pa.array(map(faults.get, range(rows)), pa.string(), size=rows)


def _described(context: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in context) or "none"
