"""Sampled and full ranking of held-out tracks, by a model and by popularity."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from skipjax import metrics, ranking, targets
from skipjax.data.batches import held_out_batches, prefetch
from skipjax.data.candidates import Candidates
from skipjax.data.parts import Split
from skipjax.encoders import Encoder
from skipjax.errors import DataError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.mesh import EVERYWHERE, ONE, ROWS, SESSIONS, Layout

Ranks = dict[str, np.ndarray]
Progress = Callable[[int, int, str], None]

_AHEAD = 2  # batches that the device may have before it, so that it need not wait for the host


class Evaluator:
    """Ranks the held-out track of every session of a part.

    Against sampled candidates, and, where asked for, against the whole catalogue. On a CPU the
    result depends on neither `config.eval.batch_size`, `config.eval.chunk_size` nor the order of
    sessions; on other devices only where two scores differ by no more than float32 rounding.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        split: Split,
        layout: Layout = ONE,
        compiled: Callable[[Callable], Callable] = lambda function: function,
    ):
        """
        Args:
          config: as `configs/common.py`, and within its limits.
          encoder: what the parameters given to `ranks` belong to.
          split: the data.
          layout: how the parameters lie over devices, and the sessions will.
          compiled: what becomes of a function whose first call compiles it.

        Raises:
          ConfigError: an unknown metric, or more candidates than there are tracks.
          DataError: there are no tracks for candidates.
        """
        self._eval = config.eval
        self._max_length = config.data.max_length
        self._split, self._layout = split, layout
        precision, chunk_size = self._eval.precision, self._eval.chunk_size
        self.candidates = Candidates(split, self._eval.num_candidates, self._eval.seed)
        for name in self._eval.metrics:
            metrics.canonical(name)

        def sampled(params, batch):
            feedback = targets.feedback(batch["skipped"], batch["valid"])
            hidden = ranking.next_hidden(
                encoder, params, batch["tracks"], batch["valid"], feedback, layout=layout
            )
            ranks = ranking.sampled_ranks(
                hidden,
                params["table"],
                batch["targets"],
                batch["candidates"],
                precision=precision,
                layout=layout,
            )
            return hidden, layout.of_all(ranks)

        chunks = {"chunk_size": chunk_size, "precision": precision, "layout": layout}

        def full(params, hidden, targets):
            return layout.of_all(ranking.full_ranks(hidden, params["table"], targets, **chunks))

        def best(params, hidden):
            k = max(self._eval.keep_top, 1)
            return layout.of_all(ranking.top_k(hidden, params["table"], k, **chunks)[1])

        def mapped(function, *given, out=EVERYWHERE):
            params = {"encoder": EVERYWHERE, "table": ROWS}
            return compiled(jax.jit(layout.on_devices(function, (params, *given), out)))

        self._sampled = mapped(sampled, SESSIONS, out=(SESSIONS, EVERYWHERE))
        self._best = mapped(best, SESSIONS)
        self._full = mapped(full, SESSIONS, SESSIONS)

    def ranks(
        self,
        params: Mapping[str, Any],
        which: str,
        *,
        full: bool,
        top: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> Ranks:
        """The ranks of the targets of "valid" or "test".

        Args:
          params: of the model.
          which: "valid" or "test".
          full: rank in the whole catalogue, too.
          top: [N, config.eval.keep_top] int32, to be filled with the best tracks' ids, if given.
          progress: called with the sessions done, their total, and a word for it.

        Returns:
          {which: [N] int32}, of the part's sessions in order, and with `full` also
          {which + "_full": [N] int32}.

        Raises:
          DataError: `params` are of another number of tracks.
        """
        if len(params["table"]) != self._layout.padded(self._split.num_ids):
            raise DataError(
                f"the model's table has {len(params['table'])} rows, but the data "
                f"{self._split.num_ids} ids; rank with the data that it was trained on."
            )
        total = len(self._split.parts[which].sessions)
        names = [which, f"{which}_full"] if full else [which]
        ranks = {name: np.zeros(total, np.int32) for name in names}
        pending: deque[tuple[np.ndarray, jax.Array | None, list[jax.Array]]] = deque()

        def fetch():
            rows, best, found = pending.popleft()
            if top is not None:
                top[rows] = np.asarray(best)[: len(rows)]
            for name, some in zip(names, found, strict=True):
                ranks[name][rows] = np.asarray(some)[: len(rows)]
            if progress:
                progress(int(rows[-1]) + 1, total, "testing")

        for rows, batch in prefetch(self._batches(which)):
            batch = self._layout.put(batch)
            hidden, sampled = self._sampled(params, batch)
            found = [sampled, self._full(params, hidden, batch["targets"])] if full else [sampled]
            pending.append((rows, None if top is None else self._best(params, hidden), found))
            if len(pending) > _AHEAD:
                fetch()
        while pending:
            fetch()
        return ranks

    def _batches(self, which: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        size, sessions = self._eval.batch_size, self._split.parts[which].sessions
        for rows, some, batch in held_out_batches(
            self._split,
            which,
            batch_size=size,
            max_length=self._max_length,
            num_devices=self._layout.size,
            mine=self._layout.mine,
        ):
            drawn = np.full((len(some), self._eval.num_candidates), FIRST_TRACK_ID, np.int32)
            drawn[some >= 0] = self.candidates(sessions[some[some >= 0]])
            yield rows, {**batch, "candidates": drawn}


def popularity_ranks(split: Split, which: str, candidates: Candidates) -> Ranks:
    """The ranks that the most-popular baseline gives: tracks by their training count.

    Ties count against the target here, too.

    Returns:
      {which: [N] int32, which + "_full": [N] int32}.
    """
    _, targets = split.held_out(which)
    counts = split.train_counts
    falling = -counts[FIRST_TRACK_ID:]  # ids are by falling count, so this is sorted
    full = np.searchsorted(falling, -counts[targets], side="right")  # the target counts itself
    sessions = split.parts[which].sessions
    sampled = np.empty(len(sessions), np.int32)
    for start in range(0, len(sessions), 1024):
        rows = np.arange(start, min(start + 1024, len(sessions)))
        drawn = candidates(sessions[rows])
        sampled[rows] = 1 + (counts[drawn] >= counts[targets[rows], None]).sum(axis=1)
    return {which: sampled, f"{which}_full": full.astype(np.int32)}


def sessions_table(split: Split, ranks: Ranks, top: np.ndarray | None) -> pa.Table:
    """One row for each test session, in the order of the split's part.

    Args:
      split: the data.
      ranks: {"test": [N], "test_full": [N]}.
      top: [N, K] ids of the best tracks, or None.

    Returns:
      session_id, target (both ids as in the source), target_skipped, rank_sampled, rank_full and,
      with `top`, the list top: recommended tracks as in the source, best first.
    """
    starts, lengths = split.spans("test")
    _, targets = split.held_out("test")
    columns = {
        "session_id": split.ids_of("test"),
        "target": split.track_ids.take(pa.array(targets - FIRST_TRACK_ID)),
        "target_skipped": pa.array(split.skipped[starts + lengths]),
        "rank_sampled": pa.array(ranks["test"]),
        "rank_full": pa.array(ranks["test_full"]),
    }
    if top is not None:
        # A catalogue of fewer tracks leaves places empty.
        ends = np.concatenate([[0], np.cumsum((top >= FIRST_TRACK_ID).sum(axis=1))])
        best = split.track_ids.take(pa.array(top[top >= FIRST_TRACK_ID] - FIRST_TRACK_ID))
        columns["top"] = pa.LargeListArray.from_arrays(pa.array(ends), best)
    return pa.table(columns)


def summarise(ranks: Ranks, names: tuple[str, ...], prefix: str = "") -> dict[str, float]:
    """{"test/hr@10": ..., "test_full/hr@10": ..., ...} for all ranks given."""
    return {
        f"{prefix}{which}/{name}": value
        for which, found in ranks.items()
        for name, value in metrics.summarise(found, names).items()
    }
