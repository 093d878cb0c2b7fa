"""CSV, one row a line, in blocks of whole rows that remember where they come from."""

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv

from skipjax.data.blocks import BLOCK_BYTES, Block, check_columns, written
from skipjax.data.inputs import reading, shown
from skipjax.errors import DataError

_PARSE_BYTES = 2 << 20  # what one pyarrow thread parses at a time
_LONGEST_LINE = 1 << 20
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars (|)"}


def read_csv(
    file: BinaryIO,
    name: str,
    types: Mapping[str, pa.DataType],
    *,
    delimiter: str = ",",
    endings: Mapping[str, str] | None = None,
    header: Sequence[str] = (),
    passed_over: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Reads the columns in `types`, found by name, as text; others are passed over.

    Nothing is inferred or turned into a null: `''` and `NA` stay the text they are.

    Args:
      file: stream of bytes, UTF-8 with or without a byte order mark.
      name: of the file, for messages.
      types: column name to TEXT or REPEATED_TEXT (dictionary-encoded; for few values).
      delimiter: one character.
      endings: what a name must end in for another one; for messages.
      header: the names of all columns, if the file does not say them. Quotes are then no more than
        characters, as programs write them that do without a header; a bare return is a space.
      passed_over: lines before the first row, where `header` says the names.
      block_bytes: how much to read at a time.

    Raises:
      DataError: no rows, a missing column, a row of another width, or damaged bytes.
    """
    names = [column if column in types else f"\0{number}" for number, column in enumerate(header)]
    if not header:
        names = _header(file, name, types, delimiter, endings or {})
    for _ in range(passed_over):
        with reading(name):
            file.readline()
    quote = False if header else '"'
    convert = pa_csv.ConvertOptions(
        column_types=dict(types),
        include_columns=list(types),
        null_values=[],
        strings_can_be_null=False,
    )
    parse = pa_csv.ParseOptions(
        delimiter=delimiter, ignore_empty_lines=False, quote_char=quote, double_quote=bool(quote)
    )
    options = pa_csv.ReadOptions(column_names=names, block_size=_PARSE_BYTES)
    row = first_row = 1 + passed_over if header else 2
    for data, ended in _whole_lines(file, name, block_bytes):
        if header:
            data = data.removeprefix(codecs.BOM_UTF8) if row == first_row else data
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b" ")
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(data),
                read_options=options,
                parse_options=parse,
                convert_options=convert,
            )
        except pa.ArrowInvalid as error:
            raise _explained(data, name, row, len(names), delimiter, bool(quote), error) from error
        if table.num_rows != data.count(b"\n"):
            raise DataError(
                f"{name}, between row {row} and {row + data.count(10) - 1}: a value has a line "
                "break in it, a quote is missing, or lines end otherwise than in \\n or \\r\\n; "
                "none of these can be read."
            )
        yield Block(table, name, row)
        row += table.num_rows
        last_line = data[data.rfind(b"\n", 0, -1) + 1 : -1]
        if (
            quote
            and b'"' in last_line
            and not _closed(last_line.decode(errors="replace"), delimiter)
        ):
            raise DataError(f"{name} row {row - 1} has a quote that is not closed.")
        if not ended and (last := names[-1]) in types:
            raise DataError(
                f"{name} row {row - 1}, column {last}: {written(table[last], -1)} may be cut "
                "short, since no line break follows; if it is whole, add one."
            )
    if row == first_row:
        raise DataError(
            f"{name} is empty." if first_row == 1 else f"{name} has a header but no rows."
        )


def _header(
    file: BinaryIO,
    name: str,
    types: Mapping[str, pa.DataType],
    delimiter: str,
    endings: Mapping[str, str],
) -> list[str]:
    """The column names, those not wanted replaced so that all differ."""
    with reading(name):
        line = file.readline(_LONGEST_LINE)
    if not line:
        raise DataError(f"{name} is empty.")
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{name} is not UTF-8 text; save it as CSV in UTF-8.")
    if len(line) == _LONGEST_LINE or "\r" in text:
        raise DataError(
            f"{name} has no line break in its first {len(line):,} bytes; lines must end in \\n or "
            "\\r\\n."
        )
    if not text.strip():
        with reading(name):
            rest = file.read(_LONGEST_LINE)
        raise DataError(
            f"{name}: its first line is blank; remove it." if rest.strip() else f"{name} is empty."
        )
    present = [column.strip() for column in _split(text, delimiter) or ()]
    if len(present) == 1 < len(types):
        _check_delimiter(name, text, delimiter, endings)
    check_columns(name, present, types)
    return [c if c in types else f"\0{number}" for number, c in enumerate(present)]


def _check_delimiter(name: str, header: str, delimiter: str, endings: Mapping[str, str]) -> None:
    """Raises a DataError if something else than `delimiter` seems to separate the columns."""
    seen = max(_DELIMITERS, key=header.count)
    if seen in header:
        rename = f", or give it a name that ends in {endings[seen]}" if seen in endings else ""
        raise DataError(
            f"{name} has {_DELIMITERS[seen]} between its columns; save it with "
            f"{_DELIMITERS[delimiter]} there{rename}."
        )


def _whole_lines(file: BinaryIO, name: str, block_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Blocks that end in a line break, and whether they did so in the file.

    Blank lines at the end of the file are dropped.
    """
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
                yield data[:end] + b"\n", end < len(data)
            return
        if end:  # take one line break along; any further ones may be blank lines at the end
            end = data.index(b"\n", end) + 1
            yield data[:end], True
        rest = data[end:]
        if len(rest) > block_bytes + _LONGEST_LINE:
            raise DataError(f"{name} has a line of over {len(rest) >> 20} MB: not a CSV file.")


def _explained(
    data: bytes,
    name: str,
    first_row: int,
    width: int,
    delimiter: str,
    quoted: bool,
    error: Exception,
) -> DataError:
    """Finds the row that pyarrow stumbled over, which its own message does not give."""
    row = first_row
    for row, line in enumerate(io.BytesIO(data), start=first_row):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            return DataError(f"{name} row {row} is not UTF-8 text; save the file as UTF-8.")
        if len(line) > _LONGEST_LINE:
            return DataError(f"{name} row {row} has over 1 MB; is a quote missing?")
        columns = _split(text, delimiter) if quoted else text.split(delimiter)
        if columns is not None and len(columns) != width:
            wanted = f"where the header has {width}" if quoted else f"instead of {width}"
            return DataError(
                f"{name} row {row} has {len(columns)} columns {wanted}: {text[:60]!r}; correct or "
                "remove the row."
            )
    reason = shown(str(error).splitlines()[0], 200)
    return DataError(f"{name}, between row {first_row} and {row}: {reason}")


def _split(line: str, delimiter: str) -> list[str] | None:
    """The values in a line, or None if one of them is too long for `csv`."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return None


def _closed(line: str, delimiter: str) -> bool:
    """Whether no quote is open where the line ends, which pyarrow does not mind in the last one."""
    try:
        next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return "end of data" not in str(error)
    return True
