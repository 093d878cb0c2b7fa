"""Sampled and full ranking of held-out tracks, by a model and by popularity."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from skipjax import metrics, ranking
from skipjax.data.batches import held_out_batches, prefetch
from skipjax.data.split import LeaveOneOut
from skipjax.encoders import Encoder
from skipjax.errors import ConfigError
from skipjax.ids import FIRST_TRACK_ID

Ranks = dict[str, np.ndarray]
Progress = Callable[[int, int, str], None]


class Evaluator:
    """Ranks the held-out track of every session.

    Against sampled candidates, and, where asked for, against the whole catalogue. The result does
    not depend on `config.eval.batch_size`, `config.eval.chunk_size` or the order of sessions.
    """

    def __init__(self, config: Any, encoder: Encoder, split: LeaveOneOut):
        """
        Raises:
          ConfigError: a field with an impossible value.
        """
        self._eval = config.eval
        self._max_length = config.data.max_length
        self._split = split
        if self._eval.chunk_size < 1:
            raise ConfigError(
                f"config.eval.chunk_size is {self._eval.chunk_size}; it must be at least 1."
            )
        check_num_candidates(split, self._eval.num_candidates)
        for name in self._eval.metrics:
            metrics.canonical(name)

        def sampled(params, batch):
            hidden = ranking.next_hidden(encoder, params, batch["tracks"], batch["valid"])
            ranks = ranking.sampled_ranks(
                hidden, params["table"], batch["targets"], batch["candidates"]
            )
            return hidden, ranks

        def full(params, hidden, targets):
            return ranking.full_ranks(
                hidden, params["table"], targets, chunk_size=self._eval.chunk_size
            )

        self._sampled = jax.jit(sampled)
        self._full = jax.jit(full)

    def ranks(
        self,
        params: Mapping[str, Any],
        which: str,
        *,
        full: bool,
        progress: Progress | None = None,
    ) -> Ranks:
        """The ranks of the targets of "valid" or "test".

        Args:
          params: of the model.
          which: "valid" or "test".
          full: rank in the whole catalogue, too.
          progress: called with the sessions done, their total, and a word for it.

        Returns:
          {which: [S] int32}, and with `full` also {which + "_full": [S] int32}.
        """
        total = self._split.num_sessions
        names = [which, f"{which}_full"] if full else [which]
        ranks = {name: np.zeros(total, np.int32) for name in names}
        for rows, batch in prefetch(self._batches(which)):
            hidden, found = self._sampled(params, batch)
            ranks[which][rows] = np.asarray(found)[: len(rows)]
            if full:
                found = self._full(params, hidden, batch["targets"])
                ranks[f"{which}_full"][rows] = np.asarray(found)[: len(rows)]
            if progress:
                progress(int(rows[-1]) + 1, total, "testing")
        return ranks

    def _batches(self, which: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        size = self._eval.batch_size
        for rows, batch in held_out_batches(
            self._split, which, batch_size=size, max_length=self._max_length
        ):
            drawn = np.full((size, self._eval.num_candidates), FIRST_TRACK_ID, np.int32)
            drawn[: len(rows)] = candidates(
                self._split, rows, self._eval.num_candidates, self._eval.seed
            )
            yield rows, {**batch, "candidates": drawn}


def candidates(split: LeaveOneOut, rows: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Distinct uniform tracks that are not in the session, to rank its target among.

    Fixed by (seed, session id), so the same for every model, batch size and order.

    Args:
      split: the data.
      rows: [N] sessions.
      num: candidates for each.
      seed: at least 0.

    Returns:
      [N, num] int32.
    """
    num_tracks = split.num_ids - FIRST_TRACK_ID
    drawn = np.empty((len(rows), num), np.int32)
    for i, row in enumerate(rows):
        start = split.starts[row]
        own = np.unique(split.tracks[start : start + split.lengths[row]]) - FIRST_TRACK_ID
        rng = np.random.default_rng((seed, int(split.session_hashes[row])))
        others = rng.choice(num_tracks - len(own), num, replace=False, shuffle=False)
        # The x-th track outside the session is x plus how many of the session's come before it.
        before = np.searchsorted(own - np.arange(len(own)), others, side="right")
        drawn[i] = FIRST_TRACK_ID + others + before
    return drawn


def check_num_candidates(split: LeaveOneOut, num: int) -> None:
    """Raises ConfigError where some session has fewer than `num` tracks outside it."""
    available = split.num_ids - FIRST_TRACK_ID - int(split.lengths.max())
    if not 1 <= num <= available:
        raise ConfigError(
            f"config.eval.num_candidates is {num}; with {split.num_ids - FIRST_TRACK_ID} tracks "
            f"and sessions of up to {split.lengths.max()} it must be from 1 to {available}."
        )


def popularity_ranks(split: LeaveOneOut, which: str, config_eval: Any) -> Ranks:
    """The ranks that the most-popular baseline gives: tracks by their training count.

    Ties count against the target here, too.

    Returns:
      {which: [S] int32, which + "_full": [S] int32}.
    """
    _, targets = split.held_out(which)
    counts = split.train_counts
    falling = -counts[FIRST_TRACK_ID:]  # ids are by falling count, so this is sorted
    full = np.searchsorted(falling, -counts[targets], side="right")  # the target counts itself
    sampled = np.empty(split.num_sessions, np.int32)
    for start in range(0, split.num_sessions, 1024):
        rows = np.arange(start, min(start + 1024, split.num_sessions))
        drawn = candidates(split, rows, config_eval.num_candidates, config_eval.seed)
        sampled[rows] = 1 + (counts[drawn] >= counts[targets[rows], None]).sum(axis=1)
    return {which: sampled, f"{which}_full": full.astype(np.int32)}


def summarise(ranks: Ranks, names: tuple[str, ...], prefix: str = "") -> dict[str, float]:
    """{"test/hr@10": ..., "test_full/hr@10": ..., ...} for all ranks given."""
    return {
        f"{prefix}{which}/{name}": value
        for which, found in ranks.items()
        for name, value in metrics.summarise(found, names).items()
    }
