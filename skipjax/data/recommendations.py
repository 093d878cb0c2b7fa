"""Recommendations as tables and as files: session_id, track_id, score, rank."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skipjax import files
from skipjax.data import rows
from skipjax.data.catalogue import Catalogue
from skipjax.ids import FIRST_TRACK_ID


def table_of(
    session_ids: pa.Array, scores: np.ndarray, ids: np.ndarray, catalogue: Catalogue
) -> pa.Table:
    """One row for each recommendation, best first, in the order of the sessions.

    Args:
      session_ids: [S].
      scores: [S, K] float32; NaN becomes null.
      ids: [S, K] int32, the model's ids, padded with PAD.
      catalogue: whose tracks they are.

    Returns:
      session_id, track_id (large_string, as in the source), score (float) and rank (int32, from 1).
    """
    there = ids >= FIRST_TRACK_ID
    session, place = np.nonzero(there)
    return pa.table(
        {
            "session_id": session_ids.take(pa.array(session)),
            "track_id": catalogue.names_of(ids[there]),
            "score": pa.array(scores[there], pa.float32(), from_pandas=True),
            "rank": pa.array((place + 1).astype(np.int32)),
        }
    )


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Callable[[pa.Table], None]]:
    """Yields `write(table)`; when the block ends without an error, all of it replaces `path`.

    The format is that of the name: CSV, TSV or JSON lines, gzipped or not, or Parquet with page
    checksums.

    Raises:
      ConfigError: an unknown ending.
      OutputError: it cannot be written.
    """
    kind, packed = rows.format_of(path)
    with files.new_file(path) as temporary, contextlib.ExitStack() as stack:
        if kind != rows.PARQUET:
            file = stack.enter_context(pa.OSFile(str(temporary), "wb"))
            if packed:
                file = stack.enter_context(pa.CompressedOutputStream(file, "gzip"))
        writer: Any = None

        def write(table: pa.Table) -> None:
            nonlocal writer
            if kind == rows.PARQUET:
                if writer is None:
                    writer = stack.enter_context(
                        pq.ParquetWriter(temporary, table.schema, write_page_checksum=True)
                    )
                writer.write_table(table)
                return
            if writer is None:
                writer = file
                if kind != rows.JSON_LINES:
                    file.write(_header(table.column_names, kind))
            file.write(_lines(table, kind))

        yield write


def _header(names: list[str], kind: str) -> bytes:
    return (rows.DELIMITERS[kind].join(names) + "\n").encode()


def _lines(table: pa.Table, kind: str) -> bytes:
    """One line for each row; made column by column, as that is faster."""
    parts: list[Any] = []
    for number, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if kind == rows.JSON_LINES:
            parts.append(f"{', ' if number else '{'}{json.dumps(name)}: ")
        elif number:
            parts.append(rows.DELIMITERS[kind])
        parts.append(_texts(column.combine_chunks(), kind))
    parts += ["}\n" if kind == rows.JSON_LINES else "\n", ""]  # the last goes between all
    parts = [pa.scalar(p, pa.large_string()) if isinstance(p, str) else p for p in parts]
    return "".join(pc.binary_join_element_wise(*parts).to_pylist()).encode()


def _texts(column: pa.Array, kind: str) -> pa.Array:
    """How each value is written, [n] large_string."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        missing = "null" if kind == rows.JSON_LINES else ""
        return column.cast(pa.large_string()).fill_null(missing)
    encoded = column.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    written = [json.dumps(t) if kind == rows.JSON_LINES else _quoted(t, kind) for t in texts]
    return pa.array(written, pa.large_string()).take(encoded.indices)


def _quoted(text: str, kind: str) -> str:
    """As CSV has it: in quotes where it must be."""
    line = io.StringIO()
    csv.writer(line, delimiter=rows.DELIMITERS[kind], lineterminator="\r\n").writerow([text])
    return line.getvalue()[:-2]
