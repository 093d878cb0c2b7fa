"""Reads RecBole's atomic files of interactions, `.inter`: tab-separated, each name with its type.

user_id:token   item_id:token   rating:float    timestamp:float
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from skipjax.data import table
from skipjax.data.blocks import Block, check_columns
from skipjax.data.csv_lines import read_csv
from skipjax.data.inputs import Sources, find, open_stream, position, reading, shown
from skipjax.data.sessions import Sessions
from skipjax.errors import DataError

GAP_MINUTES = table.GAP_MINUTES
_SUFFIXES = (".inter", ".inter.gz")
_LONGEST_HEADER = 1 << 20
_NUMBER = ("float", "token")
# What a field is for, the names it may have, the most usual first, and the types.
_KNOWN = {
    "session_column": (("session_id", "user_id", "session", "user", "uid", "userid"), ("token",)),
    "track_column": (
        ("item_id", "track_id", "item", "track", "iid", "itemid", "song_id", "video_id"),
        ("token",),
    ),
    "time_column": (("timestamp", "time", "time_ms"), _NUMBER),
    "position_column": (("position",), _NUMBER),
    "level_column": (("level", "skip_level"), _NUMBER),
    "skip_column": (("skip", "skipped"), _NUMBER),
    "rating_column": (("rating", "stars"), _NUMBER),
    "percent_column": (("played_percent", "played_ratio_pct"), _NUMBER),
}


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    time_unit: str = "",
    context_columns: tuple[str, ...] = (),
    **settings: Any,
) -> Sessions:
    """Prepares `.inter` files as a folder of sessions, and opens it.

    Fields are found by name and type, see `columns`; else this is `table.prepare`.

    Args:
      sources: a path or several: files, gzipped or not; folders; glob patterns.
      out: the new folder.
      time_unit: of the times: "s", "ms", "us" or "ns"; '' if that is not known.
      context_columns: fields, without their types, to keep beside the events.
      **settings: see `table.prepare`.

    Raises:
      ConfigError: a gap is asked for without a unit.
      DataError: a file, field or value that cannot be used; nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    paths = files(sources)
    found = columns(paths[0], time_unit, context_columns)
    return table.prepare(paths, out, found, source="inter", read_rows=_rows, **settings)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read."""
    return find(sources, _SUFFIXES)


def columns(
    path: Path, time_unit: str = "", context_columns: tuple[str, ...] = ()
) -> table.Columns:
    """Which field of a file is what, by its name and type.

    Raises:
      DataError: the header is not one of RecBole's, or lacks a field that is needed.
    """
    pairs = fields_of(path)
    types = dict(pairs)
    found = {}
    for role, (names, kinds) in _KNOWN.items():
        fitting = [name for name in names if types.get(name) in kinds]
        found[role] = fitting[0] if fitting else ""
    if found["time_column"]:
        found["position_column"] = ""
    if found["level_column"]:
        found["skip_column"] = ""
    header = shown(", ".join(map(":".join, pairs)), 300)
    for role, what in (
        ("session_column", "whose it is"),
        ("track_column", "the track"),
        ("time_column", "when it was"),
    ):
        if not found[role] and not (role == "time_column" and found["position_column"]):
            names, kinds = _KNOWN[role]
            raise DataError(
                f"{path} has no field for {what}: one of {', '.join(names)} of type "
                f"{' or '.join(kinds)}; its fields are {header}. Rename it in the header."
            )
    told = ("level_column", "skip_column", "rating_column", "percent_column")
    if not any(found[role] for role in told):
        names = ", ".join(_KNOWN[role][0][0] for role in told)
        raise DataError(
            f"{path} has no field that tells what was skipped, such as {names}; its fields are "
            f"{header}. Rename it in the header."
        )
    for name in context_columns:
        if name not in types:
            raise DataError(f"{path} has no field {name!r}; its fields are {header}.")
    return table.Columns(
        **found,
        time_unit=time_unit if found["time_column"] else "",
        context_columns=context_columns,
    )


def _rows(
    path: Path, wanted: Mapping[str, pa.DataType], block_bytes: int
) -> Iterator[tuple[Block, int]]:
    names = [name for name, _ in fields_of(path)]
    check_columns(str(path), names, wanted)
    with open_stream(path) as (stream, raw):
        for block in read_csv(
            stream,
            str(path),
            wanted,
            delimiter="\t",
            header=names,
            passed_over=1,
            block_bytes=block_bytes,
        ):
            yield block, position(raw)


def fields_of(path: Path) -> list[tuple[str, str]]:
    """The fields of a file, each with its type.

    Raises:
      DataError: the first line does not name any.
    """
    with open_stream(path) as (stream, _), reading(str(path)):
        line = stream.readline(_LONGEST_HEADER)
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    pairs = [field.strip().rpartition(":") for field in text.split("\t")]
    types = ("token", "float", "token_seq", "float_seq")
    if any(not name or ":" in name or kind not in types for name, _, kind in pairs):
        raise DataError(
            f"{path}: its first line must name fields with their types, such as "
            f"user_id:token, with tabs between them; it is {shown(text, 100)!r}."
        )
    return [(name, kind) for name, _, kind in pairs]
