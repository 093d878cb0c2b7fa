"""Reads MSSD's track features, `tf_*.csv`, and lays them beside a vocabulary: a row for each track.

Memory grows with the number of tracks, as the vocabulary's does, not with the number of files.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import fields, layout
from skipjax.data.blocks import BLOCK_BYTES, REPEATED_TEXT, TEXT, Block, in_turn
from skipjax.data.csv_lines import read_csv
from skipjax.data.inputs import TAR_SUFFIXES, Progress, Sources, find, members, position
from skipjax.errors import DataError

_SUFFIXES = (".csv", ".csv.gz")
_PREFIX = ("tf_",)
_ID = "track_id"
_MODE = "mode"
_WHOLE = ("release_year", "key", "time_signature")
_COLUMNS = (  # as published; but for these four, they are numbers with fractions
    "duration",
    "release_year",
    "us_popularity_estimate",
    "acousticness",
    "beat_strength",
    "bounciness",
    "danceability",
    "dyn_range_mean",
    "energy",
    "flatness",
    "instrumentalness",
    "key",
    "liveness",
    "loudness",
    "mechanism",
    "mode",
    "organism",
    "speechiness",
    "tempo",
    "time_signature",
    "valence",
    *(f"acoustic_vector_{i}" for i in range(8)),
)
_NUMBERS = tuple(name for name in _COLUMNS if name not in (*_WHOLE, _MODE))
_MODES = ("major", "minor")
_TYPES = dict.fromkeys((_ID, *_NUMBERS), TEXT) | dict.fromkeys((*_WHOLE, _MODE), REPEATED_TEXT)
_LARGEST = 1e30

Places = Callable[[pa.Array], np.ndarray]  # of texts: [n] int32 place of each track, -1 if none


def files(sources: Sources) -> list[Path]:
    """The files of features that `sources` name."""
    return find(sources, (*_SUFFIXES, *TAR_SUFFIXES), only=(*_PREFIX, "track_features"))


def write(
    sources: Sources,
    folder: Path,
    track_ids: pa.Array,
    places: Places,
    *,
    progress: Progress,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, int]:
    """Writes layout.FEATURES: for each track what is known of it, nulls where nothing is.

    Args:
      sources: files of features, tars or folders of them.
      folder: of the other files.
      track_ids: [T] sorted.
      places: finds tracks among them.
      progress: called with bytes done, bytes in all, and what is being done.
      block_bytes: how much to read at a time; changes nothing in the result.

    Returns:
      `tracks` with features, and `others`: rows of tracks that the sessions do not have.

    Raises:
      DataError: a file or value that is not as published, or a track that is there twice.
    """
    columns = {name: np.zeros(len(track_ids), np.float32) for name in _NUMBERS}
    columns |= {name: np.zeros(len(track_ids), np.int32) for name in _WHOLE}
    columns[_MODE] = np.zeros(len(track_ids), np.int8)
    known = np.zeros(len(track_ids), bool)
    others = 0
    blocks = in_turn(
        files(sources),
        lambda path: _rows(path, block_bytes),
        note_faults=True,  # so that the first is found, of any column
        progress=progress,
        what="reading features",
    )
    for block in blocks:
        values = _parsed(block)
        rows = places(block.table[_ID].combine_chunks())
        wanted = np.flatnonzero(rows >= 0)
        others += len(rows) - len(wanted)
        rows = rows[wanted]
        again = known[rows]
        again[np.setdiff1d(np.arange(len(rows)), np.unique(rows, return_index=True)[1])] = True
        block.refuse(wanted[again], _ID, "a track that was not there before")
        if block.faults:
            row = min(block.faults)
            raise DataError(
                f"{block.file} row {block.first_row + row}, {block.faults[row]}; correct it, or "
                "fetch the file again."
            )
        known[rows] = True
        for name, column in columns.items():
            column[rows] = values[name][wanted]
    arrays = {_ID: track_ids}
    for name in _COLUMNS:  # each twice in memory for no longer than it must
        arrays[name] = pa.array(columns.pop(name), mask=~known)
    arrays[_MODE] = pa.DictionaryArray.from_arrays(arrays[_MODE], pa.array(_MODES))
    table = pa.table(arrays)
    layout.write_batches(
        folder / layout.FEATURES, table.schema, table.to_batches(max_chunksize=layout.SESSION_ROWS)
    )
    return {"tracks": int(known.sum()), "others": others}


def _rows(path: Path, block_bytes: int) -> Iterator[tuple[Block, int]]:
    """Blocks of text, each with how many bytes of the file have been read."""
    for name, stream, raw in members(path, _SUFFIXES):
        if name != str(path) and not Path(name.rpartition(":")[2]).name.startswith(_PREFIX):
            continue  # the logs, which some archives hold next to the features
        for block in read_csv(stream, name, _TYPES, block_bytes=block_bytes):
            yield block, position(raw)


def _parsed(block: Block) -> dict[str, np.ndarray]:
    block.refuse(np.flatnonzero(pc.equal(block.table[_ID], "")), _ID, "an id")
    values = {name: _floats(block, name) for name in _NUMBERS}
    values |= {name: fields.integers(block, name, 0, 9999) for name in _WHOLE}
    modes = {name: code for code, name in enumerate(_MODES)}
    values[_MODE] = fields.parse(block, _MODE, modes.get, " or ".join(_MODES), np.int8)
    return values


def _floats(block: Block, name: str) -> np.ndarray:
    try:
        numbers = block.table[name].cast(pa.float64()).to_numpy()
        if (np.abs(numbers) <= _LARGEST).all():
            return numbers
    except pa.ArrowInvalid:
        pass
    return fields.numbers(block, name, -_LARGEST, _LARGEST, "a number")
