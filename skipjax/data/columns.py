"""The columns of events on their way from rows to files: texts as codes, kept on disk.

Codes are given as texts first appear; at the end only the texts that are wanted stay, sorted, and
codes become places among them. So the files do not depend on the order of the input.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipjax.data import layout
from skipjax.data.fields import is_text
from skipjax.data.inputs import Progress
from skipjax.data.vocabulary import Vocabulary


def context_name(name: str) -> str:
    """What `EventColumns.encode` calls a context column, where it is beside those of the rows."""
    return f"context {name}"


class EventColumns:
    """Track, level and context of events.

    While rows are spooled, `encode` makes numbers of them; then `append` takes the events of
    finished sessions, in order; last, `write` makes the final files.
    """

    def __init__(self, context: pa.Schema, folder: Path):
        """
        Args:
          context: names and types of the context columns.
          folder: for temporary files.
        """
        self._context = context
        self._fields = {"track": pa.large_string(), "level": pa.int8()}
        self._fields |= {context_name(field.name): field.type for field in context}
        self._vocabularies = {
            name: Vocabulary() for name, kind in self._fields.items() if is_text(kind)
        }
        self._raw = {
            name: _RawColumn(folder / f"{number}.raw", _number_type(kind))
            for number, (name, kind) in enumerate(self._fields.items())
        }

    def encode(self, table: pa.Table) -> dict[str, np.ndarray | pa.ChunkedArray]:
        """The columns of `table` as numbers, under names of their own."""
        columns = {"track": table["track_id"], "level": table["level"]}
        columns |= {context_name(name): table[name] for name in self._context.names}
        for name, column in columns.items():
            if name in self._vocabularies:
                columns[name] = self._vocabularies[name].encode(column)
            elif pa.types.is_date32(column.type):
                columns[name] = column.cast(pa.int32())
        return columns

    def append(self, table: pa.Table, kept: np.ndarray) -> None:
        """Adds rows of a table with the columns that `encode` gave; all of them must be there.

        Args:
          table: [n] rows, in their final order.
          kept: [n] bool, which of them to add.
        """
        for name, raw in self._raw.items():
            values = table[name].to_numpy()[kept]
            raw.append(values)
            if name in self._vocabularies:
                self._vocabularies[name].mark(values)

    def places(self, track_ids: pa.Array) -> np.ndarray:
        """Where each of these stands in `track_ids`, once written: [n] int32, -1 if nowhere."""
        codes = self._vocabularies["track"].codes(track_ids)
        return np.where(codes < 0, np.int32(-1), self._places[codes])

    def write(self, folder: Path, rows: int, progress: Progress) -> int:
        """Writes the files of tracks, events and context.

        Args:
          folder: where to.
          rows: how many have been appended.
          progress: called with bytes done, bytes in all, and "writing".

        Returns:
          How many tracks there are.
        """
        total = sum(rows * column.dtype.itemsize for column in self._raw.values())
        done = 0

        def chunks(name: str, place: np.ndarray | None = None) -> Iterator[np.ndarray]:
            nonlocal done
            for chunk in self._raw[name].chunks():
                yield chunk if place is None else place[chunk]
                done += chunk.nbytes
                progress(done, total, "writing")

        ids, place = self._vocabularies["track"].settle(pa.large_string())
        self.track_ids, self._places = ids, place
        tracks = pa.record_batch([ids], names=["track_id"])
        layout.write_batches(folder / layout.TRACKS, tracks.schema, [tracks])
        layout.write_flat(
            folder / layout.EVENTS,
            rows,
            {"track": (np.int32, chunks("track", place)), "level": (np.int8, chunks("level"))},
        )
        columns, fields = [], []
        for field in self._context:
            name = context_name(field.name)
            if name in self._vocabularies:
                texts, place = self._vocabularies[name].settle(pa.string())
                columns.append(_as_texts(chunks(name, place), texts))
                field = field.with_type(pa.dictionary(pa.int32(), pa.string()))
            else:
                columns.append(_as_type(chunks(name), field.type))
            fields.append(field)
        schema = pa.schema(fields)
        batches = (pa.record_batch(list(a), schema=schema) for a in zip(*columns, strict=True))
        layout.write_batches(folder / layout.CONTEXT, schema, batches)
        return len(ids)


def encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column of texts as one dictionary-encoded array."""
    array = column.combine_chunks()
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


class _RawColumn:
    """Numbers appended to a temporary file, and read back in chunks."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.dtype = np.dtype(dtype)
        self._path = path

    def append(self, values: np.ndarray) -> None:
        with open(self._path, "ab") as file:
            file.write(np.ascontiguousarray(values, self.dtype))

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields all numbers, layout.CHUNK_ROWS at a time."""
        with open(self._path, "rb") as file:
            while len(values := np.fromfile(file, self.dtype, layout.CHUNK_ROWS)):
                yield values


def _as_texts(chunks: Iterator[np.ndarray], texts: pa.Array) -> Iterator[pa.Array]:
    return (pa.DictionaryArray.from_arrays(pa.array(chunk), texts) for chunk in chunks)


def _as_type(chunks: Iterator[np.ndarray], kind: pa.DataType) -> Iterator[pa.Array]:
    return (pa.array(chunk, kind) for chunk in chunks)


def _number_type(kind: pa.DataType) -> np.dtype:
    """What a column is kept as: codes of texts and days of dates are int32."""
    if is_text(kind) or pa.types.is_date32(kind):
        return np.dtype(np.int32)
    return np.dtype(np.bool_) if pa.types.is_boolean(kind) else pa.array([], kind).to_numpy().dtype
