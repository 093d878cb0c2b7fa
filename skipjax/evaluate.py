"""Sampled and full ranking of held-out tracks, by a model and by popularity."""

from collections import deque
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

_AHEAD = 2  # batches that the device may have before it, so that it need not wait for the host


class Evaluator:
    """Ranks the held-out track of every session.

    Against sampled candidates, and, where asked for, against the whole catalogue. On a CPU the
    result depends on neither `config.eval.batch_size`, `config.eval.chunk_size` nor the order of
    sessions; on other devices only where two scores differ by no more than float32 rounding.
    """

    def __init__(self, config: Any, encoder: Encoder, split: LeaveOneOut):
        """
        Args:
          config: as `configs/common.py`, and within its limits.
          encoder: what the parameters given to `ranks` belong to.
          split: the data.

        Raises:
          ConfigError: an unknown metric, or more candidates than there are tracks.
        """
        self._eval = config.eval
        self._max_length = config.data.max_length
        self._split = split
        precision, chunk_size = self._eval.precision, self._eval.chunk_size
        self.candidates = Candidates(split, self._eval.num_candidates, self._eval.seed)
        for name in self._eval.metrics:
            metrics.canonical(name)

        def sampled(params, batch):
            hidden = ranking.next_hidden(
                encoder, params, batch["tracks"], batch["valid"], batch["skipped"]
            )
            return hidden, ranking.sampled_ranks(
                hidden, params["table"], batch["targets"], batch["candidates"], precision=precision
            )

        def full(params, hidden, targets):
            return ranking.full_ranks(
                hidden, params["table"], targets, chunk_size=chunk_size, precision=precision
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
        pending: deque[tuple[np.ndarray, list[jax.Array]]] = deque()

        def fetch():
            rows, found = pending.popleft()
            for name, some in zip(names, found, strict=True):
                ranks[name][rows] = np.asarray(some)[: len(rows)]
            if progress:
                progress(int(rows[-1]) + 1, total, "testing")

        for rows, batch in prefetch(self._batches(which)):
            hidden, sampled = self._sampled(params, batch)
            found = [sampled, self._full(params, hidden, batch["targets"])] if full else [sampled]
            pending.append((rows, found))
            if len(pending) > _AHEAD:
                fetch()
        while pending:
            fetch()
        return ranks

    def _batches(self, which: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        size = self._eval.batch_size
        for rows, batch in held_out_batches(
            self._split, which, batch_size=size, max_length=self._max_length
        ):
            drawn = np.full((size, self._eval.num_candidates), FIRST_TRACK_ID, np.int32)
            drawn[: len(rows)] = self.candidates(rows)
            yield rows, {**batch, "candidates": drawn}


class Candidates:
    """Distinct uniform tracks that are not in the session, to rank its target among.

    Fixed by (seed, session id), so the same for every model, batch size and order. They are kept
    once drawn, unless they would take more than `keep_bytes`.
    """

    def __init__(self, split: LeaveOneOut, num: int, seed: int, *, keep_bytes: int = 2 << 30):
        """
        Args:
          split: the data.
          num: candidates for each session.
          seed: at least 0.
          keep_bytes: how much memory to spend.

        Raises:
          ConfigError: some session has fewer than `num` tracks outside it.
        """
        self._split, self._num, self._seed = split, num, seed
        num_tracks = split.num_ids - FIRST_TRACK_ID
        longest = int(split.lengths.max())
        if not 1 <= num <= num_tracks - longest:
            raise ConfigError(
                f"config.eval.num_candidates is {num}; with {num_tracks} tracks and sessions of up "
                f"to {longest} it must be from 1 to {num_tracks - longest}."
            )
        keep = 4 * num * split.num_sessions <= keep_bytes
        self._kept = np.zeros((split.num_sessions if keep else 0, num), np.int32)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[N, num] int32, those of N sessions."""
        if not len(self._kept):
            return np.stack([self._draw(row) for row in rows])
        for row in rows[self._kept[rows, 0] == 0]:  # PAD stands for not drawn yet
            self._kept[row] = self._draw(row)
        return self._kept[rows]

    def _draw(self, row: int) -> np.ndarray:
        split = self._split
        start = split.starts[row]
        own = np.unique(split.tracks[start : start + split.lengths[row]]) - FIRST_TRACK_ID
        rng = np.random.default_rng((self._seed, int(split.session_hashes[row])))
        num_others = split.num_ids - FIRST_TRACK_ID - len(own)
        others = rng.choice(num_others, self._num, replace=False, shuffle=False)
        # The x-th track outside the session is x plus how many of the session's come before it.
        before = ((own - np.arange(len(own)))[:, None] <= others).sum(axis=0)
        return (FIRST_TRACK_ID + others + before).astype(np.int32)


def popularity_ranks(split: LeaveOneOut, which: str, candidates: Candidates) -> Ranks:
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
        drawn = candidates(rows)
        sampled[rows] = 1 + (counts[drawn] >= counts[targets[rows], None]).sum(axis=1)
    return {which: sampled, f"{which}_full": full.astype(np.int32)}


def summarise(ranks: Ranks, names: tuple[str, ...], prefix: str = "") -> dict[str, float]:
    """{"test/hr@10": ..., "test_full/hr@10": ..., ...} for all ranks given."""
    return {
        f"{prefix}{which}/{name}": value
        for which, found in ranks.items()
        for name, value in metrics.summarise(found, names).items()
    }
