"""Whether events are in order, and whether anything is there twice."""

import numpy as np

from skipjax.audit.data import Chunk, Data
from skipjax.audit.finding import NO_TIMES, Finding, graded, share, unknown, worst
from skipjax.audit.thresholds import (
    COARSE_SECONDS,
    LARGE_EFFECT,
    SMALL_EFFECT,
    TIES_NOTE,
    TIES_SERIOUS,
    TIES_WARNING,
)
from skipjax.data.inputs import counted

_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


def order(data: Data) -> Finding:
    """Equal and falling times of neighbours."""
    name, title = "order", "Order of events"
    if not data.has_times:
        return unknown(
            name,
            title,
            f"Whether events are in order cannot be told: {NO_TIMES}.",
            "Where times are logged, name their column and unit when preparing (--time_column, "
            "--time_unit).",
        )
    pairs = ties = back = sessions_back = 0
    step = data.resolution_seconds
    for chunk in data.chunks():
        apart = np.diff(chunk.times)
        pairs += int(chunk.followed.sum())
        ties += int((chunk.followed & (apart == 0)).sum())
        falls = chunk.followed & (apart < 0)
        back += int(falls.sum())
        sessions_back += len(np.unique(chunk.session[1:][falls]))
    tied, fallen = ties / max(pairs, 1), back / max(pairs, 1)
    coarse = step >= COARSE_SECONDS
    words = []
    if coarse:
        words.append(
            f"Times are known to {_duration(step)} only, so that {share(tied)} of neighbouring "
            "plays have the same: their order is that of the positions or rows that were given"
        )
    elif ties:
        words.append(
            f"{share(tied)} of neighbouring plays have the same time, and are in the order of "
            "the file"
        )
    else:
        words.append("No two neighbouring plays have the same time")
    words.append(
        f"in {counted(sessions_back, 'session')} time goes back ({counted(back, 'play')})"
        if back
        else "time never goes back within a session"
    )
    severity = graded(fallen, serious=SMALL_EFFECT)
    if back:
        severity = worst(severity, "warning")
    if coarse:
        severity = worst(severity, "note")
    else:
        grade = graded(tied, note=TIES_NOTE, warning=TIES_WARNING, serious=TIES_SERIOUS)
        severity = worst(severity, grade)
    advice = ""
    if back:
        advice = "The next track is not the next one heard: prepare the data in order of time."
    elif severity in ("serious", "warning"):
        advice = (
            "Which of them came first is unknown, and a model that learns the file's order looks "
            "good: look for a finer time or a position."
        )
    return Finding(
        name,
        title,
        severity,
        f"{'; '.join(words)}.",
        {
            "neighbours": pairs,
            "ties": ties,
            "ties_share": tied,
            "falls": back,
            "falls_share": fallen,
            "sessions_with_falls": sessions_back,
            "resolution_seconds": step,
        },
        advice,
    )


def _duration(seconds: float) -> str:
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"the {word}" if seconds == size else counted(int(seconds / size), word)
    return f"{seconds:g} seconds"


def duplicates(data: Data) -> Finding:
    """Sessions that are there twice, and plays of a track at one time."""
    tracks, everything = [], []
    twice, coarse = 0, data.has_times and data.resolution_seconds >= COARSE_SECONDS
    for chunk in data.chunks():
        of_tracks = _mixed(chunk.tracks.astype(np.uint64), chunk.place, 0)
        tracks.append(_summed(of_tracks, chunk))
        of_all = of_tracks ^ _mixed(chunk.skipped.astype(np.uint64), chunk.place, 1)
        if data.has_times:
            of_all ^= _mixed(chunk.times.astype(np.uint64), chunk.place, 2)
            if not coarse:
                twice += _same_track_and_time(chunk)
        everything.append(_summed(of_all, chunk))
    again, of_all = (
        len(found) - len(np.unique(found)) for found in map(np.concatenate, (tracks, everything))
    )
    part = of_all / data.num_sessions
    what = "skips" if not data.has_times else "skips and times"
    words = [
        f"{counted(of_all, 'session')} ({share(part)}) "
        f"{'repeats' if of_all == 1 else 'repeat'} an earlier one in every track, with its {what}"
        if of_all
        else f"No session repeats another in every track, with its {what}"
    ]
    if again > of_all:
        words.append(
            f"{counted(again - of_all, 'other has', 'others have')} the tracks of one before, in "
            f"order, but other {what}"
        )
    if not data.has_times:
        words.append("whether a play was logged twice cannot be told, as there are no times")
    elif coarse:
        words.append("whether a play was logged twice cannot be told from times as coarse")
    elif twice:
        words.append(
            f"{counted(twice, 'play')} ({share(twice / data.num_events)}) "
            f"{'has' if twice == 1 else 'have'} track and time of another in the session"
        )
    else:
        words.append("no track was played twice at one time")
    severity = worst(
        graded(part, serious=LARGE_EFFECT, warning=SMALL_EFFECT),
        graded(twice / data.num_events, serious=LARGE_EFFECT, warning=SMALL_EFFECT),
        "note" if of_all or twice else "ok",
    )
    return Finding(
        "duplicates",
        "Duplicates",
        severity,
        f"{'; '.join(words)}.",
        {
            "sessions": of_all,
            "sessions_share": part,
            "sessions_with_the_same_tracks": again,
            "plays": None if not data.has_times or coarse else twice,
            "plays_share": None if not data.has_times or coarse else twice / data.num_events,
        },
        "What is there twice is both learned and asked for: remove it and prepare the data again."
        if severity in ("serious", "warning")
        else "",
    )


def _mixed(values: np.ndarray, place: np.ndarray, salt: int) -> np.ndarray:
    """[e] uint64 that look random, a function of value, place and salt."""
    golden, *factors = map(np.uint64, _MIX)
    x = values * golden + place.astype(np.uint64) * factors[0]
    x += np.uint64((salt + 1) * _MIX[2] % 2**64)
    for shift, factor in zip((30, 27), factors, strict=True):
        x = (x ^ (x >> np.uint64(shift))) * factor
    return x ^ (x >> np.uint64(31))


def _summed(hashes: np.ndarray, chunk: Chunk) -> np.ndarray:
    """[s] uint64, one for the whole of each session; lengths are told apart."""
    starts = np.flatnonzero(chunk.place == 0)
    sums = np.add.reduceat(hashes, starts)
    return _mixed(sums, chunk.left[starts], 3)


def _same_track_and_time(chunk: Chunk) -> int:
    """How many events have session, time and track of an event before them.

    Where time goes back, only among neighbours of one time.
    """
    times = chunk.times
    tie = chunk.followed & (times[1:] == times[:-1])
    among = np.flatnonzero(np.concatenate([[False], tie]) | np.concatenate([tie, [False]]))
    tracks, times, session = chunk.tracks[among], times[among], chunk.session[among]
    by = np.lexsort((tracks, times, session))
    same = [np.diff(column[by]) == 0 for column in (tracks, times, session)]
    return int(np.logical_and.reduce(same).sum())
