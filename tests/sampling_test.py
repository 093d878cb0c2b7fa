import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import sampling


def test_uniform_tracks_are_real_and_uniform():
    drawn = np.array(sampling.uniform_tracks(jax.random.key(0), (200, 500), 12))
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert counts[:2].sum() == 0
    # 10,000 expected of each of ten tracks, standard deviation 95.
    assert np.abs(counts[2:] - 10_000).max() < 5 * 95


@pytest.mark.parametrize("shared", [True, False])
def test_outside_session_is_the_loop(shared, rng):
    tracks = rng.integers(2, 10, size=(4, 6))
    valid = rng.random((4, 6)) < 0.7
    negatives = rng.integers(2, 10, size=(5,) if shared else (4, 5))
    actual = sampling.outside_session(jnp.array(negatives), jnp.array(tracks), jnp.array(valid))
    for b in range(4):
        own = set(tracks[b][valid[b]].tolist())
        row = negatives if shared else negatives[b]
        assert actual[b].tolist() == [int(v) not in own for v in row]


def test_contrast_tracks():
    tracks = jnp.array([[2, 3], [4, 5], [6, 7]])
    skipped = jnp.array([[True, False], [False, True], [True, True]])
    valid = jnp.array([[True, True], [True, True], [True, False]])
    random = jnp.array([[20, 21], [22, 23], [24, 25]])

    def pushed(kind):
        ids, counts = sampling.contrast_tracks(kind, tracks, skipped, valid, random)
        return [
            row[keep].tolist() for row, keep in zip(np.array(ids), np.array(counts), strict=True)
        ]

    assert pushed("own") == pushed("future") == [[2], [5], [6]]
    assert pushed("shifted") == [[5], [6], [2]]
    assert pushed("random") == [[20], [23], [24]]


def test_shifted_skips_come_from_another_real_session():
    tracks = jnp.array([[2, 3], [4, 5], [0, 0]])
    valid = tracks > 0
    skipped = jnp.array([[True, False], [False, True], [False, False]])
    ids, counts = sampling.contrast_tracks("shifted", tracks, skipped, valid, tracks)
    assert ids[:2].tolist() == [[4, 5], [2, 3]]
    assert counts[:2].tolist() == [[False, True], [True, False]]
    alone = sampling.contrast_tracks("shifted", tracks[1:], skipped[1:], valid[1:], tracks[1:])
    assert not alone[1][0].any()


@pytest.mark.parametrize("kind", ["own", "future", "shifted", "random"])
def test_contrast_mask_is_the_loop(kind, rng):
    ids = rng.integers(2, 8, size=(3, 5))
    counts = rng.random((3, 5)) < 0.6
    at = np.broadcast_to(np.arange(1, 5), (3, 4))
    anchors, positives = rng.integers(2, 8, size=(2, 3, 4))
    actual = sampling.contrast_mask(
        kind,
        jnp.array(ids),
        jnp.array(counts),
        next_position=jnp.array(at),
        anchors=jnp.array(anchors),
        positives=jnp.array(positives),
    )
    for b in range(3):
        for p in range(4):
            for n in range(5):
                expected = counts[b, n] and ids[b, n] not in (anchors[b, p], positives[b, p])
                if kind == "future":
                    expected = expected and n >= at[b, p]
                assert bool(actual[b, p, n]) == expected
