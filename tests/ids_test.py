"""Ids that a table does not have."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipjax.errors import DataError
from skipjax.ids import check_ids


@pytest.mark.parametrize("number", [2**31, 2**32 + 3, 2**63 - 1, 40, -1, -(2**31)])
def test_ids_outside_a_table_are_named_with_their_place(number):
    ids = np.zeros((3, 4), np.int64)
    check_ids(ids + 39, 40, "tracks")
    ids[1, 2] = number
    with pytest.raises(DataError) as caught:
        check_ids(ids, 40, "tracks")
    assert str(caught.value) == f"tracks[1, 2] is {number}; there are 40, 0 to 39."


def test_ids_are_whole_numbers():
    for ids in (np.ones(3), np.ones(3, bool), np.array(["7"])):
        with pytest.raises(DataError, match="ids must be whole numbers"):
            check_ids(ids, 40, "tracks")
    for ids in (jnp.arange(40), np.arange(40, dtype=np.uint8), [39], np.zeros(0)):
        check_ids(ids, 40, "tracks")
