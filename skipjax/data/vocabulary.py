"""Codes for texts, or for whole numbers that stand for texts, and their final places."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.errors import DataError

_MOST_TEXTS = 2**31 - 3  # int32, and a track's id is two more than its place: see skipjax/ids.py
_NUMBERS = 1 << 25  # below this, a table tells the code of a number, of 4 bytes each


class Vocabulary:
    """Codes, given as texts first appear, and places, among those that are wanted and sorted."""

    def __init__(self):
        self._codes: collections.defaultdict[str, int] = collections.defaultdict()
        self._codes.default_factory = self._codes.__len__
        self._by_number = np.zeros(0, np.int32)  # code + 1; 0 where a number has none
        self._numbers: list[np.ndarray] = []  # in the order of their codes, before there are texts
        self._count = 0
        self._used = np.zeros(0, bool)

    def encode(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """[rows] int32.

        Args:
          column: text, dictionary-encoded or not; or whole numbers, which are texts in decimal.

        Raises:
          DataError: there are more different texts than that can tell apart.
        """
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_integer(array.type):
            numbers = array.to_numpy()
            if not self._codes and numbers.min() >= 0 and numbers.max() < _NUMBERS:
                return self._of_numbers(numbers)
            coded = array.dictionary_encode()
            texts = coded.dictionary.cast(pa.string())
            array = pa.DictionaryArray.from_arrays(coded.indices, texts)
        elif not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        self._leave_numbers()
        new = map(self._codes.__getitem__, array.dictionary.to_pylist())
        codes = np.fromiter(new, np.int64, len(array.dictionary))
        self._count = len(self._codes)
        if self._count > _MOST_TEXTS:
            raise DataError(
                f"a column has more than {_MOST_TEXTS:,} different values, too many for 32-bit ids."
            )
        return codes.astype(np.int32)[array.indices.to_numpy()]

    def _of_numbers(self, numbers: np.ndarray) -> np.ndarray:
        greatest = int(numbers.max())
        if greatest >= len(self._by_number):
            grown = np.zeros(min(max(2 * greatest, 1 << 16), _NUMBERS), np.int32)
            grown[: len(self._by_number)] = self._by_number
            self._by_number = grown
        codes = self._by_number[numbers]
        unseen = numbers[codes == 0]
        if unseen.size:
            values, first = np.unique(unseen, return_index=True)
            new = values[np.argsort(first)]
            self._by_number[new] = np.arange(self._count, self._count + len(new)) + 1
            self._numbers.append(new)
            self._count += len(new)
            codes = self._by_number[numbers]
        return codes - np.int32(1)

    def _leave_numbers(self) -> None:
        """Goes on with texts, the codes that were given staying."""
        for numbers in self._numbers:
            for number in numbers.tolist():
                self._codes[str(number)]  # gives it the next code, which is the one it has
        self._numbers, self._by_number = [], np.zeros(0, np.int32)

    def codes(self, texts: pa.Array) -> np.ndarray:
        """[n] int64, -1 for texts that have none."""
        self._leave_numbers()
        found = (self._codes.get(text, -1) for text in texts.to_pylist())
        return np.fromiter(found, np.int64, len(texts))

    def mark(self, codes: np.ndarray) -> None:
        """Notes that these codes are wanted; to be called once all texts have been encoded."""
        if len(self._used) < self._count:
            self._used = np.zeros(self._count, bool)
        self._used[codes] = True

    def settle(self, text: pa.DataType) -> tuple[pa.Array, np.ndarray]:
        """The wanted texts, sorted, and a map from code to place among them, [codes] int32."""
        used = np.flatnonzero(self._used)
        if self._numbers:
            texts = pa.array(np.concatenate(self._numbers)).take(pa.array(used)).cast(text)
        else:
            texts = pa.array(list(self._codes), text).take(pa.array(used))
        order = pc.sort_indices(texts).to_numpy()
        place = np.full(len(self._used), -1, np.int32)
        place[used[order]] = np.arange(len(used), dtype=np.int32)
        return texts.take(pa.array(order)), place
