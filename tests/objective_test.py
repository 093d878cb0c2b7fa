"""The whole loss against loops, and the invariances that DESIGN promises."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from skipjax import encoders, objective, sampling, targets
from skipjax.data import packing
from skipjax.errors import ConfigError
from skipjax.ids import MASK_ID

NUM_IDS = 30
WEIGHTS = objective.Weights(jnp.float32(0.5), jnp.float32(0.5), jnp.float32(0.1))


def key():
    """The same key each time, made anew because a key must not be used twice."""
    return jax.random.key(7)


def cloze_key():
    """The one that the objective draws its MASKs with."""
    return jax.random.split(jax.random.split(key())[1])[1]


@functools.cache
def make(**changes):
    """A tiny model without dropout, and its jitted objective."""
    config = importlib.import_module("configs.tiny").get_config()
    config.model.dropout = 0.0
    config.model.num_layers = 1
    config.model.init_bound = 0.5  # so that cosines and logits differ
    config.sampling.num_negatives = 9
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section][field] = value
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    params = encoders.init_params(jax.random.key(1), encoder, NUM_IDS, config.model.width)
    raw = objective.Objective(config, encoder)
    static = ("deterministic", "per_position")
    return config, encoder, params, jax.jit(raw.__call__, static_argnames=static)


@functools.cache
def both(compute):
    """The jitted values of each position, and their means, which compile together sooner."""

    def values(params, batch):
        per_position = compute(params, batch, WEIGHTS, key(), per_position=True)
        return per_position, compute(params, batch, WEIGHTS, key())

    return jax.jit(values)


@functools.cache
def gradients_of(compute, *names):
    """The jitted values and gradients of some of the objective's values."""

    def values(params, batch):
        found, gradient = jax.vjp(lambda p: compute(p, batch, WEIGHTS, key()), params)
        of = [{name: jnp.float32(name == wanted) for name in found} for wanted in names]
        return [(found[name], *gradient(one)) for name, one in zip(names, of, strict=True)]

    return jax.jit(values)


def encode(encoder, params, tracks, valid, feedback):
    apply = jax.jit(encoder.apply)
    return apply({"params": params["encoder"]}, params["table"][tracks], valid, feedback=feedback)


def make_batch(rng, lengths=(8, 5, 2, 0), width=8, skip=0.5):
    valid = np.arange(width)[None] < np.array(lengths)[:, None]
    tracks = np.where(valid, rng.integers(2, NUM_IDS, size=valid.shape), 0).astype(np.int32)
    skipped = (rng.random(valid.shape) < skip) & valid
    return {"tracks": tracks, "skipped": skipped, "valid": valid}


CHOICES = [
    {},
    {"loss__context": "hidden"},
    {"loss__anchors": "played"},
    {"loss__anchors": "played", "loss__context": "hidden"},
    {"loss__negatives": "future"},
    {"loss__negatives": "future", "loss__context": "hidden"},
    {"loss__negatives": "shifted"},
    {"loss__negatives": "random"},
    {"loss__polarity": "played"},
    {"loss__target": "next_played"},
    {"loss__negatives": "batch"},
    {"loss__negatives": "batch", "loss__context": "hidden", "loss__anchors": "played"},
    {"loss__skipped_target": "not_to_recommend", "loss__skipped_weight": 0.3},
    {"loss__skipped_weight": 0.0},
    {"loss__skipped_negatives": True},
    {"model__skip_embedding": True},
    {"sampling__scope": "batch"},
    {
        "sampling__scope": "batch",
        "loss__skipped_target": "not_to_recommend",
        "loss__skipped_negatives": True,
        "loss__polarity": "played",
    },
]


MANY = (8, 8, 7, 6, 5, 2, 0)
OTHERS = ((8, 8, 8, 7, 7, 5, 4, 3, 3, 2), (5, 2))
BATCH_SCOPE, HIDDEN = {"sampling__scope": "batch"}, {"loss__context": "hidden"}
OTHER_WAYS = {
    "loss__negatives": "batch",
    "loss__skipped_target": "not_to_recommend",
    "loss__skipped_weight": 0.3,
    "loss__skipped_negatives": True,
    "model__skip_embedding": True,
}
PACKINGS = [(MANY, {}), (MANY, BATCH_SCOPE)]  # the others compile for a minute
PACKINGS += [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in [
        (MANY, HIDDEN),
        (MANY, OTHER_WAYS),
        (MANY, {**OTHER_WAYS, **BATCH_SCOPE}),
        *itertools.product(OTHERS, ({}, BATCH_SCOPE, HIDDEN)),
    ]
]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("lengths", "choice"), PACKINGS, ids=str)
def test_packing_changes_no_loss_and_no_gradient(rng, causal, lengths, choice, monkeypatch):
    monkeypatch.setattr(packing, "_SMALLEST_PART", 1)
    *_, params, compute = make(model__causal=causal, **choice)
    batch = make_batch(rng, lengths)
    bounds = packing.packing_of(np.array([n for n in lengths if n]), len(lengths), 8)
    packed = {**batch, "packing": bounds}
    assert bounds.num_tokens == sum(lengths)
    assert len(bounds.lengths) == min(4, len(lengths))

    @jax.jit
    def values(params, batch):
        def loss(params):
            per_position = compute(params, batch, WEIGHTS, key(), per_position=True)
            return compute(params, batch, WEIGHTS, key())["loss"], per_position

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, plain), expected = values(params, batch)
    (packed_value, of_packed), actual = values(params, packed)
    for name, found in of_packed.items():
        np.testing.assert_allclose(found, plain[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(packed_value, value, rtol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(map(str, c.values())) or "paper")
def test_objective_is_the_loop(rng, causal, choice):
    config, encoder, params, compute = make(model__causal=causal, **choice)
    batch = make_batch(rng)
    softmax_key, contrast_key = jax.random.split(jax.random.split(key())[0])
    table = np.array(params["table"], float)
    if config.sampling.scope == "session":
        negatives = np.array(sampling.session_tracks(softmax_key, jnp.arange(4), 9, NUM_IDS))
    else:
        drawn = np.array(sampling.uniform_tracks(softmax_key, (9,), NUM_IDS))
        negatives = np.broadcast_to(drawn, (4, 9))
    tracks, valid = jnp.array(batch["tracks"]), jnp.array(batch["valid"])
    feedback = np.where(batch["valid"], 1 + batch["skipped"], 0)
    if causal:
        masked = None
        encoded = encode(encoder, params, tracks[:, :-1], valid[:, 1:], feedback[:, :-1])
    else:
        masked = np.array(targets.cloze(cloze_key(), valid, config.loss.cloze_fraction))
        inputs = jnp.where(jnp.array(masked), MASK_ID, tracks)
        encoded = encode(encoder, params, inputs, valid, np.where(masked, 0, feedback))

    random = targets.position_draws(
        lambda key: sampling.uniform_tracks(key, (), NUM_IDS), contrast_key, tracks.shape
    )
    # Session b takes what is skipped in b + 1; the fourth is empty, so the third takes the first's.
    contrast = {
        "shifted": [batch["tracks"][b][batch["skipped"][b]] for b in (1, 2, 0, 3)],
        "random": [np.array(random[b])[batch["skipped"][b]] for b in range(4)],
        "batch": [
            [
                batch["tracks"][other, j]
                for other in range(4)
                for j in range(1, 8)
                if other != b and batch["valid"][other, j] and not batch["skipped"][other, j]
            ]
            for b in range(4)
        ],
    }.get(config.loss.negatives, [None] * 4)

    per_position, reduced = both(compute)(params, batch)
    counted, weights = {"nll": [], "infonce": []}, {"nll": [], "infonce": []}
    for b, n in enumerate(batch["valid"].sum(axis=1)):
        at = list(range(1, n)) if causal else np.flatnonzero(masked[b]).tolist()
        found = reference.session_losses(
            {i: np.array(encoded[b, i - 1 if causal else i], float) for i in at},
            table,
            batch["tracks"][b, :n].tolist(),
            batch["skipped"][b, :n],
            at=at,
            masked=None if causal else set(at),
            negatives=negatives[b],
            contrast=contrast[b],
            kinds=config.loss,
            temperature=0.1,
        )
        for name, values in zip(counted, found, strict=True):
            after_first = causal or (name == "infonce" and config.loss.context == "track")
            wanted = np.zeros(per_position[name].shape[1])
            for i, value in values.items():
                wanted[i - 1 if after_first else at.index(i)] = value
            np.testing.assert_allclose(per_position[name][b], wanted, rtol=2e-4, atol=1e-6)
            counted[name] += values.values()
            weights[name] += [
                config.loss.skipped_weight
                if name == "nll" and batch["skipped"][b, i] == (config.loss.polarity == "skipped")
                else 1.0
                for i in values
            ]

    for name, values in counted.items():
        assert values
        expected = np.average(values, weights=weights[name])
        np.testing.assert_allclose(reduced[name], expected, rtol=2e-4)
    np.testing.assert_allclose(
        reduced["loss"], 0.5 * reduced["infonce"] + 0.5 * reduced["nll"], rtol=1e-6
    )


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_on_in_training(rng, rate):
    # The full softmax of a causal model draws nothing else.
    *_, params, compute = make(model__dropout=rate, sampling__scope="full")
    batch = make_batch(rng)
    one, other = (
        float(compute(params, batch, WEIGHTS, jax.random.key(seed))["nll"]) for seed in (1, 2)
    )
    assert (one != other) == (rate > 0)
    quiet = float(compute(params, batch, WEIGHTS, key(), deterministic=True)["nll"])
    assert (quiet == one) == (rate == 0)


@pytest.mark.parametrize("negatives", ["shifted", "batch"])
def test_some_negatives_need_another_session(negatives):
    with pytest.raises(ConfigError, match=rf"'{negatives}', which needs .*batch_size is 1"):
        make(loss__negatives=negatives, train__batch_size=1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", ["track", "hidden"])
@pytest.mark.parametrize("negatives", ["own", "shifted"])
def test_skips_of_one_session_never_reach_another(rng, causal, context, negatives):
    changes = {"model__causal": causal, "loss__context": context, "loss__negatives": negatives}
    *_, params, compute = make(**changes)
    batch = make_batch(rng, lengths=(8, 8, 8, 8))
    other = {**batch, "skipped": batch["skipped"].copy()}
    other["skipped"][1] = ~other["skipped"][1]
    before = compute(params, batch, WEIGHTS, key(), per_position=True)
    after = compute(params, other, WEIGHTS, key(), per_position=True)
    for name in ("nll", "infonce"):
        same = (np.array(before[name]) == np.array(after[name])).all(axis=1)
        if negatives == "shifted" and name == "infonce":
            assert not same[0]  # the control: here session 0 is pushed from session 1's skips
            same[0] = True
        assert same[[0, 2, 3]].all()
    assert not (np.array(before["infonce"][1]) == np.array(after["infonce"][1])).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", ["track", "hidden"])
def test_padding_changes_no_loss(rng, causal, context):
    *_, params, compute = make(model__causal=causal, loss__context=context)
    narrow = make_batch(rng, lengths=(8, 5, 3, 0))
    wide = {
        name: np.pad(value, ((0, 0), (0, 4)), constant_values=0) for name, value in narrow.items()
    }
    before = compute(params, narrow, WEIGHTS, key())
    after = compute(params, wide, WEIGHTS, key())
    for name in ("loss", "nll", "infonce"):
        np.testing.assert_allclose(before[name], after[name], rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", ["track", "hidden"])
@pytest.mark.parametrize("case", ["no skips", "skips are neighbours", "all skipped", "empty"])
def test_no_usable_skip_is_zero_with_zero_gradients(rng, causal, context, case):
    *_, params, compute = make(model__causal=causal, loss__context=context)
    batch = make_batch(rng, lengths=(8, 5, 2, 0), skip=0.0)
    if case == "skips are neighbours":  # every track is the same, so every skip equals t_i and p
        batch["tracks"] = np.where(batch["valid"], 5, 0).astype(np.int32)
        batch["skipped"] = batch["valid"] & (np.arange(8) % 2 == 0)
    elif case == "all skipped":
        batch["skipped"] = batch["valid"]
    elif case == "empty":
        batch = make_batch(rng, lengths=(0, 0, 0, 0))

    (value, gradients), (_, of_loss) = gradients_of(compute, "infonce", "loss")(params, batch)
    assert value == 0
    assert all((np.array(g) == 0).all() for g in jax.tree.leaves(gradients))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(of_loss))


def test_inverted_labels_exchange_pull_and_push():
    # Two tracks equally far from the anchor; one is played, one skipped.
    right, wrong = (make(loss__polarity=polarity) for polarity in ("skipped", "played"))
    params = right[2]
    width = params["table"].shape[1]
    table = jnp.zeros((NUM_IDS, width)).at[2, 0].set(1.0)
    table = table.at[3, :2].set(jnp.array([1.0, 1.0])).at[4, :2].set(jnp.array([1.0, -1.0]))
    params = {**params, "table": table}
    valid = np.ones((1, 3), bool)
    batch = {
        "tracks": np.array([[2, 3, 4]], np.int32),
        "skipped": np.array([[False, False, True]]),
        "valid": valid,
    }

    def pull(compute):
        return jax.grad(
            lambda t: compute({**params, "table": t}, batch, WEIGHTS, key(), per_position=True)[
                "infonce"
            ][0, 0]
        )(table)[2, 1]

    assert pull(right[3]) < -0.1
    np.testing.assert_allclose(pull(right[3]), -pull(wrong[3]), rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_full_softmax_agrees_with_sampling_everything(rng, causal):
    _, encoder, params, compute = make(model__causal=causal, sampling__scope="full")
    batch = make_batch(rng, lengths=(8, 6, 0, 0))
    found = np.array(compute(params, batch, WEIGHTS, key(), per_position=True)["nll"])
    table = np.array(params["table"], float)
    tracks, valid = jnp.array(batch["tracks"]), jnp.array(batch["valid"])
    if causal:
        hidden = encode(encoder, params, tracks[:, :-1], valid[:, 1:], None)
        places = [(b, i, i - 1) for b, n in ((0, 8), (1, 6)) for i in range(1, n)]
    else:
        masked = targets.cloze(cloze_key(), valid, 0.2)
        inputs = jnp.where(masked, MASK_ID, tracks)
        hidden = encode(encoder, params, inputs, valid, None)
        places = [(b, i, i) for b in (0, 1) for i in np.flatnonzero(np.array(masked[b]))]
    real = np.arange(NUM_IDS) >= 2
    expected = [
        reference.softmax_nll(table @ np.array(hidden[b, j], float), batch["tracks"][b, i], real)
        for b, i, j in places
    ]
    np.testing.assert_allclose(np.sort(found[found != 0]), np.sort(expected), rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss__context", "tracks"),
        ("loss__anchors", "skipped"),
        ("loss__negatives", "others"),
        ("loss__polarity", "inverted"),
        ("loss__target", "last"),
        ("loss__skipped_target", "forget"),
        ("sampling__scope", "global"),
    ],
)
def test_unknown_choices_are_named(field, value):
    name = field.replace("__", r"\.")
    with pytest.raises(ConfigError, match=rf"config\.{name} is '{value}'; choose one of"):
        make(**{field: value})


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("target", ["recommend", "not_to_recommend"])
def test_a_skip_embedding_never_tells_of_the_target(rng, causal, target):
    """Whether a target was skipped is no part of what its hidden state is made of."""
    *_, params, compute = make(
        model__causal=causal, model__skip_embedding=True, loss__skipped_target=target
    )
    batch = make_batch(rng, lengths=(8, 6, 5, 4), skip=0.0)
    masked = np.array(targets.cloze(cloze_key(), jnp.array(batch["valid"]), 0.2))
    other = {**batch, "skipped": batch["skipped"].copy()}
    last = batch["valid"].sum(axis=1) - 1  # behind MASK, and what nothing in a causal model reads
    for b in range(4):
        other["skipped"][b, last[b] if causal else np.flatnonzero(masked[b])] = True
    before, after = (
        np.array(compute(params, some, WEIGHTS, key(), per_position=True)["nll"])
        for some in (batch, other)
    )
    if target == "recommend":
        np.testing.assert_array_equal(before, after)
        return
    # -log p became -log(1 - p) of the same p.
    changed = before != after
    assert changed.sum() == (4 if causal else masked.sum())
    np.testing.assert_allclose(np.exp(-before[changed]) + np.exp(-after[changed]), 1, rtol=1e-5)
