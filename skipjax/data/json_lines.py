"""JSON lines, one object a row, in blocks of whole rows that remember where they come from."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.json as pa_json

from skipjax.data.blocks import BLOCK_BYTES, Block, check_columns
from skipjax.data.inputs import reading, shown
from skipjax.errors import DataError

_PARSE_BYTES = 2 << 20  # what one pyarrow thread parses at a time
_LONGEST_LINE = 1 << 20
_KINDS = {
    str: (pa.string(), "text"),
    int: (pa.int64(), "a whole number of 64 bits"),
    bool: (pa.bool_(), "true or false"),
}


def read_json_lines(
    file: BinaryIO, name: str, wanted: Iterable[str], *, block_bytes: int = BLOCK_BYTES
) -> Iterator[Block]:
    """Reads the fields in `wanted`, by name; others are passed over.

    A field holds in all rows what it holds in the first: text, whole numbers, or true and false.
    Null, or a field that is not there, becomes a null.

    Args:
      file: stream of bytes, UTF-8.
      name: of the file, for messages.
      wanted: names of fields, which the first row must have.
      block_bytes: how much to read at a time.

    Raises:
      DataError: no rows, a field that the first row lacks or that changes its type, or a line that
        is not one object.
    """
    schema: pa.Schema | None = None
    row = 1
    for data in _whole_lines(file, name, block_bytes):
        if schema is None:
            schema = _schema(data.split(b"\n", 1)[0], name, list(wanted))
        try:
            table = pa_json.read_json(
                pa.BufferReader(data),
                read_options=pa_json.ReadOptions(block_size=_PARSE_BYTES),
                parse_options=pa_json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            )
            table.validate(full=True)  # it lets bytes through that are not UTF-8
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _explained(data, name, row, schema, error) from error
        lines = data.count(b"\n")
        if table.num_rows != lines:
            raise _explained(data, name, row, schema, "one object a line, it should have been")
        yield Block(table, name, row)
        row += lines
    if schema is None:
        raise DataError(f"{name} is empty.")


def _whole_lines(file: BinaryIO, name: str, block_bytes: int) -> Iterator[bytes]:
    """Blocks that end in a line break; blank lines at the end of the file are dropped."""
    rest = b""
    while True:
        with reading(name):
            chunk = file.read(block_bytes)
        data = rest + chunk
        if not chunk:
            if data := data.rstrip():
                yield data + b"\n"
            return
        # Not further than a line that is not blank: those after it may be the file's last.
        end = data.rfind(b"\n", 0, len(data.rstrip())) + 1
        if end:
            yield data[:end]
        rest = data[end:]
        if len(rest) > block_bytes + _LONGEST_LINE:
            raise DataError(f"{name} has a line of over {len(rest) >> 20} MB: not JSON lines.")


def _schema(line: bytes, name: str, wanted: list[str]) -> pa.Schema:
    """What the first row holds."""
    first = _object(line, f"{name} row 1")
    check_columns(name, list(first), dict.fromkeys(wanted))
    for column in wanted:
        if type(first[column]) not in _KINDS:
            raise DataError(
                f"{name} row 1, column {column}: {shown(repr(first[column]), 60)} is not text, a "
                "whole number, true or false."
            )
    return pa.schema({column: _KINDS[type(first[column])][0] for column in wanted})


def _object(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > _LONGEST_LINE:
        raise DataError(f"{where} has over 1 MB; one row is one line.")
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text; save the file as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        text = shown(line.decode()[:60], 60)
        raise DataError(f"{where} is not one JSON object ({error}): {text!r}.") from None
    if not isinstance(value, dict):
        text = shown(line.decode()[:60], 60)
        raise DataError(f"{where} is not a JSON object with names: {text!r}.")
    return value


def _explained(
    data: bytes, name: str, first_row: int, schema: pa.Schema, error: Exception | str
) -> DataError:
    """Finds the row that pyarrow stumbled over, which its own message does not always give."""
    expected = dict(_KINDS.values())
    lines = data[:-1].split(b"\n")
    for row, line in enumerate(lines, start=first_row):
        where = f"{name} row {row}"
        try:
            found = _object(line, where)
        except DataError as explained:
            return explained
        for field in schema:
            value = found.get(field.name)
            kind = next(kind for kind, (arrow, _) in _KINDS.items() if arrow == field.type)
            fits = type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)
            if value is not None and not fits:
                return DataError(
                    f"{where}, column {field.name}: {shown(repr(value), 60)} is not "
                    f"{expected[field.type]}, as in the first row."
                )
    reason = shown(str(error).splitlines()[0], 200)
    return DataError(f"{name}, between row {first_row} and {row}: {reason}.")
