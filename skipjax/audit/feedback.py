"""What was logged of each play, what of it counts as skipped, and where that is common."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.audit.auc import auc_of_groups
from skipjax.audit.data import HOUR, Chunk, Data
from skipjax.audit.finding import NO_TIMES, Finding, graded, share, unknown, worst
from skipjax.audit.thresholds import (
    AUC_GIVEN_AWAY,
    FEW_SKIPS,
    LEFT_OUT_NOTE,
    LEFT_OUT_WARNING,
    MANY_SKIPS,
    SHARES_APART,
)
from skipjax.data import layout
from skipjax.data.sessions import NUM_LEVELS
from skipjax.study.wording import decimal, plain

MOST_VALUES = 20  # of a column whose values are told apart; hours have a finding of their own
_UNKNOWN = ("played_percent", "next_gap_seconds")  # columns that are -1 where nothing was logged
LEAST_EVENTS = 400  # of a value for its share, then known to ± .05, to count as apart from others


def rule(data: Data) -> Finding:
    """What tells that a track was skipped."""
    sessions, means = data.sessions, data.split.skipped_means
    inferred = bool(sessions.info.get("inferred"))
    numbers = {
        "feedback": list(sessions.feedback),
        "rule": means,
        "inferred": inferred,
        "known": {name: _known(data, name) for name in _UNKNOWN if name in sessions.feedback},
    }
    if "level" in sessions.feedback:
        levels = [
            np.bincount(data.sessions.levels[chunk.events], minlength=NUM_LEVELS)
            for chunk in data.chunks()
        ]
        numbers["events_by_level"] = sum(levels).tolist()
    words = [f"Skipped means {means}" if means else "Nothing counts as skipped"]
    words += [
        f"{name} is known for {share(known)} of the plays, and the others count as played"
        for name, known in numbers["known"].items()
        if known < 1
    ]
    least = min(numbers["known"].values(), default=1.0)
    return Finding(
        "feedback",
        "What counts as skipped",
        worst(
            "ok" if means else "serious",
            "note" if inferred else "ok",
            graded(1 - least, note=LEFT_OUT_NOTE, warning=LEFT_OUT_WARNING),
        ),
        f"{'; '.join(words)}.",
        numbers,
        "Check a few sessions by ear or eye: a pause looks like a track that was played, and two "
        "devices at once like skips."
        if inferred
        else "",
    )


def _known(data: Data, name: str) -> float:
    """Share of the events for which the column is not -1."""
    column = data.sessions.context[name].to_numpy()
    return sum(int((column[c.events] >= 0).sum()) for c in data.chunks()) / data.num_events


def skip_share(data: Data) -> Finding:
    skips = sum(int(chunk.skipped.sum()) for chunk in data.chunks())
    part = skips / data.num_events
    sessions = sum(int(_any(chunk.session, chunk.skipped).sum()) for chunk in data.chunks())
    some = sessions / data.num_sessions
    words = (
        f"{share(part)} of the plays are skips; {share(some)} of the sessions have one at least."
    )
    severity, advice = "ok", ""
    if part in (0, 1):
        severity = "serious"
        words = f"{'No' if part == 0 else 'Every'} play is a skip, so there is nothing to compare."
        advice = "Look at what counts as skipped; a flag may mean the opposite."
    elif part < FEW_SKIPS or part > MANY_SKIPS:
        severity = "warning"
        advice = "A term on skips has little to learn from; look at what counts as skipped."
    return Finding(
        "skip_share",
        "Skips",
        severity,
        words,
        {"skips": skips, "share": part, "sessions_with_a_skip": some},
        advice,
    )


def _any(session: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """[s] bool, whether any event of each session has its flag."""
    return np.bincount(session, flags) > 0


def by_position(data: Data) -> Finding:
    longest = int(data.split.lengths.max())
    plays, skips = np.zeros((2, longest), np.int64)
    for chunk in data.chunks():
        plays += np.bincount(chunk.place, minlength=longest)
        skips += np.bincount(chunk.place, chunk.skipped, longest).astype(np.int64)
    last = [0, 0]
    for chunk in data.chunks():
        last[0] += int((chunk.left == 0).sum())
        last[1] += int(chunk.skipped[chunk.left == 0].sum())
    of_last, before = last[1] / last[0], (skips.sum() - last[1]) / (plays.sum() - last[0])
    apart = abs(of_last - before)
    severity, advice = graded(apart, note=SHARES_APART), ""
    if of_last in (0, 1) and before not in (0, 1):
        severity = "warning"
        advice = (
            "All test targets are alike, so nothing can be said of skipped ones against played "
            "ones. Skips that are inferred from the next play need one: none follows a last track."
        )
    elif severity == "note":
        advice = "The test is about last tracks: skips mean something else there than in training."
    return Finding(
        "skips_by_position",
        "Skips by position",
        severity,
        f"Of the first tracks of sessions {share(skips[0] / plays[0])} are skipped, of the last "
        f"ones, which the test asks for, {share(of_last)}, of all before them {share(before)}.",
        {
            "first": skips[0] / plays[0],
            "last": of_last,
            "not_last": before,
            "plays": plays.tolist(),
            "shares": _shares(skips, plays),
        },
        advice,
    )


def _shares(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [int(p) / int(w) if w else None for p, w in zip(part, whole, strict=True)]


def by_hour(data: Data) -> Finding:
    name, title = "skips_by_hour", "Skips by hour"
    if not has_hours(data):
        return unknown(name, title, f"Skips by hour cannot be told: {NO_TIMES}.")
    plays, skips = np.zeros((2, 24), np.int64)
    for chunk in data.chunks():
        hours = hours_of(data, chunk)
        plays += np.bincount(hours, minlength=24)
        skips += np.bincount(hours, chunk.skipped, 24).astype(np.int64)
    return _by_value(
        name,
        title,
        "hour of the day"
        if data.logged_hours is not None
        else "hour of the day (of the times as logged)",
        {str(hour): (int(plays[hour]), int(skips[hour])) for hour in range(24)},
        unit=" h",
    )


def has_hours(data: Data) -> bool:
    return data.has_times or data.logged_hours is not None


def hours_of(data: Data, chunk: Chunk) -> np.ndarray:
    """[e] 0 to 23; there must be hours."""
    if data.logged_hours is not None:
        return data.logged_hours[chunk.events]
    return chunk.times // (3600 * data.per_second) % 24


def by_context(data: Data) -> list[Finding]:
    """One finding for each context column with few values."""
    found = []
    for name, values, codes in _columns(data):
        plays, skips = np.zeros((2, len(values)), np.int64)
        for chunk in data.chunks():
            plays += np.bincount(codes[chunk.events], minlength=len(values))
            skips += np.bincount(codes[chunk.events], chunk.skipped, len(values)).astype(np.int64)
        counts = {
            value: (int(plays[i]), int(skips[i])) for i, value in enumerate(values) if plays[i]
        }
        found.append(
            _by_value(
                f"skips_by_context:{name}",
                f"Skips by {plain(name)}",
                plain(name),
                counts,
                column=plain(name),
            )
        )
    return found


def _columns(data: Data) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Context columns with few values: name, values and [E] int8, which of them each event has."""
    for field in data.sessions.context.schema:
        if field.name in layout.RESERVED or field.name == HOUR:
            continue
        column = data.sessions.context[field.name]
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            if len(column.chunk(0).dictionary) > MOST_VALUES:
                continue
            column = column.unify_dictionaries()
        elif not (pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
            continue
        values = pc.unique(column).cast(kind)
        if not 1 < len(values) <= MOST_VALUES:
            continue
        values = values.take(pc.sort_indices(values))
        codes = np.concatenate(
            [pc.index_in(c.cast(kind), values).to_numpy().astype(np.int8) for c in column.chunks]
        )
        texts = [str(v).lower() if kind == pa.bool_() else str(v) for v in values.to_pylist()]
        yield field.name, texts, codes


def _by_value(
    name: str,
    title: str,
    what: str,
    counts: Mapping[str, tuple[int, int]],
    unit: str = "",
    column: str = "",
) -> Finding:
    """Skip shares by value of something.

    Args:
      name: of the finding.
      title: of it.
      what: something, in words.
      counts: value to plays and skips.
      unit: stands after a value.
      column: of the context, if it is one that may have been logged after the play.
    """
    shares = {v: skips / plays for v, (plays, skips) in counts.items() if plays}
    enough = {v: s for v, s in shares.items() if counts[v][0] >= LEAST_EVENTS}
    plays, skips = (np.array(x) for x in zip(*counts.values(), strict=True))
    # Each value's share as the score: how well the column alone tells skips.
    order = np.argsort([shares.get(v, 0.0) for v in counts], kind="stable")
    told = auc_of_groups(skips[order], (plays - skips)[order])
    numbers = {
        "values": {
            v: {"plays": p, "skips": s, "share": shares.get(v)} for v, (p, s) in counts.items()
        },
        "auc": told,
    }
    apart, words = 0.0, f"There are too few plays to compare skips by {what}."
    if enough:
        low, high = (f(enough, key=enough.get) for f in (min, max))
        apart = enough[high] - enough[low]
        words = (
            f"By {what}, from {share(enough[low])} ({plain(low)}{unit}) to {share(enough[high])} "
            f"({plain(high)}{unit}) are skipped."
        )
    if column and told is not None and told >= AUC_GIVEN_AWAY:
        return Finding(
            name,
            title,
            "warning",
            f"{words} {column} tells skips almost by itself (AUC {decimal(told, 2)}).",
            numbers,
            f"{column} was probably logged after the play, such as a reason for its end: never "
            "give it to a model that is to predict skips.",
        )
    return Finding(name, title, graded(apart, note=SHARES_APART), words, numbers)
