"""Reads listening logs from files of any format of `rows`, their columns named by the user."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipjax.data import fields, rows
from skipjax.data.blocks import BLOCK_BYTES, REPEATED_TEXT, TEXT, Block, ahead, noting
from skipjax.data.inputs import Progress, Sources, find
from skipjax.data.sessions import BRIEFLY_LEVEL, NUM_LEVELS, PLAYED_LEVEL, Sessions
from skipjax.data.writer import SessionsWriter
from skipjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column is what; '' where there is none.

    Attributes:
      session_column: id of the sequence that a row belongs to: a session, or a listener.
      track_column: id of the track.
      position_column: whole number to order a sequence by, or
      time_column: time to order it by: a whole number, or a date and time (ISO 8601). Rows of the
        same position or time stay in the order of the file.
      level_column: skip level 0 to 3, or
      skip_column: true or false, or 1 or 0; a skip becomes level 2.
      context_columns: kept beside the events: text (all that CSV has), whole numbers, booleans,
        dates.
    """

    session_column: str = "session_id"
    track_column: str = "track_id"
    position_column: str = ""
    time_column: str = ""
    level_column: str = ""
    skip_column: str = ""
    context_columns: tuple[str, ...] = ()

    def __post_init__(self):
        for one, other in (("position_column", "time_column"), ("level_column", "skip_column")):
            if bool(getattr(self, one)) == bool(getattr(self, other)):
                given = "both are" if getattr(self, one) else "neither is"
                raise ConfigError(f"give exactly one of {one} and {other}; {given} given.")
        for name in ("session_column", "track_column"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name the column.")
        if self.session_column == self.track_column:
            raise ConfigError(
                f"session_column and track_column are both {self.track_column!r}; name two columns."
            )
        taken = {"session_id", "track_id", "order", "level", "length"}
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
    def csv_types(self) -> dict[str, pa.DataType]:
        names = (
            self.session_column,
            self.track_column,
            self.order_column,
            self.level_column or self.skip_column,
            *self.context_columns,
        )
        return dict.fromkeys(names, REPEATED_TEXT) | {self.order_column: TEXT}


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    columns: Columns,
    *,
    num_sessions: int = 0,
    min_length: int = 4,
    max_length: int = 20,
    on_bad_session: str = "error",
    progress: Progress | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Sessions:
    """Prepares a log as a folder of sessions, and opens it.

    Args:
      sources: a path or several: CSV, TSV or JSON lines, gzipped or not, or Parquet, by its name,
        or else CSV; folders; glob patterns.
      out: the new folder.
      columns: which column is what.
      num_sessions: keep a uniform sample of so many sessions; 0 keeps all.
      min_length: leave out shorter sessions and remainders.
      max_length: cut longer sequences into sessions of this length, named `id#1`, `id#2`, ...
      on_bad_session: "error", or "drop" to leave out sessions with a value that cannot be used;
        they are counted and listed.
      progress: called with bytes done, bytes in all, and what is being done.
      block_bytes: how much to read at a time; changes nothing in the result.

    Raises:
      DataError: a file, row or value that cannot be used (with "drop", only what concerns a whole
        file); nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    with SessionsWriter(
        out,
        source="table",
        options=dataclasses.asdict(columns),
        min_length=min_length,
        max_length=max_length,
        num_sessions=num_sessions,
        on_bad_session=on_bad_session,
        progress=progress,
    ) as writer:
        blocks = read(
            sources,
            columns,
            on_bad_session=on_bad_session,
            progress=progress,
            block_bytes=block_bytes,
        )
        for block in blocks:
            writer.add(block)
    return Sessions.open(out)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, rows.SUFFIXES)


def read(
    sources: Sources,
    columns: Columns,
    *,
    on_bad_session: str = "error",
    progress: Progress | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Yields the rows of files, checked, as `SessionsWriter.add` takes them."""
    paths = files(sources)
    total = sum(path.stat().st_size for path in paths)
    form = ""
    for block, done in ahead(_blocks(paths, columns, block_bytes)):
        block = noting(block, on_bad_session)
        form = form or _order_form(block, columns)
        yield _parsed(block, columns, form)
        if progress:
            progress(done, total, "reading")


def _blocks(paths: list[Path], columns: Columns, block_bytes: int) -> Iterator[tuple[Block, int]]:
    """Blocks as stored, each with how many bytes of the files have been read."""
    before = 0
    for path in paths:
        for block, done in rows.read(
            path, columns.csv_types, otherwise=rows.CSV, block_bytes=block_bytes
        ):
            yield block, before + done
        before += path.stat().st_size


def _order_form(block: Block, columns: Columns) -> str:
    if columns.position_column:
        return "an integer"
    return fields.time_form(block, columns.time_column)


def _parsed(block: Block, columns: Columns, form: str) -> Block:
    if columns.level_column:
        levels = fields.integers(block, columns.level_column, 0, NUM_LEVELS - 1, "a skip level")
    else:
        skipped = fields.flags(block, columns.skip_column, "true 1", "false 0")
        levels = np.where(skipped, BRIEFLY_LEVEL, PLAYED_LEVEL)
    table = {
        "session_id": fields.ids(block, columns.session_column),
        "track_id": fields.ids(block, columns.track_column),
        "order": fields.times(block, columns.order_column, form),
        "level": levels.astype(np.int8),
    }
    table |= {name: fields.context(block, name) for name in columns.context_columns}
    return dataclasses.replace(block, table=pa.table(table))
