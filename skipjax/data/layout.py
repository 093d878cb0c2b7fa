"""The files of a prepared folder, written column by column so that none has to fit in memory.

events.arrow    track int32, level int8: one record batch, so two flat arrays when mapped
context.arrow   whatever else is known of each event, in chunks; some names are RESERVED
sessions.arrow  session_id, length
tracks.arrow    track_id, sorted; an event's `track` is an index into it
features.arrow  one row for each of these tracks, null where nothing is known, if that was asked for
dropped.csv     bad sessions that were left out, if that was asked for; no part of the content
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

FORMAT_VERSION = 2
EVENTS, CONTEXT = "events.arrow", "context.arrow"
SESSIONS, TRACKS = "sessions.arrow", "tracks.arrow"
CONTENT = (EVENTS, CONTEXT, SESSIONS, TRACKS)
FEATURES = "features.arrow"
DROPPED = "dropped.csv"
EVENTS_SCHEMA = pa.schema({"track": pa.int32(), "level": pa.int8()})
TRACKS_SCHEMA = pa.schema({"track_id": pa.large_string()})
SESSIONS_SCHEMA = pa.schema({"session_id": pa.large_string(), "length": pa.int32()})

# Context columns that mean the same whatever the source; where it logs no such thing, it has none.
RESERVED = {
    "time": pa.int64(),  # when it was played, exactly as logged, in units of info["time_unit"]
    "played_percent": pa.int16(),  # share of the track that was played; -1 where not logged
    "next_gap_seconds": pa.int32(),  # to the listener's next play, at most a day; -1: none follows
    "reaction": pa.int8(),  # -1 dislike, 0 none, 1 like
    "rating": pa.float32(),
}
# What may tell that an event was skipped: info["feedback"] holds those that the source logs.
FEEDBACK = ("level", "played_percent", "next_gap_seconds", "reaction", "rating")
UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

CHUNK_ROWS = 1 << 20
SESSION_ROWS = 1 << 16


def write_flat(
    path: Path, rows: int, columns: Mapping[str, tuple[np.dtype, Iterable[np.ndarray]]]
) -> None:
    """Writes an Arrow file of one record batch without holding a column in memory.

    The file is laid out with zeros (pages that are never written to take no memory), then each
    column is filled in where it lies.

    Args:
      path: the new file.
      rows: how many there are.
      columns: name to dtype and chunks, which add up to `rows` values.
    """
    arrays = []
    for dtype, _ in columns.values():
        size = max(rows * np.dtype(dtype).itemsize, 1)
        zeros = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        arrays.append(pa.array(np.frombuffer(zeros, dtype, rows)))
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.memory_map(str(path)) as source:
        start = source.read_buffer(1).address
        laid_out = pa.ipc.open_file(source).get_batch(0)
        offsets = [column.buffers()[1].address - start for column in laid_out.columns]
    with open(path, "r+b") as file:
        for offset, (dtype, chunks) in zip(offsets, columns.values(), strict=True):
            file.seek(offset)
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk, dtype))


def evenly(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `rows`, so that how they came leaves no trace in a file."""
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        while sum(part.num_rows for part in pending) >= rows:
            joined = pa.concat_tables(pending)
            yield from joined.slice(0, rows).combine_chunks().to_batches()
            pending = [joined.slice(rows)]
    if pending:
        yield from pa.concat_tables(pending).combine_chunks().to_batches()


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes an Arrow file of the record batches in turn."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
