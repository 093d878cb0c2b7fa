"""How sessions are made: rows in any order in, a prepared folder out, in bounded memory."""

import bisect
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import layout
from skipjax.data.blocks import Block
from skipjax.data.columns import EventColumns, encoded
from skipjax.data.grouping import check_complete, cut, group
from skipjax.data.inputs import Progress
from skipjax.data.spool import PARTITION_ROWS, Smallest, Spool, hash_ids
from skipjax.errors import ConfigError, DataError, OutputError
from skipjax.files import new_folder

_GIVEN = ("session_id", "track_id", "order", "level", "length")  # all else is context


class SessionsWriter:
    """Groups rows into sessions and writes them as a folder for `Sessions.open`.

    A context manager: the folder appears when the block ends without an error, or not at all.
    Memory grows with the number of different tracks, never with the number of rows.

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
          num_sessions: how many to keep; 0 keeps all.
          progress: called with bytes done, bytes in all, and what is being done.
          partition_rows: how many rows may be sorted in memory at a time.

        Raises:
          ConfigError: lengths or counts that make no sense.
        """
        if not 1 <= min_length <= max_length:
            raise ConfigError(
                f"min_length ({min_length}) must be at least 1 and at most max_length "
                f"({max_length})."
            )
        if num_sessions < 0:
            raise ConfigError(f"num_sessions ({num_sessions}) must be 0 (all) or more.")
        self._folder = folder
        self._min_length, self._max_length = min_length, max_length
        self._num_sessions = num_sessions
        self._progress = progress or (lambda done, total, what: None)
        self._partition_rows = partition_rows
        self._info: dict[str, Any] = {
            "source": source,
            "options": {
                **(options or {}),
                "min_length": min_length,
                "max_length": max_length,
                "num_sessions": num_sessions,
            },
        }
        self._left_out = {"sessions": 0, "events": 0}
        self._events: EventColumns | None = None  # made when the first block tells of the context
        self._context: pa.Schema | None = None
        self._bound = Smallest(num_sessions) if num_sessions else None
        self._origins: list[tuple[int, str, int]] = []  # number of first row, file, row in it
        self._rows = 0
        self._named_like_pieces: set[str] = set()

    def __enter__(self) -> "SessionsWriter":
        self._stack = contextlib.ExitStack()
        self._work = self._stack.enter_context(
            new_folder(self._folder, format=layout.FORMAT_VERSION, preparation=self._info)
        )
        self._temporary = self._work / "temporary"
        self._temporary.mkdir()
        self._spool = Spool(self._temporary / "spool")
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            with contextlib.suppress(OSError):  # the disk may be full
                self._spool.close()
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

    def add(self, block: Block) -> None:
        """Takes rows in, in any order and from any number of files.

        Args:
          block: of a table with the columns
            session_id, track_id: text, dictionary-encoded or not;
            order: int64, what to sort a session's events by; ties stay in the order they came;
            level: int8, skip level 0 to 3;
            length: int32, optional: how many events the session has. They must then be in
              `order` 1 to length, each once, and short sessions can be told early;
            anything else: context, of booleans, integers, dates or text, without nulls.
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
        rows = np.arange(self._rows, self._rows + len(codes))
        self._note_origin(block)
        self._note_names(sessions.dictionary)
        if self._bound and "length" in table.column_names:
            # Each of these gives at least one session, so those beyond the bound are not needed.
            long = table["length"].to_numpy() >= self._min_length
            self._bound.add(hashes[np.unique(codes[long])])
            kept = hashes[codes] <= self._bound.bound
            if not kept.all():
                table, codes, rows = table.filter(pa.array(kept)), codes[kept], rows[kept]
        if not len(codes):
            return
        columns = {
            "hash": hashes[codes],
            "session_id": pa.DictionaryArray.from_arrays(pa.array(codes), sessions.dictionary),
            "row": rows,
            "order": table["order"],
            **self._events.encode(table),
        }
        if "length" in table.column_names:
            columns["length"] = table["length"]
        self._spool.add(pa.table(columns))

    def _finish(self) -> None:
        if not self._rows:
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
            raise DataError(
                f"no session has {self._min_length} or more events "
                f"({self._left_out['sessions']} were shorter); lower min_length."
            )
        counts["tracks"] = self._events.write(self._work, counts["events"], self._progress)
        self._info |= {"counts": counts, "left_out": self._left_out}

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
            groups = group(table)
            if "length" in table.column_names:
                check_complete(groups, self._locate)
            pieces = cut(
                groups, min_length=self._min_length, max_length=self._max_length, at_most=wanted
            )
            self._check_names(pieces.made_ids)
            self._events.append(groups.table, pieces.kept)
            self._left_out["sessions"] += pieces.short_sessions
            self._left_out["events"] += pieces.short_events
            counts["sessions"] += len(pieces.lengths)
            counts["events"] += int(pieces.lengths.sum())
            yield pa.table([pieces.ids, pieces.lengths], schema=layout.SESSIONS_SCHEMA)

    def _not_written(self, error: OSError) -> OutputError:
        return OutputError(f"{self._folder} cannot be written: {error.strerror or error}.")

    def _note_origin(self, block: Block) -> None:
        self._origins.append((self._rows, block.file, block.first_row))
        self._rows += block.table.num_rows
        if len(self._origins) > 1:
            (start, file, first_row), last = self._origins[-2:]
            if (file, first_row - start) == (last[1], last[2] - last[0]):  # goes on where it was
                self._origins.pop()

    def _locate(self, row: int) -> str:
        index = bisect.bisect_right(self._origins, row, key=lambda origin: origin[0]) - 1
        start, file, first_row = self._origins[index]
        return f"{file} row {first_row + row - start}"

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


def _described(context: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in context) or "none"
