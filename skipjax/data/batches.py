"""Fixed-shape NumPy batches of sessions, and a thread that makes them ahead of time."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from skipjax.data.packing import packing_of
from skipjax.data.parts import Split
from skipjax.errors import ConfigError
from skipjax.ids import PAD_ID

Batch = dict[str, Any]
T = TypeVar("T")


class SessionBatches:
    """Training spans in a new order each epoch; a batch is a function of (seed, step) alone.

    Every session is visited once an epoch. Shuffled sessions are dealt out by their lengths, so
    that all batches of all epochs have nearly the same ones: no batch is larger than another by
    more than a session, and the padding in them can be left out (see packing.py). What is missing
    of a batch is filled up with empty sessions, which count nowhere.

    Where several devices share the work, a batch is dealt out to them in turn: which sessions it
    has does not depend on how many there are, and only those of `mine` are looked up.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        max_length: int,
        seed: int,
        num_devices: int = 1,
        mine: Sequence[int] = (0,),
    ):
        """
        Args:
          split: the data.
          batch_size: B, of all devices together.
          max_length: longest whole session; a training span may be shorter by rule.
          seed: of the order.
          num_devices: S, among which B is dealt out.
          mine: the numbers, below S, of those whose sessions are wanted.

        Raises:
          ConfigError: `batch_size` is below 1 or cannot be dealt out evenly, or a session is longer
            than `max_length`.
        """
        _check(split, batch_size, max_length, "train", num_devices)
        self._split = split
        self._num_devices, self._mine = num_devices, mine
        self._batch_size = batch_size
        self._starts, self._lengths = split.spans("train")
        self._length = max_length - split.parts["train"].held_out
        self._seed = seed
        self._epoch = -1
        self._order = self._firsts = np.empty(0, np.int64)
        self.steps_per_epoch = steps_per_epoch(split, batch_size)
        self._packing = packing_of(self._lengths, batch_size, self._length, num_devices)

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0.

        Returns:
          `tracks` [B, L] int32, `skipped` and `valid` [B, L] bool, padded on the right, sessions by
          falling length; and `packing`, unless it would save nothing. With several devices, session
          i of the batch is number i // S of device i % S, and B / S of each of `mine` are there.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(len(self._starts))
            order = order[np.argsort(-self._lengths[order], kind="stable")]
            # The first batch dealt to has the longest sessions, so it is not always the first used.
            firsts = rng.permutation(self.steps_per_epoch)
            self._epoch, self._order, self._firsts = epoch, order, firsts
        rows = self._order[self._firsts[within] :: self.steps_per_epoch]
        shape = (self._batch_size // self._num_devices, self._length)
        parts = []
        for device in self._mine:
            some = rows[device :: self._num_devices]
            parts.append(spans(self._split, self._starts[some], self._lengths[some], shape))
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {**batch, "packing": self._packing} if self._packing else batch

    def from_step(self, step: int) -> Iterator[Batch]:
        """All batches from `step` on, without end."""
        while True:
            yield self.batch(step)
            step += 1


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Batches that visit every training span once."""
    return -(-len(split.parts["train"].sessions) // batch_size)


def held_out_batches(
    split: Split,
    which: str,
    *,
    batch_size: int,
    max_length: int,
    num_devices: int = 1,
    mine: Sequence[int] = (0,),
) -> Iterator[tuple[np.ndarray, np.ndarray, Batch]]:
    """All sessions of a part in order, with the track to predict after each.

    Args:
      split: the data.
      which: "valid" or "test".
      batch_size: rows of each batch; the last one is filled up with empty sessions.
      max_length: longest whole session.
      num_devices: among which each batch is cut up.
      mine: the numbers of those whose parts are wanted.

    Yields:
      `rows` [≤ B], which of the part's sessions; `some` [b], those of `mine`, -1 where there is
      none; and the batch of the latter: `tracks`, `skipped` and `valid` [b, L], and `targets` [b].

    Raises:
      ConfigError: `batch_size` is below 1 or cannot be dealt out evenly, or a session is longer
        than `max_length`.
    """
    _check(split, batch_size, max_length, "eval", num_devices)
    starts, lengths = split.spans(which)
    _, targets = split.held_out(which)
    own = np.arange(batch_size).reshape(num_devices, -1)[list(mine)].reshape(-1)
    for start in range(0, len(starts), batch_size):
        rows = np.arange(start, min(start + batch_size, len(starts)))
        some = np.where(start + own < len(starts), start + own, -1)
        there = some >= 0
        batch = spans(
            split,
            np.where(there, starts[some], 0),
            np.where(there, lengths[some], 0),
            (len(some), max_length - 1),
        )
        yield rows, some, {**batch, "targets": np.where(there, targets[some], np.int32(PAD_ID))}


def spans(split: Split, starts: np.ndarray, lengths: np.ndarray, shape: tuple[int, int]) -> Batch:
    """The events from each of `starts` on, so many as `lengths`, in a batch of `shape` [B, L]."""
    size, length = shape
    first, filled = np.zeros((2, size), np.int64)
    first[: len(starts)], filled[: len(starts)] = starts, lengths
    columns = np.arange(length)
    valid = columns[None, :] < filled[:, None]
    events = np.where(valid, first[:, None] + columns[None, :], 0)
    return {
        "tracks": np.where(valid, split.tracks[events], np.int32(PAD_ID)),
        "skipped": split.skipped[events] & valid,
        "valid": valid,
    }


def prefetch(items: Iterable[T], size: int = 2) -> Iterator[T]:
    """The same items, made by a thread up to `size` ahead.

    An error in the thread is raised at the item it stands for; closing the iterator ends the
    thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=size)
    closed = threading.Event()

    def put(entry) -> bool:
        while not closed.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work():
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True, name="skipjax-prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        closed.set()
        thread.join()


def check_batch_size(batch_size: int, section: str, num_devices: int) -> None:
    """Raises ConfigError for a size of the config's `section` that cannot be dealt out evenly."""
    if batch_size < 1:
        raise ConfigError(f"config.{section}.batch_size is {batch_size}; it must be at least 1.")
    if batch_size % num_devices:
        raise ConfigError(
            f"config.{section}.batch_size is {batch_size}; it must be divisible by the number of "
            f"devices, {num_devices}."
        )


def _check(split: Split, batch_size: int, max_length: int, section: str, num_devices: int) -> None:
    check_batch_size(batch_size, section, num_devices)
    if split.lengths.max() > max_length:
        raise ConfigError(
            f"config.data.max_length is {max_length}, but there are sessions of "
            f"{split.lengths.max()} tracks; raise it to that."
        )
