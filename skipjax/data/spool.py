"""Rows on disk, grouped by session in bounded memory: an external group-by.

Rows go to 128 files by seven bits of a hash of their session's id, so that all rows of a session
are in one file, whatever order they came in. A file that is still too large for memory is split
again by the next bits.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipjax.data.hashes import HASH_BITS
from skipjax.errors import DataError

_BITS = 7
PARTITION_ROWS = 500_000  # about 100 MB while being sorted
_MOST_ROWS = 10_000_000  # of a session: it has to fit into memory whatever is split
PENDING_ROWS = 1 << 18  # as many are gathered before they are written, for files to get enough

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4" if pa.Codec.is_available("lz4_frame") else None)


class Spool:
    """Rows by the hash of their session, in Arrow stream files under `folder`.

    Tables have at least the columns `hash` (uint64) and `session_id` (dictionary of strings).
    """

    def __init__(self, folder: Path, used_bits: int = 0, bits: int = _BITS):
        """
        Args:
          folder: to be made.
          used_bits: of the hash, which are the same for all rows.
          bits: by which rows are told apart here.
        """
        self._folder = folder
        self._used_bits = used_bits + bits
        self._files = 1 << bits
        self._shift = np.uint64(HASH_BITS - self._used_bits)
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}
        self._rows = [0] * self._files
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        folder.mkdir()

    def add(self, table: pa.Table) -> None:
        """Appends rows; those of one session must come in the order they are to be kept in."""
        self._pending.append(table)
        self._pending_rows += table.num_rows
        if self._pending_rows >= PENDING_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).unify_dictionaries()
        self._pending, self._pending_rows = [], 0
        hashes = table["hash"].to_numpy()
        order = np.argsort(hashes, kind="stable")
        table = table.take(pa.array(order))
        files = (hashes[order] >> self._shift) & np.uint64(self._files - 1)
        ends = np.searchsorted(files, np.arange(self._files, dtype=np.uint64), side="right")
        start = 0
        for number, end in enumerate(ends.tolist()):
            if end > start:
                self._append(number, table.slice(start, end - start))
            start = end

    def _append(self, number: int, table: pa.Table) -> None:
        ids = table["session_id"].combine_chunks()
        # A slice keeps the dictionary of the whole; write only the ids that occur in it.
        codes, indices = np.unique(ids.indices.to_numpy(), return_inverse=True)
        ids = pa.DictionaryArray.from_arrays(
            pa.array(indices.astype(np.int32)), ids.dictionary.take(pa.array(codes))
        )
        table = table.set_column(table.schema.get_field_index("session_id"), "session_id", ids)
        if number not in self._writers:
            self._writers[number] = pa.ipc.new_stream(
                self._path(number), table.schema, options=_OPTIONS
            )
        self._writers[number].write_table(table)
        self._rows[number] += table.num_rows

    def close(self) -> None:
        """Finishes the files. Closing an Arrow stream twice would end it twice."""
        self._flush()
        while self._writers:
            self._writers.popitem()[1].close()

    def give_up(self) -> None:
        """Closes the files without what has not been written yet."""
        self._pending = []
        self.close()

    def partitions(
        self, bound: np.uint64, done: Callable[[int], None], max_rows: int = PARTITION_ROWS
    ) -> Iterator[pa.Table]:
        """Yields tables that each hold whole sessions, by rising hash, and deletes the files.

        Args:
          bound: rows with a greater hash are dropped.
          done: called with the bytes of each file that has been gone through.
          max_rows: split files with more rows than this.

        Raises:
          DataError: a session is too large.
        """
        self.close()
        for number in self._numbers():
            path = self._path(number)
            size = path.stat().st_size
            if self._rows[number] > max_rows and self._used_bits < HASH_BITS:
                # So many that most of them have half the rows, or fewer.
                bits = (2 * self._rows[number] // max_rows).bit_length()
                bits = min(bits, _BITS, HASH_BITS - self._used_bits)
                finer = Spool(self._folder / f"{number}.split", self._used_bits, bits)
                with pa.OSFile(str(path)) as file:
                    for batch in pa.ipc.open_stream(file):
                        finer.add(_up_to(pa.Table.from_batches([batch]), bound))
                os.unlink(path)
                yield from finer.partitions(bound, lambda _: None, max_rows)
            else:
                if self._rows[number] > _MOST_ROWS:
                    raise self._too_large(path)
                with pa.OSFile(str(path)) as file:
                    table = _up_to(pa.ipc.open_stream(file).read_all(), bound)
                os.unlink(path)
                if table.num_rows:
                    yield table
            done(size)

    def size(self) -> int:
        """Bytes on disk, once closed."""
        return sum(self._path(number).stat().st_size for number in self._numbers())

    def _too_large(self, path: Path) -> DataError:
        with pa.OSFile(str(path)) as file:
            name = pa.ipc.open_stream(file).read_next_batch().column("session_id")[0].as_py()
        return DataError(
            f"session {name!r} has more than {_MOST_ROWS:,} rows; are ids of sessions in another "
            "column?"
        )

    def _numbers(self) -> list[int]:
        return [number for number, rows in enumerate(self._rows) if rows]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.arrows"


def _up_to(table: pa.Table, bound: np.uint64) -> pa.Table:
    kept = table["hash"].to_numpy() <= bound
    return table if kept.all() else table.filter(pa.array(kept))
