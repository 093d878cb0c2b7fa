"""What a session asks a model to predict: cloze and next-played targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from skipjax.ids import MASK_ID, PLAYED, SKIPPED, UNKNOWN


def first_played(skipped: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first played position at or after each position.

    The next played track of position i, the paper's positive, is therefore the one of i + 1.

    Args:
      skipped: [B, L] bool.
      valid: [B, L] bool, not padding.

    Returns:
      `positive_index` [B, L] int32 (0 where there is none) and `has_positive` [B, L] bool.
    """
    length = skipped.shape[-1]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), skipped.shape)
    played = jnp.where(valid & ~skipped, positions, length)
    index = jax.lax.cummin(played, axis=played.ndim - 1, reverse=True)
    found = index < length
    return jnp.where(found, index, 0), found


def feedback(skipped: jax.Array, known: jax.Array) -> jax.Array:
    """What an encoder may be told of each track: [...] int32, UNKNOWN where not `known`."""
    return jnp.where(known, jnp.where(skipped, SKIPPED, PLAYED), UNKNOWN)


def cloze(
    key: jax.Array, valid: jax.Array, fraction: float, numbers: jax.Array | None = None
) -> jax.Array:
    """Which positions are hidden behind MASK in a bidirectional training step.

    Of a session of n tracks: round(fraction · n) random positions, but at least one, among the
    first n - 1; and the last one, as a MASK at the end is what the model will be asked.

    Args:
      key: PRNG key. A session's draws depend on nothing but the key, its number and the position.
      valid: [B, L] bool, padded on the right.
      fraction: share of the positions, in (0, 1].
      numbers: [B] int32, of the sessions in their batch; 0 to B - 1, if not given.

    Returns:
      [B, L] bool.
    """
    lengths = valid.sum(axis=-1, keepdims=True)
    positions = jnp.broadcast_to(jnp.arange(valid.shape[-1]), valid.shape)
    last = valid & (positions == lengths - 1)
    draws = position_draws(jax.random.uniform, key, valid.shape, numbers)
    draws = jnp.where(valid & ~last, draws, 2.0)
    order = jnp.argsort(jnp.argsort(draws, axis=-1), axis=-1)
    # Rounded here, so that no float32 rounds otherwise than `most_masked`.
    wanted = jnp.array([max(1, round(fraction * n)) for n in range(valid.shape[-1] + 1)], jnp.int32)
    return valid & (last | (order < jnp.minimum(wanted[lengths], lengths - 1)))


def masked_positions(masked: jax.Array, fraction: float) -> jax.Array:
    """The positions that `cloze` hid, gathered to the front.

    Args:
      masked: [B, L] bool, from `cloze`.
      fraction: the one given to `cloze`.

    Returns:
      [B, M] int32, in order, then positions that are not masked. M is the most that `cloze` hides
      in a session of L tracks.
    """
    most = most_masked(masked.shape[-1], fraction)
    return jnp.argsort(~masked, axis=-1, stable=True)[:, :most].astype(jnp.int32)


def append_mask(tracks: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sessions with a MASK after their last track: the question for the next track.

    Args:
      tracks: [B, L] int32, padded on the right.
      valid: [B, L] bool.

    Returns:
      `tracks` [B, L + 1] and `valid` [B, L + 1].
    """
    end = jnp.zeros_like(valid[:, :1])
    lengths = valid.sum(axis=-1, keepdims=True)
    tracks = jnp.concatenate([tracks, jnp.zeros_like(tracks[:, :1])], axis=1)
    valid = jnp.concatenate([valid, end], axis=1)
    at_end = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape) == lengths
    return jnp.where(at_end, MASK_ID, tracks), valid | at_end


def position_draws(
    draw: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    shape: tuple[int, int],
    numbers: jax.Array | None = None,
) -> jax.Array:
    """[B, L] random draws, each a function of the key, the session and the position alone.

    So neither the amount of padding, which changes B and L, nor where a session is worked on
    changes a draw.

    Args:
      draw: from a PRNG key to a scalar.
      key: PRNG key.
      shape: [B, L].
      numbers: [B] int32, of the sessions in their batch; 0 to B - 1, if not given.
    """
    rows, columns = shape
    numbers = jnp.arange(rows) if numbers is None else numbers

    def at(row, column):
        return draw(jax.random.fold_in(jax.random.fold_in(key, row), column))

    over_columns = jax.vmap(at, in_axes=(None, 0))
    return jax.vmap(over_columns, in_axes=(0, None))(numbers, jnp.arange(columns))


def most_masked(length: int, fraction: float) -> int:
    """The most positions `cloze` hides in a session of `length` tracks."""
    return min(length, max(1, round(fraction * length)) + 1)
