"""Hashes of ids, 64 bits each: by them sessions are drawn, spread over files, and known again."""

import hashlib

import numpy as np
import pyarrow as pa

HASH_BITS = 64
PENDING_HASHES = 4096  # at least so many are gathered before they are sorted


def hash_ids(ids: pa.Array) -> np.ndarray:
    """[n] uint64, a function of each id alone, the same in every process and on every machine."""
    blake2b = hashlib.blake2b
    digests = [blake2b(name, digest_size=8).digest() for name in ids.cast(pa.binary()).to_pylist()]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


class Smallest:
    """The bound below which lie the `count` smallest of all different hashes seen so far."""

    def __init__(self, count: int):
        self._count = count
        self._kept = np.empty(0, np.uint64)
        self._pending: list[np.ndarray] = []
        self.bound = np.uint64(2**HASH_BITS - 1)  # included

    def add(self, hashes: np.ndarray) -> None:
        self._pending.append(hashes[hashes <= self.bound])
        if sum(map(len, self._pending)) > max(self._count, PENDING_HASHES):
            self.settle()

    def settle(self) -> None:
        """Brings `bound` up to date."""
        self._kept = np.unique(np.concatenate([self._kept, *self._pending]))[: self._count]
        self._pending = []
        if len(self._kept) == self._count:
            self.bound = self._kept[-1]


class Seen:
    """A growing set of 64-bit hashes, in 8 bytes each."""

    def __init__(self):
        self._sorted: list[np.ndarray] = []  # each less than half as long as the one before it

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """[n] bool, which were there before; now all are."""
        known = np.zeros(len(hashes), bool)
        for some in self._sorted:
            place = np.minimum(np.searchsorted(some, hashes), len(some) - 1)
            known |= some[place] == hashes
        new = np.sort(hashes)
        while self._sorted and len(self._sorted[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._sorted.pop(), new]), kind="stable")
        self._sorted += [new] * bool(len(new))
        return known
