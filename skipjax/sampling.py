"""Negative tracks, for the softmax and for InfoNCE, and their collisions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from skipjax.ids import FIRST_TRACK_ID


def uniform_tracks(key: jax.Array, shape: tuple[int, ...], num_ids: int) -> jax.Array:
    """Real tracks drawn uniformly with replacement.

    Args:
      key: PRNG key.
      shape: [K] for negatives shared by a batch, [] for one.
      num_ids: V, PAD and MASK included.

    Returns:
      `shape` int32 in [FIRST_TRACK_ID, V).
    """
    return jax.random.randint(key, shape, FIRST_TRACK_ID, num_ids, jnp.int32)


def session_tracks(key: jax.Array, numbers: jax.Array, count: int, num_ids: int) -> jax.Array:
    """Real tracks drawn uniformly with replacement for each session.

    Args:
      key: PRNG key. A session's draws depend on nothing but the key and its number.
      numbers: [B] int32, of the sessions in their batch.
      count: K.
      num_ids: V, PAD and MASK included.

    Returns:
      [B, K] int32 in [FIRST_TRACK_ID, V).
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    return jax.vmap(lambda key: uniform_tracks(key, (count,), num_ids))(keys)


def outside_session(negatives: jax.Array, tracks: jax.Array, valid: jax.Array) -> jax.Array:
    """Which negatives are no track of the session: the others would push away what it holds.

    Args:
      negatives: [K] or [B, K] int32.
      tracks: [B, L] int32, every track of the training span.
      valid: [B, L] bool.

    Returns:
      [B, K] bool.
    """
    negatives = jnp.broadcast_to(jnp.atleast_2d(negatives), (len(tracks), negatives.shape[-1]))
    same = negatives[:, :, None] == tracks[:, None, :]
    return ~(same & valid[:, None, :]).any(axis=-1)


def contrast_tracks(
    kind: str,
    tracks: Any,
    skipped: jax.Array,
    valid: jax.Array,
    random_tracks: Any,
    numbers: jax.Array | None = None,
    whole_batch: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[Any, jax.Array]:
    """The tracks InfoNCE pushes each session away from, before collisions are taken out.

    Args:
      kind: "own" or "future": the session's skipped tracks (paper; `contrast_mask` keeps the
        later ones for "future"); "shifted": those of the next session of the batch, the last
        one taking the first's, and none where there is no other; "random": as many
        `random_tracks` as the session has skips; "batch": all that were played first after another
        one, no skip among them.
      tracks: [b, L] ids, or a tree of ids and what else there is of each, [b, L, ...].
      skipped, valid: [b, L].
      random_tracks: like `tracks`, used by "random" alone.
      numbers: [b] int32, of the sessions in their batch, whose empty ones are last; 0 to b - 1, if
        not given.
      whole_batch: from a tree of [b, ...] to that of all the batch's sessions, [B, ...]; more than
        b if some of them are elsewhere.

    Returns:
      The like of `tracks`, of all the batch for "batch", and which of them count [b or B, L] bool.
    """
    if kind == "batch":
        return whole_batch((tracks, (valid & ~skipped).at[:, 0].set(False)))
    counts = skipped & valid
    if kind == "shifted":
        tracks, counts, there = whole_batch((tracks, counts, valid.any(axis=1)))
        number = there.sum()
        numbers = jnp.arange(len(valid)) if numbers is None else numbers
        following = (numbers + 1) % jnp.maximum(number, 1)
        return jax.tree.map(lambda x: x[following], tracks), counts[following] & (number > 1)
    return (random_tracks if kind == "random" else tracks), counts


def contrast_mask(
    kind: str,
    ids: jax.Array,
    counts: jax.Array,
    *,
    next_position: jax.Array,
    anchors: jax.Array,
    positives: jax.Array,
) -> jax.Array:
    """Which of a session's contrast tracks stand against each of its P contexts.

    Args:
      kind: as for `contrast_tracks`.
      ids, counts: [B, N], from `contrast_tracks`.
      next_position: [B, P] int32, the position that follows each context.
      anchors, positives: [B, P] int32, ids that must not be pushed away.

    Returns:
      [B, P, N] bool.
    """
    ids = ids[:, None, :]
    mask = counts[:, None, :] & (ids != anchors[..., None]) & (ids != positives[..., None])
    if kind == "future":
        mask &= jnp.arange(ids.shape[-1])[None, None, :] >= next_position[..., None]
    return mask
