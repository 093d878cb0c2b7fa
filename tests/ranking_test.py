import functools
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax import encoders, ranking, targets
from skipjax.errors import DataError

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
    run(program)


def run(program):
    """In a process of its own, as compiled for users."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_neither_batch_size_nor_chunk_size_changes_a_bit():
    """Scores of nearly equal rows, so that any other order of summation moves many ranks."""
    run("""
import importlib, jax, numpy as np
from skipjax import encoders, ranking
from skipjax.errors import DataError
rng = np.random.default_rng(0)
model = importlib.import_module("configs.common").get_config().model
encoder = encoders.make_encoder(model, 20)
params = encoders.init_params(jax.random.key(0), encoder, 3001, 128)
near = 0.02 * rng.normal(size=128) * (1 + 1e-7 * rng.normal(size=(3001, 128)))
params["table"] = jax.numpy.array(near, "float32")
lengths = rng.integers(1, 20, size=300)
valid = np.arange(19)[None, :] < lengths[:, None]
tracks = np.where(valid, rng.integers(2, 3001, size=(300, 19)), 0).astype(np.int32)
target = rng.integers(2, 3001, size=300).astype(np.int32)
others = rng.integers(2, 3001, size=(300, 100)).astype(np.int32)
def everything(batch_size, chunk_size):
    @jax.jit
    def some(tracks, valid, target, others):
        hidden = ranking.next_hidden(encoder, params, tracks, valid)
        # What the encoder sees is the same; what is scored differs more from session to session.
        apart = hidden + 0.1 * np.sin(np.arange(128.0, dtype=np.float32))
        table = params["table"]
        return (
            hidden,
            ranking.sampled_ranks(apart, table, target, others),
            ranking.full_ranks(apart, table, target, chunk_size=chunk_size),
            ranking.top_k(apart, table, 20, chunk_size=chunk_size),
        )
    parts = []
    for start in range(0, 300, batch_size):
        batch = [a[start : start + batch_size] for a in (tracks, valid, target, others)]
        missing = batch_size - len(batch[0])
        batch = [np.concatenate([a, np.repeat(a[:1], missing, axis=0)]) for a in batch]
        found = jax.tree.map(lambda a: np.asarray(a)[: batch_size - missing], some(*batch))
        parts.append(found)
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
expected = everything(300, 4096)
assert len(np.unique(expected[2])) > 100
for sizes in ((7, 512), (64, 1000), (100, 1536), (256, 100)):
    jax.tree.map(np.testing.assert_array_equal, everything(*sizes), expected)
""")


@functools.partial(jax.jit, static_argnums=(3, 4))
def _top_k(hidden, table, exclude, k, chunk_size):
    return ranking.top_k(hidden, table, k, chunk_size=chunk_size, exclude=exclude)


@st.composite
def catalogues(draw):
    """Scores that are small integers, so exact and with many ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_ids = draw(st.sampled_from([30, 1100]))  # few shapes, as each is compiled
    hidden = rng.integers(-2, 3, size=(5, 3)).astype(np.float32)
    table = rng.integers(-2, 3, size=(num_ids, 3)).astype(np.float32)
    exclude = rng.integers(0, 30, size=(5, draw(st.sampled_from([0, 7])))).astype(np.int32)
    return hidden, table, exclude


@settings(max_examples=20, deadline=None)
@given(catalogues(), st.sampled_from([3, 40]), st.sampled_from([600, 4096]))
def test_top_k_is_the_loop(catalogue, k, chunk_size):
    hidden, table, exclude = catalogue
    scores, ids = _top_k(*map(jnp.array, (hidden, table, exclude)), k, chunk_size)
    assert scores.shape == ids.shape == (len(hidden), k)
    for h, heard, found, best in zip(hidden, exclude, scores, ids, strict=True):
        expected = reference.top_k(table @ h, k, set(heard.tolist()))
        assert [(float(s), int(v)) for s, v in zip(found, best, strict=True)] == expected


@pytest.mark.parametrize("chunk_size", [512, 4096])
def test_top_k_never_gives_pad_mask_nan_or_a_track_twice(chunk_size):
    table = jnp.ones((600, 2)).at[:2].set(9.0).at[5].set(jnp.nan).at[7].set(-jnp.inf)
    _, ids = ranking.top_k(jnp.ones((1, 2)), table, 600, chunk_size=chunk_size)
    assert ids[0].tolist() == [v for v in range(2, 600) if v not in (5, 7)] + 4 * [0]


def test_the_first_of_the_top_has_rank_1(rng):
    hidden = jnp.array(rng.normal(size=(9, 16)), jnp.float32)
    table = jnp.array(rng.normal(size=(1300, 16)), jnp.float32)
    scores, ids = ranking.top_k(hidden, table, 50, chunk_size=512)
    np.testing.assert_allclose(scores[:, 7], (hidden * table[ids[:, 7]]).sum(axis=1), rtol=1e-5)
    for place in (0, 7, 49):
        ranks = ranking.full_ranks(hidden, table, ids[:, place], chunk_size=600)
        assert ranks.tolist() == 9 * [place + 1]


@pytest.mark.parametrize("precision", ranking.PRECISIONS)
def test_precision_is_that_of_the_inputs(precision, rng):
    """Integers of up to 8 bits are exact in bfloat16; sums of them need float32."""
    hidden = rng.integers(-255, 256, size=(6, 8)).astype(np.float32)
    table = rng.integers(-255, 256, size=(50, 8)).astype(np.float32)
    table[2] = rng.integers(128, 256, size=8)
    table[3] = table[2] + 0.25  # the same in bfloat16 alone
    target = np.full(6, 2, np.int32)
    others = np.tile(np.arange(3, 50, dtype=np.int32), (6, 1))
    used = table if precision == "float32" else np.round(table)
    expected = [reference.rank(used @ h, 2, range(2, 50)) for h in hidden]
    exact = [reference.rank(table @ h, 2, range(2, 50)) for h in hidden]
    assert (expected == exact) == (precision == "float32")
    hidden, table, target, others = map(jnp.array, (hidden, table, target, others))
    full = ranking.full_ranks(hidden, table, target, chunk_size=512, precision=precision)
    sampled = ranking.sampled_ranks(hidden, table, target, others, precision=precision)
    assert full.tolist() == sampled.tolist() == expected


def test_unknown_precision_is_named():
    hidden, table, target = jnp.ones((1, 2)), jnp.ones((4, 2)), jnp.array([2], jnp.int32)
    for rank in (
        lambda: ranking.full_ranks(hidden, table, target, chunk_size=1, precision="float16"),
        lambda: ranking.sampled_ranks(hidden, table, target, target[:, None], precision="float16"),
        lambda: ranking.top_k(hidden, table, 1, chunk_size=1, precision="float16"),
    ):
        with pytest.raises(ValueError, match="precision is 'float16'; choose one of"):
            rank()


def temporary_bytes(function, num_ids, batch_size=64):
    """Of ranking with a table of [num_ids, 16], compiled."""
    compiled = (
        jax.jit(function)
        .lower(
            jax.ShapeDtypeStruct((batch_size, 16), jnp.float32),
            jax.ShapeDtypeStruct((num_ids, 16), jnp.float32),
            jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            jax.ShapeDtypeStruct((batch_size, 1000), jnp.int32),
        )
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("full", lambda h, t, target, _: ranking.full_ranks(h, t, target, chunk_size=512)),
        ("top", lambda h, t, target, _: ranking.top_k(h, t, 10, chunk_size=512)),
    ],
)
def test_memory_is_that_of_a_chunk_whatever_the_catalogue(name, function):
    small, large = (temporary_bytes(function, n) for n in (20_000, 1_000_000))
    assert small == large < 10 * 4 * 64 * 512


def test_memory_of_sampled_ranking_is_that_of_a_few_sessions():
    small, large = (temporary_bytes(ranking.sampled_ranks, n) for n in (20_000, 1_000_000))
    assert small == large < 2 * 4 * 64 * 1008 + 4 * 4096 * 16 * 4  # ids, and rows with room to move
    assert temporary_bytes(ranking.sampled_ranks, 20_000, 1024) < 1024 * 1008 * 16  # of 66 MB rows


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


def test_k_below_one_is_refused(rng):
    hidden, table = scores(rng, False)
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        ranking.top_k(jnp.array(hidden), jnp.array(table), 0, chunk_size=4)


@pytest.mark.parametrize("causal", [True, False])
def test_next_hidden_reads_skips_with_a_skip_embedding(rng, causal):
    model = importlib.import_module("configs.tiny").get_config().model
    model.update(causal=causal, skip_embedding=True)
    encoder = encoders.make_encoder(model, 8)
    params = encoders.init_params(jax.random.key(0), encoder, 23, 16)
    tracks = jnp.array(rng.integers(2, 23, (3, 6)), jnp.int32)
    valid = jnp.arange(6)[None, :] < jnp.array([[6], [4], [2]])
    none = jnp.zeros_like(valid)

    def hidden(skipped):
        feedback = None if skipped is None else targets.feedback(skipped, valid)
        return np.array(ranking.next_hidden(encoder, params, tracks, valid, feedback))

    changed = (hidden(none) != hidden(none.at[1, 2].set(True))).any(axis=1)
    assert changed.tolist() == [False, True, False]
    np.testing.assert_array_equal(hidden(none), hidden(none.at[1, 5].set(True)))  # padding
    assert (hidden(none) != hidden(None)).any(axis=1).all()  # played is not unknown


@pytest.mark.parametrize("number", [23, -1, 2**31 + 5, 2**32 + 5])
@pytest.mark.parametrize("on_device", [False, True])
def test_ids_outside_the_table_are_refused(rng, number, on_device):
    """`table[ids]` takes the last row for 23 and for -1, and row 5 for 2^32 + 5."""
    hidden, table = map(jnp.array, scores(rng, False))
    good, bad = np.full(5, 7), np.array([7, 7, 7, number, 7])
    if on_device:  # where no int64 arrives
        if abs(number) >= 2**31:
            return
        good, bad = jnp.array(good, jnp.int32), jnp.array(bad, jnp.int32)
    model = importlib.import_module("configs.tiny").get_config().model
    model.width = 4
    encoder = encoders.make_encoder(model, 8)
    params = {**encoders.init_params(jax.random.key(0), encoder, 23, 4), "table": table}
    calls = {
        "target": [
            lambda ids: ranking.sampled_ranks(hidden, table, ids, good[:, None]),
            lambda ids: ranking.full_ranks(hidden, table, ids, chunk_size=512),
        ],
        "candidates": [lambda ids: ranking.sampled_ranks(hidden, table, good, ids[:, None])],
        "exclude": [
            lambda ids: ranking.top_k(hidden, table, 3, chunk_size=512, exclude=ids[:, None])
        ],
        "tracks": [
            lambda ids: ranking.next_hidden(encoder, params, ids[:, None], ids[:, None] > -9)
        ],
    }
    for name, functions in calls.items():
        for function in functions:
            function(good)
            message = rf"{name}\[3(, 0)?\] is {number}; there are 23, 0 to 22"
            with pytest.raises(DataError, match=message):
                function(bad)
