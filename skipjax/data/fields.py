"""Strict columns: each value is what its column promises, or its row is refused.

What is refused is an error, or noted as a fault of its row: see `Block.refuse`.
"""

import dataclasses
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
_DIGITS = re.compile("[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


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
        numbers = cast(block, column, array, pa.int64(), f"a whole number {limits}")
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
    kind = value_type(array.type)
    if is_text(kind):

        def convert(text: str) -> float | None:
            if not text and missing is not None:
                return missing
            number = float(text) if NUMBER.fullmatch(text) else None
            return number if number is not None and low <= number <= high else None

        if missing is not None and array.null_count:
            array = array.cast(pa.string()).fill_null("")
            table = block.table.set_column(
                block.table.schema.get_field_index(column), column, array
            )
            block = dataclasses.replace(block, table=table)
        return parse(block, column, convert, expected, np.float64)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise wrong_type(block, column, what)
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


def context(block: Block, column: str) -> pa.Array:
    """A column to keep as it is: text, whole numbers (as int64), booleans or dates.

    Refused are missing values, and numbers that do not fit.

    Raises:
      DataError: the column is of another type.
    """
    array = block.table[column].combine_chunks()
    kind = array.type
    if pa.types.is_integer(kind):
        return pa.array(cast(block, column, array, pa.int64(), "a 64-bit integer"))
    if not (pa.types.is_boolean(kind) or pa.types.is_date32(kind)):
        return encode(block, column)
    if array.null_count:
        block.refuse(np.flatnonzero(array.is_null()), column, "a value")
        array = array.fill_null(pa.scalar(0, pa.int32()).cast(kind))
    return array


def encode(block: Block, column: str) -> pa.DictionaryArray:
    """A column as one dictionary-encoded array of text, without nulls.

    Refused are missing values; where their rows are only noted, they become ''.

    Raises:
      DataError: the column is of a type that is not exact as text.
    """
    array = block.table[column].combine_chunks()
    kind = value_type(array.type)
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise wrong_type(block, column, "text, whole numbers or flags")
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


def cast(
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


def wrong_type(block: Block, column: str, expected: str) -> DataError:
    """The error to raise for a column of a type that cannot hold what is expected."""
    kind = value_type(block.table[column].type)
    return DataError(f"{block.file}, column {column}, holds {kind}, not {expected}.")


def value_type(kind: pa.DataType) -> pa.DataType:
    """What a column holds, dictionary-encoded or not."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, dictionary-encoded or not."""
    kind = value_type(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
