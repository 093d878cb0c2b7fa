"""Adam for the encoder and the track table, with a schedule, weight decay and clipping."""

from typing import Any

import jax.numpy as jnp
import optax

from skipjax.errors import ConfigError

_DECAYS = ("constant", "linear", "cosine")


def make_optimizer(optimizer: Any) -> optax.GradientTransformation:
    """Adam as `config.optimizer` describes it, for params {"encoder": ..., "table": ...}.

    The updates are for a learning rate of -1: the step multiplies them by minus its own, which is
    thereby an argument of the compiled step and not a constant in it.

    Raises:
      ConfigError: a field with an impossible value.
    """
    if optimizer.decay not in _DECAYS:
        raise ConfigError(
            f"config.optimizer.decay is {optimizer.decay!r}; choose one of {_DECAYS}."
        )

    def adam(epsilon):
        return optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=epsilon)

    parts = [
        optax.partition(
            {"encoder": adam(optimizer.epsilon), "table": adam(optimizer.table_epsilon)},
            {"encoder": "encoder", "table": "table"},
        )
    ]
    if optimizer.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip_norm))
    if optimizer.weight_decay:
        parts.append(optax.add_decayed_weights(optimizer.weight_decay))
    return optax.chain(*parts)


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
