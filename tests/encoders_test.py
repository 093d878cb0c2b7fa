import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import encoders
from skipjax.errors import ConfigError

LENGTH = 6


def tiny(**changes):
    model = importlib.import_module("configs.tiny").get_config().model
    model.update(changes)
    encoder = encoders.make_encoder(model, 8)
    return encoder, encoders.init_params(jax.random.key(0), encoder, 20, model.width)


@functools.partial(jax.jit, static_argnames=("encoder", "deterministic"))
def apply(encoder, params, embedded, valid, **more):
    return encoder.apply({"params": params["encoder"]}, embedded, valid, **more)


@pytest.fixture
def embedded(rng):
    return jnp.array(rng.normal(size=(2, LENGTH, 16)), jnp.float32)


ALL = jnp.ones((2, LENGTH), bool)


@pytest.mark.parametrize("positions", ["from_end", "absolute"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_causality_by_gradient(embedded, pre_norm, positions):
    encoder, params = tiny(causal=True, pre_norm=pre_norm, positions=positions)
    gradient_of = jax.jit(jax.grad(lambda e, i: (apply(encoder, params, e, ALL)[0, i] ** 2).sum()))
    for i in range(LENGTH):
        gradient = gradient_of(embedded, i)
        seen = np.abs(np.array(gradient)).sum(axis=-1) > 0
        assert seen[0].tolist() == [j <= i for j in range(LENGTH)]
        assert not seen[1].any()  # nor another session


def test_bidirectional_sees_all_of_its_session(embedded):
    encoder, params = tiny(causal=False)
    gradient_of = jax.jit(jax.grad(lambda e: (apply(encoder, params, e, ALL)[0, 2] ** 2).sum()))
    gradient = gradient_of(embedded)
    seen = np.abs(np.array(gradient)).sum(axis=-1) > 0
    assert seen[0].all()
    assert not seen[1].any()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", ["from_end", "absolute"])
def test_padding_changes_nothing(embedded, causal, positions):
    encoder, params = tiny(causal=causal, positions=positions)
    valid = ALL.at[1, 4:].set(False)
    narrow = apply(encoder, params, embedded, valid)
    garbage = jnp.full((2, 2, 16), 7.0)
    wide = apply(
        encoder,
        params,
        jnp.concatenate([embedded.at[1, 4:].set(3.0), garbage], axis=1),
        jnp.concatenate([valid, jnp.zeros((2, 2), bool)], axis=1),
    )
    np.testing.assert_allclose(narrow[0], wide[0, :LENGTH], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(narrow[1, :4], wide[1, :4], rtol=1e-5, atol=1e-6)


def test_an_empty_session_is_finite(embedded):
    encoder, params = tiny(causal=True)
    hidden = apply(encoder, params, embedded, ALL.at[1].set(False))
    assert jnp.isfinite(hidden).all()


def test_positions_count_from_the_end():
    # One track's state, seen through positions alone: the last place is the same for any length.
    encoder, params = tiny(causal=True, num_layers=1)
    table = params["encoder"]["positions"]
    for n in (1, 4):
        valid = jnp.arange(LENGTH)[None] < n

        def last(table, valid=valid, n=n):
            changed = {"encoder": {**params["encoder"], "positions": table}}
            hidden = apply(encoder, changed, jnp.zeros((1, LENGTH, 16)), valid)
            return (hidden[0, n - 1] ** 2).sum()

        used = np.abs(np.array(jax.jit(jax.grad(last))(table))).sum(axis=-1) > 0
        assert used.tolist() == [i < n for i in range(5)]


def test_dropout_needs_a_key_and_changes_with_it(embedded):
    encoder, params = tiny(causal=True)
    first, again, other = (
        apply(encoder, params, embedded, ALL, deterministic=False, rngs={"dropout": key})
        for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("init_norms", [True, False])
@pytest.mark.parametrize(("stddev", "spread"), [(1.0, 0.02 / 3**0.5), (0.02, 0.0108)])
def test_initial_values_stay_inside_the_bound(stddev, spread, init_norms):
    _, params = tiny(
        init_stddev=stddev, init_bound=0.02, width=64, num_heads=2, init_norms=init_norms
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "norm" in name and not init_norms:
            assert (leaf == (1 if "scale" in name else 0)).all()
        else:
            assert 0 < jnp.abs(leaf).max() <= 0.02
    # A uniform distribution on ±0.02 has 0.02 / √3; a normal one cut at ±σ 0.54 σ.
    np.testing.assert_allclose(params["table"].std(), spread, rtol=0.05)


@pytest.mark.parametrize(("causal", "trained"), [(True, 5), (False, 6)])
def test_every_position_that_a_test_uses_is_trained(causal, trained, embedded):
    # Sessions of up to 8 tracks: training spans of 6, the last of which a causal input lacks.
    encoder, params = tiny(causal=causal)
    assert params["encoder"]["positions"].shape == (trained, 16)
    longest = jnp.zeros((1, 7 if causal else 8, 16))
    hidden = apply(encoder, params, longest, jnp.ones(longest.shape[:2], bool))
    assert jnp.isfinite(hidden).all()


# Four attention projections, two feed-forward ones and two norms a block; the head. With them go
# the 17 or 18 positions that training reaches.
D, F = 128, 128
PAPER = 2 * (4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D) + (D * D + D)
D, F = 16, 16
TINY = 17 * D + 2 * (4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D) + (D * D + D)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("sasrec", 128, 17 * 128 + PAPER),
        ("sasrec_skip", 128, 17 * 128 + PAPER),
        ("bert4rec", 128, 18 * 128 + PAPER),
        ("bert4rec_skip", 128, 18 * 128 + PAPER),
        ("tiny", 16, TINY),
    ],
)
def test_exact_parameter_counts(name, width, expected):
    config = importlib.import_module(f"configs.{name}").get_config()
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    params = jax.eval_shape(
        lambda: encoders.init_params(jax.random.key(0), encoder, 1002, config.model.width)
    )
    assert params["table"].shape == (1002, width)
    assert sum(p.size for p in jax.tree.leaves(params["encoder"])) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"width \(16\) must be divisible by config.model.num_heads \(3\)"),
        ({"activation": "tanh"}, "config.model.activation is 'tanh'; choose one of"),
        ({"positions": "sinus"}, "config.model.positions is 'sinus'; choose one of"),
    ],
)
def test_impossible_models_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**change)


@pytest.mark.parametrize("causal", [True, False])
def test_a_skip_embedding_is_read_where_it_stands(embedded, causal):
    encoder, params = tiny(causal=causal, skip_embedding=True)
    played = jnp.full(ALL.shape, 1)
    before = apply(encoder, params, embedded, ALL, feedback=played)
    after = apply(encoder, params, embedded, ALL, feedback=played.at[0, 3].set(2))
    changed = (np.array(before) != np.array(after)).any(axis=-1)
    assert changed[0].tolist() == [not causal or i >= 3 for i in range(LENGTH)]
    assert not changed[1].any()
    unknown = apply(encoder, params, embedded, ALL, feedback=jnp.zeros_like(played))
    np.testing.assert_array_equal(apply(encoder, params, embedded, ALL), unknown)
    assert (np.array(unknown) != np.array(before)).any()


def test_without_a_skip_embedding_feedback_is_not_read(embedded):
    encoder, params = tiny()
    assert "feedback" not in params["encoder"]
    told = apply(encoder, params, embedded, ALL, feedback=jnp.full(ALL.shape, 2))
    np.testing.assert_array_equal(told, apply(encoder, params, embedded, ALL))
