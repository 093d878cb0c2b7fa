"""Reads listening logs from files of any format of `rows`, their columns named by the user."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Unpack

import numpy as np
import pyarrow as pa

from skipjax.data import fields, layout, rows, times
from skipjax.data.blocks import BLOCK_BYTES, REPEATED_TEXT, TEXT, Block
from skipjax.data.inputs import Sources, find
from skipjax.data.sessions import BRIEFLY_LEVEL, NUM_LEVELS, PLAYED_LEVEL, Sessions
from skipjax.data.writer import SessionsWriter, Settings
from skipjax.errors import ConfigError

# Of a file, the columns with these types, in blocks of so many bytes: see `rows.read`.
ReadRows = Callable[[Path, Mapping[str, pa.DataType], int], Iterator[tuple[Block, int]]]
GAP_MINUTES = 0.0
_MOST_PERCENT = 2**15 - 1
_RATINGS = (-1e9, 1e9)  # the least and the greatest; as float32 they stay finite


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column is what; '' where there is none.

    Attributes:
      session_column: id of the sequence that a row belongs to: a session, or a listener.
      track_column: id of the track.
      position_column: whole number to order a sequence by, or
      time_column: time to order it by: a whole number, or a date and time (ISO 8601). Rows of the
        same position or time stay in the order of the file.
      time_unit: of times that are whole numbers: "s", "ms", "us" or "ns"; '' if that is not known.
        Dates and times are kept in "ns".
      level_column: skip level 0 to 3, or
      skip_column: true or false, or 1 or 0; a skip becomes level 2.
      rating_column: a number.
      percent_column: how much of the track was played, 0 to 32767 (fractions are cut off); empty or
        null where that is not known. Of these four, one is needed at least.
      context_columns: kept beside the events: text (all that CSV has), whole numbers, booleans,
        dates.
    """

    session_column: str = "session_id"
    track_column: str = "track_id"
    position_column: str = ""
    time_column: str = ""
    time_unit: str = ""
    level_column: str = ""
    skip_column: str = ""
    rating_column: str = ""
    percent_column: str = ""
    context_columns: tuple[str, ...] = ()

    def __post_init__(self):
        if bool(self.position_column) == bool(self.time_column):
            given = "both are" if self.position_column else "neither is"
            raise ConfigError(
                f"give exactly one of position_column and time_column; {given} given."
            )
        if self.level_column and self.skip_column:
            raise ConfigError("give only one of level_column and skip_column; both are given.")
        if not self.feedback:
            raise ConfigError(
                "nothing tells what was skipped; give level_column, skip_column, rating_column or "
                "percent_column."
            )
        if self.time_unit and self.time_unit not in layout.UNITS_PER_SECOND:
            units = ", ".join(layout.UNITS_PER_SECOND)
            raise ConfigError(f"time_unit is {self.time_unit!r}; it must be one of {units}.")
        if self.time_unit and not self.time_column:
            raise ConfigError(
                f"time_unit is {self.time_unit!r}, but there is no time_column; leave it out."
            )
        for name in ("session_column", "track_column"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name the column.")
        if self.session_column == self.track_column:
            raise ConfigError(
                f"session_column and track_column are both {self.track_column!r}; name two columns."
            )
        taken = {"session_id", "track_id", "order", "level", "length", "kept", *layout.RESERVED}
        for name in self.context_columns:
            if name in taken:
                raise ConfigError(
                    f"context_columns has {name!r} twice, or it is a name that events use "
                    "themselves; leave it out or rename the column."
                )
            taken.add(name)

    @property
    def order_column(self) -> str:
        return self.position_column or self.time_column

    @property
    def feedback(self) -> tuple[str, ...]:
        """Which of layout.FEEDBACK there is."""
        given = {
            "level": self.level_column or self.skip_column,
            "played_percent": self.percent_column,
            "rating": self.rating_column,
        }
        return tuple(name for name, column in given.items() if column)

    @property
    def csv_types(self) -> dict[str, pa.DataType]:
        names = (
            self.session_column,
            self.track_column,
            self.order_column,
            self.level_column or self.skip_column,
            self.rating_column,
            self.percent_column,
            *self.context_columns,
        )
        return dict.fromkeys(filter(None, names), REPEATED_TEXT) | {self.order_column: TEXT}


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    columns: Columns,
    *,
    gap_minutes: float = GAP_MINUTES,
    source: str = "table",
    read_rows: ReadRows = rows.read_any,
    block_bytes: int = BLOCK_BYTES,
    **settings: Unpack[Settings],
) -> Sessions:
    """Prepares a log as a folder of sessions, and opens it.

    Args:
      sources: a path or several: CSV, TSV or JSON lines, gzipped or not, or Parquet, by its name,
        or else CSV; folders; glob patterns.
      out: the new folder.
      columns: which column is what.
      gap_minutes: cut sequences where two events are further apart; 0 does not.
      source: what to call this log in the sessions' `info`.
      read_rows: how to read a file; as `rows.read_any`.
      block_bytes: how much to read at a time; changes nothing in the result.
      **settings: which sessions to keep, and more: see `SessionsWriter`.

    Raises:
      ConfigError: a gap is asked for, and it is not known what unit times are in.
      DataError: a file, row or value that cannot be used; nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    if gap_minutes and columns.position_column:
        raise ConfigError(
            f"gap_minutes is {gap_minutes:g}, but positions are no times; give time_column, or "
            "leave out the gap."
        )
    with SessionsWriter(
        out,
        source=source,
        options=dataclasses.asdict(columns),
        feedback=columns.feedback,
        gap_minutes=gap_minutes,
        whole="sequence" if gap_minutes else "session",
        **settings,
    ) as writer:
        form = ""
        for block in writer.blocks(
            files(sources), lambda path: read_rows(path, columns.csv_types, block_bytes)
        ):
            form = form or times.form_of(block, columns.time_column)
            parsed = _parsed(block, columns, form)
            if columns.time_column and form:
                writer.time_unit = columns.time_unit if form == times.INTEGER else "ns"
                if gap_minutes and not writer.time_unit:
                    raise ConfigError(
                        f"gap_minutes is {gap_minutes:g}, but {columns.time_column!r} holds whole "
                        "numbers, and it is not known of what; give time_unit: "
                        f"{', '.join(layout.UNITS_PER_SECOND)}."
                    )
            writer.add(parsed)
    return Sessions.open(out)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, rows.SUFFIXES)


def _parsed(block: Block, columns: Columns, form: str) -> Block:
    levels = np.zeros(block.table.num_rows, np.int8)
    if columns.level_column:
        levels = fields.integers(block, columns.level_column, 0, NUM_LEVELS - 1, "a skip level")
    elif columns.skip_column:
        skipped = fields.flags(block, columns.skip_column, "true 1", "false 0")
        levels = np.where(skipped, BRIEFLY_LEVEL, PLAYED_LEVEL)
    table = {
        "session_id": fields.ids(block, columns.session_column),
        "track_id": fields.ids(block, columns.track_column),
        "order": times.parse(block, columns.order_column, form),
        "level": levels.astype(np.int8),
    }
    if columns.time_column:
        table["time"] = table["order"]
        if form == times.INTEGER and columns.time_unit:
            times.check_years(block, columns.time_column, table["time"], columns.time_unit)
    if columns.percent_column:
        percent = fields.numbers(
            block, columns.percent_column, 0, _MOST_PERCENT, "a percentage", missing=-1
        )
        table["played_percent"] = np.floor(percent).astype(np.int16)
    if columns.rating_column:
        rating = fields.numbers(block, columns.rating_column, *_RATINGS, "a rating")
        table["rating"] = rating.astype(np.float32)
    table |= {name: fields.context(block, name) for name in columns.context_columns}
    return dataclasses.replace(block, table=pa.table(table))
