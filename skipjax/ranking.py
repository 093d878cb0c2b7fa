"""From sessions to hidden states to exact ranks; the one place that scores a catalogue."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from skipjax import targets
from skipjax.encoders import Encoder
from skipjax.ids import FIRST_TRACK_ID

# Scores decide ranks, so they are not rounded to TF32 or bfloat16 where the device would.
_PRECISION = jax.lax.Precision.HIGHEST


def next_hidden(
    encoder: Encoder, params: Mapping[str, Any], tracks: jax.Array, valid: jax.Array
) -> jax.Array:
    """The state that stands for the track after each session.

    A causal encoder gives that of the last track; a bidirectional one that of a MASK after it.

    Args:
      encoder, params: the model.
      tracks: [B, L] int32, padded on the right; L + 1 ≤ max_length if bidirectional.
      valid: [B, L] bool.

    Returns:
      [B, D] float.
    """
    if not encoder.causal:
        tracks, valid = targets.append_mask(tracks, valid)
    with jax.default_matmul_precision("highest"):
        hidden = encoder.apply({"params": params["encoder"]}, params["table"][tracks], valid)
    last = jnp.maximum(valid.sum(axis=-1) - 1, 0)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def sampled_ranks(
    hidden: jax.Array, table: jax.Array, target: jax.Array, candidates: jax.Array
) -> jax.Array:
    """The rank of each target among its candidates; ties count against it.

    Args:
      hidden: [B, D].
      table: [V, D].
      target: [B] int32.
      candidates: [B, C] int32, without the target.

    Returns:
      [B] int32, from 1 to C + 1.
    """
    # The target goes through the same sum as the others, so that equal rows give equal scores.
    ids = jnp.concatenate([target[:, None], candidates], axis=1)
    scores = (hidden[:, None, :] * table[ids]).sum(axis=-1)
    return 1 + _not_below(scores[:, 1:], scores[:, 0]).sum(axis=-1, dtype=jnp.int32)


def full_ranks(
    hidden: jax.Array, table: jax.Array, target: jax.Array, *, chunk_size: int
) -> jax.Array:
    """The exact rank of each target among all real tracks; ties count against it.

    The catalogue is scored `chunk_size` rows at a time, so memory is O(B · chunk_size). The target
    is left out of its own count by id.

    Args:
      hidden: [B, D].
      table: [V, D].
      target: [B] int32.
      chunk_size: rows of the table per product.

    Returns:
      [B] int32, from 1 to the number of real tracks.
    """
    num_ids = len(table)
    size = min(chunk_size, num_ids)
    bar = _target_scores(hidden, table, target, size)

    def count(chunk, above):
        # The last chunk reaches back into the one before it rather than past the table's end.
        start = jnp.minimum(chunk * size, num_ids - size)
        rows = jax.lax.dynamic_slice_in_dim(table, start, size)
        ids = start + jnp.arange(size, dtype=jnp.int32)
        fresh = ids >= jnp.maximum(chunk * size, FIRST_TRACK_ID)
        scores = _scores(hidden, rows)
        counts = _not_below(scores, bar) & fresh[None, :] & (ids[None, :] != target[:, None])
        return above + counts.sum(axis=-1, dtype=jnp.int32)

    chunks = -(-num_ids // size)
    return jax.lax.fori_loop(0, chunks, count, jnp.ones(target.shape, jnp.int32))


def _scores(hidden: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.einsum("bd,vd->bv", hidden, rows, precision=_PRECISION)


def _target_scores(hidden: jax.Array, table: jax.Array, target: jax.Array, size: int) -> jax.Array:
    """[B] scores of the targets, from products of the same shape as those of a chunk.

    A sum of another shape may be taken in another order, and differ in its last bit from that of
    an equal row: a tie would then go either way.
    """
    number = len(target)
    blocks = -(-number // size)
    padded = jnp.pad(target, (0, blocks * size - number)).reshape(blocks, size)
    scores = jax.lax.map(lambda ids: _scores(hidden, table[ids]), padded)
    row = jnp.arange(number)
    return scores[row // size, row, row % size]


def _not_below(scores: jax.Array, bar: jax.Array) -> jax.Array:
    """[B, N] scores against [B] bars; a NaN on either side counts against the target."""
    return ~(scores < bar[:, None])
