"""From sessions to hidden states to exact ranks; the one place that scores a catalogue.

A sum of floats depends on its order, and a product of matrices takes it in an order that depends on
their shapes. So that a rank depends on neither batch size nor chunk size, all shapes are padded to
multiples from which on the order stays the same (`SESSIONS`, `_IDS`, `_CANDIDATES`); tests measure
that it does.

Ids outside the table are refused with a DataError, but not within a jitted function, which cannot
see them: there, they must have been checked before, as those of a split are.

With several devices, these functions are for the inside of what a `layout` maps: a table [V, D] is
then a device's rows of it, sessions are its own, and no more than scores are exchanged, never rows
of candidates.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from skipjax import targets
from skipjax.choices import CHOICES
from skipjax.encoders import Encoder
from skipjax.ids import FIRST_TRACK_ID, PAD_ID, UNKNOWN, check_ids
from skipjax.mesh import ONE, Layout

PRECISIONS = CHOICES["eval.precision"]

SESSIONS = 64  # batches are padded to a multiple of this
_IDS = 512  # rows of the table in a product are a multiple of this
_CANDIDATES = 16  # a session's candidates, the target included, are padded to a multiple of this


def next_hidden(
    encoder: Encoder,
    params: Mapping[str, Any],
    tracks: jax.Array,
    valid: jax.Array,
    feedback: jax.Array | None = None,
    *,
    pad_to: int = SESSIONS,
    layout: Layout = ONE,
) -> jax.Array:
    """The state that stands for the track after each session.

    A causal encoder gives that of the last track; a bidirectional one that of a MASK after it.

    Args:
      encoder, params: the model.
      tracks: [B, L] int32, padded on the right; L + 1 ≤ max_length if bidirectional.
      valid: [B, L] bool.
      feedback: [B, L] int, UNKNOWN (all of it, if not given), PLAYED or SKIPPED; only encoders with
        a `skip_embedding` read it.
      pad_to: so many sessions are worked on at a time; 1 for all at once, so that last bits depend
        on B.
      layout: how sessions and the table lie over devices.

    Returns:
      [B, D] float.
    """
    _check_ids(tracks, params["table"], "tracks")
    if feedback is None:
        feedback = jnp.full(valid.shape, UNKNOWN)
    if not encoder.causal:
        tracks, valid = targets.append_mask(tracks, valid)
        feedback = jnp.pad(feedback, ((0, 0), (0, 1)))  # of the MASK, nothing is known

    def encode(block):
        tracks, valid, feedback = block
        embedded = layout.rows(params["table"], tracks)
        with jax.default_matmul_precision("highest"):
            hidden = encoder.apply(
                {"params": params["encoder"]}, embedded, valid, feedback=feedback
            )
        last = jnp.maximum(valid.sum(axis=-1) - 1, 0)
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]

    if pad_to == 1:
        return encode((tracks, valid, feedback))
    blocks = [_padded(a, pad_to).reshape(-1, pad_to, a.shape[1]) for a in (tracks, valid, feedback)]
    return jnp.concatenate(jax.lax.map(encode, blocks))[: len(tracks)]


def sampled_ranks(
    hidden: jax.Array,
    table: jax.Array,
    target: jax.Array,
    candidates: jax.Array,
    *,
    precision: str = "float32",
    layout: Layout = ONE,
) -> jax.Array:
    """The rank of each target among its candidates; ties count against it.

    Rows are gathered for a few sessions at a time, so memory does not grow with the batch.

    Args:
      hidden: [B, D].
      table: [V, D].
      target: [B] int32.
      candidates: [B, C] int32, without the target.
      precision: "float32", or "bfloat16": inputs rounded to it, products and sums in float32.
      layout: how sessions and the table lie over devices.

    Returns:
      [B] int32, from 1 to C + 1.

    Raises:
      ValueError: an unknown precision.
    """
    _check_precision(precision)
    _check_ids(target, table, "target")
    _check_ids(candidates, table, "candidates")
    number, num_candidates = candidates.shape
    # The target goes through the same sum as the others, so that equal rows give equal scores.
    ids = _padded(jnp.concatenate([target[:, None], candidates], axis=1), _CANDIDATES, axis=1)
    # The same whatever the batch, and two at least: XLA would unroll a loop of one, and sum anew.
    size = max(1, _gathered_rows() // (ids.shape[1] * layout.tracks))
    if number <= size and jax.default_backend() != "cpu":
        size = -(-number // 2)  # where no sum depends on it anyway
    multiple = size if number > size else 2 * size
    hidden, ids = (_padded(a, multiple).reshape(-1, size, a.shape[1]) for a in (hidden, ids))

    def rank(some):
        hidden, ids = map(layout.of_sharers, some)
        places, here = layout.local(ids, table)
        rows = table[places]
        if precision == "bfloat16":  # the same numbers; a CPU is slow at small bfloat16 products
            rows, hidden = (jax.lax.reduce_precision(a, 8, 7) for a in (rows, hidden))
        scores = _product("brd,bd->br", rows, hidden, "float32")
        scores = layout.own_total(jnp.where(here, scores, 0))
        below = scores[:, 1 : 1 + num_candidates] < scores[:, :1]
        return 1 + (~below).sum(axis=1, dtype=jnp.int32)

    return jax.lax.map(rank, (hidden, ids)).reshape(-1)[:number]


def full_ranks(
    hidden: jax.Array,
    table: jax.Array,
    target: jax.Array,
    *,
    chunk_size: int,
    precision: str = "float32",
    layout: Layout = ONE,
) -> jax.Array:
    """The exact rank of each target among all real tracks; ties count against it.

    The catalogue is scored by chunks, so memory is O(B · chunk_size). The target is left out of
    its own count by id. A NaN score counts against the target, whosever it is.

    Args:
      hidden: [B, D].
      table: [V, D].
      target: [B] int32.
      chunk_size: rows of the table per product, rounded down to a multiple of 512 (or up to it).
      precision: "float32", or "bfloat16": inputs rounded to it, products and sums in float32.
      layout: how sessions and the table lie over devices.

    Returns:
      [B] int32, from 1 to the number of real tracks.

    Raises:
      ValueError: an unknown precision.
    """
    _check_ids(target, table, "target")
    hidden, target = layout.of_sharers(hidden), layout.of_sharers(target)
    number = len(target)
    hidden, target = _padded(hidden, SESSIONS), _padded(target, SESSIONS)
    bar = _target_scores(hidden, table, target, precision, layout)

    def count(above, ids, new, scores):
        # Unlike scores >= bar, this counts a NaN on either side.
        counts = ~(scores < bar[None, :]) & new[:, None] & (ids[:, None] != target[None, :])
        return above + counts.sum(axis=0, dtype=jnp.int32)

    start = jnp.zeros_like(target)
    above = _over_chunks(count, start, hidden, table, chunk_size, precision, layout)
    return 1 + layout.own_total(above[:number])


def top_k(
    hidden: jax.Array,
    table: jax.Array,
    k: int,
    *,
    chunk_size: int,
    exclude: jax.Array | None = None,
    precision: str = "float32",
    pad_to: int = SESSIONS,
    layout: Layout = ONE,
) -> tuple[jax.Array, jax.Array]:
    """The k real tracks with the highest scores, exactly; of equal scores, the lower id first.

    Args:
      hidden: [B, D].
      table: [V, D].
      k: at least 1.
      chunk_size: rows of the table per product, rounded down to a multiple of 512 (or up to it).
      exclude: [B, E] int32, ids to leave out of each row, in any order; PAD fills it up.
      precision: "float32", or "bfloat16": inputs rounded to it, products and sums in float32.
      pad_to: B is padded to a multiple of this; with 1, last bits depend on B.
      layout: how sessions and the table lie over devices.

    Returns:
      Scores [B, k] float32, falling, and ids [B, k] int32. Where fewer than k tracks are left, the
      rest have score -inf and id PAD. A track whose score is NaN or -inf does not count as left.

    Raises:
      ValueError: an unknown precision, or k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1.")
    if exclude is not None:
        _check_ids(exclude, table, "exclude")
        exclude = layout.of_sharers(exclude)
    hidden = layout.of_sharers(hidden)
    number = hidden.shape[0]  # which may be symbolic, in an export

    def merge(best, ids, new, scores):
        scores = jnp.where(scores == 0, 0.0, scores)  # -0.0 is no less than 0.0
        scores = jnp.where(new[:, None] & (scores > -jnp.inf), scores, -jnp.inf)[:, :number]
        if exclude is not None:
            place = exclude - ids[0]
            place = jnp.where((place >= 0) & (place < len(ids)), place, len(ids))
            sessions = jnp.arange(number)[:, None]
            scores = scores.at[place, sessions].set(-jnp.inf, mode="drop")
        scores, ids = _contenders(scores, ids, k)
        # Of equals, top_k takes the first: those found before have the lower ids.
        pairs = ((best[0], scores), (best[1], ids))
        return _best(*(jnp.concatenate(pair, axis=1) for pair in pairs), k)

    empty = (
        jnp.full((number, k), -jnp.inf, jnp.float32),
        jnp.full((number, k), PAD_ID, jnp.int32),
    )
    padded = _padded(hidden, pad_to)
    best = _over_chunks(merge, empty, padded, table, chunk_size, precision, layout)
    scores, ids = (layout.own_parts(x, 1) for x in best)
    if layout.tracks > 1:  # of equals, the first are of lower ids, again
        scores, ids = _best(scores, ids, k)
    return scores, jnp.where(scores > -jnp.inf, ids, PAD_ID)


def _contenders(scores: jax.Array, ids: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """From scores [N, B] of ids [N] those that may be among the best k: both [B, M], ids rising.

    They lie in the k groups of neighbours with the highest best scores: before any other group, k
    scores come that are as high as its best, and have lower ids where they are equal to it.
    """
    num_ids, number = scores.shape
    size = 1 << max(0, round(math.log2(num_ids / k) / 2))  # which makes both choices cheapest
    if size == 1 or num_ids // size < k or num_ids % size:
        return scores.T, jnp.broadcast_to(ids, (number, num_ids))
    groups = scores.reshape(-1, size, number)
    chosen = jnp.sort(jax.lax.top_k(groups.max(axis=1).T, k)[1], axis=1)
    scores = jnp.take_along_axis(groups, chosen.T[:, None, :], axis=0)
    ids = ids.reshape(-1, size)[chosen]
    return scores.reshape(-1, number).T, ids.reshape(number, -1)


def _best(scores: jax.Array, ids: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    scores, at = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(ids, at, axis=1)


def _over_chunks(step, carry, hidden, table, chunk_size, precision, layout):
    """carry ← step(carry, ids [N], new [N], scores [N, B]) for each chunk of N rows of the table.

    `new` says which ids are real tracks that no chunk before has had.
    """
    _check_precision(precision)
    num_ids, first_id = len(table), layout.first_row(table)
    real = jnp.minimum(num_ids, layout.count(table) - first_id)  # rows that are none are last
    size = max(min(chunk_size, num_ids) // _IDS, 1) * _IDS
    table = _padded(table, _IDS) if num_ids < _IDS else table  # never a copy of a large one

    def body(chunk, carry):
        # The last chunk reaches back into the one before it rather than past the table's end.
        start = jnp.minimum(chunk * size, len(table) - size)
        places = start + jnp.arange(size, dtype=jnp.int32)
        ids = first_id + places
        new = (places >= chunk * size) & (places < real) & (ids >= FIRST_TRACK_ID)
        rows = jax.lax.dynamic_slice_in_dim(table, start, size)
        return step(carry, ids, new, _scores(rows, hidden, precision))

    return jax.lax.fori_loop(0, -(-num_ids // size), body, carry)


def _target_scores(
    hidden: jax.Array, table: jax.Array, target: jax.Array, precision: str, layout: Layout
) -> jax.Array:
    """[B] scores of the targets, summed in the same order as those of a chunk.

    Else the score of a target and that of an equal row could differ in the last bit: a tie would
    go either way.
    """
    number = len(target)
    session = jnp.arange(number + -number % _IDS).reshape(-1, _IDS)

    def own(block):
        ids, session = block
        scores = _scores(layout.rows(table, ids, shared=True), hidden, precision)
        return jnp.take_along_axis(scores, jnp.minimum(session, number - 1)[:, None], axis=1)[:, 0]

    blocks = _padded(target, _IDS).reshape(-1, _IDS)
    return jax.lax.map(own, (blocks, session)).reshape(-1)[:number]


def _scores(rows: jax.Array, hidden: jax.Array, precision: str) -> jax.Array:
    """[N, B] float32; sessions come last, as counting over the first axis is the faster."""
    return _product("vd,bd->vb", rows, hidden, precision)


def _product(spec: str, rows: jax.Array, hidden: jax.Array, precision: str) -> jax.Array:
    if precision == "bfloat16":
        rows, hidden = rows.astype(jnp.bfloat16), hidden.astype(jnp.bfloat16)
    # Scores decide ranks: HIGHEST, as float32 is not to become TF32 where the device would.
    return jnp.einsum(
        spec,
        rows,
        hidden,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose one of {PRECISIONS}.")


def _check_ids(ids: jax.Array, table: jax.Array, what: str) -> None:
    if not isinstance(ids, jax.core.Tracer):
        check_ids(ids, len(table), what)


def _gathered_rows() -> int:
    """Rows of the table gathered at a time: for a CPU's cache, or few launches of a kernel."""
    return 1 << (12 if jax.default_backend() == "cpu" else 18)


def _padded(array: jax.Array, multiple: int, axis: int = 0) -> jax.Array:
    """With zeros, to a multiple of `multiple` along `axis`."""
    if multiple == 1:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return jnp.pad(array, widths)
