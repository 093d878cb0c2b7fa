"""Sessions left out because something is wrong with them: listed one by one, and counted."""

import array
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skipjax.data.grouping import Groups, Locate, what_is_missing
from skipjax.data.inputs import counted

PLURALS = {"listener's log": "listeners' logs"}
_COLUMNS = ("session_id", "events", "file", "row", "reason")


class Dropped:
    """Makes the list, a CSV in the order of the source; meanwhile its lines are on disk.

    Attributes:
      counts: `sessions`, `events` in them, and `rows` whose session cannot be told.
    """

    def __init__(self, temporary: Path, locate: Locate):
        """
        Args:
          temporary: a file for the lines as they come.
          locate: for numbers of rows.
        """
        self._temporary, self._locate = temporary, locate
        self._file = open(temporary, "wb")  # noqa: SIM115
        self._rows = array.array("q")
        self._ends = array.array("q", [0])
        self._first: tuple[int, str] | None = None
        self.counts = {"sessions": 0, "events": 0, "rows": 0}

    @property
    def first(self) -> str:
        """What is wrong with the first of all; '' if there is none."""
        if self._first is None:
            return ""
        file, number = self._locate(self._first[0])
        return f"{file} row {number}, {self._first[1]}"

    def add_row(self, row: int, reason: str) -> None:
        """Lists a row whose session cannot be told."""
        self.counts["rows"] += 1
        self._add("", 1, row, reason)

    def add_sessions(self, groups: Groups, bad: np.ndarray) -> None:
        """Lists sessions, each with the first of its rows that have a fault, or what it lacks.

        Args:
          groups: with the column `fault`, beside those that `incomplete` takes.
          bad: [s] bool, which of them.
        """
        rows, faults = groups.table["row"].to_numpy(), groups.table["fault"]
        faulty = faults.is_valid().to_numpy()
        for number in np.flatnonzero(bad).tolist():
            start, size = int(groups.starts[number]), int(groups.sizes[number])
            places = start + np.flatnonzero(faulty[start : start + size])
            if places.size:
                place = int(places[np.argmin(rows[places])])
                row, reason = rows[place], faults[place].as_py()
            else:
                row, reason, _ = what_is_missing(groups, number, self._locate)
            self.counts["sessions"] += 1
            self.counts["events"] += size
            self._add(groups.ids[number].as_py(), size, row, reason)

    def write(self, path: Path) -> None:
        """Writes all that was added."""
        self.close()
        with open(self._temporary, "rb") as lines, open(path, "wb") as file:
            file.write(_line(_COLUMNS))
            for number in np.argsort(self._rows):
                lines.seek(self._ends[number])
                file.write(lines.read(self._ends[number + 1] - self._ends[number]))

    def close(self) -> None:
        self._file.close()

    def _add(self, name: str, events: int, row: int, reason: str) -> None:
        if self._first is None or row < self._first[0]:
            self._first = (row, reason)
        line = _line((name, events, *self._locate(row), reason))
        self._file.write(line)
        self._rows.append(row)
        self._ends.append(self._ends[-1] + len(line))


def described(counts: Mapping[str, Any]) -> str:
    """Says in words what `Dropped.counts` holds; '' if nothing.

    `of`, if there, is what was dropped whole: "listener's log" or "sequence".
    """
    parts = []
    if number := counts.get("sessions"):
        whole = counts.get("of", "session")
        dropped = counted(number, whole, PLURALS.get(whole, ""))
        parts.append(f"{dropped} ({counted(counts['events'], 'event')})")
    if number := counts.get("rows"):
        parts.append(f"{counted(number, 'row')} whose session cannot be told")
    return " and ".join(parts)


def _line(values: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    # A file's name may hold what UTF-8 cannot.
    return line.getvalue().encode("utf-8", "backslashreplace")
