"""Reads the extended streaming history that Spotify gives its users on request (JSON).

Of all that it tells, only what the store below names is read on: no address, account, country or
device enters it.
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from skipjax.data import fields, grouping, times
from skipjax.data.blocks import BLOCK_BYTES, TEXT, Block, ahead, check_columns, noting
from skipjax.data.grouping import Groups, Refined
from skipjax.data.inputs import Progress, Sources, find, open_stream, position
from skipjax.data.json_arrays import read_objects
from skipjax.data.sessions import Sessions
from skipjax.data.writer import SessionsWriter
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
_SPOKEN = "podcasts and audiobooks"
NEEDED = ("ts", "ms_played", _TRACK)
_URI = "^spotify:track:[0-9A-Za-z]{22}$"
_LOCAL = "spotify:local:"  # a listener's own files
_UNUSED = {"ts": "1970-01-01T00:00:00Z", "ms_played": "0", _TRACK: "-"}  # of what is left out


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    num_sessions: int = 0,
    min_length: int = 4,
    max_length: int = 20,
    gap_minutes: float = GAP_MINUTES,
    on_bad_session: str = "error",
    progress: Progress | None = None,
    block_bytes: int = BLOCK_BYTES,
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
      num_sessions: keep so many sessions, those of listeners drawn uniformly; 0 keeps all.
      min_length: leave out shorter sessions and remainders.
      max_length: cut longer sessions.
      gap_minutes: begin a new session where `ts` is further from that of the play before; 0 never
        does.
      on_bad_session: "error", or "drop" to leave out listeners with a value that cannot be used;
        they are counted and listed.
      progress: called with bytes done, bytes in all, and what is being done.
      block_bytes: how much to read at a time; changes nothing in the result.

    Raises:
      DataError: a file, object or value that cannot be used (with "drop", only what concerns a
        whole file); nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    paths = files(sources)
    with SessionsWriter(
        out,
        source="spotify",
        time_unit="ns",
        gap_minutes=gap_minutes,
        refine=without_duplicates,
        min_length=min_length,
        max_length=max_length,
        num_sessions=num_sessions,
        on_bad_session=on_bad_session,
        whole="listener's log",
        progress=progress,
    ) as writer:
        entries, counted = 0, collections.Counter()
        for block, left_out in read(
            paths, on_bad_session=on_bad_session, progress=progress, block_bytes=block_bytes
        ):
            writer.add(block)
            entries += block.table.num_rows
            counted.update(left_out)
        for what, number in counted.items():
            writer.leave_out(what, number)
        if entries == counted.total():
            spoken = " (all are podcasts or audiobooks)" if entries == counted[_SPOKEN] else ""
            raise DataError(
                f"{named(paths)}: none of its {entries:,} entries is a track that was "
                f"played{spoken}."
            )
    return Sessions.open(out)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, _SUFFIXES, only=NAMES)


def read(
    sources: Sources,
    *,
    on_bad_session: str = "error",
    progress: Progress | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[Block, dict[str, int]]]:
    """Yields the rows of files, checked, as `SessionsWriter.add` takes them.

    With each block comes how many of its rows are not music, or not known to be.
    """
    paths = files(sources)
    total = sum(path.stat().st_size for path in paths)
    alone = len({path.resolve().parent for path in paths}) == 1
    for block, left_out, done in ahead(_blocks(paths, block_bytes)):
        try:
            parsed = _parsed(noting(block, on_bad_session))
        except BadSessionError as error:
            if not alone:
                raise
            # To leave out the only listener would leave nothing.
            raise DataError(f"{error.args[0]}; correct or remove the entry.") from error
        yield parsed, left_out
        if progress:
            progress(done, total, "reading")


def _blocks(paths: list[Path], block_bytes: int) -> Iterator[tuple[Block, dict[str, int], int]]:
    """Blocks of text and nulls, what of them is no music, and how many bytes have been read."""
    folders = sorted({path.resolve().parent for path in paths})
    accounts: dict[Path, Any] = {}
    before, some = 0, False
    for path in paths:
        folder = path.resolve().parent
        listener = f"listener-{folders.index(folder) + 1}"
        with open_stream(path) as (stream, raw):
            for objects, first in read_objects(stream, str(path), block_bytes=block_bytes):
                if first == 1:
                    check_columns(f"{path}, object 1,", list(objects[0]), NEEDED)
                _check_account(accounts, folder, objects)
                some = True
                table, left_out = _table(objects, listener)
                yield Block(table, str(path), first), left_out, before + position(raw)
        before += path.stat().st_size
    if not some:
        raise DataError(f"{named(paths)} has no objects.")


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


def _table(objects: Sequence[dict[str, Any]], listener: str) -> tuple[pa.Table, dict[str, int]]:
    music = np.array([_is_music(value.get(_TRACK)) for value in objects])
    spoken = sum(
        any(value.get(name) is not None for name in _OTHERS)
        for value, kept in zip(objects, music, strict=True)
        if not kept
    )
    left_out = {
        _SPOKEN: spoken,
        "plays without a track": int((~music).sum()) - spoken,
    }
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
    return pa.table(columns | {"kept": music}), left_out


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
