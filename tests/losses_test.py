import ast
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax import losses

SEEDS = st.integers(0, 2**32 - 1)


infonce_positions = jax.jit(functools.partial(losses.skip_infonce, reduce_fn=None))
infonce_gradients = jax.jit(jax.value_and_grad(losses.skip_infonce, argnums=(0, 1, 2)))


def finite_gradient(function, *args):
    gradients = jax.grad(function, argnums=tuple(range(len(args))))(*args)
    return all(bool(jnp.isfinite(g).all()) for g in gradients)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 5]), st.floats(0.1, 30))
def test_sampled_softmax_is_the_loop(seed, k, scale):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(3, 4, 1 + k)) * scale).astype(np.float32)
    where = rng.random((3, 4, 1 + k)) < 0.6
    expected = [
        [reference.softmax_nll(logits[i, j], 0, where[i, j]) for j in range(4)] for i in range(3)
    ]
    actual = losses.sampled_softmax_nll(jnp.array(logits), where=jnp.array(where), reduce_fn=None)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    counted = where[..., 0]
    mean = np.array(expected)[counted].mean() if counted.any() else 0.0
    actual = losses.sampled_softmax_nll(jnp.array(logits), where=jnp.array(where))
    np.testing.assert_allclose(actual, mean, rtol=1e-5, atol=1e-5)
    actual = losses.sampled_softmax_nll(
        jnp.array(logits), where=jnp.array(where), reduce_fn=jnp.sum
    )
    np.testing.assert_allclose(actual, np.sum(expected), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([2, 9]))
def test_softmax_is_the_loop(seed, v):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, v)).astype(np.float32)
    targets = rng.integers(v, size=(2, 3))
    where = rng.random((2, 3, v)) < 0.7
    expected = [
        [reference.softmax_nll(logits[i, j], targets[i, j], where[i, j]) for j in range(3)]
        for i in range(2)
    ]
    actual = losses.softmax_nll(
        jnp.array(logits), jnp.array(targets), where=jnp.array(where), reduce_fn=None
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_sampled_softmax_with_all_negatives_is_the_full_softmax(rng):
    logits = jnp.array(rng.normal(size=(5, 8)), jnp.float32)
    full = losses.softmax_nll(logits, jnp.full(5, 3), reduce_fn=None)
    order = jnp.array([3, 0, 1, 2, 4, 5, 6, 7])
    sampled = losses.sampled_softmax_nll(logits[:, order], reduce_fn=None)
    np.testing.assert_allclose(full, sampled, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 4]), st.booleans(), st.sampled_from([0.05, 0.1, 1.0]))
def test_infonce_is_the_loop(seed, n, shared, temperature):
    rng = np.random.default_rng(seed)
    context, positive = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
    negatives = rng.normal(size=(3, n, 6) if shared else (3, 4, n, 6)).astype(np.float32)
    context[0, 0] = positive[0, 1] = negatives[0, ..., 0, :] = 0  # cosine 0, not NaN
    where = rng.random((3, 4)) < 0.8
    where_negatives = rng.random((3, 4, n)) < 0.6
    expected = np.zeros((3, 4))
    for i in range(3):
        for j in range(4):
            if where[i, j]:
                expected[i, j] = reference.infonce(
                    context[i, j].astype(float),
                    positive[i, j].astype(float),
                    (negatives[i] if shared else negatives[i, j]).astype(float),
                    where_negatives[i, j],
                    temperature,
                )
    masks = {"where_negatives": jnp.array(where_negatives), "where": jnp.array(where)}
    arrays = [jnp.array(x) for x in (context, positive, negatives)]
    actual = infonce_positions(*arrays, temperature=temperature, **masks)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    counted = where & where_negatives.any(-1)
    mean = expected[counted].mean() if counted.any() else 0.0
    actual, gradients = infonce_gradients(*arrays, temperature=temperature, **masks)
    np.testing.assert_allclose(actual, mean, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(g).all() for g in gradients)


def test_infonce_by_hand():
    # cos(c, p) = 1, cos(c, n) = 0, τ = 1: -log(e / (e + 1)).
    c, n = jnp.array([2.0, 0.0]), jnp.array([[0.0, 3.0]])
    expected = -np.log(np.e / (np.e + 1))
    np.testing.assert_allclose(losses.skip_infonce(c, 5 * c, n, temperature=1.0), expected, 1e-6)


def test_one_context_per_session_takes_shared_negatives(rng):
    context, positive, negatives = (
        jnp.array(rng.normal(size=s), jnp.float32) for s in [(4, 8), (4, 8), (3, 8)]
    )
    shared = losses.skip_infonce(context, positive, negatives)
    repeated = jnp.broadcast_to(negatives, (4, 3, 8))
    np.testing.assert_allclose(shared, losses.skip_infonce(context, positive, repeated), rtol=1e-6)


def test_inverted_skips_turn_the_gradient_round():
    # Two tracks on either side of the context: pulling one and pushing the other, or vice versa.
    context = jnp.array([1.0, 0.0])
    a, b = jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])
    right = jax.grad(lambda c: losses.skip_infonce(c, a, b[None]))(context)
    wrong = jax.grad(lambda c: losses.skip_infonce(c, b, a[None]))(context)
    assert right[1] < -0.1
    np.testing.assert_allclose(right, -wrong, rtol=1e-6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
def test_masked_places_change_nothing(garbage, rng):
    logits = rng.normal(size=(3, 5)).astype(np.float32)
    where = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
    dirty = np.where(where, logits, garbage).astype(np.float32)

    def loss(x):
        return losses.sampled_softmax_nll(x, where=jnp.array(where))

    np.testing.assert_array_equal(loss(jnp.array(logits)), loss(jnp.array(dirty)))
    gradient = np.array(jax.grad(loss)(jnp.array(dirty)))
    assert np.isfinite(gradient).all()
    assert (gradient[~where] == 0).all()
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("shared", [True, False])
def test_masked_vectors_change_nothing(garbage, shared, rng):
    context, positive = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    negatives = rng.normal(size=(2, 5, 4) if shared else (2, 3, 5, 4)).astype(np.float32)
    where = np.array([[1, 1, 0], [1, 0, 1]], bool)
    where_negatives = np.broadcast_to(np.array([1, 1, 0, 1, 0], bool), (2, 3, 5)).copy()
    where_negatives[0, 0] = False  # a position without negatives does not count, either
    masks = {"where": jnp.array(where), "where_negatives": jnp.array(where_negatives)}
    clean = [jnp.array(x) for x in (context, positive, negatives)]
    counted = where & where_negatives.any(-1)
    for vectors in (context, positive):
        vectors[~counted] = garbage
    negatives[..., [2, 4], :] = garbage
    dirty = [jnp.array(x) for x in (context, positive, negatives)]
    value, gradients = infonce_gradients(*dirty, **masks)
    expected, expected_gradients = infonce_gradients(*clean, **masks)
    np.testing.assert_array_equal(value, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_counted_is_zero_with_zero_gradients(rng):
    logits = jnp.array(rng.normal(size=(3, 5)), jnp.float32)
    nothing = jnp.zeros((3, 5), bool)
    value, gradient = jax.value_and_grad(lambda x: losses.sampled_softmax_nll(x, where=nothing))(
        logits
    )
    assert value == 0
    assert (gradient == 0).all()
    vectors = [jnp.array(rng.normal(size=s), jnp.float32) for s in [(3, 2), (3, 2), (3, 4, 2)]]
    value, gradients = jax.value_and_grad(
        lambda *a: losses.skip_infonce(*a, where_negatives=jnp.zeros((3, 4), bool)), (0, 1, 2)
    )(*vectors)
    assert value == 0
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e-12, 1e-6, 1e18])
def test_vectors_of_any_length_have_finite_gradients(size):
    x = jnp.full((2, 3), size, jnp.float32)
    negatives = jnp.full((2, 1, 3), size, jnp.float32)
    assert jnp.isfinite(losses.skip_infonce(x, x, negatives))
    assert finite_gradient(losses.skip_infonce, x, x, negatives)


def test_half_precision_is_computed_in_float32(rng):
    logits = jnp.array(rng.normal(size=(3, 5)), jnp.bfloat16)
    value = losses.sampled_softmax_nll(logits)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, losses.sampled_softmax_nll(logits.astype(jnp.float32)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.softmax_nll(jnp.ones((2, 3)), jnp.ones(3, int)), r"\(3,\).*\(2, 3\)"),
        (
            lambda: losses.sampled_softmax_nll(jnp.ones((2, 3)), where=jnp.ones((5, 2), bool)),
            r"\(5, 2\) does not broadcast to \(2, 3\)",
        ),
        (
            lambda: losses.sampled_softmax_nll(jnp.ones((2, 3)), where=jnp.ones((2, 3))),
            "must be bool, not float32",
        ),
        (
            lambda: losses.skip_infonce(jnp.ones((2, 3)), jnp.ones((3, 3)), jnp.ones((2, 1, 3))),
            r"positive \(3, 3\).*context \(2, 3\)",
        ),
        (
            lambda: losses.skip_infonce(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((2, 1, 4))),
            r"negatives \(2, 1, 4\)",
        ),
        (
            lambda: losses.skip_infonce(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((3, 1, 3))),
            r"negatives \(3, 1, 3\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_losses_import_nothing_of_skipjax():
    tree = ast.parse(inspect.getsource(losses))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} == {"collections", "jax"}


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 5]), st.floats(0.1, 60))
def test_not_to_recommend_is_the_loop(seed, k, scale):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(6, 1 + k)) * scale).astype(np.float32)
    where = rng.random((6, 1 + k)) < 0.7
    expected = []
    for row, kept in zip(logits.astype(float), where, strict=True):
        others = row[1:][kept[1:]]
        if not kept[0] or not len(others):
            expected.append(0.0)
            continue
        total = np.logaddexp.reduce([row[0], *others])
        # -log(1 - p), without the difference of two nearly equal numbers
        expected.append(total - np.logaddexp.reduce(others))
    actual = losses.not_to_recommend_nll(jnp.array(logits), where=jnp.array(where), reduce_fn=None)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert finite_gradient(
        lambda x: losses.not_to_recommend_nll(x, where=jnp.array(where)), jnp.array(logits)
    )
    counted = where[:, 0] & where[:, 1:].any(axis=1)
    mean = np.mean(np.array(expected)[counted]) if counted.any() else 0.0
    actual = losses.not_to_recommend_nll(jnp.array(logits), where=jnp.array(where))
    np.testing.assert_allclose(actual, mean, rtol=1e-4, atol=1e-5)


def test_not_to_recommend_pushes_where_recommending_pulls():
    logits = jnp.array([[1.0, 0.5, -0.5]])
    pull = jax.grad(losses.sampled_softmax_nll)(logits)[0]
    push = jax.grad(losses.not_to_recommend_nll)(logits)[0]
    assert pull[0] < 0 < push[0]
    assert (pull[1:] > 0).all()
    assert (push[1:] < 0).all()
