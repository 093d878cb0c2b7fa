"""Strict columns: each value is what its column promises, or its row is refused.

What is refused is an error, or noted as a fault of its row: see `Block.refuse`.
"""

import dataclasses
import datetime
import decimal
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data.blocks import Block
from skipjax.errors import DataError

# What other tools write for "no value": an id like this would join strangers into one session.
_NULL_LIKE = pa.array(["", "nan", "null", "none", "na", "n/a", "<na>", "\\n"])
_LONGEST_ID = 1000  # bytes; a longer one is a quote that is not closed, or no id at all
_LONGEST_TIME = 100
_DIGITS = re.compile("[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_DATE = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DAY_FIRST = re.compile("([0-9]{2})/([0-9]{2})/([0-9]{4})")
_EPOCH = datetime.date(1970, 1, 1).toordinal()

_INTEGER_TIME = r"^-?[0-9]{1,19}(\.0+)?$"
_EXPONENT = re.compile(r"-?[0-9]+(\.[0-9]*)?[eE]\+?[0-9]{1,3}")
# Years that fit into 64 bits of nanoseconds; of others pyarrow may make anything.
_DAY = "(1[789]|2[01])[0-9]{2}-[0-9]{2}-[0-9]{2}"
_CLOCK_TIME = rf"^{_DAY}([T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,9}})?)?)?"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_TIME_FORMS = {
    "an integer": (_INTEGER_TIME, pa.int64()),
    "a date and time without a zone": (_CLOCK_TIME + "$", pa.timestamp("ns")),
    "a date and time with a zone": (_CLOCK_TIME + _ZONE, pa.timestamp("ns", "UTC")),
}


def ids(block: Block, column: str) -> pa.DictionaryArray:
    """A column of ids as dictionary-encoded text, exactly as written (`007` stays `007`).

    Refused are ids that are empty or too long, stand for "no value" or have a NUL in them; where
    their rows are only noted, they become ''.
    """
    encoded = encode(block, column)
    values = encoded.dictionary
    bad = pc.or_(
        pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), _NULL_LIKE),
        pc.match_substring(values, "\0"),
    )
    bad = pc.or_(bad, pc.greater(pc.binary_length(values), _LONGEST_ID))
    codes = np.flatnonzero(bad)
    if not codes.size:
        return encoded
    block.refuse(_rows_with(encoded, codes), column, "an id")
    return pa.DictionaryArray.from_arrays(encoded.indices, pc.if_else(bad, "", values))


def parse(
    block: Block,
    column: str,
    convert: Callable[[str], Any],
    expected: str,
    dtype: type[np.generic],
) -> np.ndarray:
    """Converts a column of few different texts, looking at each of them once.

    Args:
      block: the rows; those whose text is not acceptable are refused.
      column: its name.
      convert: text to value, or to None if it is not acceptable.
      expected: what it should be, for the message: `'x' is not {expected}`.
      dtype: of the result.

    Returns:
      [rows] values, 0 in rows that are refused.
    """
    encoded = encode(block, column)
    values = [convert(text) for text in encoded.dictionary.to_pylist()]
    bad = [code for code, value in enumerate(values) if value is None]
    if bad:
        block.refuse(_rows_with(encoded, bad), column, expected)
        values = [0 if value is None else value for value in values]
    return np.array(values, dtype)[encoded.indices.to_numpy()]


def integers(
    block: Block, column: str, low: int, high: int, what: str = "a whole number"
) -> np.ndarray:
    """`parse` of whole numbers from `low` to `high`, both included. [rows] int32."""

    def convert(text: str) -> int | None:
        number = int(text) if _DIGITS.fullmatch(text) else None
        return number if number is not None and low <= number <= high else None

    return parse(block, column, convert, f"{what} from {low} to {high}", np.int32)


def whole(
    block: Block, column: str, low: int, high: int | None = None, where: np.ndarray | None = None
) -> np.ndarray:
    """A column of an integer type, each number at least `low` and at most `high`.

    Args:
      block: the rows.
      column: its name.
      low: the smallest that is accepted.
      high: the largest, if there is one.
      where: [rows] bool, which rows must have a number; all if None.

    Returns:
      [rows] int64, 0 where there is none.
    """
    array = block.table[column].combine_chunks()
    wanted = np.ones(len(array), bool) if where is None else where
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    try:
        numbers = array.cast(pa.int64()).fill_null(low - 1).to_numpy()
    except pa.ArrowInvalid:  # of 64 bits without a sign
        numbers = _cast(block, column, array, pa.int64(), f"a whole number {limits}")
    bad = (numbers < low) if high is None else (numbers < low) | (numbers > high)
    block.refuse(np.flatnonzero(bad & wanted), column, f"a whole number {limits}")
    return np.where(bad, 0, numbers)


def numbers(
    block: Block, column: str, low: float, high: float, what: str, *, missing: float | None = None
) -> np.ndarray:
    """A column of numbers from `low` to `high`, as text or of an Arrow type.

    Args:
      block: the rows.
      column: its name.
      low: the smallest that is accepted.
      high: the largest.
      what: what they are, for the message.
      missing: what empty text and nulls stand for; None refuses them.

    Returns:
      [rows] float64, 0 in rows that are refused.

    Raises:
      DataError: the column is of a type that holds no numbers.
    """
    expected = f"{what} from {low:g} to {high:g}"
    array = block.table[column].combine_chunks()
    kind = _value_type(array.type)
    if _is_text(kind):

        def convert(text: str) -> float | None:
            if not text and missing is not None:
                return missing
            number = float(text) if _NUMBER.fullmatch(text) else None
            return number if number is not None and low <= number <= high else None

        if missing is not None and array.null_count:
            array = array.cast(pa.string()).fill_null("")
            table = block.table.set_column(
                block.table.schema.get_field_index(column), column, array
            )
            block = dataclasses.replace(block, table=table)
        return parse(block, column, convert, expected, np.float64)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _wrong_type(block, column, what)
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    absent = np.asarray(array.is_null())
    good = (values >= low) & (values <= high)
    if missing is not None:
        good |= absent
    block.refuse(np.flatnonzero(~good), column, expected)
    return np.where(absent & (missing is not None), missing or 0, np.where(good, values, 0))


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


def dates(block: Block, column: str, first_year: int) -> np.ndarray:
    """`parse` of YYYY-MM-DD or DD/MM/YYYY. [rows] int32, days since 1970-01-01."""

    def convert(text: str) -> int | None:
        if match := _DATE.fullmatch(text):
            year, month, day = match.groups()
        elif match := _DAY_FIRST.fullmatch(text):
            day, month, year = match.groups()
        else:
            return None
        try:
            date = datetime.date(int(year), int(month), int(day))
        except ValueError:
            return None
        return date.toordinal() - _EPOCH if date.year >= first_year else None

    expected = f"a date YYYY-MM-DD or DD/MM/YYYY from {first_year} on"
    return parse(block, column, convert, expected, np.int32)


def context(block: Block, column: str) -> pa.Array:
    """A column to keep as it is: text, whole numbers (as int64), booleans or dates.

    Refused are missing values, and numbers that do not fit.

    Raises:
      DataError: the column is of another type.
    """
    array = block.table[column].combine_chunks()
    kind = array.type
    if pa.types.is_integer(kind):
        return pa.array(_cast(block, column, array, pa.int64(), "a 64-bit integer"))
    if not (pa.types.is_boolean(kind) or pa.types.is_date32(kind)):
        return encode(block, column)
    if array.null_count:
        block.refuse(np.flatnonzero(array.is_null()), column, "a value")
        array = array.fill_null(pa.scalar(0, pa.int32()).cast(kind))
    return array


def time_form(block: Block, column: str) -> str:
    """How the times of a block are written: a key of the forms that `times` reads.

    Rows of text are refused until one is written in such a form; '' if none is.

    Raises:
      DataError: the column is of a type that holds no times.
    """
    values = block.table[column]
    kind = _value_type(values.type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "an integer"
    if pa.types.is_timestamp(kind):
        return f"a date and time {'with' if kind.tz else 'without'} a zone"
    if pa.types.is_date(kind):
        return "a date and time without a zone"
    if not _is_text(kind):
        raise _wrong_type(block, column, "an integer or a date and time")
    for row in range(len(values)):
        text = values[row].as_py()
        for form, (pattern, _) in _TIME_FORMS.items():
            if text is not None and re.match(pattern, text):
                return form
        if text is not None and _spelled_out(text):
            return "an integer"
        block.refuse([row], column, "an integer or a date and time (ISO 8601)")
    return ""


def times(block: Block, column: str, form: str) -> np.ndarray:
    """A column to order by, exactly: no value passes through a float.

    Refused are values of another form, those with a fraction, and those that do not fit into 64
    bits.

    Args:
      block: the rows.
      column: whole numbers, or dates and times as text or Arrow types.
      form: as returned by `time_form`; one for all blocks, so that they can be compared.

    Returns:
      [rows] int64: the numbers as they are, dates and times as nanoseconds since 1970 (UTC); 0 in
      rows that are refused.

    Raises:
      DataError: the column is of a type of another form.
    """
    array = block.table[column].combine_chunks()
    if not form:
        return np.zeros(len(array), np.int64)
    pattern, target = _TIME_FORMS[form]
    expected: str | Callable[[int], str] = f"{form} like the first one"
    if form == "an integer":
        expected = functools.partial(_why_no_integer, block.table[column])
    if not _is_text(_value_type(array.type)):
        if time_form(block, column) != form:
            raise _wrong_type(block, column, expected if isinstance(expected, str) else form)
        return _cast(block, column, array, target, expected)
    if pa.types.is_dictionary(array.type):
        texts = array.dictionary
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > _LONGEST_TIME:
            # Decoded, one long text might not fit into memory.
            short = [text if len(text) <= _LONGEST_TIME else "" for text in texts.to_pylist()]
            texts = pa.array(short, texts.type)
        array = pa.DictionaryArray.from_arrays(array.indices, texts).dictionary_decode()
    good = pc.match_substring_regex(array, pattern).fill_null(False)
    bad = np.flatnonzero(~np.asarray(good))
    if bad.size and form == "an integer":
        found = {row: _spelled_out(array[row].as_py() or "") for row in bad.tolist()}
        mask = np.zeros(len(array), bool)
        mask[[row for row, text in found.items() if text]] = True
        texts = pa.array(filter(None, found.values()), array.type)
        array = pc.replace_with_mask(array, pa.array(mask), texts)
        good, bad = pc.or_(good, pa.array(mask)), bad[~mask[bad]]
    if bad.size:
        block.refuse(bad, column, expected)
        array = pc.if_else(good, array, None)
    if form == "an integer":
        array = pc.replace_substring_regex(array, r"\.0+$", "")
    return _cast(block, column, array, target, expected)


def _spelled_out(text: str) -> str:
    """1.23e9 as 1230000000, exactly; '' if that is no whole number, or one beyond 64 bits."""
    if len(text) > _LONGEST_TIME or not _EXPONENT.fullmatch(text):
        return ""
    number = decimal.Decimal(text)
    if number.adjusted() > 18 or number != number.to_integral_value():
        return ""
    return str(int(number))


def _why_no_integer(column: pa.ChunkedArray, row: int) -> str:
    """What a time or position should be that is no whole number, or not one of 64 bits."""
    value = column[row].as_py()
    text = str(value)
    if len(text) > _LONGEST_TIME or not _NUMBER.fullmatch(text):
        return "an integer"
    number = decimal.Decimal(text)
    if number.adjusted() > 18 or abs(number) >= 1 << 63:
        return "within 64 bits: it is too large"
    if number != number.to_integral_value():
        return "an integer: whole numbers are needed, so round the column"
    if isinstance(value, float):
        return "within what a float holds exactly: it is too large"
    return "an integer"


def encode(block: Block, column: str) -> pa.DictionaryArray:
    """A column as one dictionary-encoded array of text, without nulls.

    Refused are missing values; where their rows are only noted, they become ''.

    Raises:
      DataError: the column is of a type that is not exact as text.
    """
    array = block.table[column].combine_chunks()
    kind = _value_type(array.type)
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise _wrong_type(block, column, "text, whole numbers or flags")
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    texts = array.dictionary.cast(pa.string())
    indices = array.indices.cast(pa.int32())
    if array.null_count:
        block.refuse(np.flatnonzero(array.is_null()), column, "a value")
        indices = indices.fill_null(len(texts))
        texts = pa.concat_arrays([texts, pa.array([""])])
    if len(texts) > len(indices):  # Parquet's may be that of many blocks
        used = np.zeros(len(texts), bool)
        used[indices] = True
        places = np.cumsum(used, dtype=np.int32) - 1
        texts, indices = texts.filter(pa.array(used)), pa.array(places[indices])
    return pa.DictionaryArray.from_arrays(indices, texts)


def _cast(
    block: Block,
    column: str,
    array: pa.Array,
    target: pa.DataType,
    expected: str | Callable[[int], str],
) -> np.ndarray:
    """[rows] int64: values cast to `target`, 0 where that fails or there is none; exact."""
    bad = np.asarray(array.is_null())
    if pa.types.is_floating(array.type):  # beyond this, different numbers may look the same
        exact = 1 << {16: 11, 32: 24, 64: 53}[array.type.bit_width]
        bad |= np.abs(array.to_numpy(zero_copy_only=False)) >= exact
    block.refuse(np.flatnonzero(bad), column, expected)
    try:
        numbers = array.cast(target).cast(pa.int64())
    except pa.ArrowInvalid:
        for row in _failures(array, target):
            block.refuse([row], column, expected)
            bad[row] = True
        numbers = pc.if_else(bad, None, array).cast(target).cast(pa.int64())
    return numbers.fill_null(0).to_numpy()


def _failures(array: pa.Array, target: pa.DataType, start: int = 0) -> Iterator[int]:
    """Indices of the values that cannot be cast, in order, by halving."""
    try:
        array.cast(target).cast(pa.int64())
    except pa.ArrowInvalid:
        if len(array) == 1:
            yield start
        else:
            half = len(array) // 2
            yield from _failures(array[:half], target, start)
            yield from _failures(array[half:], target, start + half)


def _rows_with(encoded: pa.DictionaryArray, codes: np.ndarray | list[int]) -> np.ndarray:
    """The rows that hold one of these dictionary entries."""
    return np.flatnonzero(np.isin(encoded.indices.to_numpy(), codes))


def _wrong_type(block: Block, column: str, expected: str) -> DataError:
    kind = _value_type(block.table[column].type)
    return DataError(f"{block.file}, column {column}, holds {kind}, not {expected}.")


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
