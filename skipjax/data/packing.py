"""Bounds on the lengths in a batch, with which a step works on tracks rather than on padding."""

import dataclasses
import math

import numpy as np

# Batches are cut in so many parts by length: more would save little more padding.
PARTS = 4


@dataclasses.dataclass(frozen=True)
class Packing:
    """Bounds on the lengths of a batch whose sessions stand by falling length.

    They are shapes of the compiled step, so they are the same for nearly all batches.

    Attributes:
      num_tokens: at least the tracks of all sessions.
      num_inputs: at least those that another one follows.
      lengths: for each of PARTS equal parts, from the longest sessions to the shortest, at least
        the length of its longest.
    """

    num_tokens: int
    num_inputs: int
    lengths: tuple[int, ...]

    def fits(self, lengths: np.ndarray) -> bool:
        """Whether sessions of `lengths` [B], falling, are within these bounds."""
        starts = [part.start for part in parts_of(len(lengths))]
        return (
            lengths.sum() <= self.num_tokens
            and np.maximum(lengths - 1, 0).sum() <= self.num_inputs
            and all(
                lengths[start] <= most for start, most in zip(starts, self.lengths, strict=True)
            )
        )


def parts_of(number: int) -> list[slice]:
    """PARTS slices of `number` sessions, or fewer if there are fewer."""
    parts = min(PARTS, number)
    return [slice(number * i // parts, number * (i + 1) // parts) for i in range(parts)]


def typical_packing(lengths: np.ndarray, batch_size: int, max_length: int) -> Packing | None:
    """Bounds that one batch in 10,000 exceeds, or None where they would save nothing.

    Args:
      lengths: of all spans.
      batch_size: sessions of a batch.
      max_length: of any span.
    """
    deviations = 4.0  # of a normal distribution: one side of it is 3e-5
    spread = deviations * lengths.std() / math.sqrt(batch_size)
    num_tokens = math.ceil(batch_size * min(lengths.mean() + spread, max_length))
    if num_tokens > 0.95 * batch_size * max_length:
        return None
    bounds = []
    for part in parts_of(batch_size):
        share = 1 - part.start / batch_size  # of sessions that are shorter
        slack = deviations * math.sqrt(share * (1 - share) / batch_size)
        bounds.append(math.ceil(np.quantile(lengths, min(1.0, share + slack))))
    return Packing(num_tokens, num_tokens - batch_size, tuple(bounds))
