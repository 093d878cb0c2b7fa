"""The losses of Seshadri & Knees 2023 (arXiv 2309.11623), on plain arrays.

This file imports nothing else of skipjax, so any JAX code can use it alone. Every function works
on the last axis, takes boolean `where` masks that say what counts, and ends with `reduce_fn`:

* a function called as `reduce_fn(values, where=counted)`, such as `jnp.mean` (the default) or
  `jnp.sum`; the result is 0 with zero gradients if nothing counts;
* or None, for one value per position, 0 at positions that do not count.

Values and gradients are finite for empty masks and zero vectors, and do not depend on what stands
in masked places. Arithmetic is in float32 or wider.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Shorter vectors count as zero: their cosine is 0, and the gradient of a normalisation
# (1 / norm, with 1 / norm³ on the way) stays inside float32.
_MIN_NORM = 1e-12

ReduceFn = Callable[..., jax.Array]


def sampled_softmax_nll(
    logits: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    """Negative log-likelihood of the target among sampled tracks (paper, section 4.2).

        nll = log(sum_j where_j exp(logits_j)) - logits_0

    Args:
      logits: [..., 1 + K], the target's score in column 0, then those of K sampled negatives.
      where: bool, broadcastable to `logits`: which columns count. Mask collisions, negatives that
        equal the target. A position whose column 0 is masked does not count.
      reduce_fn: see the module's docstring.

    Returns:
      A scalar, or [...] if `reduce_fn` is None.

    Raises:
      ValueError: `where` does not broadcast to `logits`.
    """
    logits = _float(logits)
    where = _broadcast_where(where, logits.shape)
    return contrast_nll(
        logits[..., 0],
        logits[..., 1:],
        where_others=where[..., 1:],
        where=where[..., 0],
        reduce_fn=reduce_fn,
    )


def not_to_recommend_nll(
    logits: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    """Negative log-likelihood of *not* recommending the target (Wang et al., RecSys 2023).

        nll = -log(1 - p) = log(sum_j where_j exp(logits_j)) - log(sum_{j>0} where_j exp(logits_j))

    For targets that were skipped ("Learning from Negative User Feedback and Measuring
    Responsiveness for Sequential Recommenders", arXiv 2308.12256, "not-to-recommend").

    Args:
      logits: [..., 1 + K], the target's score in column 0, then those of K other tracks.
      where: bool, broadcastable to `logits`: which columns count. A position whose column 0 is
        masked, or that has no other column left, does not count.
      reduce_fn: see the module's docstring.

    Returns:
      A scalar, or [...] if `reduce_fn` is None.

    Raises:
      ValueError: `where` does not broadcast to `logits`.
    """
    logits = _float(logits)
    where = _broadcast_where(where, logits.shape)
    counted = where[..., 0] & where[..., 1:].any(axis=-1)
    return contrast_nll(
        logits[..., 0],
        logits[..., 1:],
        where_others=where[..., 1:],
        where_not=counted,
        where=counted,
        reduce_fn=reduce_fn,
    )


def contrast_nll(
    target_logits: jax.Array,
    other_logits: jax.Array,
    *,
    where_others: jax.Array | None = None,
    where_not: jax.Array | None = None,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    """`sampled_softmax_nll` of logits in two parts, which saves putting them together.

        nll = log(exp(target) + sum_k where_others_k exp(others_k)) - target

    Args:
      target_logits: [...].
      other_logits: [..., K].
      where_others: bool, broadcastable to `other_logits`: which of them count.
      where_not: bool, broadcastable to [...]: positions whose target is one not to recommend, with
        `not_to_recommend_nll` instead; 0 there if no other counts.
      where: bool, broadcastable to [...]: the positions that count.
      reduce_fn: see the module's docstring.

    Returns:
      A scalar, or [...] if `reduce_fn` is None.

    Raises:
      ValueError: shapes that do not fit.
    """
    target, others = _float(target_logits), _float(other_logits)
    if target.shape != others.shape[:-1]:
        raise ValueError(
            f"target_logits {target.shape} must have the shape of other_logits {others.shape} "
            "without its last axis."
        )
    counted = _broadcast_where(where, target.shape)
    kept = _broadcast_where(where_others, others.shape) & counted[..., None]
    target = jnp.where(counted, target, 0)
    others = jnp.where(kept, others, -jnp.inf)
    # The target is finite, so this is, too, even where nothing else counts.
    top = jnp.maximum(target, jnp.max(others, axis=-1, initial=-jnp.inf))
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.exp(target - top) + jnp.exp(others - top[..., None]).sum(axis=-1)
    nll = jnp.log(total) + top - target
    if where_not is not None:
        nll = jnp.where(_broadcast_where(where_not, target.shape), _against(target, others), nll)
    return reduce_where(nll, counted, reduce_fn)


def _against(target, others):
    """-log(1 - p), which is log(1 + exp(target - log sum_k exp(others_k))); 0 without others."""
    any_other = (others > -jnp.inf).any(axis=-1)
    others = jnp.where(any_other[..., None], others, 0)
    top = jax.lax.stop_gradient(jnp.max(others, axis=-1, initial=-jnp.inf))
    top = jnp.where(any_other, top, 0)
    total = jnp.where(any_other, jnp.exp(others - top[..., None]).sum(axis=-1), 1)
    return jnp.where(any_other, jax.nn.softplus(target - top - jnp.log(total)), 0)


def softmax_nll(
    logits: jax.Array,
    targets: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    """Negative log-likelihood of the target among all tracks.

        nll = log(sum_v where_v exp(logits_v)) - logits_target

    Args:
      logits: [..., V], a score for every id.
      targets: [...] int, the ids to predict, in [0, V).
      where: bool, broadcastable to `logits`: which ids count (mask the padding id, say). A
        position whose target is masked does not count.
      reduce_fn: see the module's docstring.

    Returns:
      A scalar, or [...] if `reduce_fn` is None.

    Raises:
      ValueError: shapes that do not fit.
    """
    logits = _float(logits)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets {targets.shape} must have the shape of logits {logits.shape} "
            "without its last axis."
        )
    where = _broadcast_where(where, logits.shape)
    index = targets[..., None]
    counted = jnp.take_along_axis(where, index, axis=-1)[..., 0]
    logits = jnp.where(where, logits, 0)
    kept = where | ~counted[..., None]
    target_logits = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1, where=kept) - target_logits
    return reduce_where(nll, counted, reduce_fn)


def skip_infonce(
    context: jax.Array,
    positive: jax.Array,
    negatives: jax.Array,
    *,
    temperature: jax.Array | float = 0.1,
    where_negatives: jax.Array | None = None,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> jax.Array:
    """InfoNCE that pulls `context` to `positive` and pushes it from `negatives` (paper, eq. 1).

        s(x) = cos(context, x) / temperature
        loss = log(exp(s(positive)) + sum_n where_negatives_n exp(s(negative_n))) - s(positive)

    In the paper, the context stands for a position of a session, the positive for the next track
    that was played, and the negatives for the tracks that were skipped. A position without a
    negative does not count. A zero vector has cosine 0 with everything.

    Args:
      context: [..., D].
      positive: [..., D], the shape of `context`.
      negatives: [..., N, D], own negatives for each position; or, with one axis less, [B, N, D]
        for a context of [B, L, D]: shared by all positions of a session.
      temperature: scalar above 0, τ.
      where_negatives: bool, broadcastable to [..., N] whatever the form of `negatives`.
      where: bool, broadcastable to [...]: the positions that count.
      reduce_fn: see the module's docstring.

    Returns:
      A scalar, or [...] if `reduce_fn` is None.

    Raises:
      ValueError: shapes that do not fit.
    """
    context, positive, negatives = _float(context), _float(positive), _float(negatives)
    positions = context.shape[:-1]
    if positive.shape != context.shape:
        raise ValueError(
            f"positive {positive.shape} must have the shape of context {context.shape}."
        )
    own = negatives.ndim == context.ndim + 1
    expected = positions if own else positions[:-1]
    if negatives.shape[:-2] != expected or negatives.shape[-1:] != context.shape[-1:]:
        raise ValueError(
            f"negatives {negatives.shape} fit a context {context.shape} neither as "
            "[..., N, D] for [..., D] nor, shared, as [B, N, D] for [B, L, D]."
        )
    where = _broadcast_where(where, positions)
    where_negatives = _broadcast_where(where_negatives, (*positions, negatives.shape[-2]))
    counted = where & where_negatives.any(axis=-1)

    # What does not count is zeroed first, or its NaN would reach the gradient of what does.
    used = where_negatives & counted[..., None]
    used = used if own else used.any(axis=-2)
    context = _normalise(jnp.where(counted[..., None], context, 0))
    positive = _normalise(jnp.where(counted[..., None], positive, 0))
    negatives = _normalise(jnp.where(used[..., None], negatives, 0))
    equation = "...d,...nd->...n" if own else "...ld,...nd->...ln"
    return contrast_nll(
        jnp.sum(context * positive, axis=-1) / temperature,
        jnp.einsum(equation, context, negatives) / temperature,
        where_others=where_negatives,
        where=counted,
        reduce_fn=reduce_fn,
    )


def reduce_where(values: jax.Array, counted: jax.Array, reduce_fn: ReduceFn | None) -> jax.Array:
    """What all losses here end with.

    Args:
      values: [...].
      counted: [...] bool.
      reduce_fn: see the module's docstring.

    Returns:
      `reduce_fn` over what counts, 0 with zero gradients where nothing does; or, for None, the
      values, 0 where they do not count.
    """
    values = jnp.where(counted, values, 0)
    if reduce_fn is None:
        return values
    return reduce_fn(values, where=counted | ~counted.any())


def _float(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normalise(x: jax.Array) -> jax.Array:
    """x / ‖x‖ on the last axis; zero, with zero gradient, for vectors shorter than _MIN_NORM."""
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    usable = squares > _MIN_NORM**2
    return jnp.where(usable, x * jax.lax.rsqrt(jnp.where(usable, squares, 1)), 0)


def _broadcast_where(where: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    if where is None:
        return jnp.ones(shape, bool)
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise ValueError(f"a where mask must be bool, not {where.dtype}.")
    try:
        return jnp.broadcast_to(where, shape)
    except ValueError:
        raise ValueError(f"a where mask {where.shape} does not broadcast to {shape}.") from None
