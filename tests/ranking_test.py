import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from skipjax import encoders, ranking

ROOT = Path(__file__).parent.parent


def scores(rng, ties):
    hidden = rng.normal(size=(5, 4))
    table = rng.normal(size=(23, 4))
    if ties:  # exact in any order of summation
        hidden, table = np.round(hidden), np.round(table)
    return hidden.astype(np.float32), table.astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 7, 22, 23, 100])
def test_full_ranks_are_the_loop(rng, chunk_size, ties):
    hidden, table = scores(rng, ties)
    target = np.array([2, 22, 9, 9, 17], np.int32)
    actual = ranking.full_ranks(
        jnp.array(hidden), jnp.array(table), jnp.array(target), chunk_size=chunk_size
    )
    expected = [
        reference.rank(table @ h, t, range(2, 23)) for h, t in zip(hidden, target, strict=True)
    ]
    assert actual.tolist() == expected


@pytest.mark.parametrize("ties", [False, True])
def test_sampled_ranks_are_the_loop(rng, ties):
    hidden, table = scores(rng, ties)
    target = np.array([2, 22, 9, 9, 17], np.int32)
    candidates = np.array([rng.choice(np.delete(np.arange(2, 23), t - 2), 8) for t in target])
    actual = ranking.sampled_ranks(*map(jnp.array, (hidden, table, target, candidates)))
    expected = [
        reference.rank(table @ h, t, c) for h, t, c in zip(hidden, target, candidates, strict=True)
    ]
    assert actual.tolist() == expected


def test_ties_and_nan_count_against_the_target():
    table = jnp.ones((6, 2)).at[5].set(jnp.nan)
    target = jnp.array([2], jnp.int32)
    others = jnp.array([[3, 4, 5]], jnp.int32)
    hidden = jnp.ones((1, 2))
    assert ranking.full_ranks(hidden, table, target, chunk_size=4).tolist() == [4]
    assert ranking.sampled_ranks(hidden, table, target, others).tolist() == [4]
    assert ranking.full_ranks(hidden * jnp.nan, table, target, chunk_size=4).tolist() == [4]


@pytest.mark.parametrize("case", ["all the same", "in pairs"])
def test_equal_rows_tie_whatever_the_order_of_summation(case, rng):
    """In a process of its own, as compiled for users: sums of 128 floats depend on their order."""
    program = f"""
import jax, numpy as np
from skipjax import ranking
rng = np.random.default_rng(0)
pairs = {case == "in pairs"}
hidden = rng.normal(size=(96, 128)).astype(np.float32)
table = np.repeat(rng.normal(size=(500 if pairs else 1, 128)), 2 if pairs else 1000, axis=0)
table = table.astype(np.float32)
target = rng.integers(2, 1000, size=96).astype(np.int32)
twin = target ^ 1
real = np.arange(2, 1000)
others = np.stack([rng.permutation(real[(real | 1) != (t | 1)])[:300] for t in target])
others[:, 7] = twin
scores = hidden.astype(float) @ table.T.astype(float)
bar = np.take_along_axis(scores, target[:, None], 1)
above = scores > bar + 1e-4 * (1 if pairs else 1e9)
for size in (7, 64, 96, 512, 1000, 4000):
    full = jax.jit(lambda *a: ranking.full_ranks(*a, chunk_size=size))(hidden, table, target)
    expected = 1 + above[:, 2:].sum(1) + (1 if pairs else 997)
    np.testing.assert_array_equal(full, expected)
sampled = jax.jit(ranking.sampled_ranks)(hidden, table, target, others.astype(np.int32))
expected = 1 + np.take_along_axis(above, others, 1).sum(1) + (1 if pairs else 300)
np.testing.assert_array_equal(sampled, expected)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_no_array_of_sessions_by_tracks():
    compiled = (
        jax.jit(lambda *a: ranking.full_ranks(*a, chunk_size=512))
        .lower(
            jax.ShapeDtypeStruct((64, 16), jnp.float32),
            jax.ShapeDtypeStruct((100_000, 16), jnp.float32),
            jax.ShapeDtypeStruct((64,), jnp.int32),
        )
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * 64 * 512 * 4


@pytest.mark.parametrize("causal", [True, False])
def test_next_hidden_ignores_padding_and_neighbours(causal, rng):
    model = importlib.import_module("configs.tiny").get_config().model
    model.causal = causal
    encoder = encoders.make_encoder(model, 8)
    params = encoders.init_params(jax.random.key(0), encoder, 30, model.width)
    tracks = jnp.array(rng.integers(2, 30, size=(1, 4)), jnp.int32)
    alone = ranking.next_hidden(encoder, params, tracks, tracks > 0)
    padded = jnp.zeros((3, 7), jnp.int32).at[0, :4].set(tracks[0]).at[1].set(5)
    among = ranking.next_hidden(encoder, params, padded, padded > 0)
    np.testing.assert_allclose(alone[0], among[0], rtol=1e-5, atol=1e-7)
    changed = padded.at[0, 3].set(tracks[0, 3] % 28 + 2)
    assert not np.allclose(
        alone[0], ranking.next_hidden(encoder, params, changed, padded > 0)[0], rtol=1e-3
    )
