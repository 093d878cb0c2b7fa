"""Tracks that are heard again: at once, later in the session, in a later session."""

import numpy as np

from skipjax.audit.data import Chunk, Data
from skipjax.audit.finding import Finding, graded, share, worst
from skipjax.audit.thresholds import HEARD_NOTE, IMMEDIATE_NOTE, IMMEDIATE_WARNING


def repeats(data: Data) -> Finding:
    pairs = at_once = again = elsewhere = targets = ahead = 0
    for chunk in data.chunks():
        pairs += int(chunk.followed.sum())
        at_once += int((chunk.followed & (np.diff(chunk.tracks) == 0)).sum())
        once = _different(chunk.session, chunk.tracks, data.split.num_ids)
        again += len(chunk.events) - once
        by_listener = _different(chunk.listeners[chunk.session], chunk.tracks, data.split.num_ids)
        elsewhere += once - by_listener
        targets += int(_targets_heard(chunk).sum())
        ahead += int(_targets_ahead(chunk, data.split.num_ids).sum())
    immediate, within = at_once / max(pairs, 1), again / data.num_events
    several = data.num_listeners < data.num_sessions
    target_share, ahead_share = targets / data.num_sessions, ahead / data.num_sessions
    words = ["No track is heard twice in a session"]
    if again:
        words = [
            f"{share(within)} of plays are of a track heard before in the session, "
            f"{share(immediate)} of the track just before"
        ]
        words.append(f"{share(target_share)} of test targets were heard before in the session")
    if several and not elsewhere:
        words.append("none in two sessions of a listener")
    elif several:
        words.append(
            f"{share(elsewhere / data.num_events)} of plays are of a track that the same listener "
            f"had in an earlier session, and {share(ahead_share)} of test targets come again in a "
            "later session of the listener that leave-one-out trains on"
        )
    severity = worst(
        graded(immediate, note=IMMEDIATE_NOTE, warning=IMMEDIATE_WARNING),
        graded(within, note=HEARD_NOTE),
    )
    advice = ""
    if immediate >= IMMEDIATE_WARNING:
        advice = (
            "Proposing the last track again scores well here. If a pause or a restart is logged "
            "as another play, merge the two before preparing."
        )
    return Finding(
        "repeats",
        "Repeat listens",
        severity,
        f"{'; '.join(words)}.",
        {
            "immediate": at_once,
            "immediate_share": immediate,
            "in_session": again,
            "in_session_share": within,
            "in_earlier_session": elsewhere if several else None,
            "in_earlier_session_share": elsewhere / data.num_events if several else None,
            "targets_heard": targets,
            "targets_heard_share": target_share,
            "targets_ahead": ahead if several else None,
            "targets_ahead_share": ahead_share if several else None,
            "listeners": data.num_listeners,
        },
        advice,
    )


def _different(owner: np.ndarray, tracks: np.ndarray, num_ids: int) -> int:
    """How many different tracks each owner has, summed over owners."""
    keys = np.sort(owner * num_ids + tracks)
    return int(len(keys) and 1 + (np.diff(keys) > 0).sum())


def _targets_heard(chunk: Chunk) -> np.ndarray:
    """[s] bool, whether the last track is among those before it."""
    target = chunk.tracks[chunk.left == 0][chunk.session]
    heard = (chunk.tracks == target) & (chunk.left > 0)
    return np.bincount(chunk.session, heard) > 0


def _targets_ahead(chunk: Chunk, num_ids: int) -> np.ndarray:
    """[s] bool, whether the last track is in the training span of a later session of the listener.

    Sessions of a listener are in the order of listening.
    """
    owner = chunk.listeners[chunk.session]
    keys, number = owner * num_ids + chunk.tracks, chunk.session
    trained, last = chunk.trained, chunk.left == 0
    order = np.argsort(keys[trained], kind="stable")  # of each key, the last session comes last
    known, sessions = keys[trained][order], number[trained][order]
    place = np.searchsorted(known, keys[last], side="right") - 1
    found = (place >= 0) & (known[place] == keys[last])
    return found & (sessions[place] > number[last])
