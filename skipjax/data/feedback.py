"""What counts as skipped: a run's rules, applied to what the source logged of each event."""

from typing import Any

import numpy as np

from skipjax.data.sessions import BRIEFLY_LEVEL, NUM_LEVELS, PLAYED_LEVEL, Sessions
from skipjax.errors import ConfigError

_LONGEST_GAP = 20 * 60  # seconds; after more, the listener had stopped rather than moved on
_FEWEST_GAPS = 3  # that a track needs for a median of its own


def skipped_events(sessions: Sessions, data: Any, training: np.ndarray | None = None) -> np.ndarray:
    """Which events count as skipped: those of which any rule says so.

    The rules are of what the source logs, and the others idle:
      level: it is one of `skip_levels`;
      played_percent: it is below `skip_below_percent`;
      next_gap_seconds: it is below `skip_below_percent` % of the track's usual gap, which is the
        median of its gaps of up to 20 minutes, or, of a track with fewer than 3, that of all;
      reaction: it is a dislike, and `skip_dislikes` is set;
      rating: it is no better than `skip_rating`.

    Args:
      sessions: E events.
      data: `config.data` of a run.
      training: [E] bool, the events whose gaps say what is usual, so that no held-out gap moves a
        label of training; None takes all.

    Returns:
      [E] bool.

    Raises:
      ConfigError: a level that there is not.
    """
    levels = tuple(data.skip_levels)
    if not set(levels) <= set(range(NUM_LEVELS)):
        raise ConfigError(f"config.data.skip_levels is {levels}; levels are 0, 1, 2 and 3.")
    logged = sessions.feedback
    skipped = np.zeros(sessions.num_events, bool)
    if "level" in logged:
        skipped |= np.isin(sessions.levels, levels)
    if "played_percent" in logged:
        percent = sessions.context["played_percent"].to_numpy()
        skipped |= (percent >= 0) & (percent < data.skip_below_percent)
    if "next_gap_seconds" in logged:
        gaps = sessions.context["next_gap_seconds"].to_numpy()
        known = (gaps >= 0) & (gaps <= _LONGEST_GAP)
        known = known if training is None else known & training
        usual = _usual_gaps(gaps[known], sessions.tracks[known], sessions.num_tracks)
        soon = 100 * gaps.astype(np.int64) < data.skip_below_percent * usual[sessions.tracks]
        skipped |= (gaps >= 0) & soon
    if "reaction" in logged and data.skip_dislikes:
        skipped |= sessions.context["reaction"].to_numpy() < 0
    if "rating" in logged:
        skipped |= sessions.context["rating"].to_numpy() <= data.skip_rating
    return skipped


def skip_rule(sessions: Sessions, data: Any) -> str:
    """The rules of `skipped_events` that are at work, in words that follow "skipped means"."""
    share = f"{data.skip_below_percent:g} %"
    level = f"skip level {' or '.join(map(str, data.skip_levels)) or 'none'}"
    column = sessions.info.get("options", {}).get("skip_column")
    if column and BRIEFLY_LEVEL in data.skip_levels and PLAYED_LEVEL not in data.skip_levels:
        level = f"marked in column {column}"  # of a table, where yes and no became levels
    rules = {
        "level": level,
        "played_percent": f"played below {share}",
        "next_gap_seconds": f"inferred: the next play came within {share} of the usual time",
        "reaction": "disliked",
        "rating": f"rated {data.skip_rating:g} or less",
    }
    if not data.skip_dislikes:
        del rules["reaction"]
    return " or ".join(rules[kind] for kind in sessions.feedback if kind in rules)


def _usual_gaps(gaps: np.ndarray, tracks: np.ndarray, num_tracks: int) -> np.ndarray:
    """[num_tracks] float64: each track's median gap, or that of all where it has too few."""
    if not len(gaps):
        return np.zeros(num_tracks)
    # One number each for track and gap, as sorting one array is far faster than two.
    both = np.sort(tracks.astype(np.int64) * (_LONGEST_GAP + 1) + gaps)
    ordered = both % (_LONGEST_GAP + 1)
    counts = np.bincount(tracks, minlength=num_tracks)
    own = np.flatnonzero(counts >= _FEWEST_GAPS)
    first, count = (np.cumsum(counts) - counts)[own], counts[own]
    usual = np.full(num_tracks, np.median(gaps))
    usual[own] = (ordered[first + (count - 1) // 2] + ordered[first + count // 2]) / 2
    return usual
