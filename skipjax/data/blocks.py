"""Blocks of rows that remember where they come from, and those of several files in turn."""

import bisect
import concurrent.futures
import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipjax.data.inputs import Progress, shown
from skipjax.errors import BadSessionError, DataError

BLOCK_BYTES = 16 << 20
TEXT = pa.string()
REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of one file.

    Attributes:
      table: the rows.
      file: name for messages.
      first_row: the number of the first of them; a CSV's header is row 1, as in an editor.
      faults: what is wrong with rows (numbered from 0 here), where their sessions are to be left
        out; None where the first bad row is an error.
    """

    table: pa.Table
    file: str
    first_row: int
    faults: dict[int, str] | None = None

    def refuse(
        self, rows: Iterable[int], column: str, expected: str | Callable[[int], str]
    ) -> None:
        """Raises a BadSessionError for the first of `rows`, or notes them all as faults.

        Args:
          rows: those whose value in `column` is bad, numbered from 0 in this block.
          column: its name.
          expected: what the value should be, completing `... is not`; or that of a row.
        """
        for row in map(int, rows):
            wanted = expected if isinstance(expected, str) else expected(row)
            fault = f"column {column}: {written(self.table[column], row)} is not {wanted}"
            if self.faults is None:
                raise BadSessionError(f"{self.file} row {self.first_row + row}, {fault}")
            self.faults.setdefault(row, fault)


# Of one file: its blocks, each with how many bytes of it have been read by then.
ReadBlocks = Callable[[Path], Iterator[tuple[Block, int]]]


class Origins:
    """Where rows come from that are counted over all blocks.

    Attributes:
      rows: how many there are.
    """

    def __init__(self):
        self.rows = 0
        self._starts: list[tuple[int, str, int]] = []  # number of first row, file, row in it

    def add(self, block: Block) -> np.ndarray:
        """The numbers of a block's rows, [rows] int64."""
        start, self.rows = self.rows, self.rows + block.table.num_rows
        if not self._starts or self.of(start) != (block.file, block.first_row):
            self._starts.append((start, block.file, block.first_row))
        return np.arange(start, self.rows)

    def of(self, row: int) -> tuple[str, int]:
        """File of row `row`, and its number there."""
        index = bisect.bisect_right(self._starts, row, key=lambda start: start[0]) - 1
        start, file, first_row = self._starts[index]
        return file, int(first_row + row - start)


def noting(block: Block, wanted: bool) -> Block:
    """The block, which keeps its faults if that is wanted."""
    return dataclasses.replace(block, faults={}) if wanted else block


def in_turn(
    paths: Sequence[Path],
    read: ReadBlocks,
    *,
    note_faults: bool = False,
    progress: Progress | None = None,
    what: str = "reading",
) -> Iterator[Block]:
    """The blocks of files, one after another; the next is read while the caller works on one.

    Args:
      paths: the files.
      read: how to read one.
      note_faults: whether blocks keep their faults.
      progress: called with bytes done, bytes in all, and `what`.
      what: is being done.
    """
    sizes = [path.stat().st_size if os.path.exists(path) else 0 for path in paths]
    for block, done in _ahead(_counted(paths, sizes, read)):
        yield noting(block, note_faults)
        if progress:
            progress(done, sum(sizes), what)


def _counted(
    paths: Sequence[Path], sizes: Sequence[int], read: ReadBlocks
) -> Iterator[tuple[Block, int]]:
    """Blocks, each with how many bytes of all files have been read."""
    before = 0
    for path, size in zip(paths, sizes, strict=True):
        for block, done in read(path):
            yield block, before + done
        before += size


def _ahead(blocks: Iterator[tuple[Block, int]]) -> Iterator[tuple[Block, int]]:
    """Reads the next block in a thread while the caller works on this one."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, blocks, end)
        while (block := following.result()) is not end:
            following = pool.submit(next, blocks, end)
            yield block


def check_columns(name: str, present: list[str], wanted: Iterable[str]) -> None:
    """Raises a DataError if a wanted column is not there, or is there twice."""
    for column in wanted:
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            columns = shown(", ".join(present), 400)
            raise DataError(f"{name} has no column {column!r}; its columns are {columns}.{hint}")
        if present.count(column) > 1:
            raise DataError(f"{name} has {present.count(column)} columns named {column!r}.")


def written(column: pa.ChunkedArray, row: int) -> str:
    """A value for messages: as Python writes it, and not too long."""
    value = column[row]
    try:
        return shown(repr(value.as_py()), 60)
    except (ValueError, OverflowError):  # a time that Python's own cannot hold
        return f"{value.cast(pa.int64())} ({value.type})"
