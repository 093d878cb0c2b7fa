"""Files that hold one JSON array of objects, read an object at a time."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from skipjax.data.inputs import reading, shown
from skipjax.errors import DataError

_LONGEST_OBJECT = 1 << 20
_SPACE = " \t\r\n"


def read_objects(
    file: BinaryIO, name: str, *, block_bytes: int
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yields objects, as many as some bytes hold, and the number of the first of them, from 1.

    Of an empty array there are none.

    Args:
      file: stream of bytes, UTF-8 with or without a byte order mark.
      name: of the file, for messages.
      block_bytes: how much to read at a time.

    Raises:
      DataError: no array of objects, one that ends too early, or damaged bytes.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    scan = json.JSONDecoder().raw_decode
    text, ended, opened, closed = "", False, False, False
    first, wanted = 1, ""  # what must come before the next object
    while not ended:
        with reading(name):
            data = file.read(block_bytes)
        ended = not data
        try:
            text += decode(data, ended)
        except UnicodeDecodeError:
            raise DataError(f"{name} is not UTF-8 text; fetch it again.") from None
        place, found = 0, []
        if not opened and (text := text.lstrip(_SPACE)):
            if text[0] != "[":
                raise DataError(
                    f"{name} is not a JSON array of objects; it begins with {shown(text, 40)!r}."
                )
            opened, place = True, 1
        while opened:
            start = _skip(text, place)
            if start == len(text):
                place = start
                break
            if closed:
                raise DataError(f"{name} goes on after its array: {shown(text[start:], 40)!r}.")
            if text[start] == "]" and wanted != "{":
                closed, place = True, start + 1
                continue
            where = f"{name}, object {first + len(found)}"
            if wanted == ",":
                if text[start] != ",":
                    raise DataError(f"{where}: a comma is missing before it.")
                place, wanted = start + 1, "{"
                continue
            if text[start] != "{":
                raise DataError(f"{where} is no object: {shown(text[start:], 40)!r}.")
            try:
                value, place = scan(text, start)
            except (ValueError, RecursionError) as error:
                if not ended and len(text) - start <= _LONGEST_OBJECT:
                    place = start
                    break  # the rest of it may be in what comes next
                raise DataError(
                    f"{where} is not JSON or is cut short ({error}); fetch the file again."
                ) from None
            found.append(value)
            wanted = ","
        text = text[place:]
        if found:
            yield found, first
            first += len(found)
    if not closed:
        raise DataError(
            f"{name} is cut short: its array has no end; fetch it again."
            if opened
            else f"{name} is empty; remove it or fetch it again."
        )


def _skip(text: str, place: int) -> int:
    """Where what is not white space begins, from `place` on."""
    end = len(text)
    while place < end and text[place] in _SPACE:
        place += 1
    return place
