"""Which events a run trains on, validates with and tests with: leave-one-out, or by time."""

import types
from typing import Any

import numpy as np
import pyarrow as pa

from skipjax.choices import CHOICES
from skipjax.data.feedback import skip_rule, skipped_events
from skipjax.data.parts import Part, Split, held_out_of
from skipjax.data.sessions import NUM_LEVELS, Sessions
from skipjax.data.temporal import temporal_name, temporal_parts
from skipjax.errors import ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT, LEAVE_ONE_OUT, check_ids

_SHUFFLE_SEED = 0
_MOST_TRACKS = 2**31 - 1 - FIRST_TRACK_ID
# Training needs a track to predict from another, as does what is held out.
_LEAST_SPAN = 2


def split_as(data: Any, sessions: Sessions) -> Split:
    """Splits sessions as `config.data` says, and gives tracks the ids that models use.

    Sessions that their preparation left out for being too short are counted, too.

    Raises:
      ConfigError: an impossible length or choice, sessions longer than `max_length`, or a part
        without sessions.
      DataError: nothing is left, or `sessions` holds a track or level that there is not.
    """
    least = _LEAST_SPAN + HELD_OUT[data.split]
    if data.min_length < least:
        raise ConfigError(
            f"config.data.min_length is {data.min_length}; it must be at least {least}."
        )
    if data.labels not in CHOICES["data.labels"]:
        raise ConfigError(
            f"config.data.labels is {data.labels!r}; choose one of {CHOICES['data.labels']}."
        )
    _check(sessions)
    # A slice where all events are kept, so that nothing is copied.
    events, rare = _frequent(sessions, data.min_plays)
    tracks, offsets = sessions.tracks[events], sessions.offsets
    if rare:
        offsets = np.searchsorted(events, offsets)
    lengths = np.diff(offsets)
    if lengths.size and lengths.max() > data.max_length:
        raise ConfigError(
            f"the data has sessions of {lengths.max()} tracks, but config.data.max_length is "
            f"{data.max_length}; raise it, or prepare the data with shorter sessions."
        )
    kept = lengths >= data.min_length
    left_out = {f"shorter than {data.min_length} tracks": int((~kept).sum())}
    left_out_events = {f"of tracks with fewer than {data.min_plays} plays": rare} if rare else {}
    members = dict.fromkeys(("train", "valid", "test"), kept)
    name = LEAVE_ONE_OUT
    if data.split == "temporal" and kept.any():
        name = temporal_name(data.temporal)
        members = temporal_parts(sessions, data.temporal, offsets, kept, events)
        both = kept & ~np.logical_or.reduce([*members.values()])
        left_out["at a boundary of the split in time"] = int(both.sum())
    held_out = held_out_of(data.split)

    def trained() -> np.ndarray:
        """[E] bool, the training spans."""
        starts, stops = (ends[members["train"]] for ends in (offsets[:-1], offsets[1:]))
        bounds = np.zeros(len(tracks) + 1, np.int8)
        bounds[starts] += 1
        bounds[stops - held_out["train"]] -= 1
        return np.cumsum(bounds[:-1], dtype=np.int8).astype(bool)

    training = trained()
    in_source = training
    if rare:
        in_source = np.zeros(sessions.num_events, bool)
        in_source[events[training]] = True
    skipped = skipped_events(sessions, data, in_source)[events]
    if data.require_skip:
        skips = np.concatenate([[0], np.cumsum(skipped & training)])
        without = members["train"] & (skips[offsets[1:]] == skips[offsets[:-1]])
        left_out["without a skip in training"] = int(without.sum())
        members = {which: member & ~without for which, member in members.items()}
        training = trained()
    if not members["train"].any():
        reasons = [f"{count} {reason}" for reason, count in left_out.items()]
        reasons += [f"{count} events {reason}" for reason, count in left_out_events.items()]
        raise DataError(
            f"no session is left of {len(lengths)} ({', '.join(reasons)}); lower "
            f"config.data.min_length{' or config.data.min_plays' if rare else ''}, "
            "turn off config.data.require_skip, or prepare more data."
        )

    kept = np.logical_or.reduce([*members.values()])
    place = np.cumsum(kept) - 1
    num_tracks = sessions.num_tracks
    used = np.bincount(tracks[np.repeat(kept, lengths)], minlength=num_tracks) > 0
    counts = np.bincount(tracks[training], minlength=num_tracks)
    if data.labels == "shuffled":
        skipped[training] = np.random.default_rng(_SHUFFLE_SEED).permutation(skipped[training])
    elif data.labels == "ignored":
        skipped[training] = False
    control = "" if data.labels == "logged" else f"; labels of training {data.labels}"
    # Stable: the store's vocabulary is sorted by track id, which settles ties.
    order = np.argsort(np.where(used, -counts, 1), kind="stable")[: used.sum()]
    ids = np.zeros(num_tracks, np.int32)
    ids[order] = np.arange(FIRST_TRACK_ID, FIRST_TRACK_ID + len(order), dtype=np.int32)
    short = sessions.info.get("left_out", {}).get("sessions", 0)
    if short:
        reason = f"shorter than {sessions.info['options']['min_length']} tracks"
        left_out[reason] = left_out.get(reason, 0) + short
    return Split(
        tracks=ids[tracks],
        skipped=skipped,
        starts=offsets[:-1][kept],
        lengths=lengths[kept].astype(np.int32),
        session_ids=sessions.session_ids.filter(pa.array(kept)),
        track_ids=sessions.track_ids.take(pa.array(order)),
        train_counts=np.concatenate([np.zeros(FIRST_TRACK_ID, np.int64), counts[order]]),
        left_out=left_out,
        digest=sessions.digest,
        parts={which: Part(place[member], held_out[which]) for which, member in members.items()},
        name=name,
        skipped_means=skip_rule(sessions, data) + control,
        left_out_events=left_out_events,
        source_events=events if rare else None,
        synthetic=sessions.synthetic,
    )


def leave_one_out(
    sessions: Sessions,
    *,
    min_length: int,
    max_length: int,
    skip_levels: tuple[int, ...],
    require_skip: bool = False,
    labels: str = "logged",
) -> Split:
    """`split_as` for whoever has no config: the paper's split.

    Args:
      sessions: what to split.
      min_length: shorter sessions are left out and counted; at least 4, so that a training span
        has a track to learn from and one to predict.
      max_length: of the model, which must hold the longest session.
      skip_levels: the levels that count as skipped; (1, 2) in the paper.
      require_skip: leave out sessions without a skip in the training span.
      labels: "logged", or "shuffled": which events of training spans were skipped is drawn anew,
        as many of all sessions' together, and the same for every run; or "ignored": all of them
        count as played. If skips carry a signal, learning from these must be worse.

    Raises:
      ConfigError, DataError: as `split_as`.
    """
    return split_as(
        types.SimpleNamespace(
            split="leave_one_out",
            min_length=min_length,
            max_length=max_length,
            min_plays=1,
            skip_levels=skip_levels,
            skip_below_percent=50.0,
            skip_dislikes=True,
            skip_rating=2.0,
            require_skip=require_skip,
            labels=labels,
        ),
        sessions,
    )


def _frequent(sessions: Sessions, min_plays: int) -> tuple[np.ndarray | slice, int]:
    """The events of tracks with at least `min_plays` in all the data, and how many others are."""
    if min_plays <= 1:
        return slice(None), 0
    plays = np.bincount(sessions.tracks, minlength=sessions.num_tracks)
    events = np.flatnonzero(plays[sessions.tracks] >= min_plays)
    rare = sessions.num_events - len(events)
    return (events, rare) if rare else (slice(None), 0)


def _check(sessions: Sessions) -> None:
    """Raises DataError for columns that do not fit together, or an id or level that there is not.

    Those of a prepared folder do, but sessions can be made otherwise.
    """
    offsets, events = sessions.offsets, len(sessions.tracks)
    ends = (offsets[0], offsets[-1]) if len(offsets) else None
    if (
        ends != (0, events)
        or len(offsets) != sessions.num_sessions + 1
        or len(sessions.levels) != events
        or (np.diff(offsets) < 0).any()
    ):
        raise DataError(
            f"{len(offsets)} offsets, {sessions.num_sessions} session_ids, {events} tracks and "
            f"{len(sessions.levels)} levels do not fit together; offsets are those of each session "
            "and of the end, and rise from 0 to the number of events."
        )
    if sessions.num_tracks > _MOST_TRACKS:
        raise DataError(
            f"there are {sessions.num_tracks} track_ids; ids are int32, so {_MOST_TRACKS} at most."
        )
    check_ids(sessions.tracks, sessions.num_tracks, "tracks")
    check_ids(sessions.levels, NUM_LEVELS, "levels")
