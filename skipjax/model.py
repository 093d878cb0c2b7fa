"""What recommends: a trained encoder, its table and the names of its tracks, wherever from."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from skipjax.data.catalogue import Catalogue
from skipjax.mesh import ONE, Layout


@dataclasses.dataclass(frozen=True)
class Model:
    """A run's best epoch, or what was exported of it.

    Attributes:
      name: of its configuration.
      about: what it is, in a line.
      catalogue: the tracks that it knows.
      table: [V, D] float32, their embeddings.
      skip_levels: which skip levels count as skipped.
      reads_skips: whether skips in a history make a difference to it.
      longest: how many tracks of a session it reads.
      lengths: what sessions are padded to, rising; the last is at least `longest`.
      sizes: how many sessions a batch may have, rising.
      max_k: the most tracks that `best` can be asked for.
      hidden: tracks [B, L] int32, valid [B, L] bool, feedback [B, L] int32 (UNKNOWN, PLAYED or
        SKIPPED) -> [B, D] float, the state that stands for the next track.
      best: hidden, exclude [B, E] int32 (padded with PAD) or None, k -> scores and ids [B, k], as
        `ranking.top_k` returns them.
      layout: how `table` lies over devices.
    """

    name: str
    about: str
    catalogue: Catalogue
    table: jax.Array
    skip_levels: tuple[int, ...]
    reads_skips: bool
    longest: int
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    max_k: int
    hidden: Callable[[np.ndarray, np.ndarray, np.ndarray], jax.Array]
    best: Callable[[jax.Array, np.ndarray | None, int], tuple[jax.Array, jax.Array]]
    layout: Layout = ONE
