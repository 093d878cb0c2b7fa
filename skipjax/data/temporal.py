"""The split in time: the newest sessions are for testing, those before them for validation."""

from typing import Any

import numpy as np

from skipjax.data.layout import UNITS_PER_SECOND
from skipjax.data.sessions import Sessions
from skipjax.errors import ConfigError

RELATIVE = ("yambda",)  # sources whose times do not count from 1970


def temporal_parts(
    sessions: Sessions,
    temporal: Any,
    offsets: np.ndarray,
    kept: np.ndarray,
    events: np.ndarray | slice = slice(None),
) -> dict[str, np.ndarray]:
    """Which sessions are in which part.

    With T the time of the last event, T_test = T - `test_hours` and T_valid = T_test -
    `valid_hours`: sessions for the test start at T_test or later; those for validation start at
    T_valid or later and end before T_test - gap; those for training end before T_valid - gap. What
    lies across a boundary, or ends within the gap before one, is in none.

    Args:
      sessions: with times.
      temporal: `config.data.temporal` of a run.
      offsets: [S + 1] where each session begins in `events`, and their number.
      kept: [S] bool, sessions that may be used; none of them is empty.
      events: which of `sessions`' events are used.

    Returns:
      {"train", "valid", "test": [S] bool}, none of which overlap.

    Raises:
      ConfigError: there are no times, or a part is empty.
    """
    timed = sessions.times()
    if timed is None and "time" in sessions.context.column_names:
        units = ", ".join(UNITS_PER_SECOND)
        raise ConfigError(
            "config.data.split is 'temporal', but it is not known what unit the times of these "
            f"sessions are in (one of {units}); give it, as in --config.data.table.time_unit=s, or "
            "prepare them with --time_unit."
        )
    if timed is None:
        raise ConfigError(
            "config.data.split is 'temporal', but these sessions have no times; prepare them with "
            "a time column and its unit, or set it to 'leave_one_out'."
        )
    times, unit = timed
    newest, times = int(times.max()), times[events]
    starts, ends = np.zeros((2, len(kept)), np.int64)
    some = np.diff(offsets) > 0  # where one is empty, the next one begins at the same place
    # Not the first and last event: the order of listening may have been told by something else.
    starts[some] = np.minimum.reduceat(times, offsets[:-1][some])
    ends[some] = np.maximum.reduceat(times, offsets[:-1][some])
    gap = _ticks(60 * temporal.gap_minutes, unit)
    test_from = newest - _ticks(3600 * temporal.test_hours, unit)
    valid_from = test_from - _ticks(3600 * temporal.valid_hours, unit)
    parts = {
        "train": kept & _before(ends, valid_from - gap),
        "valid": kept & ~_before(starts, valid_from) & _before(ends, test_from - gap),
        "test": kept & ~_before(starts, test_from),
    }
    if not all(part.any() for part in parts.values()):
        oldest = int(times.min()) if len(times) else newest
        told = _short_span(sessions, temporal, oldest, newest, unit)
        raise ConfigError(f"{_empty(temporal, int(kept.sum()), parts)}{told}")
    return parts


def _empty(temporal: Any, number: int, parts: dict[str, np.ndarray]) -> str:
    """What to do where a part has none of `number` sessions."""
    hours, both = temporal.test_hours, temporal.test_hours + temporal.valid_hours
    apart = f"{temporal.gap_minutes:g} min"
    field = "config.data.temporal"
    if not parts["test"].any():
        return (
            f"of {number} sessions, none starts in the last {hours:g} h, so there is none to test "
            f"with; raise {field}.test_hours."
        )
    if parts["test"].sum() == number:
        start = f"all {number} sessions start" if number != 1 else "the only session starts"
        return (
            f"{start} in the last {hours:g} h, so there is none to train on; lower "
            f"{field}.test_hours."
        )
    if not parts["train"].any():
        return (
            f"of {number} sessions, none ends {apart} before the last {both:g} h, so there is none "
            f"to train on; lower {field}.test_hours or {field}.valid_hours."
        )
    return (
        f"of {number} sessions, none starts in the {temporal.valid_hours:g} h before the last "
        f"{hours:g} h and ends {apart} before those, so there is none to validate with; raise "
        f"{field}.valid_hours."
    )


def _short_span(sessions: Sessions, temporal: Any, oldest: int, newest: int, unit: str) -> str:
    """A sentence, with a space before it, where there is less data than the split asks for."""
    hours = (newest - oldest) / (3600 * UNITS_PER_SECOND[unit])
    if hours >= temporal.test_hours + temporal.valid_hours:
        return ""
    source = sessions.info.get("source")
    since = "" if source in RELATIVE else f" from {as_date(oldest, unit)[:10]}"
    doubt = "; is time_unit right?" if source in ("table", "inter") else "."
    return f" The data spans {hours:.3g} h{since}{doubt}"


def as_date(time: int, unit: str) -> str:
    """A time since 1970 as YYYY-MM-DD hh:mm, UTC."""
    return str(np.datetime64(int(time), unit).astype("datetime64[m]")).replace("T", " ")


def temporal_name(temporal: Any) -> str:
    """What results call the split."""
    return f"temporal: last {temporal.test_hours:g} h, gap {temporal.gap_minutes:g} min"


def _ticks(seconds: float, unit: str) -> int:
    return round(seconds * UNITS_PER_SECOND[unit])


def _before(times: np.ndarray, boundary: int) -> np.ndarray:
    """times < boundary, also where that is no int64."""
    low = np.iinfo(np.int64).min
    return times < boundary if boundary >= low else np.zeros(len(times), bool)
