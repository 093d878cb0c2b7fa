"""What skipjax's programs send between devices: as designed, and at the very least.

Sessions lie over S = C · T devices, b on each: C copies of a table of V rows of D floats, each
shared by T devices. All counts are of bytes that a device sends, by the formulas of
benchmarks/collectives.py; what is sent is what others receive, so on average they are of both.

A training step in which each device reads n = b · L rows for its own sessions (b · K more, if each
session draws its own K negatives) and m rows that all devices have in common (the K negatives that
a batch shares, and MASK) is designed to send

    to read    all-gather over T of n ids, reduce-scatter over T of T · n rows,
               all-reduce over T of m rows
    to write   all-gather over S of n ids and of n gradients of rows, all-reduce over S of m
    else       all-reduce over S of the encoder's P gradients and of 5 scalars

that is, in bytes, for an encoder that is causal and negatives of each session's own,

    (T - 1) n (4 + 4 D) + (S - 1) n (4 + 4 D) + 2 (S - 1) / S · 4 (P + 5)

At the very least, whatever the algorithm, a device that reads a row kept elsewhere says which (4
bytes, unless all know it) and receives it once, however often it reads it; the sum of a row's
gradients reaches each device that keeps the row, if another has any; and the encoder's gradients
are added up over all. Padding needs nothing.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from benchmarks.collectives import Collective
from skipjax import ranking

FLOAT = ID = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a program on one device.

    Attributes:
      sessions: b.
      length: L, positions of each, padding included.
      width: D.
      num_params: P, of the encoder.
      negatives: K.
      scope: `config.sampling.scope`, "session" or "batch".
      causal: the encoder is.
    """

    sessions: int
    length: int
    width: int
    num_params: int
    negatives: int
    scope: str
    causal: bool

    @property
    def own(self) -> int:
        """n, rows that a step reads for a device's own sessions."""
        each = self.negatives if self.scope == "session" else 0
        return self.sessions * (self.length + each)

    @property
    def shared(self) -> int:
        """m, rows that a step reads on all devices."""
        return self.negatives * (self.scope == "batch") + (not self.causal)


def designed_step(sizes: Sizes, data: int, tracks: int) -> list[Collective]:
    """Of a training step that updates rows; `data` is C and `tracks` T."""
    every, row = data * tracks, FLOAT * sizes.width
    own, shared = sizes.own, sizes.shared
    return [
        Collective("all-gather", tracks, ID * own, what="ids to read"),
        Collective("reduce-scatter", tracks, tracks * row * own, what="rows to read"),
        Collective("all-reduce", tracks, row * shared, what="shared rows to read"),
        Collective("all-gather", every, ID * own, what="ids to write"),
        Collective("all-gather", every, row * own, what="gradients of rows"),
        Collective("all-reduce", every, row * shared, what="gradients of shared rows"),
        Collective("all-reduce", every, FLOAT * sizes.num_params, what="gradients of the encoder"),
        Collective("all-reduce", every, FLOAT * 5, what="scalars"),
    ]


def least_step(ids: Sequence[np.ndarray], sizes: Sizes, tracks: int, num_rows: int) -> float:
    """At the very least, on average over devices.

    Args:
      ids: of each device the ids that it reads for its own sessions, padding left out; then those
        that all have in common.
      sizes: of the step.
      tracks: T; devices are numbered as in a mesh.
      num_rows: of the table on a device.
    """
    *own, common = [np.unique(some) for some in ids]
    every, row = len(own), FLOAT * sizes.width
    received = 0
    common_owners = common // num_rows
    readers = np.bincount(np.concatenate(own), minlength=num_rows * tracks)
    for device, some in enumerate(own):
        shard = device % tracks
        elsewhere = (some // num_rows != shard) & ~np.isin(some, common)
        received += elsewhere.sum() * (row + ID) + (common_owners != shard).sum() * row
        others = readers.copy()
        others[some] -= 1
        others[common] += every - 1
        received += (others[shard * num_rows : (shard + 1) * num_rows] > 0).sum() * row
    encoder = Collective("all-reduce", every, FLOAT * sizes.num_params).sent
    return float(received / every + encoder)


def expected_least_step(sizes: Sizes, data: int, tracks: int, num_ids: int) -> float:
    """The same for tracks drawn uniformly from `num_ids`, by expectation."""
    every, row = data * tracks, FLOAT * sizes.width
    elsewhere = (tracks - 1) / tracks
    reads = different(sizes.own, num_ids) * elsewhere * (row + ID)
    reads += sizes.shared * elsewhere * row
    by_others = different((every - 1) * sizes.own, num_ids) + (every > 1) * sizes.shared
    encoder = Collective("all-reduce", every, FLOAT * sizes.num_params).sent
    return reads + by_others / tracks * row + encoder


def different(draws: float, num_ids: int) -> float:
    """How many different ones of `num_ids` come up in so many uniform draws, by expectation."""
    return num_ids * -math.expm1(draws * math.log1p(-1 / num_ids))


def designed_ranking(
    program: str, sizes: Sizes, candidates: int, k: int, data: int, tracks: int
) -> list[Collective]:
    """Of evaluation, in which `sizes.length` is that of an input.

    Args:
      program: "sampled" (the encoder, and ranks among candidates), "full" (ranks in the whole
        catalogue), "best" (the k best tracks) or "recommend" (the encoder, and the k best tracks
        but `candidates` that are left out).
      sizes: of it.
      candidates: of each session, its target left out.
      k: how many are recommended.
      data, tracks: C and T.
    """
    every, b, width = data * tracks, sizes.sessions, sizes.width
    hidden = Collective("all-gather", tracks, FLOAT * b * width, what="states")
    if program == "full":
        # The rows of targets are read by blocks of 512, so that sums keep their order.
        rows = _up(_up(tracks * b, ranking.SESSIONS), ranking._IDS)
        return [
            hidden,
            Collective("all-gather", tracks, ID * b, what="targets"),
            Collective("all-reduce", tracks, FLOAT * rows * width, what="rows of targets"),
            Collective("reduce-scatter", tracks, ID * tracks * b, what="counts"),
            Collective("all-gather", every, ID * b, what="ranks"),
        ]
    if program == "best":
        return [
            hidden,
            Collective("all-to-all", tracks, FLOAT * tracks * b * k, what="scores"),
            Collective("all-to-all", tracks, ID * tracks * b * k, what="ids"),
            Collective("all-gather", every, ID * b * k, what="ids to all"),
        ]
    # Sessions are encoded 64 at a time, empty ones included.
    positions = _up(b, ranking.SESSIONS) * (sizes.length + (not sizes.causal))
    reads = [
        Collective("all-gather", tracks, ID * positions, what="ids to read"),
        Collective("reduce-scatter", tracks, FLOAT * tracks * positions * width, what="rows"),
    ]
    if program == "recommend":
        return [
            *reads,
            hidden,
            Collective("all-gather", tracks, ID * b * candidates, what="left out"),
            Collective("all-to-all", tracks, FLOAT * tracks * b * k, what="scores"),
            Collective("all-to-all", tracks, ID * tracks * b * k, what="ids"),
        ]
    ids = _up(1 + candidates, ranking._CANDIDATES)
    at_once = max(1, ranking._gathered_rows() // (ids * tracks))
    padded = _up(b, at_once if b > at_once else 2 * at_once)
    return [
        *reads,
        Collective("all-gather", tracks, FLOAT * padded * width, what="states"),
        Collective("all-gather", tracks, ID * padded * ids, what="candidates"),
        Collective("reduce-scatter", tracks, FLOAT * tracks * padded * ids, what="scores"),
        Collective("all-gather", every, ID * b, what="ranks"),
    ]


def least_ranking(
    program: str, sizes: Sizes, candidates: int, k: int, data: int, tracks: int
) -> float:
    """At the very least: states go to the rows, and what is found of them comes back.

    Ids that are asked for (of inputs, all taken to differ) go to where their rows are, and rows of
    inputs, scores of candidates or each session's best come back, of which 1 / T are at home.
    """
    every, b, row = data * tracks, sizes.sessions, FLOAT * sizes.width
    elsewhere = (tracks - 1) / tracks
    states = (tracks - 1) * b * row
    if program == "full":  # a target's score goes to all, counts are added up on their way
        return states + (tracks - 1) * b * (ID + FLOAT) + elsewhere * b * ID + (every - 1) * b * ID
    if program == "best":
        return states + elsewhere * b * k * (FLOAT + ID) + (every - 1) * b * k * ID
    reads = elsewhere * b * sizes.length * (ID + row)
    if program == "recommend":
        return reads + states + elsewhere * b * (candidates * ID + k * (FLOAT + ID))
    return reads + states + elsewhere * b * (1 + candidates) * (ID + FLOAT) + (every - 1) * b * ID


def _up(number: int, multiple: int) -> int:
    return number + -number % multiple
