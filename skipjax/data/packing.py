"""Bounds on the lengths in a batch, with which a step works on tracks rather than on padding."""

import dataclasses

import numpy as np

# Batches are cut in so many parts by length, or fewer if they would be smaller than that: more
# would save little more padding, and take longer to compile.
_PARTS = 4
_SMALLEST_PART = 16


@dataclasses.dataclass(frozen=True)
class Packing:
    """Bounds that hold for every batch of an epoch; they are shapes of the compiled step.

    Attributes:
      num_tokens: at least the tracks of all sessions of a batch.
      num_inputs: at least those of its tracks that another one follows.
      lengths: for each part of a batch (see `parts_of`), from its longest sessions to its shortest,
        at least the length of the longest.
    """

    num_tokens: int
    num_inputs: int
    lengths: tuple[int, ...]


def parts_of(number: int) -> list[slice]:
    """Slices of `number` sessions, of equal size but for one."""
    parts = max(1, min(_PARTS, number // _SMALLEST_PART))
    return [slice(number * i // parts, number * (i + 1) // parts) for i in range(parts)]


def packing_of(
    lengths: np.ndarray, batch_size: int, max_length: int, num_devices: int = 1
) -> Packing | None:
    """The bounds of batches into which sessions are dealt out by falling length.

    Args:
      lengths: of all sessions.
      batch_size: B.
      max_length: of any session.
      num_devices: to which each batch is dealt out in turn; bounds are of what each of them gets.

    Returns:
      None where there is next to no padding.
    """
    steps, size = -(-len(lengths) // batch_size), batch_size // num_devices
    dealt = np.zeros((size, num_devices * steps), np.int64)  # a column is a device's batch
    dealt.reshape(-1)[: len(lengths)] = -np.sort(-lengths.astype(np.int64))
    num_tokens = int(dealt.sum(axis=0).max())
    if num_tokens > 0.95 * size * max_length:
        return None
    return Packing(
        num_tokens=num_tokens,
        num_inputs=int(np.maximum(dealt - 1, 0).sum(axis=0).max()),
        # Where all of a part's sessions are empty, as much as the shortest has.
        lengths=tuple(max(2, int(dealt[part.start, 0])) for part in parts_of(size)),
    )
