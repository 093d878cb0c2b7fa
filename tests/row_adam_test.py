"""Row-wise Adam against optax, which goes through all rows in every step, and against loops."""

import functools
import importlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import row_adam
from skipjax.errors import ConfigError
from skipjax.optimizers import clip_factor, make_adam, schedule_factor, squares

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
        if optimizer.clip_norm:
            gradient *= clip_factor(optimizer.clip_norm, squares(gradient))
        updates, state = adam.update(gradient, state, table)
        rate = optimizer.learning_rate * schedule_factor(optimizer, count, num_steps)
        return (table - rate * updates, state, count + 1), None

    table = table_at_start()
    carry = (table, adam.init(table), jnp.int32(0))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, (ids, gradients)))(carry)[0][0]


def by_rows(optimizer, ids, gradients, num_steps, *, lazy=False, flush_every=None):
    """The table after `num_steps`, flushed, and its state."""
    catch_up = None if lazy else row_adam.make_catch_up(optimizer, num_steps)

    def step(carry, x):
        table, state, count = carry
        state, touched = row_adam.sum_duplicates(state, *x)
        summed = jnp.where(touched.first[:, None], touched.gradients, 0)
        scale = clip_factor(optimizer.clip_norm, squares(summed)) if optimizer.clip_norm else 1
        rate = optimizer.learning_rate * schedule_factor(optimizer, count, num_steps)
        table, state = row_adam.update_rows(
            table, state, touched, count, rate, scale, catch_up, optimizer
        )
        return (table, state, count + 1), None

    table = table_at_start()
    carry = (table, row_adam.init_rows(table), jnp.int32(0))
    size = flush_every or num_steps
    scan = jax.jit(lambda carry, x: jax.lax.scan(step, carry, x)[0])
    for start in range(0, num_steps, size):
        carry = scan(carry, (ids[start : start + size], gradients[start : start + size]))
        if not lazy:
            carry = (*row_adam.flush(*carry, catch_up, optimizer), carry[2])
    return carry[:2]


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


def test_flushes_on_the_way_change_nothing():
    """As every epoch ends with one."""
    optimizer = optimizer_config(decay="cosine", weight_decay=0.1)
    ids, gradients = stream(300, 1e-4)
    expected = by_optax(optimizer, ids, gradients, 300)
    actual, _ = by_rows(optimizer, ids, gradients, 300, flush_every=60)
    start = table_at_start()
    assert jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected - start) <= 1e-5


def test_chunks_and_their_overlap_change_nothing(monkeypatch):
    optimizer = optimizer_config()
    ids, gradients = stream(50, 1e-3)
    whole, _ = by_rows(optimizer, ids, gradients, 50)
    for size in (1, 5, 7, 12):
        monkeypatch.setattr(row_adam, "_CHUNK", size)
        parts, state = by_rows(optimizer, ids, gradients, 50)
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-7)
        assert (state.last == 50).all()


@functools.cache
def summed_by(chunk):
    """For chunks of that size, which is read when it is traced."""
    return jax.jit(lambda *args: row_adam.sum_duplicates(*args))


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    # Of few lengths, as each compiles anew.
    ids=st.sampled_from([1, 2, 12, 30]).flatmap(
        lambda n: st.lists(st.integers(0, 9), min_size=n, max_size=n)
    ),
    chunk=st.sampled_from([1, 3, 64]),
)
def test_gradients_of_an_id_are_added_up(ids, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_adam, "_CHUNK", chunk)
        gradients = np.arange(2.0 * len(ids), dtype=np.float32).reshape(-1, 2)
        state = row_adam.init_rows(jnp.zeros((10, 2)))
        # What is left in the map from the step before does not matter.
        state = state.replace(place=jnp.arange(10, dtype=jnp.int32))
        _, touched = summed_by(chunk)(state, np.array(ids, np.int32), gradients)
    firsts = [i for i, first in zip(ids, touched.first, strict=True) if first]
    assert sorted(firsts) == sorted(set(ids))
    expected = np.zeros((10, 2))
    np.add.at(expected, ids, gradients)
    np.testing.assert_allclose(touched.gradients[touched.first], expected[firsts])


@pytest.mark.parametrize("weight_decay", [0.0, 20.0])
@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize(("last", "done"), [(3, 3), (3, 4), (1, 40), (90, 130), (5, 30_000)])
def test_missed_updates_are_the_loop(last, done, decay, weight_decay):
    """In float64, one update after another, as the module's docstring says it."""
    optimizer = optimizer_config(weight_decay=weight_decay, decay=decay, warmup_steps=10)
    b1, b2, num_steps = 0.9, 0.999, 120
    row, m, v = 0.02, 3e-5, 4e-8
    state = row_adam.RowAdam(
        direction=jnp.array([[m / np.sqrt(v)]]),
        root=jnp.array([[np.sqrt(v)]]),
        last=jnp.array([last]),
        place=jnp.array([0]),
    )
    catch_up = row_adam.make_catch_up(optimizer, num_steps)
    args = (jnp.int32(done), catch_up, optimizer)
    flushed, after = row_adam.flush(jnp.array([[row]]), state, *args)
    read = row_adam.read_rows(jnp.array([[row]]), state, jnp.array([0]), *args)
    for j in range(last + 1, done + 1):
        rate = min(1, j / 10) * optimizer.learning_rate
        if decay == "cosine":
            rate *= (1 + np.cos(np.pi * np.clip((j - 1 - 10) / 110, 0, 1))) / 2
        m, v = b1 * m, b2 * v
        update = m / (1 - b1**j) / (np.sqrt(v / (1 - b2**j)) + 1e-17)
        row -= rate * (update + weight_decay * row)
    np.testing.assert_allclose(flushed[0, 0], row, rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(read[0, 0], flushed[0, 0], rtol=1e-6)
    np.testing.assert_allclose(after.direction * after.root, [[m]], rtol=1e-4, atol=1e-37)
    np.testing.assert_allclose(after.root**2, [[v]], rtol=1e-3)
    assert after.last.tolist() == [done]


@pytest.mark.parametrize("epsilon", [1e-17, 1e-4])
def test_lazy_adam_is_the_loop(epsilon):
    optimizer = optimizer_config(table_epsilon=epsilon)
    ids, gradients = stream(60, 1e-3)
    table = np.array(table_at_start(), float)
    m, v = np.zeros_like(table), np.zeros_like(table)
    for step, (some, of_some) in enumerate(zip(np.array(ids), np.array(gradients), strict=True), 1):
        for i in set(some.tolist()):
            g = of_some[some == i].sum(axis=0, dtype=float)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            corrected = np.sqrt(v[i] / (1 - 0.999**step)) + epsilon
            table[i] -= optimizer.learning_rate * m[i] / (1 - 0.9**step) / corrected
    actual, *_ = by_rows(optimizer, ids, gradients, 60, lazy=True)
    np.testing.assert_allclose(actual, table, rtol=1e-3, atol=1e-6)


def test_a_flush_can_be_repeated():
    optimizer = optimizer_config(weight_decay=0.1)
    ids, gradients = stream(40, 1e-3)
    table, state = by_rows(optimizer, ids, gradients, 40)
    catch_up = row_adam.make_catch_up(optimizer, 40)
    again, after = row_adam.flush(table, state, jnp.int32(40), catch_up, optimizer)
    for x, y in zip(jax.tree.leaves((table, state)), jax.tree.leaves((again, after)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_schedule_too_long_to_tabulate_is_named():
    with pytest.raises(ConfigError, match=r"more than 5,000,000: lower config\.optimizer\.b2"):
        row_adam.make_catch_up(optimizer_config(warmup_steps=10**11), 1)
