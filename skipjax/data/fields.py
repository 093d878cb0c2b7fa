"""Strict columns: each value is what its column promises, or an error names its row."""

import datetime
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data.blocks import Block

# What other tools write for "no value": an id like this would join strangers into one session.
_NULL_LIKE = pa.array(["", "nan", "null", "none", "na", "n/a", "<na>", "\\n"])
_DIGITS = re.compile("[0-9]{1,18}")
_DATE = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DAY_FIRST = re.compile("([0-9]{2})/([0-9]{2})/([0-9]{4})")
_EPOCH = datetime.date(1970, 1, 1).toordinal()

_INTEGER_TIME = r"^-?[0-9]{1,19}(\.0+)?$"
_CLOCK_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?)?"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_TIME_FORMS = {
    "an integer": (_INTEGER_TIME, pa.int64()),
    "a date and time without a zone": (_CLOCK_TIME + "$", pa.timestamp("ns")),
    "a date and time with a zone": (_CLOCK_TIME + _ZONE, pa.timestamp("ns", "UTC")),
}


def ids(block: Block, column: str) -> pa.DictionaryArray:
    """A column of ids as dictionary-encoded text, exactly as written (`007` stays `007`).

    Raises:
      DataError: an id is empty, stands for "no value" or has a NUL in it.
    """
    encoded = encode(block, column)
    values = encoded.dictionary
    bad = pc.or_(
        pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), _NULL_LIKE),
        pc.match_substring(values, "\0"),
    )
    _refuse(block, column, encoded, np.flatnonzero(bad), "an id")
    return encoded


def parse(
    block: Block,
    column: str,
    convert: Callable[[str], Any],
    expected: str,
    dtype: type[np.generic],
) -> np.ndarray:
    """Converts a column of few different texts, looking at each of them once.

    Args:
      block: the rows.
      column: its name.
      convert: text to value, or to None if it is not acceptable.
      expected: what it should be, for the message: `'x' is not {expected}`.
      dtype: of the result.

    Returns:
      [rows] values.

    Raises:
      DataError: `convert` returned None; names the first such row.
    """
    encoded = encode(block, column)
    values = [convert(text) for text in encoded.dictionary.to_pylist()]
    bad = [code for code, value in enumerate(values) if value is None]
    _refuse(block, column, encoded, bad, expected)
    return np.array(values, dtype)[encoded.indices.to_numpy()]


def integers(
    block: Block, column: str, low: int, high: int, what: str = "a whole number"
) -> np.ndarray:
    """`parse` of whole numbers from `low` to `high`, both included. [rows] int32."""

    def convert(text: str) -> int | None:
        number = int(text) if _DIGITS.fullmatch(text) else None
        return number if number is not None and low <= number <= high else None

    return parse(block, column, convert, f"{what} from {low} to {high}", np.int32)


def flags(block: Block, column: str, true: str = "true", false: str = "false") -> np.ndarray:
    """`parse` of yes and no. [rows] bool.

    Args:
      block: the rows.
      column: its name.
      true: accepted spellings of True, separated by spaces; case does not matter.
      false: of False.
    """
    known = dict.fromkeys(true.split(), True) | dict.fromkeys(false.split(), False)
    expected = f"{'/'.join(true.split())} or {'/'.join(false.split())}"
    return parse(block, column, lambda text: known.get(text.lower()), expected, np.bool_)


def dates(block: Block, column: str) -> np.ndarray:
    """`parse` of YYYY-MM-DD or DD/MM/YYYY. [rows] int32, days since 1970-01-01."""

    def convert(text: str) -> int | None:
        if match := _DATE.fullmatch(text):
            year, month, day = match.groups()
        elif match := _DAY_FIRST.fullmatch(text):
            day, month, year = match.groups()
        else:
            return None
        try:
            return datetime.date(int(year), int(month), int(day)).toordinal() - _EPOCH
        except ValueError:
            return None

    return parse(block, column, convert, "a date YYYY-MM-DD or DD/MM/YYYY", np.int32)


def context(block: Block, column: str) -> pa.Array:
    """A column to keep as it is: text, whole numbers (as int64), booleans or dates.

    Raises:
      DataError: a value is missing, or of another type.
    """
    array = block.table[column].combine_chunks()
    kind = array.type
    if array.null_count:
        raise block.error(int(np.argmax(array.is_null())), column, None, "a value")
    if pa.types.is_boolean(kind) or pa.types.is_date32(kind):
        return array
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:
            index = _first_failure(array, pa.int64())
            raise block.error(index, column, array[index].as_py(), "a 64-bit integer") from None
    return encode(block, column)


def time_form(block: Block, column: str) -> str:
    """How the first time of a block is written: a key of the forms that `times` reads.

    Raises:
      DataError: it is written in none of them.
    """
    column_type = block.table[column].type
    if pa.types.is_integer(column_type) or pa.types.is_floating(column_type):
        return "an integer"
    if pa.types.is_timestamp(column_type):
        return f"a date and time {'with' if column_type.tz else 'without'} a zone"
    if pa.types.is_date(column_type):
        return "a date and time without a zone"
    first = block.table[column][0].as_py()
    for form, (pattern, _) in _TIME_FORMS.items():
        if isinstance(first, str) and re.match(pattern, first):
            return form
    raise block.error(0, column, first, "an integer or a date and time (ISO 8601)")


def times(block: Block, column: str, form: str) -> np.ndarray:
    """A column to order by, exactly: no value passes through a float.

    Args:
      block: the rows.
      column: whole numbers, or dates and times as text or Arrow types.
      form: as returned by `time_form`; one for all blocks, so that they can be compared.

    Returns:
      [rows] int64: the numbers as they are, dates and times as nanoseconds since 1970 (UTC).

    Raises:
      DataError: a value is of another form, has a fraction or does not fit into 64 bits.
    """
    pattern, target = _TIME_FORMS[form]
    expected = f"{form} like the first one" if form != "an integer" else form
    array = block.table[column].combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count or time_form(block, column) != form:
        index = int(np.argmax(array.is_null())) if array.null_count else 0
        raise block.error(index, column, array[index].as_py(), expected)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        bad = np.flatnonzero(~np.asarray(pc.match_substring_regex(array, pattern)))
        if bad.size:
            raise block.error(bad[0], column, array[int(bad[0])].as_py(), expected)
        if form == "an integer":
            array = pc.replace_substring_regex(array, r"\.0+$", "")
    try:
        return array.cast(target).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        index = _first_failure(array, target)
        raise block.error(index, column, array[index].as_py(), expected) from None


def encode(block: Block, column: str) -> pa.DictionaryArray:
    """A column as one dictionary-encoded array of text, its dictionary without nulls.

    Raises:
      DataError: a value is missing, or the column is of a type that is not exact as text.
    """
    array = block.table[column].combine_chunks()
    if pa.types.is_dictionary(array.type) and array.type.value_type == pa.string():
        encoded = array
    else:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if not (
            pa.types.is_string(array.type)
            or pa.types.is_large_string(array.type)
            or pa.types.is_integer(array.type)
            or pa.types.is_boolean(array.type)
        ):
            raise block.error(0, column, array[0].as_py(), "text, a whole number or a flag")
        encoded = array.cast(pa.string()).dictionary_encode()
    if encoded.null_count:
        raise block.error(int(np.argmax(encoded.is_null())), column, None, "a value")
    return encoded


def _refuse(
    block: Block, column: str, encoded: pa.DictionaryArray, bad: np.ndarray | list, expected: str
) -> None:
    """Raises for the first row that holds one of the dictionary entries `bad`, if any."""
    if len(bad):
        rows = np.flatnonzero(np.isin(encoded.indices.to_numpy(), bad))
        if rows.size:
            index = int(rows[0])
            raise block.error(index, column, encoded[index].as_py(), expected)


def _first_failure(array: pa.Array, target: pa.DataType) -> int:
    """Index of the first value that cannot be cast, by halving."""
    low, high = 0, len(array)  # array[:low] can be cast, array[:high] cannot
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array[:middle].cast(target).cast(pa.int64())
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
