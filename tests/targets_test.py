import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from skipjax import targets
from skipjax.ids import MASK_ID


def right_padded(lengths, width):
    return jnp.arange(width)[None, :] < jnp.array(lengths)[:, None]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_first_played_is_the_loop(seed):
    rng = np.random.default_rng(seed)
    valid = np.array(right_padded(rng.integers(0, 8, size=5), 7))
    skipped = (rng.random((5, 7)) < 0.5) & valid
    index, found = targets.first_played(jnp.array(skipped), jnp.array(valid))
    for i, row in enumerate(reference.first_played(skipped, valid)):
        for j, expected in enumerate(row):
            assert bool(found[i, j]) == (expected is not None)
            assert int(index[i, j]) == (expected or 0)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 1.0])
def test_cloze_hides_its_share_and_the_last_track(fraction):
    lengths = list(range(19))
    valid = right_padded(lengths, 18)
    masked = np.array(targets.cloze(jax.random.key(3), valid, fraction))
    for n, row in zip(lengths, masked, strict=True):
        assert not row[n:].any()
        if n == 0:
            continue
        assert row[n - 1]
        assert row.sum() == 1 + min(max(1, round(fraction * n)), n - 1)
    places = np.array(targets.masked_positions(jnp.array(masked), fraction))
    for row, found in zip(masked, places, strict=True):
        count = row.sum()
        assert count <= len(found)
        assert found[:count].tolist() == np.flatnonzero(row).tolist()
        assert not row[found[count:]].any()


def test_cloze_is_uniform_over_all_but_the_last():
    valid = right_padded([10] * 4000, 12)
    masked = np.array(targets.cloze(jax.random.key(0), valid, 0.2))
    # round(0.2 · 10) = 2 of 9 positions; the standard error of each share is 0.0066.
    np.testing.assert_allclose(masked[:, :9].mean(axis=0), 2 / 9, atol=0.027)


def test_padding_changes_no_draw():
    key = jax.random.key(1)
    narrow = targets.cloze(key, right_padded([7, 4], 7), 0.3)
    wide = targets.cloze(key, right_padded([7, 4, 9], 12), 0.3)
    np.testing.assert_array_equal(narrow, wide[:2, :7])


def test_append_mask_by_hand():
    tracks = jnp.array([[5, 6, 7], [8, 0, 0], [0, 0, 0]])
    appended, valid = targets.append_mask(tracks, tracks > 0)
    assert appended.tolist() == [[5, 6, 7, MASK_ID], [8, MASK_ID, 0, 0], [MASK_ID, 0, 0, 0]]
    assert valid.sum(axis=1).tolist() == [4, 2, 1]
