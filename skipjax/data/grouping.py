"""From a table of whole sessions' rows to sessions: sorted, checked for gaps, cut to length."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Locate = Callable[[int], tuple[str, int]]  # a row counted over all files: its file, and row there


@dataclasses.dataclass(frozen=True)
class Groups:
    """Rows sorted by session and, within one, by order.

    Attributes:
      table: [n] rows, sorted.
      ids: [s] id of each session.
      starts: [s] its first row.
      sizes: [s] how many rows it has.
    """

    table: pa.Table
    ids: pa.Array
    starts: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What cutting leaves.

    Attributes:
      ids: [p] large_string, of the sessions kept.
      lengths: [p] int32.
      kept: [n] bool, which rows of the groups they are made of.
      made_ids: ids among all pieces that no row had: those of cut sequences.
      short_sessions: pieces left out for being too short.
      short_events: events in them.
      reached: how many sessions were looked at before there were enough pieces.
    """

    ids: pa.Array
    lengths: np.ndarray
    kept: np.ndarray
    made_ids: list[str]
    short_sessions: int
    short_events: int
    reached: int


@dataclasses.dataclass(frozen=True)
class Refined:
    """What a source makes of the whole sequences of a group.

    Attributes:
      groups: those that still have rows.
      left_out: what was left out to how much of it, [s] for the sequences there were before.
      left: [s] bool, which of those are still in `groups`; None if all are.
    """

    groups: Groups
    left_out: Mapping[str, np.ndarray]
    left: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """Which sequence before each of those now was."""
        if self.left is None:
            return np.arange(len(self.groups.sizes))
        return np.flatnonzero(self.left)


def group(table: pa.Table, newest_first: bool = False) -> Groups:
    """Sorts rows by (hash, session id, order), those equal in all three staying as they are.

    Args:
      table: in the order the rows came.
      newest_first: rows equal in all three come from the last to the first.
    """
    ids = table["session_id"].combine_chunks()
    codes = ids.indices.to_numpy()
    rank = np.empty(len(ids.dictionary), np.int64)  # tells ids apart whose hashes are the same
    rank[pc.sort_indices(ids.dictionary).to_numpy()] = np.arange(len(rank))
    keys = (table["order"].to_numpy(), rank[codes], table["hash"].to_numpy())
    if newest_first:
        order = len(codes) - 1 - np.lexsort([key[::-1] for key in keys])
    else:
        order = np.lexsort(keys)
    codes = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return Groups(
        table=table.drop_columns(["session_id", "hash"]).take(pa.array(order)),
        ids=ids.dictionary.take(pa.array(codes[starts])).cast(pa.large_string()),
        starts=starts,
        sizes=np.diff(np.append(starts, len(codes))),
    )


def without(groups: Groups, bad: np.ndarray) -> Groups:
    """The groups but for those sessions; `bad` is [s] bool."""
    rows, sizes = np.repeat(~bad, groups.sizes), groups.sizes[~bad]
    return Groups(
        table=groups.table.filter(pa.array(rows)),
        ids=groups.ids.filter(pa.array(~bad)),
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
    )


def only(groups: Groups, rows: np.ndarray) -> tuple[Groups, np.ndarray]:
    """The groups without some of their rows, and which of them have any left.

    Args:
      groups: of n rows and s sessions.
      rows: [n] bool, those to keep.

    Returns:
      The groups that still have rows, and [s] bool, which those are.
    """
    if rows.all():
        return groups, np.ones(len(groups.sizes), bool)
    sizes = np.add.reduceat(rows, groups.starts, dtype=np.int64)
    left = sizes > 0
    sizes = sizes[left]
    kept = Groups(
        table=groups.table.filter(pa.array(rows)),
        ids=groups.ids.filter(pa.array(left)),
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
    )
    return kept, left


def any_row(groups: Groups, rows: np.ndarray) -> np.ndarray:
    """[s] bool, whether any row of each session is among `rows`, [n] bool."""
    return np.logical_or.reduceat(rows, groups.starts)


def incomplete(groups: Groups) -> np.ndarray:
    """[s] bool, which sessions have not every position from 1 to their declared length once.

    The table must have `order`, `length` and `row`.
    """
    order, length = groups.table["order"].to_numpy(), groups.table["length"].to_numpy()
    expected = np.arange(1, len(order) + 1) - np.repeat(groups.starts, groups.sizes)
    return any_row(groups, (order != expected) | (length != np.repeat(groups.sizes, groups.sizes)))


def what_is_missing(groups: Groups, number: int, locate: Locate) -> tuple[int, str, str]:
    """Why session `number` is incomplete.

    Args:
      groups: as for `incomplete`.
      number: of the session in them.
      locate: for entries of `row`.

    Returns:
      An entry of `row` where it shows, what is wrong, and what may help.
    """

    def at(place: int) -> str:
        return "{} row {}".format(*locate(place))

    start, size = int(groups.starts[number]), int(groups.sizes[number])
    order, length, places = (
        groups.table[name].to_numpy()[start : start + size] for name in ("order", "length", "row")
    )
    if (length != length[0]).any():
        other = int(np.argmax(length != length[0]))
        what = (
            f"is {length[0]} tracks long in {at(places[0])}, but {length[other]} in "
            f"{at(places[other])}"
        )
        return places[other], what, "correct or remove the session"
    twice = np.flatnonzero(order[1:] == order[:-1])
    if twice.size:
        i = int(twice[0])
        what = f"has position {order[i]} twice: in {at(places[i])} and in {at(places[i + 1])}"
        return places[i + 1], what, "was a file given twice?"
    missing = sorted(set(range(1, int(length[0]) + 1)) - set(order.tolist()))
    what = (
        f"has {size} of its {length[0]} positions; {missing[0]} is missing, and its last row is "
        f"{at(places.max())}"
    )
    return places.max(), what, "is a file cut short, or not given?"


def after_gaps(groups: Groups, gap: int | None) -> np.ndarray:
    """[n] bool, rows whose `order` is more than `gap` after that of the row before, if one is.

    Args:
      groups: with the column `order`.
      gap: in units of it; None finds none.
    """
    found = np.zeros(groups.table.num_rows, bool)
    if gap is not None and len(found):
        order = groups.table["order"].to_numpy().view(np.uint64)  # no difference overflows
        found[1:] = order[1:] - order[:-1] > np.uint64(gap)
        found[groups.starts] = False
    return found


def cut(
    groups: Groups,
    *,
    min_length: int,
    max_length: int,
    breaks: np.ndarray | None = None,
    at_most: int | None = None,
) -> Pieces:
    """Cuts each session where `breaks` says so, and then into pieces of `max_length`.

    Pieces are named `id#1`, `id#2`, ..., those left out being counted; a session that is not cut
    keeps its name.

    Args:
      groups: what to cut.
      min_length: shorter pieces are left out.
      max_length: of a piece.
      breaks: [n] bool, rows that begin a piece.
      at_most: how many pieces to keep; what comes after the last of them is not even counted.
    """
    starts, sizes = groups.starts, groups.sizes
    owner = np.arange(len(sizes))
    if breaks is not None and breaks.any():
        starts = np.union1d(starts, np.flatnonzero(breaks))
        sizes = np.diff(np.append(starts, groups.table.num_rows))
        owner = np.searchsorted(groups.starts, starts, side="right") - 1
    counts = -(-sizes // max_length)
    run = np.repeat(np.arange(len(counts)), counts)
    lengths = np.minimum(sizes[run] - _places(counts) * max_length, max_length)
    source = owner[run]
    pieces = np.bincount(source, minlength=len(groups.sizes))
    number, made = _places(pieces), pieces[source] > 1
    kept, reached = lengths >= min_length, len(groups.sizes)
    if at_most is not None and kept.sum() >= at_most:
        end = int(np.flatnonzero(kept)[at_most - 1]) + 1
        source, number, made = source[:end], number[:end], made[:end]
        lengths, kept = lengths[:end], kept[:end]
        reached = int(source[-1]) + 1
    rows = np.zeros(groups.table.num_rows, bool)
    rows[: lengths.sum()] = np.repeat(kept, lengths)
    ids = groups.ids.take(pa.array(source))
    made_ids = [
        f"{name}#{n + 1}"
        for name, n in zip(ids.filter(pa.array(made)).to_pylist(), number[made], strict=True)
    ]
    if made_ids:
        ids = pc.replace_with_mask(ids, pa.array(made), pa.array(made_ids, ids.type))
    return Pieces(
        ids=ids.filter(pa.array(kept)),
        lengths=lengths[kept].astype(np.int32),
        kept=rows,
        made_ids=made_ids,
        short_sessions=int((~kept).sum()),
        short_events=int(lengths[~kept].sum()),
        reached=reached,
    )


def _places(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... for each of the counts in turn."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
