"""The rows of one file in blocks, whichever of a few formats its name says it has."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skipjax.data.blocks import BLOCK_BYTES, Block, check_columns
from skipjax.data.csv_lines import read_csv
from skipjax.data.inputs import open_stream, position, reading
from skipjax.data.json_lines import read_json_lines
from skipjax.errors import ConfigError, DataError

CSV, TSV, JSON_LINES, PARQUET = "csv", "tsv", "json lines", "parquet"
_ENDINGS = {
    ".csv": CSV,
    ".tsv": TSV,
    ".tab": TSV,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".parquet": PARQUET,
    ".pq": PARQUET,
}
SUFFIXES = tuple(_ENDINGS) + tuple(f"{e}.gz" for e, kind in _ENDINGS.items() if kind != PARQUET)
DELIMITERS = {CSV: ",", TSV: "\t"}
_PARQUET_ROWS = 1 << 17  # about as many as a block of CSV has
DESCRIPTION = ".csv, .tsv or .jsonl, each with .gz or without, or .parquet"


def format_of(path: str | os.PathLike, otherwise: str = "") -> tuple[str, bool]:
    """The format that the name of a file stands for, and whether it is gzipped.

    Args:
      path: the file.
      otherwise: the format of a file with an unknown ending.

    Raises:
      ConfigError: an unknown ending, and nothing given for it.
    """
    name = Path(path).name.lower()
    packed = name.endswith(".gz")
    ending = Path(name.removesuffix(".gz")).suffix
    found = _ENDINGS.get(ending)
    if found is None or (packed and found == PARQUET):
        found = otherwise
    if not found:
        raise ConfigError(f"{path}: its name must end in {DESCRIPTION}.")
    return found, packed


def read(
    path: str | os.PathLike,
    wanted: Mapping[str, pa.DataType],
    *,
    otherwise: str = "",
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[Block, int]]:
    """Blocks of a file as stored, each with how many bytes of it have been read.

    Args:
      path: the file.
      wanted: columns to read, others being passed over; for CSV, with the types of `read_csv`.
      otherwise: the format of a file with an unknown ending.
      block_bytes: how much to read at a time.

    Raises:
      ConfigError: an unknown ending.
      DataError: no rows, a missing column, or damage, which checksums show where there are any.
    """
    path, name = Path(path), str(path)
    kind, _ = format_of(path, otherwise)
    if kind == PARQUET:
        yield from read_parquet(path, wanted)
        return
    with open_stream(path) as (stream, raw):
        if kind == JSON_LINES:
            blocks = read_json_lines(stream, name, wanted, block_bytes=block_bytes)
        else:
            blocks = read_csv(
                stream,
                name,
                wanted,
                delimiter=DELIMITERS[kind],
                endings={",": ".csv", "\t": ".tsv"},
                block_bytes=block_bytes,
            )
        for block in blocks:
            yield block, position(raw)


def read_any(
    path: Path, wanted: Mapping[str, pa.DataType], block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[Block, int]]:
    """`read` of a file that is CSV unless its name says otherwise."""
    return read(path, wanted, otherwise=CSV, block_bytes=block_bytes)


def read_parquet(
    path: Path,
    wanted: Iterable[str],
    *,
    lists: bool = False,
    batch_rows: int = _PARQUET_ROWS,
) -> Iterator[tuple[Block, int]]:
    """`read` of a Parquet file.

    Args:
      path: the file.
      wanted: columns to read.
      lists: whether columns may hold lists.
      batch_rows: how many rows to read at a time.
    """
    name, wanted = str(path), list(wanted)
    with reading(name):
        schema = pq.read_schema(path)
    check_columns(name, schema.names, wanted)
    kinds = {column: schema.field(column).type for column in wanted}
    for column, kind in kinds.items():
        if pa.types.is_nested(kind) and not lists:
            raise DataError(f"{name}, column {column}, holds {kind}, not single values.")
    with reading(name):
        file = pq.ParquetFile(
            path,
            page_checksum_verification=True,
            pre_buffer=False,
            buffer_size=1 << 20,  # else a column of a whole row group would be read at once
            # One long text in all rows then takes no more memory than in one.
            read_dictionary=[column for column, kind in kinds.items() if kind == pa.string()],
        )
    with file:
        rows, size = file.metadata.num_rows, path.stat().st_size
        if not rows:
            raise DataError(f"{name} has no rows.")
        batches = file.iter_batches(batch_rows, columns=wanted)
        row = 0
        while True:
            with reading(name):
                batch = next(batches, None)
                if batch is None:
                    break
                batch.validate(full=True)  # a damaged page may hold indices that lead nowhere
            if batch.num_rows:
                done = min(row + batch.num_rows, rows)
                yield Block(pa.Table.from_batches([batch]), name, row + 1), size * done // rows
            row += batch.num_rows
        if row != rows:
            raise DataError(f"{name} has {row} rows where its footer says {rows}: damaged.")
