"""Reads Yambda, the logs of Yandex Music, in its flat and its sequential form (Parquet).

Of each play it tells which share of the track was heard, and `multi_event` also what listeners
liked and disliked. A listener's log is one sequence, which is cut where nothing was played for a
while.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skipjax.data import fields, grouping, times
from skipjax.data.blocks import Block, check_columns
from skipjax.data.columns import context_name
from skipjax.data.grouping import Groups, Refined
from skipjax.data.inputs import Sources, find, reading
from skipjax.data.rows import read_parquet
from skipjax.data.sessions import Sessions
from skipjax.data.writer import SessionsWriter, Settings
from skipjax.errors import DataError

GAP_MINUTES = 30.0  # as its authors' benchmark has it
BLOCK_ROWS = 1 << 17
_LISTENERS = 64  # of the sequential form, read at a time
_COLUMNS = ("uid", "timestamp", "item_id", "is_organic", "played_ratio_pct")
_EVENT = "event_type"
_MOST_PERCENT = 2**15 - 1
_LAST_SECOND = 2**32 - 1  # as published, they are uint32

# What `reaction` holds of a row until reactions have found their play.
_LISTEN = 0
_REACTIONS = {"like": 1, "dislike": -1, "unlike": 2, "undislike": -2}
_KINDS = {"listen": _LISTEN, **_REACTIONS}


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    gap_minutes: float = GAP_MINUTES,
    block_rows: int = BLOCK_ROWS,
    **settings: Unpack[Settings],
) -> Sessions:
    """Prepares Yambda's logs as a folder of sessions, and opens it.

    Kept of a play: its time, in seconds; `played_percent`, at most 32,767; `is_organic`; and
    `reaction`, the last one that followed it before the listener's session ended or the track was
    played again. Reactions without a play of the track in the same session are left out and
    counted. A session is what lies between pauses of more than `gap_minutes`.

    Args:
      sources: Parquet files, flat or sequential; or a folder of them, of which `multi_event` is
        read, or else `listens`.
      out: the new folder.
      gap_minutes: begin a new session after such a pause; 0 never does.
      block_rows: how much to read at a time; changes nothing in the result.
      **settings: which sessions to keep, and more: see `SessionsWriter`.

    Raises:
      DataError: a file, row or value that is not as published; nothing is left behind.
      OutputError: `out` exists already or cannot be written.
    """
    paths = files(sources)
    reactions = any(map(_has_reactions, paths))
    with SessionsWriter(
        out,
        source="yambda",
        feedback=("played_percent", "reaction") if reactions else ("played_percent",),
        time_unit="s",
        gap_minutes=gap_minutes,
        refine=(lambda groups: with_reactions(groups, writer.gap)) if reactions else None,
        whole="listener's log",
        **settings,
    ) as writer:
        rows, listens = 0, False
        for block in writer.blocks(paths, lambda path: _rows(path, block_rows)):
            parsed = _parsed(block)
            writer.add(parsed)
            if not listens:
                listens = not reactions or not parsed.table["reaction"].to_numpy().all()
            rows += parsed.table.num_rows
        if rows and not listens:
            raise DataError(f"{paths[0]} has no listens; give a file that has.")
    return Sessions.open(out)


def files(sources: Sources) -> list[Path]:
    """The files that `prepare` would read.

    Raises:
      DataError: there are none, or two that hold the same plays.
    """
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    chosen: list[str | os.PathLike] = []
    for source in given:
        folder = Path(source).expanduser()
        names = [folder / f"{name}.parquet" for name in ("multi_event", "listens")]
        chosen.append(next(filter(Path.is_file, names), source) if folder.is_dir() else source)
    paths = find(chosen, (".parquet",))
    names = {path.name: path for path in paths}
    if {"multi_event.parquet", "listens.parquet"} <= names.keys():
        raise DataError(
            f"{names['multi_event.parquet']} holds the plays of {names['listens.parquet']} as "
            "well; name one of the two."
        )
    return paths


def schema(path: Path) -> pa.Schema:
    """The columns of a file, checked to be Yambda's, flat or as lists."""
    name = str(path)
    with reading(name):
        found = pq.read_schema(path)
    wanted = [*_COLUMNS, *([_EVENT] if _EVENT in found.names else [])]
    check_columns(name, found.names, wanted)
    lists = _is_list(found.field("timestamp").type)
    for column in wanted:
        kind = found.field(column).type
        if column != "uid" and _is_list(kind) != lists:
            raise DataError(
                f"{name}, column {column}, holds {kind}, but timestamp "
                f"{found.field('timestamp').type}: neither flat nor sequential."
            )
        kind = kind.value_type if _is_list(kind) else kind
        if column == _EVENT:
            if not fields.is_text(kind):
                raise DataError(f"{name}, column {column}, holds {kind}, not text.")
        elif not pa.types.is_integer(kind):
            raise DataError(f"{name}, column {column}, holds {kind}, not whole numbers.")
    return pa.schema([found.field(column) for column in wanted])


def _has_reactions(path: Path) -> bool:
    return _EVENT in schema(path).names


def _rows(path: Path, block_rows: int) -> Iterator[tuple[Block, int]]:
    """Blocks of flat rows, each with how many bytes of the file have been read."""
    columns = schema(path)
    if _is_list(columns.field("timestamp").type):
        return _flattened(path, columns.names, block_rows)
    return read_parquet(path, columns.names, batch_rows=block_rows)


def _flattened(path: Path, names: list[str], block_rows: int) -> Iterator[tuple[Block, int]]:
    """The events of listeners' lists as rows, numbered over the whole file."""
    row = 1
    blocks = read_parquet(path, names, lists=True, batch_rows=max(1, min(_LISTENERS, block_rows)))
    for block, done in blocks:
        table = block.table.combine_chunks()
        lists = [name for name in names if name != "uid"]
        sizes = pc.list_value_length(table["timestamp"]).fill_null(-1)
        for name in lists:
            same = pc.equal(pc.list_value_length(table[name]).fill_null(-1), sizes)
            if not pc.all(same).as_py():
                which = int(np.argmin(same.to_numpy()))
                raise DataError(
                    f"{path} row {block.first_row + which}, column {name}: this list is not as "
                    "long as that of timestamp; fetch the file again."
                )
        sizes = np.maximum(sizes.to_numpy(), 0)
        owners = pa.array(np.repeat(np.arange(len(sizes)), sizes))
        flat = {"uid": table["uid"].take(owners)}
        flat |= {name: pc.list_flatten(table[name]) for name in lists}
        events = pa.table(flat)
        for start in range(0, events.num_rows, block_rows):
            piece = events.slice(start, block_rows)
            yield Block(piece, f"{path}, its lists as rows,", row), done
            row += piece.num_rows


def _parsed(block: Block) -> Block:
    rows = block.table.num_rows
    reactions = _EVENT in block.table.column_names
    kinds = np.full(rows, _LISTEN, np.int8)
    if reactions:
        kinds = fields.parse(block, _EVENT, _KINDS.get, f"one of {', '.join(_KINDS)}", np.int8)
    listens = kinds == _LISTEN
    percent = fields.whole(block, "played_ratio_pct", 0, where=listens).clip(max=_MOST_PERCENT)
    order = times.parse(block, "timestamp", times.INTEGER)
    beyond = np.flatnonzero((order < 0) | (order > _LAST_SECOND))
    block.refuse(beyond, "timestamp", f"a number of seconds from 0 to {_LAST_SECOND}")
    table = {
        "session_id": fields.ids(block, "uid"),
        "track_id": fields.whole(block, "item_id", 0),
        "order": order,
        "level": np.zeros(rows, np.int8),
        "time": order,
        "played_percent": np.where(listens, percent, -1).astype(np.int16),
        **({"reaction": kinds} if reactions else {}),
        "is_organic": fields.whole(block, "is_organic", 0, 1).astype(bool),
    }
    return dataclasses.replace(block, table=pa.table(table))


def with_reactions(groups: Groups, gap: int | None) -> Refined:
    """Plays, each with the last reaction that belongs to it; those that belong to none go.

    A reaction belongs to the last play of its track before it, if the listener's session has not
    ended since: no two plays from that one on, and not the reaction and the play before it, are
    more than `gap` apart.

    Args:
      groups: rows of plays and reactions, told apart by the column `reaction`.
      gap: in units of `order`; None if a listener's log is one session.
    """
    kinds = groups.table[context_name("reaction")].to_numpy()
    played = kinds == _LISTEN
    if played.all():
        return Refined(groups, {})
    rows = np.arange(len(kinds))
    firsts = np.repeat(groups.starts, groups.sizes)
    last = np.maximum.accumulate(np.where(played, rows, -1))  # play at or before each row
    before = np.concatenate([[-1], last[:-1]])  # play before each row
    order = groups.table["order"].to_numpy().view(np.uint64)
    alone = before < firsts  # no play of the listener's comes before
    if gap is not None:
        alone |= order - order[np.maximum(before, 0)] > np.uint64(gap)
    session = np.cumsum(played & alone)  # of plays; a reaction's is that of the play before it
    reacted = ~played & ~alone
    tracks = groups.table["track"].to_numpy()
    busy = np.zeros(int(session[-1]) + 1, bool)
    busy[session[reacted]] = True
    some = np.flatnonzero((played | reacted) & busy[session])
    some = some[np.lexsort((some, tracks[some], session[some]))]  # by session, track and time
    places = np.arange(len(some))
    play = np.maximum.accumulate(np.where(played[some], places, -1))
    same = (session[some][play] == session[some]) & (tracks[some][play] == tracks[some])
    found = ~played[some] & (play >= 0) & same
    reactions, plays = some[found], some[play[found]]
    final = np.append(plays[1:] != plays[:-1], True)[: len(plays)]  # of those to the same play
    now = kinds[reactions[final]]
    values = np.zeros(len(kinds), np.int8)
    values[plays[final]] = np.where(np.abs(now) == 1, now, 0)
    lost = ~played
    lost[reactions] = False
    kept, left = grouping.only(groups, played)
    index = kept.table.schema.get_field_index(context_name("reaction"))
    table = kept.table.set_column(index, context_name("reaction"), pa.array(values[played]))
    counts = np.add.reduceat(lost, groups.starts, dtype=np.int64)
    return Refined(dataclasses.replace(kept, table=table), {"reactions": counts}, left)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
