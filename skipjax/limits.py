"""The numbers that config fields may take, checked before anything else is done."""

import math
from typing import Any

from skipjax.errors import ConfigError

# field: lowest value, highest value (both allowed)
_LIMITS = {
    "seed": (0, 2**31 - 1),
    "data.num_sessions": (0, math.inf),
    "data.min_length": (4, math.inf),  # two tracks to learn from, and two held out
    "data.max_length": (4, math.inf),
    "model.width": (1, math.inf),
    "model.num_layers": (1, math.inf),
    "model.num_heads": (1, math.inf),
    "model.feedforward_width": (1, math.inf),
    "model.dropout": (0, 0.99),
    "model.init_stddev": (1e-12, math.inf),
    "model.init_bound": (1e-12, math.inf),
    "loss.alpha": (0, math.inf),
    "loss.beta": (0, math.inf),
    "loss.temperature": (1e-6, math.inf),
    "loss.cloze_fraction": (1e-6, 1),
    "loss.skipped_weight": (0, math.inf),
    "sampling.num_negatives": (1, math.inf),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.warmup_steps": (0, math.inf),
    "optimizer.b1": (0, 0.999999),
    "optimizer.b2": (0, 0.999999),
    "optimizer.epsilon": (1e-30, math.inf),  # 0 / 0 where there never was a gradient
    "optimizer.table_epsilon": (1e-30, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.clip_norm": (0, math.inf),
    "train.batch_size": (1, math.inf),
    "train.num_epochs": (1, math.inf),
    "train.patience": (1, math.inf),
    "train.log_every_steps": (1, math.inf),
    "train.checkpoint_every_steps": (0, math.inf),
    "eval.seed": (0, 2**63 - 1),
    "eval.num_candidates": (1, math.inf),
    "eval.keep_top": (0, math.inf),
    "eval.batch_size": (1, math.inf),
    "eval.chunk_size": (1, math.inf),
}


def check_limits(config: Any) -> None:
    """Raises ConfigError, naming the field, its value and its limits, for one that is outside."""
    for field, (low, high) in _LIMITS.items():
        value = config
        for part in field.split("."):
            value = value[part]
        if not (math.isfinite(value) and low <= value <= high):
            wanted = f"finite and at least {low}" if high == math.inf else f"from {low} to {high}"
            raise ConfigError(f"config.{field} is {value}; it must be {wanted}.")
    if config.eval.precision not in ("float32", "bfloat16"):
        raise ConfigError(
            f"config.eval.precision is {config.eval.precision!r}; choose 'float32' or 'bfloat16'."
        )
    if not config.loss.alpha and not config.loss.beta:
        raise ConfigError("config.loss.alpha and config.loss.beta are both 0: nothing to learn.")
