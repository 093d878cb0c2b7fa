"""From a table of whole sessions' rows to sessions: sorted, checked for gaps, cut to length."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipjax.errors import DataError


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
    """

    ids: pa.Array
    lengths: np.ndarray
    kept: np.ndarray
    made_ids: list[str]
    short_sessions: int
    short_events: int


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


def check_complete(groups: Groups, locate: Callable[[int], str]) -> None:
    """Checks that each session has every position from 1 to its declared length once.

    Args:
      groups: of a table with `order`, `length` and `row`.
      locate: gives `FILE row R` for an entry of `row`.

    Raises:
      DataError: names the first session that has not, what is wrong, and where.
    """
    order, length = groups.table["order"].to_numpy(), groups.table["length"].to_numpy()
    expected = np.arange(1, len(order) + 1) - np.repeat(groups.starts, groups.sizes)
    wrong = (order != expected) | (length != np.repeat(groups.sizes, groups.sizes))
    if not wrong.any():
        return
    number = int(np.searchsorted(groups.starts, np.argmax(wrong), side="right")) - 1
    start, size = int(groups.starts[number]), int(groups.sizes[number])
    session = groups.ids[number].as_py()
    order, length = order[start : start + size], length[start : start + size]
    places = groups.table["row"].to_numpy()[start : start + size]
    if (length != length[0]).any():
        other = int(np.argmax(length != length[0]))
        raise DataError(
            f"session {session} is {length[0]} tracks long in {locate(places[0])}, but "
            f"{length[other]} in {locate(places[other])}; correct or remove the session."
        )
    twice = np.flatnonzero(order[1:] == order[:-1])
    if twice.size:
        i = int(twice[0])
        raise DataError(
            f"session {session} has position {order[i]} twice: in {locate(places[i])} and in "
            f"{locate(places[i + 1])}; was a file given twice?"
        )
    missing = sorted(set(range(1, int(length[0]) + 1)) - set(order.tolist()))
    raise DataError(
        f"session {session} has {size} of its {length[0]} positions; {missing[0]} is missing, "
        f"and its last row is {locate(places.max())}; is a file cut short, or not given?"
    )


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
    kept = lengths >= min_length
    if at_most is not None and kept.sum() >= at_most:
        end = int(np.flatnonzero(kept)[at_most - 1]) + 1
        source, number, lengths, kept = source[:end], number[:end], lengths[:end], kept[:end]
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
    )
