"""An HNSW index of the tracks, which finds most of the best ones without scoring all (faiss)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from skipjax.errors import CheckpointError, ConfigError
from skipjax.ids import FIRST_TRACK_ID, PAD_ID

INDEX = "index.faiss"
# Of Malkov & Yashunin's graph: links of a track, and how far is looked around while it is built.
_LINKS, _EF_CONSTRUCTION = 32, 200
_EF_SEARCH = (32, 64, 128, 256, 512, 1024)
_RECALL = 0.95  # wanted of the 10 best; the smallest of _EF_SEARCH that has it is used


class Index:
    """Finds tracks with high inner products.

    Attributes:
      facts: how it was built, and which share of the best tracks it found in what time.
    """

    def __init__(self, graph: Any, facts: dict[str, Any]):
        """`build` or `open` makes one."""
        self._graph, self.facts = graph, facts

    @classmethod
    def build(cls, table: np.ndarray) -> "Index":
        """An index of all tracks of `table` [V, D].

        Raises:
          ConfigError: faiss is not installed.
        """
        faiss = _faiss()
        start = time.monotonic()
        graph = faiss.IndexHNSWFlat(table.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
        graph.add(np.ascontiguousarray(table[FIRST_TRACK_ID:], np.float32))
        facts = {"links": _LINKS, "ef_construction": _EF_CONSTRUCTION}
        return cls(graph, facts | {"build_seconds": round(time.monotonic() - start, 1)})

    @classmethod
    def open(cls, folder: Path, facts: dict[str, Any]) -> "Index":
        """The index in an exported folder, whose manifest has been verified.

        Raises:
          CheckpointError: there is none.
          ConfigError: faiss is not installed.
        """
        if not facts:
            raise CheckpointError(
                f"{folder} has no index; export it again with --index faiss, or search exactly."
            )
        graph = _faiss().read_index(str(folder / INDEX))
        graph.hnsw.efSearch = facts["ef_search"]
        return cls(graph, facts)

    def write(self, folder: Path) -> None:
        _faiss().write_index(self._graph, str(folder / INDEX))

    def measure(
        self,
        hidden: np.ndarray,
        exact: Callable[[np.ndarray, int], np.ndarray],
        ks: Sequence[int],
    ) -> None:
        """Chooses how far to look around, and notes which share of the best tracks that finds.

        Args:
          hidden: [N, D] states of real sessions.
          exact: gives the ids [N, k] of the best tracks for such states.
          ks: numbers of tracks to measure at.
        """
        best = {k: exact(hidden, k) for k in ks}
        tried = []
        for ef in _EF_SEARCH:
            self._graph.hnsw.efSearch = ef
            start = time.monotonic()
            _, found = self._search(hidden, max(ks))
            seconds = time.monotonic() - start
            recall = {str(k): _recall(found[:, :k], best[k]) for k in ks}
            tried.append(
                {"ef_search": ef, "recall": recall, "ms": round(1e3 * seconds / len(hidden), 3)}
            )
            if recall[str(min(ks))] >= _RECALL:
                break
        self.facts |= {"queries": len(hidden), "ef_search": ef, "recall": recall, "tried": tried}

    def best(
        self, hidden: jax.Array, exclude: np.ndarray | None, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `ranking.top_k`, but for tracks that the search misses."""
        left_out = 0 if exclude is None else exclude.shape[1]
        scores, ids = self._search(np.asarray(hidden), min(k + left_out, self._graph.ntotal))
        if exclude is not None:
            scores[(ids[:, :, None] == exclude[:, None, :]).any(axis=2)] = -np.inf
            order = np.argsort(-scores, axis=1, kind="stable")
            scores, ids = (np.take_along_axis(a, order, axis=1) for a in (scores, ids))
        return scores[:, :k], np.where(scores > -np.inf, ids, PAD_ID)[:, :k].astype(np.int32)

    def _search(self, hidden: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = self._graph.search(np.ascontiguousarray(hidden, np.float32), k)
        found = rows >= 0
        return np.where(found, scores, -np.inf), np.where(found, rows + FIRST_TRACK_ID, PAD_ID)


def _recall(found: np.ndarray, best: np.ndarray) -> float:
    """Which share of `best` [N, k] is among `found` [N, k]."""
    hits = (best[:, :, None] == found[:, None, :]).any(axis=2)
    return round(float(hits.mean()), 4)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise ConfigError(
            "the index is made with faiss, which is not installed: pip install 'skipjax[index]'."
        ) from None
    return faiss
