"""Adam for the encoder and the track table, with a schedule, weight decay and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from skipjax.choices import check_choices


def make_adam(optimizer: Any, epsilon: float) -> optax.GradientTransformation:
    """Adam as `config.optimizer` describes it, without clipping.

    The updates are for a learning rate of -1: the step multiplies them by minus its own, which is
    thereby an argument of the compiled step and not a constant in it.

    Raises:
      ConfigError: a field with an impossible value.
    """
    check_choices(optimizer, "optimizer")
    parts = [optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=epsilon)]
    if optimizer.weight_decay:
        parts.append(optax.add_decayed_weights(optimizer.weight_decay))
    return optax.chain(*parts)


def squares(tree: Any) -> jax.Array:
    """The sum of the squares of all that is in the arrays of `tree`."""
    return sum(jnp.sum(x * x) for x in jax.tree.leaves(tree))


def clip_factor(clip_norm: float, squares: jax.Array) -> jax.Array:
    """What to multiply gradients by so that their global norm is at most `clip_norm`.

    Args:
      clip_norm: above 0.
      squares: the sum of the squares of all of them.
    """
    norm = jnp.sqrt(squares)
    return jnp.where(norm < clip_norm, 1.0, clip_norm / jnp.where(norm > 0, norm, 1.0))


def schedule_factor(optimizer: Any, step: Any, num_steps: int) -> Any:
    """What the learning rate is multiplied by at `step` (0 for the first), in [0, 1].

    A linear warm-up over `warmup_steps`, then constant, or falling to 0 at `num_steps` along a
    line or half a cosine.
    """
    step = jnp.asarray(step, jnp.float32)
    factor = jnp.minimum(1.0, (step + 1) / max(1, optimizer.warmup_steps))
    if optimizer.decay == "constant":
        return factor
    span = max(1, num_steps - optimizer.warmup_steps)
    progress = jnp.clip((step - optimizer.warmup_steps) / span, 0, 1)
    if optimizer.decay == "linear":
        return factor * (1 - progress)
    return factor * (1 + jnp.cos(jnp.pi * progress)) / 2
