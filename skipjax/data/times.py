"""What events are ordered by, times and positions; and dates."""

import datetime
import decimal
import functools
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import fields, layout
from skipjax.data.blocks import Block

INTEGER = "an integer"
WITHOUT_ZONE = "a date and time without a zone"
WITH_ZONE = "a date and time with a zone"

_LONGEST = 100  # characters
_INTEGER = r"^-?[0-9]{1,19}(\.0+)?$"
_EXPONENT = re.compile(r"-?[0-9]+(\.[0-9]*)?[eE]\+?[0-9]{1,3}")
# Years that fit into 64 bits of nanoseconds; of others pyarrow may make anything.
_DAY = "(1[789]|2[01])[0-9]{2}-[0-9]{2}-[0-9]{2}"
_CLOCK_TIME = rf"^{_DAY}([T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,9}})?)?)?"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_FORMS = {
    INTEGER: (_INTEGER, pa.int64()),
    WITHOUT_ZONE: (_CLOCK_TIME + "$", pa.timestamp("ns")),
    WITH_ZONE: (_CLOCK_TIME + _ZONE, pa.timestamp("ns", "UTC")),
}
_FIRST_SECOND, _LAST_SECOND = -2_208_988_800, 9_214_646_400  # the years 1900 and 2262 begin
_DATE = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DAY_FIRST = re.compile("([0-9]{2})/([0-9]{2})/([0-9]{4})")
_EPOCH = datetime.date(1970, 1, 1).toordinal()


def form_of(block: Block, column: str) -> str:
    """How the times of a block are written: INTEGER, WITHOUT_ZONE or WITH_ZONE.

    Rows of text are refused until one is written in such a form; '' if none is.

    Args:
      block: the rows.
      column: of times; '' where rows have positions, which are integers.

    Raises:
      DataError: the column is of a type that holds no times.
    """
    if not column:
        return INTEGER
    values = block.table[column]
    kind = fields.value_type(values.type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return INTEGER
    if pa.types.is_timestamp(kind):
        return WITH_ZONE if kind.tz else WITHOUT_ZONE
    if pa.types.is_date(kind):
        return WITHOUT_ZONE
    if not fields.is_text(kind):
        raise fields.wrong_type(block, column, "an integer or a date and time")
    for row in range(len(values)):
        text = values[row].as_py()
        for form, (pattern, _) in _FORMS.items():
            if text is not None and re.match(pattern, text):
                return form
        if text is not None and _spelled_out(text):
            return INTEGER
        block.refuse([row], column, "an integer or a date and time (ISO 8601)")
    return ""


def parse(block: Block, column: str, form: str) -> np.ndarray:
    """A column to order by, exactly: no value passes through a float.

    Refused are values of another form, those with a fraction, and those that do not fit into 64
    bits.

    Args:
      block: the rows.
      column: whole numbers, or dates and times as text or Arrow types.
      form: as returned by `form_of`; one for all blocks, so that they can be compared.

    Returns:
      [rows] int64: the numbers as they are, dates and times as nanoseconds since 1970 (UTC); 0 in
      rows that are refused.

    Raises:
      DataError: the column is of a type of another form.
    """
    array = block.table[column].combine_chunks()
    if not form:
        return np.zeros(len(array), np.int64)
    pattern, target = _FORMS[form]
    expected: str | Callable[[int], str] = f"{form} like the first one"
    if form == INTEGER:
        expected = functools.partial(_why_no_integer, block.table[column])
    if not fields.is_text(array.type):
        if form_of(block, column) != form:
            raise fields.wrong_type(block, column, expected if isinstance(expected, str) else form)
        return fields.cast(block, column, array, target, expected)
    if pa.types.is_dictionary(array.type):
        texts = array.dictionary
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > _LONGEST:
            # Decoded, one long text might not fit into memory.
            short = [text if len(text) <= _LONGEST else "" for text in texts.to_pylist()]
            texts = pa.array(short, texts.type)
        array = pa.DictionaryArray.from_arrays(array.indices, texts).dictionary_decode()
    good = pc.match_substring_regex(array, pattern).fill_null(False)
    bad = np.flatnonzero(~np.asarray(good))
    if bad.size and form == INTEGER:
        found = {row: _spelled_out(array[row].as_py() or "") for row in bad.tolist()}
        mask = np.zeros(len(array), bool)
        mask[[row for row, text in found.items() if text]] = True
        texts = pa.array(filter(None, found.values()), array.type)
        array = pc.replace_with_mask(array, pa.array(mask), texts)
        good, bad = pc.or_(good, pa.array(mask)), bad[~mask[bad]]
    if bad.size:
        block.refuse(bad, column, expected)
        array = pc.if_else(good, array, None)
    if form == INTEGER:
        array = pc.replace_substring_regex(array, r"\.0+$", "")
    return fields.cast(block, column, array, target, expected)


def check_years(block: Block, column: str, numbers: np.ndarray, unit: str) -> None:
    """Refuses times, [rows] since 1970, in which nobody can have listened."""
    per_second = layout.UNITS_PER_SECOND[unit]
    beyond = (numbers < _FIRST_SECOND * per_second) | (numbers >= _LAST_SECOND * per_second)
    expected = f"a time in {unit} from 1900 to 2261 (is time_unit right?)"
    block.refuse(np.flatnonzero(beyond), column, expected)


def _spelled_out(text: str) -> str:
    """1.23e9 as 1230000000, exactly; '' if that is no whole number, or one beyond 64 bits."""
    if len(text) > _LONGEST or not _EXPONENT.fullmatch(text):
        return ""
    number = decimal.Decimal(text)
    if number.adjusted() > 18 or number != number.to_integral_value():
        return ""
    return str(int(number))


def _why_no_integer(column: pa.ChunkedArray, row: int) -> str:
    """What a time or position should be that is no whole number, or not one of 64 bits."""
    value = column[row].as_py()
    text = str(value)
    if len(text) > _LONGEST or not fields.NUMBER.fullmatch(text):
        return INTEGER
    number = decimal.Decimal(text)
    if number.adjusted() > 18 or abs(number) >= 1 << 63:
        return "within 64 bits: it is too large"
    if number != number.to_integral_value():
        return "an integer: whole numbers are needed, so round the column"
    if isinstance(value, float):
        return "within what a float holds exactly: it is too large"
    return INTEGER


def dates(block: Block, column: str, first_year: int) -> np.ndarray:
    """`fields.parse` of YYYY-MM-DD or DD/MM/YYYY. [rows] int32, days since 1970-01-01."""

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
    return fields.parse(block, column, convert, expected, np.int32)
