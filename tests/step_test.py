import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skipjax import encoders, losses, step
from skipjax.errors import ConfigError
from skipjax.objective import Objective
from skipjax.optimizers import make_adam, schedule_factor
from skipjax.row_adam import RowAdam

NUM_IDS = 40
MANY_IDS = 3_000  # more than a tiny step reads, so that tables of that size go by rows


def make(name="tiny", num_steps=20, **changes):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.num_layers = 1
    for field, value in changes.items():
        section, _, field = field.partition("__")
        config[section][field] = value
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    return config, encoder, step.make_train_step(config, encoder, num_steps)


def make_batch(seed=0, width=6, num_ids=NUM_IDS):
    rng = np.random.default_rng(seed)
    valid = np.arange(width)[None] < rng.integers(2, width + 1, size=(4, 1))
    tracks = np.where(valid, rng.integers(2, num_ids, size=valid.shape), 0).astype(np.int32)
    return {"tracks": tracks, "skipped": (rng.random(valid.shape) < 0.5) & valid, "valid": valid}


def run(config, encoder, train_step, steps, hyper=None, num_ids=NUM_IDS):
    state = step.init_state(config, encoder, num_ids)
    hyper = hyper or step.hyperparameters(config, 20)
    history = []
    for i in range(steps):
        batch = make_batch(i, num_ids=num_ids)
        state, metrics = train_step(state, batch, hyper, step.train_key(config))
        history.append(float(metrics["loss"]))
    return state, history


def test_one_batch_is_learnt():
    config, encoder, train_step = make(model__dropout=0.0, optimizer__learning_rate=0.005)
    state = step.init_state(config, encoder, NUM_IDS)
    key, hyper = step.train_key(config), step.hyperparameters(config, 20)
    values = []
    for _ in range(60):
        state, metrics = train_step(state, make_batch(), hyper, key)
        values.append(float(metrics["loss"]))
    assert np.mean(values[-5:]) < 0.5 * values[0]
    assert int(state.step) == 60


@pytest.mark.parametrize("causal", [True, False])
def test_the_step_compiles_once_for_all_scalars(causal, monkeypatch):
    traces = []
    original = losses.skip_infonce
    monkeypatch.setattr(
        losses, "skip_infonce", lambda *a, **k: traces.append(1) or original(*a, **k)
    )
    config, encoder, train_step = make(model__causal=causal)
    hyper = step.hyperparameters(config, 20)
    run(config, encoder, train_step, 3, hyper)
    loss = hyper.loss.replace(alpha=jnp.float32(0.1), temperature=jnp.float32(1.0))
    run(config, encoder, train_step, 2, hyper.replace(learning_rate=jnp.float32(0.1), loss=loss))
    assert len(traces) == 1


def test_updates_are_those_of_optax(rng):
    config, encoder, train_step = make(
        model__dropout=0.0,
        optimizer__clip_norm=0.05,
        optimizer__weight_decay=0.01,
        optimizer__warmup_steps=3,
        optimizer__decay="cosine",
        optimizer__epsilon=1e-8,
        optimizer__table_epsilon=1e-8,
        num_steps=6,
    )
    rate = config.optimizer.learning_rate

    def schedule(i):  # as the docstring says it, with i counted from 0
        return rate * min(1, (i + 1) / 3) * (1 + np.cos(np.pi * max(0, i - 3) / 3)) / 2

    rates = jnp.array([schedule(i) for i in range(6)])
    adam = optax.chain(
        optax.clip_by_global_norm(0.05),
        optax.scale_by_adam(eps=1e-8),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(lambda i: rates[i]),
    )
    params = step.init_state(config, encoder, NUM_IDS).params
    optimizer = adam.init(params)
    objective = Objective(config, encoder)
    hyper = step.hyperparameters(config, 6)

    @jax.jit
    def update(params, optimizer, batch, key):
        gradient = jax.grad(lambda p: objective(p, batch, hyper.loss, key)["loss"])(params)
        updates, optimizer = adam.update(gradient, optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    for i in range(6):
        key = jax.random.fold_in(step.train_key(config), i)
        params, optimizer = update(params, optimizer, make_batch(i), key)
    state, _ = run(config, encoder, train_step, 6, hyper)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_table_has_an_epsilon_of_its_own():
    moved = {}
    for epsilon in (1e-17, 1e6):
        config, encoder, train_step = make(optimizer__table_epsilon=epsilon)
        start = jax.device_get(step.init_state(config, encoder, NUM_IDS).params)
        state, _ = run(config, encoder, train_step, 1)
        moved[epsilon] = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, dict(state.params))
    rate = config.optimizer.learning_rate
    np.testing.assert_allclose(moved[1e-17]["table"], rate, rtol=1e-3)
    assert moved[1e6]["table"] < 0.1 * rate
    assert moved[1e6]["encoder"] == moved[1e-17]["encoder"]


def test_seed_and_step_are_all_the_randomness():
    config, encoder, train_step = make()
    _, first = run(config, encoder, train_step, 3)
    _, again = run(config, encoder, train_step, 3)
    assert first == again
    config.seed = 1
    _, other = run(config, encoder, train_step, 3)
    assert first != other
    # The same batch draws other negatives and dropout at another step.
    state, (a, b) = step.init_state(config, encoder, NUM_IDS), (0.0, 0.0)
    hyper = step.hyperparameters(config, 20).replace(learning_rate=jnp.float32(0))
    state, metrics = train_step(state, make_batch(), hyper, step.train_key(config))
    a = float(metrics["loss"])
    state, metrics = train_step(state, make_batch(), hyper, step.train_key(config))
    b = float(metrics["loss"])
    assert a != b


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_schedules_rise_and_fall(decay):
    optimizer = importlib.import_module("configs.common").get_config().optimizer
    optimizer.decay, optimizer.warmup_steps = decay, 4
    factors = [float(schedule_factor(optimizer, i, 12)) for i in range(13)]
    np.testing.assert_allclose(factors[:4], [0.25, 0.5, 0.75, 1.0])
    expected = {"constant": (1.0, 1.0), "linear": (0.5, 0.0), "cosine": (0.5, 0.0)}[decay]
    np.testing.assert_allclose([factors[8], factors[12]], expected, atol=1e-6)


def test_an_unknown_decay_is_named():
    with pytest.raises(ConfigError, match=r"config\.optimizer\.decay is 'step'; choose one of"):
        make(optimizer__decay="step")


def test_a_gradient_whose_square_underflows_is_no_huge_step():
    optimizer_config = importlib.import_module("configs.common").get_config().optimizer
    adam = make_adam(optimizer_config, optimizer_config.table_epsilon)
    table = jnp.ones((5, 2))
    for gradient in (1e-16, 3e-18, 1e-18, 1e-19, 1e-25, 1e-37, 0.0):
        gradients = jnp.full_like(table, gradient)
        updates, _ = jax.jit(adam.update)(gradients, adam.init(table), table)
        assert jnp.abs(updates).max() <= 1.0 + 1e-6


@pytest.mark.parametrize(
    ("causal", "scope"),
    [
        (True, "session"),
        (False, "batch"),
        pytest.param(True, "batch", marks=pytest.mark.slow),
        pytest.param(False, "session", marks=pytest.mark.slow),
    ],
)
def test_deferred_and_dense_train_alike(causal, scope):
    """200 steps of a real run: losses, and the flushed table."""
    changes = {
        "model__causal": causal,
        "model__dropout": 0.1,
        "sampling__scope": scope,
        "optimizer__learning_rate": 0.005,
        # Of the encoder, the same in both: with less, it follows signs of what is only rounding.
        "optimizer__epsilon": 1e-3,
        "loss__negatives": "random",
        "optimizer__clip_norm": 0.5,
        "optimizer__weight_decay": 0.01,
        "optimizer__warmup_steps": 10,
        "optimizer__decay": "linear",
    }
    found = {}
    for table in ("deferred", "dense"):
        config, *rest = make(optimizer__table=table, num_steps=200, **changes)
        hyper = step.hyperparameters(config, 200)
        state, losses_found = run(config, *rest, 200, hyper, MANY_IDS)
        by_rows = isinstance(state.optimizer["table"], RowAdam)
        assert by_rows == (table == "deferred")
        state = step.make_flush(config)(state, hyper)
        found[table] = losses_found, np.array(state.params["table"])
    np.testing.assert_allclose(found["deferred"][0], found["dense"][0], atol=1e-3)
    start = np.array(step.init_state(config, rest[0], MANY_IDS).params["table"])
    moved = np.linalg.norm(found["dense"][1] - start)
    assert np.linalg.norm(found["deferred"][1] - found["dense"][1]) < 1e-2 * moved
    assert moved > 1


def test_lazy_is_another_optimizer():
    config, *rest = make(optimizer__table="lazy")
    state, lazy = run(config, *rest, 30, num_ids=MANY_IDS)
    assert isinstance(state.optimizer["table"], RowAdam)
    flushed = step.make_flush(config)(
        jax.tree.map(jnp.copy, state), step.hyperparameters(config, 20)
    )
    np.testing.assert_array_equal(flushed.params["table"], state.params["table"])
    config, *rest = make(optimizer__table="dense")
    _, dense = run(config, *rest, 30, num_ids=MANY_IDS)
    assert np.abs(np.subtract(lazy, dense)).max() > 1e-4


@pytest.mark.parametrize("scope", ["session", "batch"])
def test_no_array_of_the_tables_size(scope):
    """Between two steps lies only what is donated, and a step needs as much for any table."""
    config, encoder, train_step = make(sampling__scope=scope)
    hyper, key = step.hyperparameters(config, 20), step.train_key(config)
    sizes = []
    for num_ids in (100_000, 300_000):
        state = jax.eval_shape(lambda n=num_ids: step.init_state(config, encoder, n))
        memory = train_step.lower(state, make_batch(), hyper, key).compile().memory_analysis()
        sizes.append(memory.temp_size_in_bytes)
        table_bytes = num_ids * config.model.width * 4
        assert memory.temp_size_in_bytes < 0.3 * table_bytes
        assert memory.alias_size_in_bytes >= 3 * table_bytes  # table, m and v in place
    assert sizes[0] == sizes[1]


def test_flushing_needs_no_other_table():
    config, encoder, _ = make()
    hyper = step.hyperparameters(config, 20)
    state = jax.eval_shape(lambda: step.init_state(config, encoder, 1_000_000))
    memory = step.make_flush(config).lower(state, hyper).compile().memory_analysis()
    table_bytes = 1_000_000 * config.model.width * 4
    assert memory.temp_size_in_bytes < 0.1 * table_bytes
    assert memory.alias_size_in_bytes >= 3 * table_bytes


def test_small_tables_and_whole_softmax_are_dense():
    for changes, num_ids, expected in (
        ({}, NUM_IDS, False),
        ({}, MANY_IDS, True),
        ({"optimizer__table": "dense"}, MANY_IDS, False),
        ({"sampling__scope": "full"}, MANY_IDS, False),
        ({"optimizer__table": "lazy"}, NUM_IDS, True),
    ):
        assert step.by_rows(make(**changes)[0], num_ids) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__table": "sparse"}, r"config\.optimizer\.table is 'sparse'; choose one of"),
        ({"optimizer__b1": 0.99, "optimizer__b2": 0.9}, r"b1 is 0\.99 .*b2 0\.9; deferred Adam"),
        (
            {"optimizer__weight_decay": 2e3},
            r"weight_decay is 2000\.0; times the learning rate 0\.001 it must be below 1",
        ),
        ({"optimizer__weight_decay": 200.0}, r"weights would decay faster than momentum"),
    ],
)
def test_what_deferred_adam_cannot_do_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        step.hyperparameters(make(**changes)[0], 20)
