"""Sessions left out because something is wrong with them: listed one by one, and counted."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skipjax.data.grouping import Groups, Locate, what_is_missing

_COLUMNS = ("session_id", "events", "file", "row", "reason")


class Dropped:
    """Writes the list, a CSV, line by line.

    Attributes:
      counts: `sessions`, `events` in them, and `rows` whose session cannot be told.
      first: what was wrong with the first of all; '' before that.
    """

    def __init__(self, path: Path):
        # A file's name may hold what UTF-8 cannot.
        self._file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        self._lines = csv.writer(self._file, lineterminator="\n")
        self._lines.writerow(_COLUMNS)
        self.counts = {"sessions": 0, "events": 0, "rows": 0}
        self.first = ""

    def add_row(self, place: tuple[str, int], reason: str) -> None:
        """Lists a row whose session cannot be told; `place` is its file and row."""
        self.counts["rows"] += 1
        self._add("", 1, place, reason)

    def add_sessions(self, groups: Groups, bad: np.ndarray, locate: Locate) -> None:
        """Lists sessions, each with the first of its rows that have a fault, or what it lacks.

        Args:
          groups: with the column `fault`, beside those that `incomplete` takes.
          bad: [s] bool, which of them.
          locate: for entries of `row`.
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
                row, reason, _ = what_is_missing(groups, number, locate)
            self.counts["sessions"] += 1
            self.counts["events"] += size
            self._add(groups.ids[number].as_py(), size, locate(row), reason)

    def close(self) -> None:
        self._file.close()

    def _add(self, name: str, events: int, place: tuple[str, int], reason: str) -> None:
        self.first = self.first or f"{place[0]} row {place[1]}, {reason}"
        self._lines.writerow((name, events, *place, reason))


def described(counts: Mapping[str, int]) -> str:
    """Says in words what `Dropped.counts` holds; '' if nothing."""
    parts = []
    if counts.get("sessions"):
        parts.append(f"{_number(counts, 'sessions')} ({_number(counts, 'events')})")
    if counts.get("rows"):
        parts.append(f"{_number(counts, 'rows')} whose session cannot be told")
    return " and ".join(parts)


def _number(counts: Mapping[str, int], what: str) -> str:
    return f"{counts[what]:,} {what if counts[what] != 1 else what.removesuffix('s')}"
