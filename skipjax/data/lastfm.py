"""Reads play logs in the form of the Last.fm-1K data set: who played what when, and nothing else.

Tab-separated, without a header: user, time (ISO 8601), artist id, artist, track id, track. What was
skipped is not logged, but a play that the next one follows much sooner than others of its track
was; so the time to the next play is kept.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.data import fields, layout, times
from skipjax.data.blocks import BLOCK_BYTES, REPEATED_TEXT, TEXT, Block
from skipjax.data.columns import context_name
from skipjax.data.csv_lines import read_csv
from skipjax.data.grouping import Groups, Refined
from skipjax.data.inputs import TAR_SUFFIXES, Sources, find, members, position
from skipjax.data.sessions import Sessions
from skipjax.data.writer import SessionsWriter, Settings

GAP_MINUTES = 30.0
COLUMNS = ("userid", "timestamp", "artid", "artname", "traid", "traname")
_TYPES = {
    "userid": REPEATED_TEXT,
    "timestamp": TEXT,
    "artname": REPEATED_TEXT,
    "traid": REPEATED_TEXT,
    "traname": REPEATED_TEXT,
}
_SUFFIXES = (".tsv", ".tsv.gz")
_LEAVE_OUT = ("userid-profile",)  # who the users are, which lies beside the log
_PER_SECOND = layout.UNITS_PER_SECOND["ns"]
_LONGEST_GAP = 86_400  # seconds


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    gap_minutes: float = GAP_MINUTES,
    block_bytes: int = BLOCK_BYTES,
    **settings: Unpack[Settings],
) -> Sessions:
    """Prepares a log in the form of Last.fm-1K as a folder of sessions, and opens it.

    A track is known by its id or, where that is empty, as `artist — title`, with each run of white
    space as one space; plays with neither id nor title are left out and counted. Files have the
    newest play first, so of plays at the same second the one further down was first.

    Args:
      sources: a path or several: TSV files, gzipped or not; tars of them; folders; glob patterns.
      out: the new folder.
      gap_minutes: begin a new session after such a pause; 0 never does.
      block_bytes: how much to read at a time; changes nothing in the result.
      **settings: which sessions to keep, and more: see `SessionsWriter`.

    Raises:
      DataError: a file, row or value that cannot be used; nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    with SessionsWriter(
        out,
        source="lastfm",
        feedback=("next_gap_seconds",),
        time_unit="ns",
        gap_minutes=gap_minutes,
        newest_first=True,
        refine=with_next_gaps,
        whole="listener's log",
        **settings,
    ) as writer:
        writer.info["inferred"] = True
        untitled = 0
        for block in writer.blocks(files(sources), lambda path: _rows(path, block_bytes)):
            parsed = _parsed(block)
            untitled += int(pc.sum(pc.invert(parsed.table["kept"])).as_py() or 0)
            writer.add(parsed)
        writer.leave_out("plays without a track", untitled)
    return Sessions.open(out)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, (*_SUFFIXES, *TAR_SUFFIXES), leave_out=_LEAVE_OUT)


def _rows(path: Path, block_bytes: int) -> Iterator[tuple[Block, int]]:
    """Blocks of text, each with how many bytes of the file have been read."""
    for name, stream, raw in members(path, _SUFFIXES, leave_out=_LEAVE_OUT):
        for block in read_csv(
            stream, name, _TYPES, delimiter="\t", header=COLUMNS, block_bytes=block_bytes
        ):
            yield block, position(raw)


def _parsed(block: Block) -> Block:
    tracks, kept = _tracks(block.table)
    index = block.table.schema.get_field_index("traid")
    block = dataclasses.replace(block, table=block.table.set_column(index, "traid", tracks))
    order = times.parse(block, "timestamp", times.WITH_ZONE)
    rows = block.table.num_rows
    table = {
        "session_id": fields.ids(block, "userid"),
        "track_id": fields.ids(block, "traid"),
        "order": order,
        "level": np.zeros(rows, np.int8),
        "kept": kept,
        "time": order,
        "next_gap_seconds": np.zeros(rows, np.int32),  # known once a user's plays are sorted
    }
    return dataclasses.replace(block, table=pa.table(table))


def _tracks(table: pa.Table) -> tuple[pa.Array, np.ndarray]:
    """What each row's track is known by, and [rows] bool, whether there is anything."""
    ids = table["traid"].combine_chunks()
    empty = pc.equal(ids.dictionary, "").to_numpy(zero_copy_only=False)[ids.indices.to_numpy()]
    kept = np.ones(len(ids), bool)
    rows = np.flatnonzero(empty)
    if not rows.size:
        return ids, kept
    artists, titles = (
        _spaced(table[name].combine_chunks().take(pa.array(rows))) for name in COLUMNS[3::2]
    )
    kept[rows] = pc.not_equal(titles, "").to_numpy(zero_copy_only=False)
    names = _spaced(pc.binary_join_element_wise(artists, titles, " — "))
    texts = pc.if_else(pa.array(kept[rows]), names, "-")
    return pc.replace_with_mask(ids.dictionary_decode(), pa.array(empty), texts), kept


def _spaced(texts: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"[\s\v\pZ]+", " "))


def with_next_gaps(groups: Groups) -> Refined:
    """Sorted plays, each with the seconds to the user's next one."""
    order = groups.table["order"].to_numpy().view(np.uint64)  # no difference overflows
    gaps = np.full(len(order), -1, np.int32)
    seconds = (order[1:] - order[:-1]) // np.uint64(_PER_SECOND)
    gaps[:-1] = np.minimum(seconds, _LONGEST_GAP)
    gaps[groups.starts + groups.sizes - 1] = -1
    name = context_name("next_gap_seconds")
    index = groups.table.schema.get_field_index(name)
    table = groups.table.set_column(index, name, pa.array(gaps))
    return Refined(dataclasses.replace(groups, table=table), {})
