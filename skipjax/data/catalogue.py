"""The tracks that a model knows, and histories in the ids that it has for them."""

import dataclasses
import difflib
import functools
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skipjax.data.histories import Histories
from skipjax.data.inputs import reading
from skipjax.errors import DataError
from skipjax.ids import FIRST_TRACK_ID, PAD_ID

TRACKS = "tracks.parquet"  # its file in a run's folder
_SCHEMA = pa.schema({"track_id": pa.large_string(), "plays": pa.int64()})
_AT_A_TIME = 1 << 16  # texts that Python holds
_EXAMPLES = 3
_LIKE = 10_000  # of so many tracks, the most played, close matches are looked for


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Tracks in the order of the model's ids, which is that of falling plays.

    Attributes:
      track_ids: [T] large_string, ids as in the source; entry i has the id FIRST_TRACK_ID + i.
      plays: [T] int64, events in training.
    """

    track_ids: pa.Array
    plays: np.ndarray

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Catalogue":
        """Reads the `tracks.parquet` of a run.

        Raises:
          DataError: it is missing, damaged or something else.
        """
        name = str(path)
        if not os.path.isfile(path):
            raise DataError(f"{name}: no such file.")
        with (
            reading(name),
            pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file,
        ):
            table = file.read(use_threads=False)
        if not table.schema.equals(_SCHEMA):
            raise DataError(f"{name} holds {table.schema.names}, not a catalogue: damaged.")
        ids, plays = (column.combine_chunks() for column in table.columns)
        if ids.null_count or plays.null_count:
            raise DataError(f"{name} has tracks without an id or a count: damaged.")
        catalogue = cls(ids, plays.to_numpy())
        hashes, _ = catalogue._index
        if (hashes[1:] == hashes[:-1]).any() and len(pc.unique(ids)) < len(ids):
            raise DataError(f"{name} has a track twice: damaged.")
        return catalogue

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def num_ids(self) -> int:
        """V, PAD and MASK included."""
        return FIRST_TRACK_ID + len(self)

    def ids_of(self, names: pa.Array) -> np.ndarray:
        """[n] int32, the model's ids; PAD_ID for tracks that it does not know."""
        known, order = self._index
        wanted = _hashes(names)
        found = np.full(len(names), PAD_ID, np.int32)
        left = np.arange(len(names))
        place = np.searchsorted(known, wanted)
        while True:  # once, unless different ids have the same hash
            there = np.flatnonzero(known.take(place, mode="clip") == wanted[left])
            there = there[place[there] < len(known)]
            left, place = left[there], place[there]
            if not len(left):
                return found
            tracks = order[place]
            same = pc.equal(self.track_ids.take(pa.array(tracks)), names.take(pa.array(left)))
            same = same.to_numpy(zero_copy_only=False)
            found[left[same]] = FIRST_TRACK_ID + tracks[same]
            left, place = left[~same], place[~same] + 1

    def names_of(self, ids: np.ndarray) -> pa.Array:
        """Ids as in the source; all must be those of tracks."""
        return self.track_ids.take(pa.array(ids - FIRST_TRACK_ID))

    def like(self, name: str) -> list[str]:
        """A few ids that look like one that is not there."""
        start = pc.starts_with(self.track_ids, name.strip()[:3], ignore_case=True)
        near = self.track_ids.filter(start)[:_LIKE].to_pylist()
        near = near or self.track_ids[:_LIKE].to_pylist()
        same = [known for known in near if known.lower() == name.strip().lower()]
        return (same or difflib.get_close_matches(name, near, n=_EXAMPLES))[:_EXAMPLES]

    @functools.cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all ids, sorted, and whose they are: a dict would take much memory."""
        hashes = _hashes(self.track_ids)
        order = np.argsort(hashes).astype(np.int32)
        return hashes[order], order


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Histories in the ids of a model: of each, the last tracks that it knows.

    Attributes:
      tracks: [E] int32, all that are known.
      skipped: [E] bool.
      skips_known: whether that is more than a filler.
      starts: [S] int64, the first event that a model reads.
      lengths: [S] int64, how many events it reads; 0 for a history without known tracks.
      seen: [N] int32, the different tracks of each session, those that no model reads included.
      seen_offsets: [S + 1] int64, where those of each session start in `seen`.
      unknown: how many events are of tracks that the model does not know.
      examples: a few such tracks.
    """

    tracks: np.ndarray
    skipped: np.ndarray
    skips_known: bool
    starts: np.ndarray
    lengths: np.ndarray
    seen: np.ndarray
    seen_offsets: np.ndarray
    unknown: int
    examples: Sequence[str]


def encode(histories: Histories, catalogue: Catalogue, most: int) -> Encoded:
    """Looks up all tracks, and keeps the last `most` of each session."""
    texts, skipped = histories.tracks, histories.skipped
    ids = catalogue.ids_of(texts.dictionary)[texts.indices.to_numpy()]
    known = ids != PAD_ID
    offsets = np.concatenate([[0], np.cumsum(known)])[histories.offsets]
    session = np.repeat(np.arange(len(offsets) - 1), np.diff(histories.offsets))
    pairs = np.unique(session[known] * catalogue.num_ids + ids[known])
    starts = np.maximum(offsets[:-1], offsets[1:] - most)
    strange = pc.unique(texts.filter(pa.array(~known))).dictionary_decode()[:_EXAMPLES]
    return Encoded(
        tracks=ids[known],
        skipped=np.zeros(known.sum(), bool) if skipped is None else skipped[known],
        skips_known=skipped is not None,
        starts=starts,
        lengths=offsets[1:] - starts,
        seen=(pairs % catalogue.num_ids).astype(np.int32),
        seen_offsets=np.searchsorted(pairs, np.arange(len(offsets)) * catalogue.num_ids),
        unknown=int((~known).sum()),
        examples=strange.to_pylist(),
    )


def _hashes(names: pa.Array) -> np.ndarray:
    """[n] int64, the same for the same text, in this process."""
    parts = (names[start : start + _AT_A_TIME] for start in range(0, len(names), _AT_A_TIME))
    return np.fromiter((hash(name) for part in parts for name in part.to_pylist()), np.int64)
