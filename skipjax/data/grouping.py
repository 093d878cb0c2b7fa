"""From a table of whole sessions' rows to sessions: sorted, checked for gaps, cut to length."""

import dataclasses
from collections.abc import Callable

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


def group(table: pa.Table) -> Groups:
    """Sorts rows by (hash, session id, order), those equal in all three staying as they are."""
    ids = table["session_id"].combine_chunks()
    codes = ids.indices.to_numpy()
    rank = np.empty(len(ids.dictionary), np.int64)  # tells ids apart whose hashes are the same
    rank[pc.sort_indices(ids.dictionary).to_numpy()] = np.arange(len(rank))
    order = np.lexsort((table["order"].to_numpy(), rank[codes], table["hash"].to_numpy()))
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


def cut(groups: Groups, *, min_length: int, max_length: int, at_most: int | None = None) -> Pieces:
    """Cuts each session into pieces of `max_length`, named `id#1`, `id#2`, ...; shorter ones stay.

    Args:
      groups: what to cut.
      min_length: shorter pieces are left out.
      max_length: of a piece.
      at_most: how many pieces to keep; what comes after the last of them is not even counted.
    """
    counts = -(-groups.sizes // max_length)
    source = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = np.minimum(groups.sizes[source] - number * max_length, max_length)
    kept, reached = lengths >= min_length, len(counts)
    if at_most is not None and kept.sum() >= at_most:
        end = int(np.flatnonzero(kept)[at_most - 1]) + 1
        source, number, lengths, kept = source[:end], number[:end], lengths[:end], kept[:end]
        reached = int(source[-1]) + 1
    rows = np.zeros(groups.table.num_rows, bool)
    rows[: lengths.sum()] = np.repeat(kept, lengths)
    ids = groups.ids.take(pa.array(source))
    made = counts[source] > 1
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
