"""Sets of hashes: the smallest of many, and which were there before."""

import numpy as np

from skipjax.data.hashes import Seen, Smallest


def test_smallest_keeps_the_bound():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 50_000, np.uint64)
    smallest = Smallest(100)
    for start in range(0, len(hashes), 1000):
        smallest.add(hashes[start : start + 1000])
        smallest.add(hashes[:1000])  # seen before: counts once
    assert smallest.bound < np.sort(hashes)[2000]  # has come down before the end
    smallest.settle()
    assert smallest.bound == np.sort(hashes)[99]


def test_a_large_set_of_sessions_is_remembered(rng):
    past, hashes = Seen(), rng.integers(2**64, size=3000, dtype=np.uint64)
    seen: set = set()
    for start in range(0, 3000, 40):
        some = np.concatenate([hashes[start : start + 40], hashes[: 3 * (start % 3)]])
        some = np.unique(some)
        assert past.add(some).tolist() == [int(h) in seen for h in some]
        seen |= set(map(int, some))
    assert sum(map(len, past._sorted)) < 2 * len(seen)
    assert len(past._sorted) < 12
