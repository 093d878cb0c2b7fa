"""From ranks to HR, NDCG and MRR, one value per session."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from skipjax.errors import ConfigError


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k; equals recall, as each session has one target.

    Args:
      ranks: [S] int, 1 is best.
      k: cutoff, at least 1.

    Returns:
      [S] float64.
    """
    return (np.asarray(ranks) <= k).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(1 + rank) within the first k, else 0 (one relevant track, ideal DCG 1)."""
    ranks = np.asarray(ranks)
    return np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)


def reciprocal_rank(ranks: np.ndarray, k: int | None = None) -> np.ndarray:
    """1 / rank, or 0 beyond the first k if k is given. Its mean is MRR."""
    ranks = np.asarray(ranks)
    return np.where(True if k is None else ranks <= k, 1.0 / ranks, 0.0)


_WITH_CUTOFF = {"hr": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank}
_ALIASES = {"hit": "hr", "hit_rate": "hr", "recall": "hr"}


def canonical(name: str) -> str:
    """`name` with its alias resolved: hit@10, hit_rate@10 and recall@10 are hr@10.

    Raises:
      ConfigError: no such metric.
    """
    match = re.fullmatch(r"([a-z_]+)(?:@([1-9][0-9]*))?", name)
    kind = _ALIASES.get(match[1], match[1]) if match else ""
    if kind not in _WITH_CUTOFF or (match[2] is None and kind != "mrr"):
        raise ConfigError(
            f"there is no metric {name!r}; name hr@K, ndcg@K, mrr or mrr@K with a K of at least 1."
        )
    return kind if match[2] is None else f"{kind}@{match[2]}"


def per_session(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from ranks [S] to values [S] that `name`, such as "ndcg@10", stands for."""
    kind, _, k = canonical(name).partition("@")
    return lambda ranks: _WITH_CUTOFF[kind](ranks, int(k) if k else None)


def summarise(ranks: np.ndarray, names: Iterable[str]) -> dict[str, float]:
    """The mean over sessions of each metric, by canonical name.

    Raises:
      ConfigError: no such metric.
      ValueError: no ranks, or a rank below 1.
    """
    ranks = np.asarray(ranks)
    if not ranks.size or ranks.min() < 1:
        raise ValueError(f"ranks must be at least 1 and not empty, but are {ranks!r}.")
    return {canonical(name): float(per_session(name)(ranks).mean()) for name in names}
