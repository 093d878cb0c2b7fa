"""What the split in time makes of the data, and which targets training never sees."""

from typing import Any

import numpy as np

from skipjax.audit.data import Data
from skipjax.audit.finding import (
    NO_TIMES,
    Finding,
    at_worst,
    graded,
    scarce,
    share,
    unknown,
    worst,
)
from skipjax.audit.thresholds import (
    COLD_SERIOUS,
    COLD_WARNING,
    FEW_TESTS_SERIOUS,
    FEW_TESTS_WARNING,
    STRADDLING_NOTE,
)
from skipjax.data.inputs import counted
from skipjax.data.parts import Split
from skipjax.data.temporal import temporal_name
from skipjax.errors import ConfigError
from skipjax.study.wording import decimal

BINS = 60  # of the chart of sessions over time
_WANTED_SHARE = 0.05  # of the sessions, for a test period that is proposed


def test_period(data: Data) -> tuple[Finding, Split | None]:
    """The parts of the split in time, and that split if there is one."""
    name, title = "temporal", "The split in time"
    if not data.has_times:
        words = f"What a split in time would be cannot be told: {NO_TIMES}."
        return unknown(name, title, words), None
    chosen = data.config.data.split == "temporal"
    fields = data.config.data.temporal
    numbers = _over_time(data)
    told = temporal_name(fields).removeprefix("temporal: ")
    span = f"The data covers {_days(numbers['hours'])}"
    try:
        split = data.in_time()
    except ConfigError as error:
        return Finding(
            name,
            title,
            "serious" if chosen else "note",
            f"{span}. The split in time ({told}) is not possible: {error}",
            numbers | {"parts": None, "at_a_boundary": None, "possible": False},
            _tip(data),
        ), None
    counts = {which: len(part.sessions) for which, part in split.parts.items()}
    between = sum(count for why, count in split.left_out.items() if "boundary" in why)
    whole = sum(counts.values()) + between
    crossing = f"{between:,} {'lies' if between == 1 else 'lie'}" if between else "none lies"
    severity = worst(
        scarce(counts["test"], warning=FEW_TESTS_WARNING, serious=FEW_TESTS_SERIOUS),
        graded(between / whole, note=STRADDLING_NOTE),
    )
    advice = _tip(data) if counts["test"] < FEW_TESTS_WARNING else ""
    return Finding(
        name,
        title,
        severity if chosen else at_worst("note", severity),
        f"{span}. Split in time ({told}), "
        f"{counted(counts['test'], 'session starts', 'sessions start')} in the test period "
        f"({share(counts['test'] / whole)}), {counts['valid']:,} are for validation and "
        f"{counts['train']:,} for training; {crossing} across a boundary or in the gap before one"
        f"{', and would be left out' if between else ''}.",
        numbers | {"parts": counts, "at_a_boundary": between, "possible": True},
        advice,
    ), split


def _over_time(data: Data) -> dict[str, Any]:
    begins, hour = data.begins, 3600 * data.per_second
    oldest = int(begins.min())
    covered = _newest(data) - oldest
    # Bins are as wide as times are coarse, at least.
    step = max(round(data.resolution_seconds * data.per_second), 1)
    width = max(-(-(covered + 1) // (BINS * step)), 1) * step
    return {
        "hours": covered / hour,
        "test_hours": data.config.data.temporal.test_hours,
        "valid_hours": data.config.data.temporal.valid_hours,
        "bin_hours": width / hour,
        "sessions_by_bin": np.bincount(
            (begins - oldest) // width, minlength=covered // width + 1
        ).tolist(),
    }


def _newest(data: Data) -> int:
    return max(int(chunk.times.max()) for chunk in data.chunks())


def _days(hours: float) -> str:
    return f"{hours / 24:,.0f} days" if hours >= 72 else f"{hours:.1f} hours"


def _tip(data: Data) -> str:
    """Which test period to choose; '' if there is none that leaves all three parts."""
    hours = _proposed(data)
    if data.possible("temporal", temporal__test_hours=hours):
        valid = "the same valid_hours"
    elif data.possible("temporal", temporal__test_hours=hours, temporal__valid_hours=hours):
        valid = f"--config.data.temporal.valid_hours={hours:g}"
    else:
        return ""
    return (
        f"With --config.data.temporal.test_hours={hours:g} and {valid}, about "
        f"{share(_WANTED_SHARE)} of the sessions would be for the test."
    )


def _proposed(data: Data) -> float:
    """Hours at the end in which a share of the sessions start that is enough for a test."""
    start = np.quantile(data.begins, 1 - _WANTED_SHARE, method="lower")
    return float(max(np.ceil((_newest(data) - start) / (3600 * data.per_second)), 1))


def cold(data: Data, in_time: Split | None) -> Finding:
    """Test targets that no training span has."""
    shares = {"leave_one_out": data.split.cold_share("test")}
    words = [
        f"{share(shares['leave_one_out'])} of the test targets are on tracks that no training "
        "span has, under leave-one-out"
    ]
    if in_time is not None:
        shares["temporal"] = in_time.cold_share("test")
        words.append(f"{share(shares['temporal'])} under the split in time")
    elif not data.has_times:
        words.append(f"under a split in time that cannot be told, as {NO_TIMES}")
    chosen = data.config.data.split
    grades = {
        which: graded(value, warning=COLD_WARNING, serious=COLD_SERIOUS)
        for which, value in shares.items()
    }
    severity = worst(
        *(grade if which == chosen else at_worst("note", grade) for which, grade in grades.items())
    )
    advice = ""
    if severity in ("warning", "serious"):
        highest = decimal(1 - shares.get(chosen, 0.0), 2)
        advice = f"No model can learn those, so its HR is at most {highest}."
        if data.possible(chosen, min_plays=5):
            advice += " --config.data.min_plays=5 leaves out rare tracks."
    return Finding(
        "cold",
        "Targets never seen in training",
        severity,
        f"{'; '.join(words)}.",
        shares
        | {
            "test_sessions": {"leave_one_out": len(data.split.parts["test"].sessions)}
            | ({"temporal": len(in_time.parts["test"].sessions)} if in_time else {})
        },
        advice,
    )
