"""Row-wise Adam against optax, which goes through all rows in every step, and against loops."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import row_adam
from skipjax.optimizers import clip_factor, make_adam, schedule_factor

NUM_IDS, WIDTH, PER_STEP = 60, 4, 12


def optimizer_config(**changes):
    optimizer = importlib.import_module("configs.common").get_config().optimizer
    optimizer.update(changes)
    return optimizer


def stream(num_steps, scale, seed=0):
    """Ids [T, N], many of them rare or repeated, the last ten never, and their gradients."""
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, NUM_IDS - 9) ** 2
    ids = rng.choice(NUM_IDS - 10, (num_steps, PER_STEP), p=shares / shares.sum())
    gradients = rng.normal(size=(num_steps, PER_STEP, WIDTH)) * scale
    gradients[rng.random((num_steps, PER_STEP)) < 0.2] = 0  # touched, without a gradient
    return jnp.array(ids, jnp.int32), jnp.array(gradients, jnp.float32)


def table_at_start():
    return jax.random.uniform(jax.random.key(3), (NUM_IDS, WIDTH), minval=-0.02, maxval=0.02)


def by_optax(optimizer, ids, gradients, num_steps):
    """The table after `num_steps`, by dense Adam on the gradient of the whole table."""
    adam = make_adam(optimizer, optimizer.table_epsilon)

    def step(carry, x):
        table, state, count = carry
        gradient = jnp.zeros_like(table).at[x[0]].add(x[1])
        gradient *= clip_factor(optimizer.clip_norm, gradient)
        updates, state = adam.update(gradient, state, table)
        rate = optimizer.learning_rate * schedule_factor(optimizer, count, num_steps)
        return (table - rate * updates, state, count + 1), None

    table = table_at_start()
    carry = (table, adam.init(table), jnp.int32(0))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, (ids, gradients)))(carry)[0][0]


def by_rows(optimizer, ids, gradients, num_steps, *, lazy=False):
    """The table after `num_steps`, flushed, and its state."""
    catch_up = None if lazy else row_adam.make_catch_up(optimizer, num_steps)

    def step(carry, x):
        table, state, count = carry
        state, touched = row_adam.sum_duplicates(state, *x)
        summed = jnp.where(touched.first[:, None], touched.gradients, 0)
        scale = clip_factor(optimizer.clip_norm, summed)
        rate = optimizer.learning_rate * schedule_factor(optimizer, count, num_steps)
        table, state = row_adam.update_rows(
            table, state, touched, count, rate, scale, catch_up, optimizer
        )
        return (table, state, count + 1), None

    table = table_at_start()
    carry = (table, row_adam.init_rows(table), jnp.int32(0))
    carry = jax.jit(lambda carry: jax.lax.scan(step, carry, (ids, gradients)))(carry)[0]
    return carry if lazy else row_adam.flush(*carry, catch_up, optimizer)


SETTINGS = {
    "default": {},
    "schedule": {"warmup_steps": 100, "decay": "cosine"},
    "linear": {"decay": "linear"},
    "weight decay": {"weight_decay": 0.5, "warmup_steps": 50},
    "clipped": {"clip_norm": 1e-3},
    "betas": {"b1": 0.5, "b2": 0.99},
    "no momentum": {"b1": 0.0},
}


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("setting", SETTINGS)
def test_deferred_adam_is_adam(setting, scale):
    optimizer = optimizer_config(**SETTINGS[setting])
    ids, gradients = stream(2000, scale)
    expected = by_optax(optimizer, ids, gradients, 2000)
    actual, _ = by_rows(optimizer, ids, gradients, 2000)
    start = table_at_start()
    distance = jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected - start)
    assert distance <= 1e-5
