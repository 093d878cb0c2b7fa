"""Reads the log files of Spotify's Music Streaming Sessions Dataset (MSSD), as published.

Plain or gzipped CSV, or members of a tar, which are read without being unpacked. Every value
that is used is checked, and so is that each session has all its positions, once.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from skipjax.data import features, fields, times
from skipjax.data.blocks import BLOCK_BYTES, REPEATED_TEXT, Block
from skipjax.data.csv_lines import read_csv
from skipjax.data.inputs import TAR_SUFFIXES, Sources, find, members, position
from skipjax.data.sessions import Sessions
from skipjax.data.writer import SessionsWriter, Settings
from skipjax.errors import DataError
from skipjax.files import read_manifest

_LONGEST_SESSION = 1000  # MSSD's is 20
_FIRST_YEAR = 2006  # Spotify's; MSSD is of 2018

_SUFFIXES = (".csv", ".csv.gz")
_LEAVE_OUT = ("tf_",)  # track features, which some archives hold next to the logs
_SHUFFLE = "hist_user_behavior_is_shuffle"

# `reason_end` and the skip flags describe the current play, so they are no context for it.
_TYPES = dict.fromkeys(
    (
        "session_id",
        "session_position",
        "session_length",
        "track_id_clean",
        "skip_1",
        "skip_2",
        "skip_3",
        "not_skipped",
        "context_type",
        "premium",
        "hour_of_day",
        _SHUFFLE,
        "date",
    ),
    REPEATED_TEXT,
)


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    track_features: Sources | None = None,
    source: str = "mssd",
    options: Mapping[str, Any] | None = None,
    block_bytes: int = BLOCK_BYTES,
    **settings: Unpack[Settings],
) -> Sessions:
    """Prepares log files as a folder of sessions, and opens it.

    Skip levels: 1 where `skip_1`, 2 where only `skip_2` and `skip_3`, 3 where only `skip_3`, else
    0. So the 1.9 % of events that MSSD calls neither `skip_3` nor `not_skipped` are 0.

    Args:
      sources: a path or several: CSV files, gzipped or not; tars of them, gzipped or not; folders
        of either; glob patterns. All are read in the order of their names.
      out: the new folder.
      track_features: files `tf_*.csv`, gzipped or not, tars or folders of them: what they know of
        the tracks is laid beside them, see `Sessions.features`.
      source: what to call these logs in the sessions' `info`.
      options: kept there too; JSON-able.
      block_bytes: how much to read at a time; changes nothing in the result.
      **settings: which sessions to keep, and more: see `SessionsWriter`.

    Raises:
      DataError: a file, row or value that is not as published; nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    if track_features is not None:
        features.files(track_features)  # whatever is wrong there is said before the logs are read
    with SessionsWriter(
        out, source=source, options=options, track_features=track_features, **settings
    ) as writer:
        paths = files(sources)
        if any(map(_is_synthetic, {path.parent for path in paths})):
            writer.info["synthetic"] = True
        for block in writer.blocks(paths, lambda path: _rows(path, block_bytes)):
            writer.add(_parsed(block))
    return Sessions.open(out)


def _is_synthetic(folder: Path) -> bool:
    """Whether it holds what `skipjax demo` wrote."""
    try:
        return read_manifest(folder, check_files=False).get("synthetic", False)
    except DataError:
        return False


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, (*_SUFFIXES, *TAR_SUFFIXES), leave_out=_LEAVE_OUT)


def _rows(path: Path, block_bytes: int) -> Iterator[tuple[Block, int]]:
    """Blocks of text, each with how many bytes of the file have been read."""
    for name, stream, raw in members(path, _SUFFIXES, leave_out=_LEAVE_OUT):
        for block in read_csv(stream, name, _TYPES, block_bytes=block_bytes):
            yield block, position(raw)


def _parsed(block: Block) -> Block:
    lengths = fields.integers(block, "session_length", 1, _LONGEST_SESSION)
    positions = fields.integers(block, "session_position", 1, _LONGEST_SESSION)
    block.refuse(
        np.flatnonzero(positions > lengths),
        "session_position",
        lambda row: f"within the session's length, {lengths[row]}",
    )
    table = {
        "session_id": fields.ids(block, "session_id"),
        "track_id": fields.ids(block, "track_id_clean"),
        "order": positions.astype(np.int64),
        "level": _levels(block),
        "length": lengths,
        "context_type": fields.encode(block, "context_type"),
        "premium": fields.flags(block, "premium"),
        "hour_of_day": fields.integers(block, "hour_of_day", 0, 23, "an hour").astype(np.int8),
        "shuffle": fields.flags(block, _SHUFFLE),
        "date": pa.array(times.dates(block, "date", _FIRST_YEAR), pa.date32()),
    }
    return dataclasses.replace(block, table=pa.table(table))


def _levels(block: Block) -> np.ndarray:
    """[rows] int8, from flags that each include the one before."""
    briefest, brief, mostly, not_skipped = (
        fields.flags(block, name) for name in ("skip_1", "skip_2", "skip_3", "not_skipped")
    )
    for name, wrong, expected in (
        ("skip_2", briefest & ~brief, "true, though skip_1 is"),
        ("skip_3", brief & ~mostly, "true, though skip_2 is"),
        ("not_skipped", mostly & not_skipped, "false, though skip_3 is true"),
    ):
        block.refuse(np.flatnonzero(wrong), name, expected)
    return np.select([briefest, brief, mostly], [1, 2, 3], 0).astype(np.int8)
