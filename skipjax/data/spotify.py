"""Reads the extended streaming history that Spotify gives its users on request (JSON).

Of all that it tells, only what the store below names is read on: no address, account, country or
device enters it.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from skipjax.data import fields, grouping, times
from skipjax.data.blocks import BLOCK_BYTES, TEXT, Block, check_columns
from skipjax.data.grouping import Groups, Refined
from skipjax.data.inputs import Sources, find, open_stream, position
from skipjax.data.json_arrays import read_objects
from skipjax.data.sessions import Sessions
from skipjax.data.writer import SessionsWriter, Settings
from skipjax.errors import BadSessionError, DataError

GAP_MINUTES = 30.0
NAMES = ("Streaming_History_Audio", "endsong")  # how the files begin, lately and until 2022
_SUFFIXES = (".json", ".json.gz")
_LONGEST_PLAY = 2**31 - 1  # ms
_VERY_BRIEFLY = 10_000  # ms: level 1 below, else 2
_BRIEFLY = 30_000  # ms, where it is not logged whether a play was skipped
_BUTTONS = ("fwdbtn", "backbtn")
_OTHERS = ("spotify_episode_uri", "audiobook_uri", "audiobook_chapter_uri")  # no music
_READ = ("ts", "ms_played", "skipped", "reason_start", "reason_end", "shuffle", "offline")
_TRACK = "spotify_track_uri"
NEEDED = ("ts", "ms_played", _TRACK)
_URI = "^spotify:track:[0-9A-Za-z]{22}$"
_LOCAL = "spotify:local:"  # a listener's own files
_UNUSED = {"ts": "1970-01-01T00:00:00Z", "ms_played": "0", _TRACK: "-"}  # of what is left out


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    gap_minutes: float = GAP_MINUTES,
    block_bytes: int = BLOCK_BYTES,
    **settings: Unpack[Settings],
) -> Sessions:
    """Prepares an extended streaming history as a folder of sessions, and opens it.

    The files of one folder are one listener's log. It is ordered by `ts`, when a play ended. A
    play that was `skipped` has level 2, or 1 if it took less than 10 s. Where that was not logged
    (null, in older files), the level is 2 if the next or previous button ended it within 30 s.
    Podcasts and audiobooks, plays without a track or of a listener's own files, and plays that are
    there twice are left out and counted.

    Args:
      sources: a folder, several (of several listeners), or files.
      out: the new folder.
      gap_minutes: begin a new session where `ts` is further from that of the play before; 0 never
        does.
      block_bytes: how much to read at a time; changes nothing in the result.
      **settings: which sessions to keep, and more: see `SessionsWriter`.

    Raises:
      DataError: a file, object or value that cannot be used; nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    paths = files(sources)
    folders = sorted({path.resolve().parent for path in paths})
    with SessionsWriter(
        out,
        source="spotify",
        time_unit="ns",
        gap_minutes=gap_minutes,
        refine=without_duplicates,
        whole="listener's log",
        **settings,
    ) as writer:
        accounts: dict[Path, Any] = {}
        entries = music = spoken = 0
        for block in writer.blocks(paths, lambda path: _rows(path, folders, accounts, block_bytes)):
            try:
                parsed = _parsed(block)
            except BadSessionError as error:
                if len(folders) > 1:
                    raise
                # To leave out the only listener would leave nothing.
                raise DataError(f"{error.args[0]}; correct or remove the entry.") from error
            writer.add(parsed)
            entries += block.table.num_rows
            music += int(np.sum(block.table["kept"]))
            spoken += int(np.sum(block.table["spoken"]))
        if not entries:
            raise DataError(f"{named(paths)} has no objects.")
        writer.leave_out("podcasts and audiobooks", spoken)
        writer.leave_out("plays without a track", entries - music - spoken)
        if not music:
            what = " (all are podcasts or audiobooks)" if entries == spoken else ""
            raise DataError(
                f"{named(paths)}: none of its {entries:,} entries is a track that was played{what}."
            )
    return Sessions.open(out)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, _SUFFIXES, only=NAMES)


def _rows(
    path: Path, folders: Sequence[Path], accounts: dict[Path, Any], block_bytes: int
) -> Iterator[tuple[Block, int]]:
    """Blocks of text and nulls, each with how many bytes of the file have been read."""
    folder = path.resolve().parent
    listener = f"listener-{folders.index(folder) + 1}"
    with open_stream(path) as (stream, raw):
        for objects, first in read_objects(stream, str(path), block_bytes=block_bytes):
            if first == 1:
                check_columns(f"{path}, object 1,", list(objects[0]), NEEDED)
            _check_account(accounts, folder, objects)
            yield Block(_table(objects, listener), str(path), first), position(raw)


def named(paths: Sequence[Path]) -> str:
    """The file, or the folder of the first of several, for messages."""
    return str(paths[0] if len(paths) == 1 else paths[0].parent)


def _check_account(accounts: dict[Path, Any], folder: Path, objects: list[dict]) -> None:
    """Refuses a folder with the logs of two, where that can be told; says no names."""
    names = {name for value in objects if isinstance(name := value.get("username"), str)}
    names |= {accounts[folder]} if folder in accounts else set()
    if len(names) > 1:
        raise DataError(
            f"{folder} has the history of more than one account; give each a folder of its own."
        )
    accounts.update((folder, name) for name in names)


def _table(objects: Sequence[dict[str, Any]], listener: str) -> pa.Table:
    music = np.array([_is_music(value.get(_TRACK)) for value in objects])
    spoken = [
        not kept and any(value.get(name) is not None for name in _OTHERS)
        for value, kept in zip(objects, music, strict=True)
    ]
    columns = {
        name: pa.array(
            [
                _text(value.get(name)) if kept else _UNUSED.get(name)
                for value, kept in zip(objects, music, strict=True)
            ],
            TEXT,
        )
        for name in (*_READ, _TRACK)
    }
    columns["listener"] = pa.array([listener] * len(objects), TEXT)
    return pa.table(columns | {"kept": music, "spoken": spoken})


def _is_music(uri: Any) -> bool:
    return uri is not None and not (isinstance(uri, str) and uri.startswith(_LOCAL))


def _text(value: Any) -> str | None:
    """A JSON value as text that can be stored; null as None."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, list | dict):
        return "[...]"
    return value if value is None else json.dumps(value)


def _parsed(block: Block) -> Block:
    table = block.table
    for name in ("skipped", "reason_start", "reason_end", "shuffle", "offline"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table[name].fill_null(""))
    block = dataclasses.replace(block, table=table)
    order = times.parse(block, "ts", times.WITH_ZONE)
    played = fields.integers(block, "ms_played", 0, _LONGEST_PLAY)
    skipped = fields.parse(
        block,
        "skipped",
        {"true": 1, "false": 0, "": -1}.get,
        "true, false or null",
        np.int8,
    )
    button = fields.parse(block, "reason_end", lambda text: text in _BUTTONS, "text", np.bool_)
    levels = np.select(
        [
            (skipped == 1) & (played < _VERY_BRIEFLY),
            skipped == 1,
            (skipped == -1) & button & (played < _BRIEFLY),
        ],
        [1, 2, 2],
        0,
    )
    parsed = {
        "session_id": fields.ids(block, "listener"),
        "track_id": _tracks(block),
        "order": order,
        "level": levels.astype(np.int8),
        "kept": table["kept"],
        "time": order,
        "ms_played": played,
        "shuffle": _flag(block, "shuffle"),
        "reason_start": _named(fields.encode(block, "reason_start")),
        "offline": _flag(block, "offline"),
    }
    return dataclasses.replace(block, table=pa.table(parsed))


def _tracks(block: Block) -> pa.DictionaryArray:
    tracks = fields.ids(block, _TRACK)
    good = np.array([bool(re.match(_URI, uri)) for uri in tracks.dictionary.to_pylist()])
    bad = ~good[tracks.indices.to_numpy()] & block.table["kept"].to_numpy()
    block.refuse(np.flatnonzero(bad), _TRACK, "spotify:track: with 22 letters or digits")
    return tracks


def _flag(block: Block, name: str) -> np.ndarray:
    """[rows] bool; what is not known is False."""
    known = {"true": True, "false": False, "": False}
    return fields.parse(block, name, known.get, "true, false or null", np.bool_)


def _named(texts: pa.DictionaryArray) -> pa.DictionaryArray:
    """With "unknown" where there is no text."""
    values = [text or "unknown" for text in texts.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(texts.indices, pa.array(values, TEXT))


def without_duplicates(groups: Groups) -> Refined:
    """Sorted plays, without those that are equal in all that is kept to one before."""
    table = groups.table
    names = [name for name in table.column_names if name not in ("row", "fault")]
    columns = [table[name].to_numpy() for name in names]
    columns.append(np.repeat(np.arange(len(groups.sizes)), groups.sizes))
    places = np.lexsort([np.arange(table.num_rows), *columns])
    same = np.ones(len(places) - 1, bool)
    for column in columns:
        ordered = column[places]
        same &= ordered[1:] == ordered[:-1]
    again = np.zeros(len(places), bool)
    again[places[1:][same]] = True
    counts = np.add.reduceat(again, groups.starts, dtype=np.int64)
    kept, left = grouping.only(groups, ~again)
    return Refined(kept, {"plays that are there twice": counts}, left)
