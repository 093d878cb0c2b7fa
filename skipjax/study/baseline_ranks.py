"""Ranks that baselines give, in memory that grows with neither sessions nor tracks."""

from collections.abc import Callable, Iterator

import numpy as np

from skipjax.data.parts import Split
from skipjax.errors import ConfigError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.study.baselines import Baseline, best_first


def rank(
    baseline: Baseline,
    split: Split,
    which: str,
    candidates: Callable[[np.ndarray], np.ndarray],
    *,
    k: int,
    chunk_size: int = 1024,
    budget: int = 1 << 22,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks the held-out track of every session of a part, 1 being best.

    Ties count against the target, and the target is left out of its own count by id. All real
    tracks are ranked, those already heard included. The result depends on neither `chunk_size`
    nor `budget`.

    Args:
      baseline: made from `split`.
      split: the data.
      which: "valid" or "test".
      candidates: sessions [N] -> [N, C] tracks other than the target, as `evaluate.Candidates`.
      k: how many recommended tracks to return.
      chunk_size: sessions at a time, at most.
      budget: scores at a time, of about 50 bytes each; a session that alone has more is taken
        alone.

    Returns:
      Ranks [N] int32 among the candidates, ranks [N] int32 among all tracks, and the best tracks
      [N, k] int32: by falling score, ties by lower id, and so by popularity where no score is left.

    Raises:
      ConfigError: `k` is not from 1 to the number of tracks.
    """
    num_tracks = split.num_ids - FIRST_TRACK_ID
    if not 1 <= k <= num_tracks:
        raise ConfigError(f"k is {k}; with {num_tracks} tracks it must be from 1 to {num_tracks}.")
    _, targets = split.held_out(which)
    sessions = split.parts[which].sessions
    sampled, full = np.empty((2, len(targets)), np.int32)
    top = np.empty((len(targets), k), np.int32)
    groups = baseline.groups(which)
    _, firsts, sizes = np.unique(groups, return_index=True, return_counts=True)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    score_of = np.zeros(split.num_ids)  # for one group at a time
    for some in _chunks(baseline.costs(which)[firsts], chunk_size, budget):
        scores = baseline.scores(firsts[some], which)
        for group, start, stop in zip(some, scores.indptr[:-1], scores.indptr[1:], strict=True):
            tracks, values = scores.indices[start:stop], scores.data[start:stop]
            score_of[tracks] = values
            rising = np.sort(values)
            best = tracks[best_first(values, tracks, k)]
            unscored = np.setdiff1d(np.arange(FIRST_TRACK_ID, FIRST_TRACK_ID + k), best)
            top[members[group]] = np.concatenate([best, unscored[: k - len(best)]])
            for rows in np.split(members[group], range(chunk_size, sizes[group], chunk_size)):
                own = score_of[targets[rows]]
                # The target, itself as good as itself, stands for the 1 of the first rank.
                as_good = len(values) - np.searchsorted(rising, own)
                full[rows] = np.where(own > 0, as_good, num_tracks)
                drawn = candidates(sessions[rows])
                sampled[rows] = 1 + (score_of[drawn] >= own[:, None]).sum(axis=1)
            score_of[tracks] = 0
    return sampled, full, top


def _chunks(costs: np.ndarray, chunk_size: int, budget: int) -> Iterator[np.ndarray]:
    """Consecutive sessions, so many that their costs stay within the budget, but at least one."""
    ends = np.cumsum(costs)
    start, spent = 0, 0
    while start < len(costs):
        stop = int(np.searchsorted(ends, spent + budget, side="right"))
        stop = min(max(stop, start + 1), start + chunk_size)
        yield np.arange(start, stop)
        start, spent = stop, ends[stop - 1]
