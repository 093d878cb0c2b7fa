"""Baselines that need no training: popularity, neighbouring tracks, neighbouring sessions, Markov.

All learn from the training spans of the split alone and rank a held-out track given all tracks
before it, as the models do. No held-out track or label moves what they learn: under leave-one-out,
a session's validation track is read only as part of its own input to the test.

Scores are at least 0, and most are 0: a target that has none ties with every other track
without one. Ties count against the target, as they do in the models, so it then ranks last; there
is no falling back on popularity.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from scipy import sparse

from skipjax.data.parts import Split
from skipjax.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline(abc.ABC):
    """What all baselines have in common.

    Attributes:
      split: the data. A session's own training span is part of what is learnt, as it is for the
        models, unless the baseline says otherwise.
      played_only: learn from the played tracks of the training spans alone, as if the skipped ones
        were not there. The input is read whole all the same, since part of its labels is held out.
    """

    split: Split
    _: dataclasses.KW_ONLY
    played_only: bool = False

    @abc.abstractmethod
    def scores(self, rows: np.ndarray, which: str) -> sparse.csr_array:
        """[N, V], higher is better; what is stored is above 0, and 0 is the worst.

        Args:
          rows: [N] sessions of the part.
          which: "valid" or "test".
        """

    @abc.abstractmethod
    def groups(self, which: str) -> np.ndarray:
        """[N] int; sessions of the part with the same number have the same scores."""

    @abc.abstractmethod
    def costs(self, which: str) -> np.ndarray:
        """[N] at most how many numbers `scores` keeps at once for each session of the part."""

    @functools.cached_property
    def _training(self) -> tuple[np.ndarray, np.ndarray]:
        """The session and the track of every event that may be learnt from, in order."""
        split = self.split
        sessions, events = _events(*split.spans("train"))
        sessions = split.parts["train"].sessions[sessions]
        if self.played_only:
            played = ~split.skipped[events]
            sessions, events = sessions[played], events[played]
        return sessions, split.tracks[events]

    @functools.cached_property
    def _place(self) -> np.ndarray:
        """[S] the row of each session in `_spans`: by hash, so that their order is no matter."""
        place = np.empty(self.split.num_sessions, np.int64)
        place[np.argsort(self.split.session_hashes, kind="stable")] = np.arange(len(place))
        return place

    @functools.cached_property
    def _spans(self) -> sparse.csr_array:
        """[S, V] 1 where the training span has the track."""
        sessions, tracks = self._training
        shape = (self.split.num_sessions, self.split.num_ids)
        return _containing(self._place[sessions], tracks, shape)

    @functools.cached_property
    def _spans_with(self) -> sparse.csr_array:
        """[V, S], the same by track."""
        return self._spans.T.tocsr()

    def _last(self, which: str) -> np.ndarray:
        """[N] the track just before the one that is asked for."""
        starts, lengths = self.split.spans(which)
        return self.split.tracks[starts + lengths - 1]

    def _size(self, which: str) -> int:
        """N, the sessions of the part."""
        return len(self.split.parts[which].sessions)


class MostPopular(Baseline):
    """The same ranking for everybody: tracks by how often the training spans have them."""

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """[V] int64."""
        return np.bincount(self._training[1], minlength=self.split.num_ids)

    def scores(self, rows: np.ndarray, which: str) -> sparse.csr_array:
        once = sparse.csr_array(self.counts[None].astype(np.float64))
        return once[np.zeros(len(rows), np.int64)]

    def groups(self, which: str) -> np.ndarray:
        return np.zeros(self._size(which), np.int64)

    def costs(self, which: str) -> np.ndarray:
        return np.full(self._size(which), self.split.num_ids)


@dataclasses.dataclass(frozen=True, eq=False)
class ItemKNN(Baseline):
    """Tracks most similar to the last one, by the sessions that have both.

        score(j) = c(i, j) / sqrt((c(i) + λ) (c(j) + λ)),   0 for j = i

    with i the last track, c(i) the number of training spans with i and c(i, j) of those with both.
    The cosine of two tracks' sets of sessions is that of Sarwar et al. 2001 (Item-Based
    Collaborative Filtering Recommendation Algorithms); that sessions are asked for their last track
    alone, and λ, which holds back chance meetings of rare tracks, are of Hidasi et al. 2016
    (Session-Based Recommendations with Recurrent Neural Networks), as Ludewig & Jannach 2018 have
    it, too.

    Under leave-one-out, in the validation, the last track lies in the session's own training span,
    so tracks already heard gain by that one session, and a new one never does. In the test this is
    so only where the last track had been heard before.

    Attributes:
      regularisation: λ, at least 0.
      neighbours: how many similar tracks of each to keep, ties by lower id; None keeps all. With a
        single last track, fewer can only make targets tie at 0.
    """

    _: dataclasses.KW_ONLY
    regularisation: float = 20  # as in the public code of Hidasi et al.
    neighbours: int | None = None

    def __post_init__(self):
        if not self.regularisation >= 0:
            raise ConfigError(f"regularisation is {self.regularisation}; it must be at least 0.")
        if self.neighbours is not None:
            _check_neighbours(self.neighbours)

    def scores(self, rows: np.ndarray, which: str) -> sparse.csr_array:
        last = self._last(which)[rows]
        both = self._spans_with[last] @ self._spans
        of = np.diff(self._spans_with.indptr) + np.float64(self.regularisation)
        last = last[_rows(both)]
        values = _cosines(both.data, of[last], of[both.indices])
        values[both.indices == last] = 0
        return _best_of_rows(values, both, self.neighbours)

    def groups(self, which: str) -> np.ndarray:
        return self._last(which)

    def costs(self, which: str) -> np.ndarray:
        lengths = np.diff(self._spans.indptr)
        return (self._spans_with @ lengths)[self._last(which)].astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class SessionKNN(Baseline):
    """Tracks of the most similar training spans ("SKNN").

        score(j) = Σ over the nearest spans with j of the cosine to the input

    where the cosine of two sets of tracks is |both| / sqrt(|one| |other|): Jannach & Ludewig 2017
    (When Recurrent Neural Networks Meet the Neighborhood for Session-Based Recommendation) and
    Ludewig & Jannach 2018 (Evaluation of Session-Based Recommendation Algorithms). They seek
    neighbours among the newest sessions; here, where sessions may have no time, it is among all.

    A session is not its own neighbour: nothing is as near to the input as the part of it that is
    the session's training span, whose tracks would come first, all of them already heard. In those
    papers, too, sessions that are asked for are not among the neighbours.

    Attributes:
      neighbours: how many spans; ties by session hash.
    """

    _: dataclasses.KW_ONLY
    neighbours: int = 100

    def __post_init__(self):
        _check_neighbours(self.neighbours)

    def scores(self, rows: np.ndarray, which: str) -> sparse.csr_array:
        split = self.split
        starts, lengths = split.spans(which)
        own = self._place[split.parts[which].sessions[rows]]
        asking, events = _events(starts[rows], lengths[rows])
        inputs = _containing(asking, split.tracks[events], (len(rows), split.num_ids))
        both = inputs @ self._spans_with
        sizes, asking = np.diff(self._spans.indptr), _rows(both)
        values = _cosines(both.data, np.diff(inputs.indptr)[asking], sizes[both.indices])
        values[both.indices == own[asking]] = 0
        # Best first, and the product adds in that order: tracks whose neighbours are as near as one
        # another get the same sum to the last bit, so ties are ties.
        return _best_of_rows(values, both, self.neighbours) @ self._spans

    def groups(self, which: str) -> np.ndarray:
        return np.arange(self._size(which))

    def costs(self, which: str) -> np.ndarray:
        split = self.split
        asking, events = _events(*split.spans(which))
        spans_with = np.diff(self._spans_with.indptr)[split.tracks[events]]
        near = np.bincount(asking, spans_with, self._size(which)).astype(np.int64)
        longest = np.diff(self._spans.indptr).max()
        return np.maximum(near, np.minimum(near, self.neighbours) * longest)


class Markov(Baseline):
    """Tracks that most often came right after the last one: a first-order Markov chain.

        score(j) = how often j follows the last track in the training spans

    which orders tracks as their estimated probabilities do; without smoothing, "MC" of Ludewig &
    Jannach 2018 (Evaluation of Session-Based Recommendation Algorithms). With `played_only`, of the
    played tracks that remain the next one follows.

    What followed the same track earlier in the session's own training span counts as well: it is
    part of the input.
    """

    @functools.cached_property
    def _following(self) -> sparse.csr_array:
        """[V, V] float64 counts."""
        sessions, tracks = self._training
        same = sessions[1:] == sessions[:-1]
        pairs = (tracks[:-1][same], tracks[1:][same])
        shape = (self.split.num_ids, self.split.num_ids)
        return sparse.coo_array((np.ones(same.sum()), pairs), shape).tocsr()

    def scores(self, rows: np.ndarray, which: str) -> sparse.csr_array:
        return self._following[self._last(which)[rows]]

    def groups(self, which: str) -> np.ndarray:
        return self._last(which)

    def costs(self, which: str) -> np.ndarray:
        return np.diff(self._following.indptr)[self._last(which)].astype(np.int64)


BASELINES: dict[str, tuple[str, Callable[[Split], Baseline]]] = {
    "most_popular": ("most popular", MostPopular),
    "item_knn": ("item-kNN", ItemKNN),
    "session_knn": ("session-kNN", SessionKNN),
    "markov": ("last-track Markov", Markov),
}


def _events(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For the first events of N sessions: which of the N each is of, and where it stands."""
    sessions = np.repeat(np.arange(len(lengths)), lengths)
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return sessions, np.arange(len(sessions)) + np.repeat(starts - before, lengths)


def _containing(
    sessions: np.ndarray, tracks: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_array:
    """[S, V] float64, 1 where the session has the track, however often."""
    result = sparse.coo_array((np.ones(len(tracks)), (sessions, tracks)), shape).tocsr()
    result.data[:] = 1
    return result


def _cosines(both: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """both / sqrt(one · other), rounded so that equal cosines of integers are equal floats."""
    return np.sqrt(both * both / (one * other))


def _rows(matrix: sparse.csr_array) -> np.ndarray:
    """The row of every stored entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _best_of_rows(
    values: np.ndarray, matrix: sparse.csr_array, most: int | None
) -> sparse.csr_array:
    """The matrix with other values, of each row the best `most` above 0, ties by lower column.

    Entries are in this order in memory; where `most` is None, in the matrix's own.
    """
    positive = values > 0
    if most is None:
        kept = np.flatnonzero(positive)
    else:
        chosen = [np.empty(0, np.int64)]
        for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
            some = start + np.flatnonzero(positive[start:stop])
            chosen.append(some[best_first(values[some], matrix.indices[some], most)])
        kept = np.concatenate(chosen)
    ends = np.bincount(_rows(matrix)[kept], minlength=matrix.shape[0]).cumsum()
    indptr = np.concatenate([[0], ends])
    return sparse.csr_array((values[kept], matrix.indices[kept], indptr), matrix.shape)


def best_first(values: np.ndarray, ids: np.ndarray, most: int) -> np.ndarray:
    """Where the `most` highest values are, highest first, ties by lower id."""
    where = np.arange(len(values))
    if len(values) > most:
        where = np.flatnonzero(values >= np.partition(values, -most)[-most])
    return where[np.lexsort((ids[where], -values[where]))[:most]]


def _check_neighbours(neighbours: int) -> None:
    if neighbours < 1:
        raise ConfigError(f"neighbours is {neighbours}; it must be at least 1.")
