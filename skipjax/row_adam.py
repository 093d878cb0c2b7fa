"""Adam for the rows of a table that a step touches, as if it touched them all.

Between two gradients, Adam goes on moving a row by its momentum. **Deferred** Adam leaves such a
row alone until it is read again, and then makes up for the k updates it missed at once. With
g = 0, m and v only decay, so for ρ = β1 / √β2 and c(j) = lr(j) √(1 - β2^j) / (1 - β1^j), the
learning rate of update j (counted from 1) with both bias corrections, a row whose last update was
number s has moved by

    Δ = -m/√v · Σ_{j=1..k} ρ^j c(s + j) = -m/√v · (A(s) - ρ^k A(s + k))
    A(s) = Σ_{j≥1} ρ^j c(s + j)

and its moments are β1^k m and β2^k v. Decoupled weight decay w shrinks the row in each update,
too: with P(s, t) = Π_{s<i≤t} (1 - lr(i) w) and t = s + k, the row is P(s, t) · row + Δ, where

    Δ = -m/√v · (P(s, t) A(s) - ρ^k A(t))
    A(s) = Σ_{j≥1} ρ^j c(s + j) / P(s, s + j)

This is exact but for Adam's ε, which is added to a √v that does not decay meanwhile: keep it far
below √v. So the cost of a step does not depend on how many rows there are. **Lazy** Adam leaves out
the making up, and is another optimiser.

What is kept of a row is not m and v but the direction m/√v and the root √v, which hold the same: so
a row can be made up for, each time it is read, from two arrays, without a root or a division.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from skipjax.choices import check_choices
from skipjax.errors import ConfigError
from skipjax.optimizers import schedule_factor

# Rows that are updated at a time, so that what lies between fits a CPU's cache.
_CHUNK = 8192

_MOST_UPDATES = 5_000_000


@flax.struct.dataclass
class RowAdam:
    """What Adam remembers of each row.

    Attributes:
      direction: [V, D] m / (√v + ε') after the row's last update, the first moment over the root of
        the second; ε' is ε √(1 - β2^last), as bias corrections are left out of all three.
      root: [V, D] √v.
      last: [V] int32, the number of that update, 0 for none.
      place: [V] int32, room for the map from ids to places in a step's list of them.
    """

    direction: jax.Array
    root: jax.Array
    last: jax.Array
    place: jax.Array


@flax.struct.dataclass
class CatchUp:
    """The sums above as functions of the number of updates s, flat from the last entry on.

    Attributes:
      sums: [S] float32, A(s).
      log_shrink: [S] float32, log P(0, s), or None without weight decay.
      log_shrink_slope: [] float32, what each update beyond the last entry adds to it.
    """

    sums: jax.Array
    log_shrink: jax.Array | None
    log_shrink_slope: jax.Array | None


def init_rows(table: jax.Array) -> RowAdam:
    """Before the first update of `table` [V, D]."""
    numbers = table.shape[:1]
    return RowAdam(
        direction=jnp.zeros_like(table),
        root=jnp.zeros_like(table),
        last=jnp.zeros(numbers, jnp.int32),
        place=jnp.zeros(numbers, jnp.int32),
    )


def make_catch_up(optimizer: Any, num_steps: int) -> CatchUp:
    """The sums for `config.optimizer`, where a learning-rate decay ends at `num_steps`.

    Raises:
      ConfigError: a field with a value that deferred Adam cannot take.
    """
    check_choices(optimizer, "optimizer")
    b1, b2 = _betas(optimizer)
    if b1 * b1 >= b2:
        raise ConfigError(
            f"config.optimizer.b1 is {optimizer.b1} and config.optimizer.b2 {optimizer.b2}; "
            "deferred Adam needs b1² < b2. Lower b1, or set config.optimizer.table = 'dense'."
        )
    rho = b1 / math.sqrt(b2)
    # From here on the bias corrections are 1 to the last bit of a float32, and the schedule flat.
    flat = math.ceil(math.log(2**-26) / math.log(max(b1, b2, 0.5)))
    size = max(flat, optimizer.warmup_steps, num_steps if optimizer.decay != "constant" else 0)
    if size > _MOST_UPDATES:
        raise ConfigError(
            f"deferred Adam keeps a number for each of {size:,} updates, more than "
            f"{_MOST_UPDATES:,}: lower config.optimizer.b2 ({optimizer.b2}), "
            f"config.optimizer.warmup_steps ({optimizer.warmup_steps:,}) or the length of the "
            "decay, or set config.optimizer.table = 'dense'."
        )
    update = np.arange(1, size + 2)  # j
    factors = np.asarray(schedule_factor(optimizer, update - 1, num_steps), np.float64)
    rates = optimizer.learning_rate * factors
    shrink = 1 - rates * optimizer.weight_decay
    if shrink.min() <= 0:
        raise ConfigError(
            f"config.optimizer.weight_decay is {optimizer.weight_decay}; times the learning rate "
            f"{optimizer.learning_rate} it must be below 1."
        )
    corrected = rates * np.sqrt(1 - b2**update) / (1 - b1**update)  # c
    ratio = rho / shrink  # ρ / P(j - 1, j)
    if ratio.max() >= 1:
        raise ConfigError(
            f"config.optimizer.weight_decay is {optimizer.weight_decay}; with the learning rate "
            f"{optimizer.learning_rate}, weights would decay faster than momentum. Lower it."
        )
    sums = np.empty(size + 1)
    sums[size] = ratio[size] * corrected[size] / (1 - ratio[size])
    for s in range(size - 1, -1, -1):  # A(s) = ρ / P(s, s+1) · (c(s+1) + A(s+1))
        sums[s] = ratio[s] * (corrected[s] + sums[s + 1])
    log_shrink = slope = None
    if optimizer.weight_decay:
        log_shrink = jnp.asarray(np.concatenate([[0], np.cumsum(np.log(shrink[:-1]))]), jnp.float32)
        slope = jnp.float32(np.log(shrink[-1]))
    return CatchUp(jnp.asarray(sums, jnp.float32), log_shrink, slope)


def read_rows(
    table: jax.Array,
    state: RowAdam,
    ids: jax.Array,
    done: jax.Array,
    catch_up: CatchUp | None,
    optimizer: Any,
) -> jax.Array:
    """Rows as dense Adam would have them after `done` updates.

    Args:
      table: [V, D].
      state: of the table.
      ids: [...] int32 in [0, V), repeated ones allowed.
      done: [] int32.
      catch_up: None for lazy Adam, which reads them as they are.
      optimizer: `config.optimizer`.

    Returns:
      [..., D].
    """
    rows = table[ids]
    if catch_up is None:
        return rows
    made_up, _ = _make_up(state.last[ids], done, catch_up, optimizer)
    return made_up(rows, state.direction[ids])


def _make_up(last, done, catch_up, optimizer):
    """What brings rows of updates `last` [...] to where they are after `done`.

    Returns:
      A function of rows [..., D] and their directions, and, to multiply by, [..., 1] of the
      direction and of the root.
    """
    b1, b2 = _betas(optimizer)
    missed = (done - last).astype(jnp.float32)[..., None]
    last = last[..., None]

    def power(base):
        return jnp.exp(missed * math.log(base)) if base else (missed == 0).astype(jnp.float32)

    def at(values, s):
        return values[jnp.minimum(s, len(values) - 1)]

    shrink = 1.0
    if catch_up.log_shrink is not None:
        # What lies beyond the last entry is no difference of large numbers.
        end = len(catch_up.log_shrink) - 1
        inside = at(catch_up.log_shrink, done) - at(catch_up.log_shrink, last)
        beyond = jnp.maximum(done, end) - jnp.maximum(last, end)
        shrink = jnp.exp(inside + catch_up.log_shrink_slope * beyond)
    decay = power(b1 / math.sqrt(b2))  # ρ^k
    factor = shrink * at(catch_up.sums, last) - decay * at(catch_up.sums, done)
    # One number a row, computed once: fused with what follows, it would be once an element.
    shrink, factor, decay, root_decay = jax.lax.optimization_barrier(
        (shrink, factor, decay, power(math.sqrt(b2)))
    )
    return lambda rows, direction: shrink * rows - factor * direction, (decay, root_decay)


@flax.struct.dataclass
class Touched:
    """What a step does to rows, before it is done.

    Attributes:
      ids: [N] int32, repeated ones included.
      first: [N] bool, one place of each id that counts.
      gradients: [N, D], the sum of all of an id's at that place.
    """

    ids: jax.Array
    first: jax.Array
    gradients: jax.Array


def sum_duplicates(
    state: RowAdam, ids: jax.Array, gradients: jax.Array, here: jax.Array | bool = True
) -> tuple[RowAdam, Touched]:
    """Adds up the gradients of ids that occur more than once, without work that grows with V.

    Args:
      state: of the table.
      ids: [N] int32.
      gradients: [N, D], one for each id.
      here: [N] bool, which of them count; the others are of rows elsewhere.
    """
    number = len(ids)
    places = jnp.arange(number, dtype=jnp.int32)
    # Whichever of an id's places is left standing, all of them read the same one.
    place = state.place.at[jnp.where(here, ids, len(state.place))].set(places, mode="drop")
    owner = place[ids]
    first = (owner == places) & here
    # Only what is repeated is added, a chunk at a time: it is a small part of a large table's ids.
    size = min(_CHUNK, number)
    again = ~first & here
    repeated = jnp.nonzero(again, size=number + size, fill_value=number)[0].astype(jnp.int32)
    total = again.sum(dtype=jnp.int32)

    def add(carry):
        start, gradients = carry
        part = jax.lax.dynamic_slice_in_dim(repeated, start, size)
        more = gradients.at[part].get(mode="fill", fill_value=0)
        to = owner.at[part].get(mode="fill", fill_value=number)
        return start + size, gradients.at[to].add(more, mode="drop")

    start = (jnp.int32(0), gradients)
    _, gradients = jax.lax.while_loop(lambda carry: carry[0] < total, add, start)
    return state.replace(place=place), Touched(ids, first, gradients)


def update_rows(
    table: jax.Array,
    state: RowAdam,
    touched: Touched,
    done: jax.Array,
    rate: jax.Array,
    scale: jax.Array | float,
    catch_up: CatchUp | None,
    optimizer: Any,
) -> tuple[jax.Array, RowAdam]:
    """The update number `done` + 1 of the rows touched.

    Args:
      table: [V, D].
      state, touched: from `sum_duplicates`.
      done: [] int32, updates before this one.
      rate: learning rate.
      scale: of the gradients, to clip them.
      catch_up: None for lazy Adam.
      optimizer: `config.optimizer`.

    Returns:
      The table and its state; in place, where they are donated.
    """
    b1, b2 = optimizer.b1, optimizer.b2
    count = done + 1

    def unbiased(number):
        return jnp.sqrt(1 - jnp.float32(b2) ** number)

    # Both bias corrections at once: c · m / (√v + ε'), rather than a division for each.
    rate_corrected = rate * unbiased(count) / (1 - jnp.float32(b1) ** count)
    epsilon = optimizer.table_epsilon * unbiased(count)

    number = len(touched.ids)
    size = min(_CHUNK, number)
    # Of ids from elsewhere there may be many times as many, so only what counts is gone through.
    chosen = jnp.nonzero(touched.first, size=number + size, fill_value=number)[0].astype(jnp.int32)
    turns = (touched.first.sum(dtype=jnp.int32) + size - 1) // size

    def pick(turn):
        places = jax.lax.dynamic_slice_in_dim(chosen, turn * size, size)
        ids = touched.ids.at[places].get(mode="fill", fill_value=0)
        return ids, places < number, touched.gradients.at[places].get(mode="fill", fill_value=0)

    def update(gradients, rows, direction, root, last):
        epsilon_then = (optimizer.table_epsilon * unbiased(last))[:, None]
        decay = root_decay = 1.0
        if catch_up is not None:
            made_up, (decay, root_decay) = _make_up(last, done, catch_up, optimizer)
            rows = made_up(rows, direction)
        g = gradients * scale
        m = (1 - b1) * g + (b1 * decay * root_decay) * (direction * (root + epsilon_then))
        root = jnp.sqrt((1 - b2) * g**2 + b2 * (root_decay * root) ** 2)
        direction = m / (root + epsilon)
        moved = rate_corrected * direction
        if optimizer.weight_decay:
            moved += rate * optimizer.weight_decay * rows
        return rows - moved, direction, root, jnp.maximum(last, count)

    return _by_chunks(update, pick, turns, table, state)


def flush(
    table: jax.Array,
    state: RowAdam,
    done: jax.Array,
    catch_up: CatchUp | None,
    optimizer: Any,
    agreed: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[jax.Array, RowAdam]:
    """All rows as dense Adam would have them after `done` updates; in place, where donated.

    Args:
      table: [V, D].
      state: of the table.
      done: [] int32.
      catch_up: None for lazy Adam, which leaves them as they are.
      optimizer: `config.optimizer`.
      agreed: from what this device has of a row to what all that have a copy of it go on with.
    """

    num_rows = len(table)
    # At least two turns: XLA dissolves a loop of one, and then copies `last`.
    size = min(_CHUNK, -(-num_rows // 2))

    def pick(turn):
        ids = turn * size + jnp.arange(size, dtype=jnp.int32)
        return jnp.minimum(ids, num_rows - 1), ids < num_rows, None

    def update(_, rows, direction, root, last):
        rows, direction, root, last = map(agreed, (rows, direction, root, last))
        if catch_up is None:
            return rows, direction, root, last
        made_up, (decay, root_decay) = _make_up(last, done, catch_up, optimizer)
        rows = made_up(rows, direction)
        return rows, decay * direction, root_decay * root, jnp.maximum(last, done)

    return _by_chunks(update, pick, -(-num_rows // size), table, state)


def _by_chunks(update, pick, turns, table, state):
    """What `update(given, rows, direction, root, last)` makes of rows, chunk by chunk.

    `pick(turn)` says of which: `ids` [N], which of them count [N] bool, and what is `given`.
    """

    def turn(number, arrays):
        ids, there, given = pick(number)
        # Ids past the end are dropped; all differ.
        to = jnp.where(there, ids, len(table) + jnp.arange(len(ids), dtype=jnp.int32))
        return tuple(
            x.at[to].set(new, mode="drop", unique_indices=True)
            for x, new in zip(arrays, update(given, *(x[ids] for x in arrays)), strict=True)
        )

    arrays = (table, state.direction, state.root, state.last)
    table, direction, root, last = jax.lax.fori_loop(0, turns, turn, arrays)
    return table, RowAdam(direction, root, last, state.place)


def _betas(optimizer: Any) -> tuple[float, float]:
    """As a float32 rounds them, since that is what optax multiplies by."""
    return float(np.float32(optimizer.b1)), float(np.float32(optimizer.b2))
