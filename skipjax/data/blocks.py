"""CSV in blocks of whole rows that remember where they come from."""

import concurrent.futures
import csv
import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.csv as pa_csv

from skipjax.data.inputs import reading
from skipjax.errors import DataError

T = TypeVar("T")

BLOCK_BYTES = 16 << 20
_PARSE_BYTES = 2 << 20  # what one pyarrow thread parses at a time
_LONGEST_LINE = 1 << 20
TEXT = pa.string()
REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of one file.

    Attributes:
      table: the rows.
      file: name for messages.
      first_row: the number of the first of them; a CSV's header is row 1, as in an editor.
    """

    table: pa.Table
    file: str
    first_row: int

    def error(self, index: int, column: str, value: object, expected: str) -> DataError:
        """What to raise when row `index` of this block holds a bad `value`."""
        return DataError(
            f"{self.file} row {self.first_row + index}, column {column}: {value!r} is not "
            f"{expected}; correct the value or remove its session."
        )


def read_csv(
    file: BinaryIO,
    name: str,
    types: Mapping[str, pa.DataType],
    *,
    delimiter: str = ",",
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Reads the columns in `types`, found by name, as text; others are passed over.

    Nothing is inferred or turned into a null: `''` and `NA` stay the text they are.

    Args:
      file: stream of bytes, UTF-8 with or without a byte order mark.
      name: of the file, for messages.
      types: column name to TEXT or REPEATED_TEXT (dictionary-encoded; for few values).
      delimiter: one character.
      block_bytes: how much to read at a time.

    Raises:
      DataError: no rows, a missing column, a row of another width, or damaged bytes.
    """
    names = _header(file, name, types, delimiter)
    convert = pa_csv.ConvertOptions(
        column_types=dict(types),
        include_columns=list(types),
        null_values=[],
        strings_can_be_null=False,
    )
    parse = pa_csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False)
    options = pa_csv.ReadOptions(column_names=names, block_size=_PARSE_BYTES)
    row = 2
    for data in _whole_lines(file, name, block_bytes):
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(data),
                read_options=options,
                parse_options=parse,
                convert_options=convert,
            )
        except pa.ArrowInvalid as error:
            raise _explained(data, name, row, len(names), delimiter, error) from error
        if table.num_rows != data.count(b"\n"):
            raise DataError(
                f"{name}, between row {row} and {row + data.count(10)}: a value has a line break "
                "in it, or lines end otherwise than in \\n or \\r\\n; neither can be read."
            )
        yield Block(table, name, row)
        row += table.num_rows
    if row == 2:
        raise DataError(f"{name} has a header but no rows.")


def ahead(blocks: Iterator[T]) -> Iterator[T]:
    """Reads the next block in a thread while the caller works on this one."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, blocks, end)
        while (block := following.result()) is not end:
            following = pool.submit(next, blocks, end)
            yield block


def check_columns(name: str, present: list[str], wanted: Mapping[str, object]) -> None:
    """Raises a DataError if a wanted column is not there, or is there twice."""
    for column in wanted:
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"{name} has no column {column!r}; its columns are {', '.join(present)}.{hint}"
            )
        if present.count(column) > 1:
            raise DataError(f"{name} has {present.count(column)} columns named {column!r}.")


def _header(
    file: BinaryIO, name: str, types: Mapping[str, pa.DataType], delimiter: str
) -> list[str]:
    """The column names, those not wanted replaced so that all differ."""
    with reading(name):
        line = file.readline(_LONGEST_LINE)
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text; save it as CSV in UTF-8.") from None
    if not line:
        raise DataError(f"{name} is empty.")
    present = [column.strip() for column in next(csv.reader([text], delimiter=delimiter), [])]
    check_columns(name, present, types)
    return [c if c in types else f"\0{number}" for number, c in enumerate(present)]


def _whole_lines(file: BinaryIO, name: str, block_bytes: int) -> Iterator[bytes]:
    """Blocks that end in a line break; blank lines at the end of the file are dropped."""
    rest = b""
    while True:
        with reading(name):
            chunk = file.read(block_bytes)
        data = rest + chunk
        end = data.rfind(b"\n") + 1 if chunk else len(data)
        while end and data[end - 1] in b"\r\n":
            end -= 1
        if not chunk:
            if end:
                yield data[:end] + b"\n"
            return
        if end:  # take one line break along; any further ones may be blank lines at the end
            end = data.index(b"\n", end) + 1
            yield data[:end]
        rest = data[end:]
        if len(rest) > block_bytes + _LONGEST_LINE:
            raise DataError(f"{name} has a line of over {block_bytes >> 20} MB: not a CSV file.")


def _explained(
    data: bytes, name: str, first_row: int, width: int, delimiter: str, error: Exception
) -> DataError:
    """Finds the row that pyarrow stumbled over, which its own message does not give."""
    row = first_row
    for row, line in enumerate(data[:-1].split(b"\n"), start=first_row):
        try:
            text = line.decode().rstrip("\r")
        except UnicodeDecodeError:
            return DataError(f"{name} row {row} is not UTF-8 text; save the file as UTF-8.")
        columns = len(next(csv.reader([text], delimiter=delimiter), []))
        if columns != width:
            return DataError(
                f"{name} row {row} has {columns} columns where the header has {width}: "
                f"{text[:60]!r}; correct or remove the row."
            )
    reason = str(error).splitlines()[0]
    return DataError(f"{name}, between row {first_row} and {row}: {reason}")
