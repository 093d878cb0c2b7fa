"""How much there is, what was left out on the way, and how long sessions are."""

import numpy as np

from skipjax.audit.data import Data
from skipjax.audit.finding import Finding, graded, listed, share
from skipjax.audit.thresholds import CUT_NOTE, LEFT_OUT_NOTE, LEFT_OUT_WARNING
from skipjax.data.dropped import PLURALS
from skipjax.data.inputs import counted
from skipjax.ids import FIRST_TRACK_ID


def _words(name: str, whole: str) -> tuple[str, str]:
    """What is counted, one and many; `whole` is what was dropped as a session."""
    one = whole if name == "sessions" else name.rstrip("s")
    return one, PLURALS.get(one, "")


def size(data: Data) -> Finding:
    split, info = data.split, data.sessions.info
    tracks = split.num_ids - FIRST_TRACK_ID
    left_out = {reason: int(count) for reason, count in split.left_out.items() if count}
    events_out = {reason: int(count) for reason, count in split.left_out_events.items()}
    before = {k: int(v) for k, v in (info.get("left_out") or {}).items() if v}
    dropped = {k: v for k, v in (info.get("dropped") or {}).items() if v}
    whole = dropped.pop("of", "session")
    gone = sum(left_out.values())
    part = gone / (split.num_sessions + gone)
    words = [
        f"Training would use {counted(split.num_sessions, 'session')} with "
        f"{counted(data.num_events, 'event')} on {counted(tracks, 'track')}"
    ]
    if left_out:
        reasons = listed([f"{count:,} {reason}" for reason, count in left_out.items()])
        words.append(f"{share(part)} of the sessions are left out ({reasons})")
    if events_out:
        reasons = listed([f"{count:,} {reason}" for reason, count in events_out.items()])
        words.append(f"single events are left out, too ({reasons})")
    if dropped:
        words.append(
            "preparation dropped "
            + listed([counted(n, *_words(k, whole)) for k, n in dropped.items()])
            + " with bad values, listed in dropped.csv"
        )
    return Finding(
        "size",
        "Size",
        graded(part, note=LEFT_OUT_NOTE, warning=LEFT_OUT_WARNING),
        "; ".join(words) + ".",
        {
            "sessions": split.num_sessions,
            "events": data.num_events,
            "tracks": tracks,
            "prepared_sessions": data.sessions.num_sessions,
            "prepared_events": data.sessions.num_events,
            "prepared_tracks": data.sessions.num_tracks,
            "listeners": data.num_listeners,
            "left_out": left_out,
            "left_out_share": part,
            "left_out_events": events_out,
            "left_out_by_preparation": before,
            "dropped": dropped,
        },
        "Lower --config.data.min_length, or prepare the data in another way, if these sessions "
        "should count."
        if part >= LEFT_OUT_WARNING
        else "",
    )


def lengths(data: Data) -> Finding:
    found = data.split.lengths
    counts = np.bincount(found)
    options = data.sessions.info.get("options", {})
    gap = options.get("gap_minutes", 0)
    pieces = float(data.cut.mean())
    # Where sequences were cut at pauses, too, a piece that is as long as may be was cut to length.
    to_length = data.cut & (found == options.get("max_length")) if gap else data.cut
    cut = float(to_length.mean())
    low, high, middle = int(found.min()), int(found.max()), float(np.median(found))
    words = [
        f"Sessions have {low} to {high} tracks, {found.mean():.1f} on average and {middle:g} in "
        "the median"
    ]
    if gap and pieces:
        words.append(
            f"{share(pieces)} are pieces of longer sequences, cut at pauses of {gap:g} minutes, "
            f"and {share(cut)} are as long as preparation lets them be"
        )
    elif pieces:
        words.append(f"{share(pieces)} are pieces of longer sequences, which preparation cut")
    advice = ""
    if cut >= CUT_NOTE:
        advice = "Where such a piece begins and ends says nothing about the listener"
        advice += (
            "; --max_length of prepare allows longer ones."
            if gap
            else ". Cutting at pauses (--gap_minutes of prepare, where times are logged) makes "
            "sessions of sequences."
        )
    return Finding(
        "lengths",
        "Lengths",
        graded(cut, note=CUT_NOTE),
        f"{'; '.join(words)}.",
        {
            "min": low,
            "max": high,
            "mean": float(found.mean()),
            "median": middle,
            "pieces_share": pieces,
            "cut_to_length_share": cut,
            "sessions_by_length": {str(n): int(counts[n]) for n in np.flatnonzero(counts)},
        },
        advice,
    )
