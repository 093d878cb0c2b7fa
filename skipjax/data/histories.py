"""Listening histories to recommend for: from a file, a table, a data frame or plain lists."""

import dataclasses
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import fields, rows, times
from skipjax.data.blocks import (
    BLOCK_BYTES,
    REPEATED_TEXT,
    TEXT,
    Block,
    check_columns,
    in_turn,
    noting,
)
from skipjax.data.hashes import Seen, hash_ids
from skipjax.data.inputs import Progress, shown
from skipjax.data.sessions import NUM_LEVELS
from skipjax.errors import ConfigError, DataError

_ROWS = 1 << 17  # of a table that are worked on at a time


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column is what; '' where there is none.

    Attributes:
      session_column: id of the session, or listener, that a row belongs to.
      track_column: id of the track.
      position_column: whole number to order a session by, or
      time_column: time to order it by: a whole number, or a date and time (ISO 8601). Rows of the
        same position or time, and all rows without either, stay in the order they are in.
      level_column: skip level 0 to 3, or
      skip_column: true or false, or 1 or 0.
    """

    session_column: str = "session_id"
    track_column: str = "track_id"
    position_column: str = ""
    time_column: str = ""
    level_column: str = ""
    skip_column: str = ""

    def __post_init__(self):
        for one, other in (("position_column", "time_column"), ("level_column", "skip_column")):
            if getattr(self, one) and getattr(self, other):
                raise ConfigError(f"{one} and {other} are both given; leave out one of them.")
        for name in ("session_column", "track_column"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name the column.")
        if self.session_column == self.track_column:
            raise ConfigError(
                f"session_column and track_column are both {self.track_column!r}; name two columns."
            )

    @property
    def order_column(self) -> str:
        return self.position_column or self.time_column

    @property
    def csv_types(self) -> dict[str, pa.DataType]:
        names = (
            self.session_column,
            self.track_column,
            self.level_column or self.skip_column,
            self.order_column,
        )
        wanted = dict.fromkeys(filter(None, names), REPEATED_TEXT)
        return wanted | ({self.order_column: TEXT} if self.order_column else {})


@dataclasses.dataclass(frozen=True)
class Histories:
    """Sessions, their tracks in order of listening.

    Attributes:
      session_ids: [S] as they were given: text, numbers, ...
      offsets: [S + 1] int64; session s has the events `offsets[s]` to `offsets[s + 1]`.
      tracks: [E] ids as text, dictionary-encoded.
      skipped: [E] bool, or None where nothing is known of skips.
      dropped: sessions left out since something is wrong with them.
      dropped_rows: rows left out since their session cannot be told.
      faults: what was wrong with each of either.
    """

    session_ids: pa.Array
    offsets: np.ndarray
    tracks: pa.DictionaryArray
    skipped: np.ndarray | None
    dropped: int = 0
    dropped_rows: int = 0
    faults: Sequence[str] = ()


def from_lists(
    sessions: Iterable[Iterable[Any]], skipped: Iterable[Iterable[bool]] | None = None
) -> Histories:
    """Histories from lists of track ids, numbered from 0.

    Args:
      sessions: for each session its tracks, each text or a whole number; it may have none.
      skipped: for each track of each session whether it was skipped.

    Raises:
      DataError: something else in them, or lists that do not fit together.
    """
    texts = [
        [_text(track, f"sessions[{s}][{i}]") for i, track in enumerate(session)]
        for s, session in enumerate(_lists(sessions))
    ]
    lengths = [len(session) for session in texts]
    flags = None
    if skipped is not None:
        given = [list(flags) for flags in skipped]
        if [len(flags) for flags in given] != lengths:
            raise DataError(
                "skipped does not have the shape of sessions; give one value for each track."
            )
        for s, session in enumerate(given):
            for i, flag in enumerate(session):
                if not isinstance(flag, bool | np.bool_):
                    raise DataError(f"skipped[{s}][{i}] is {flag!r}; give True or False.")
        flags = np.array([flag for session in given for flag in session], bool)
    return Histories(
        session_ids=pa.array(range(len(texts)), pa.int64()),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        tracks=pa.array([t for session in texts for t in session], TEXT).dictionary_encode(),
        skipped=flags,
    )


def is_table(sessions: Any) -> bool:
    """Whether `from_table` takes it: a table of Arrow, pandas, Polars, DuckDB, ..."""
    pandas = type(sessions).__module__.partition(".")[0] == "pandas"  # an old one has no stream
    return pandas or hasattr(sessions, "__arrow_c_stream__")


def from_table(
    table: Any,
    columns: Columns,
    *,
    skip_levels: Sequence[int] = (1, 2),
    on_bad_session: str = "error",
) -> Iterator[Histories]:
    """Histories from a table or data frame, whose rows may come in any order.

    Sessions come in the order of their first rows.

    Args:
      table: what `is_table` takes.
      columns: which column is what.
      skip_levels: the levels that count as skipped.
      on_bad_session: "error", or "drop" to leave out sessions with a value that cannot be used.

    Raises:
      DataError: a column or value that cannot be used.
    """
    wanted = columns.csv_types
    try:
        table = table if isinstance(table, pa.Table) else pa.table(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join("; ".join(map(str, error.args)).split())
        raise DataError(f"sessions cannot be made an Arrow table: {reason}") from error
    check_columns("sessions", table.column_names, wanted)
    if not table.num_rows:
        raise DataError("sessions has no rows.")
    table = pa.table({name: _without_views(table[name]) for name in wanted})
    block = noting(Block(table, "sessions", 0), on_bad_session == "drop")
    parsed = _parsed(block, columns, times.form_of(block, columns.time_column), skip_levels)
    parsed, lost = _told_apart(parsed)
    codes = parsed["session"].combine_chunks().indices.to_numpy()
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    ends = np.cumsum(np.bincount(place[codes], minlength=len(first)))
    numbered = _in_order(parsed, place[codes])
    start = begin = 0
    if not len(ends):
        yield _histories(parsed, ends, lost)
    while begin < len(ends):  # whole sessions, some _ROWS at a time
        end = max(int(np.searchsorted(ends, start + _ROWS, side="right")), begin + 1)
        part = numbered.slice(start, int(ends[end - 1]) - start)
        yield _histories(part, np.diff(ends[begin:end], prepend=start), lost)
        start, begin, lost = int(ends[end - 1]), end, ()


def read(
    path: str | os.PathLike,
    columns: Columns,
    *,
    skip_levels: Sequence[int] = (1, 2),
    on_bad_session: str = "error",
    progress: Progress | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Histories]:
    """Histories from a file, in blocks; in it, the rows of a session must lie together.

    Memory depends on neither the number of sessions (but for 8 bytes each, by which one that comes
    back is noticed) nor the size of the file.

    Args:
      path: CSV, TSV or JSON lines, gzipped or not, or Parquet, by its name.
      columns: which column is what.
      skip_levels: the levels that count as skipped.
      on_bad_session: "error", or "drop" to leave out sessions with a value that cannot be used.
      progress: called with bytes done, bytes in all, and what is being done.
      block_bytes: how much to read at a time; changes nothing in the sessions.

    Raises:
      ConfigError: an unknown ending.
      DataError: the file, a row or a value cannot be used.
    """
    past = Seen()
    blocks = _blocks(path, columns, skip_levels, on_bad_session, progress, block_bytes)
    for table, lost in _whole_sessions(blocks):
        codes = table["session"].combine_chunks().indices.to_numpy()
        starts = _runs(codes)
        if len(starts):
            _check_new(path, table, codes[starts], starts, past)
        sizes = np.diff(starts, append=len(codes))
        numbered = _in_order(table, np.repeat(np.arange(len(starts)), sizes))
        yield _histories(numbered, sizes, lost)


def _blocks(path, columns, skip_levels, on_bad_session, progress, block_bytes):
    """Parsed rows, and faults of rows whose session cannot be told."""
    form = ""
    for block in in_turn(
        [Path(path)],
        lambda path: rows.read(path, columns.csv_types, block_bytes=block_bytes),
        note_faults=on_bad_session == "drop",
        progress=progress,
        what="recommending",
    ):
        form = form or times.form_of(block, columns.time_column)
        yield _told_apart(_parsed(block, columns, form, skip_levels))


def _parsed(block: Block, columns: Columns, form: str, skip_levels: Sequence[int]) -> pa.Table:
    """Rows with `id` and `session` (as given, and as text), `track`, `order`, `skipped`, `row`
    and `fault`."""
    found: dict[str, Any] = {
        "session": fields.ids(block, columns.session_column),
        "track": fields.ids(block, columns.track_column),
    }
    if columns.order_column:
        found["order"] = times.parse(block, columns.order_column, form)
    if columns.level_column:
        levels = fields.integers(block, columns.level_column, 0, NUM_LEVELS - 1, "a skip level")
        found["skipped"] = np.isin(levels, list(skip_levels))
    elif columns.skip_column:
        found["skipped"] = fields.flags(block, columns.skip_column, "true 1", "false 0")
    given = block.table[columns.session_column]
    if pa.types.is_dictionary(given.type):
        given = given.cast(given.type.value_type)
    number = np.arange(block.first_row, block.first_row + block.table.num_rows)
    faults = pa.nulls(len(number), TEXT)
    if block.faults:
        texts = [f"{block.file} row {number[row]}, {text}" for row, text in block.faults.items()]
        bad = np.isin(np.arange(len(number)), list(block.faults))
        order = np.argsort(list(block.faults))
        faults = pc.replace_with_mask(faults, pa.array(bad), pa.array(texts).take(pa.array(order)))
    return pa.table(found | {"id": given, "row": number, "fault": faults})


def _told_apart(table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows whose session can be told, and what is wrong with the others."""
    faulty = table["fault"].is_valid().to_numpy()
    if not faulty.any():
        return table, ()
    names = table["session"].combine_chunks()
    lost = faulty & (names.dictionary.take(names.indices).to_numpy(zero_copy_only=False) == "")
    return (
        table.filter(pa.array(~lost)),
        tuple(table["fault"].filter(pa.array(lost)).to_pylist()),
    )


def _whole_sessions(
    blocks: Iterable[tuple[pa.Table, tuple[str, ...]]],
) -> Iterator[tuple[pa.Table, tuple[str, ...]]]:
    """The same rows in order, cut between sessions instead."""
    ready: list[pa.Table] = []  # held back, so that the last session is not left alone
    pending: list[pa.Table] = []  # of the session that may go on
    lost: tuple[str, ...] = ()
    for table, more in blocks:
        lost += more
        if not table.num_rows:
            continue
        names = table["session"].combine_chunks()
        last = int(_runs(names.indices.to_numpy())[-1])
        if pending and not last and pending[-1]["session"][-1].as_py() == names[0].as_py():
            pending.append(table)
            continue
        if ready:
            yield pa.concat_tables(ready).unify_dictionaries(), lost
            lost = ()
        ready = [*pending, table.slice(0, last)]
        pending = [table.slice(last)]
    yield pa.concat_tables([*ready, *pending] or [table]).unify_dictionaries(), lost


def _in_order(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    """Rows by the number of their session, [n], and within it by `order`, if there is one."""
    keys = [table["order"].to_numpy()] if "order" in table.column_names else []
    order = np.lexsort((*keys, numbers))  # stable
    return table if (order[1:] > order[:-1]).all() else table.take(pa.array(order))


def _histories(table: pa.Table, sizes: np.ndarray, lost: Sequence[str]) -> Histories:
    """From rows in order, and how many of them each session has; without sessions with a fault."""
    faults = table["fault"]
    faulty = faults.is_valid().to_numpy()
    starts = np.cumsum(sizes) - sizes
    places = np.flatnonzero(faulty)
    _, first = np.unique(np.searchsorted(starts, places, side="right"), return_index=True)
    found = [*lost, *faults.take(pa.array(places[first])).to_pylist()]
    bad = np.logical_or.reduceat(faulty, starts) if len(starts) else np.zeros(0, bool)
    if bad.any():
        table = table.filter(pa.array(np.repeat(~bad, sizes)))
        sizes = sizes[~bad]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    skips = table["skipped"].to_numpy() if "skipped" in table.column_names else None
    return Histories(
        session_ids=table["id"].take(pa.array(offsets[:-1])).combine_chunks(),
        offsets=offsets,
        tracks=table["track"].combine_chunks(),
        skipped=skips,
        dropped=int(bad.sum()),
        dropped_rows=len(lost),
        faults=found,
    )


def _runs(codes: np.ndarray) -> np.ndarray:
    """Where each run of equal codes starts."""
    return np.flatnonzero(np.concatenate([[len(codes) > 0], codes[1:] != codes[:-1]]))


def _check_new(
    path: str | os.PathLike,
    table: pa.Table,
    codes: np.ndarray,
    starts: np.ndarray,
    past: Seen,
) -> None:
    """Raises a DataError if a run of rows, of which [r] codes are given, goes on with a session."""
    names = table["session"].combine_chunks().dictionary.take(pa.array(codes))
    again = past.add(hash_ids(names))
    _, first = np.unique(codes, return_index=True)
    within = np.ones(len(codes), bool)
    within[first] = False
    back = np.flatnonzero(again | within)
    if back.size:
        row = table["row"][int(starts[back[0]])].as_py()
        raise DataError(
            f"{path} row {row}: session {shown(repr(names[int(back[0])].as_py()), 60)} comes back "
            "after others; sort the rows by session, so that each is in one piece."
        )


def _without_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Views of text, which Polars has, as text."""
    text = pa.large_string()
    if pa.types.is_string_view(column.type):
        return column.cast(text)
    if pa.types.is_dictionary(column.type) and pa.types.is_string_view(column.type.value_type):
        return pa.chunked_array(
            [
                pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(text))
                for chunk in column.chunks
            ]
        )
    return column


def _lists(sessions: Any) -> Iterator[list[Any]]:
    """A list of lists, whatever iterable they are."""
    if isinstance(sessions, str | bytes | Mapping) or not isinstance(sessions, Iterable):
        raise DataError(f"sessions is {type(sessions).__name__}; give a table or a list of lists.")
    for number, session in enumerate(sessions):
        if isinstance(session, str | bytes | Mapping) or not isinstance(session, Iterable):
            raise DataError(f"sessions[{number}] is {session!r}; give a list of its tracks.")
        yield list(session)


def _text(track: Any, where: str) -> str:
    if isinstance(track, str):
        return track
    if isinstance(track, numbers.Integral) and not isinstance(track, bool):
        return str(int(track))
    raise DataError(f"{where} is {track!r}; give track ids as text or whole numbers.")
