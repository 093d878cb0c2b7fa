"""What leave-one-out learns from the future, and what a split in time would make of the data."""

import numpy as np

from skipjax.audit.data import Data
from skipjax.audit.finding import NO_TIMES, Finding, graded, share, unknown
from skipjax.audit.thresholds import FUTURE_SERIOUS, FUTURE_WARNING, SMALL_EFFECT
from skipjax.data.inputs import counted
from skipjax.study.wording import decimal

MOST_TARGETS = 100_000  # sampled, to look for among later sessions
MOST_RANKED = 20_000  # sampled, to rank by the Markov baseline
MOST_EVENTS = 20_000_000  # of the sessions that it learns from
_SEED = 0
_CUTOFF = 10


def leak(data: Data) -> Finding:
    """Test targets that training spans of later sessions hold already."""
    name, title = "future", "Training on the future"
    if not data.has_times:
        return unknown(
            name,
            title,
            f"Whether leave-one-out trains on what came later cannot be told: {NO_TIMES}.",
        )
    split = data.split
    rows = _sample(data.num_sessions, MOST_TARGETS)
    last = split.starts[rows] + split.lengths[rows] - 1
    targets, before = (split.tracks[last - back].astype(np.int64) for back in (0, 1))
    found = _Spread(targets), _Spread(before * split.num_ids + targets)
    sought = np.zeros((2, split.num_ids), bool)  # as the track before, and as the target
    sought[0, before] = sought[1, targets] = True
    for chunk in data.chunks():
        begins, trained = data.begins[chunk.rows][chunk.session], chunk.trained
        one = trained & sought[1, chunk.tracks]
        found[0].add(chunk.tracks[one].astype(np.int64), begins[one])
        one, two = chunk.tracks[:-1], chunk.tracks[1:]
        here = np.flatnonzero(chunk.followed & trained[1:] & sought[0, one] & sought[1, two])
        found[1].add(one[here].astype(np.int64) * split.num_ids + two[here], begins[1:][here])
    numbers = {
        what: _shares(*spread.around(data.begins[rows]))
        for what, spread in zip(("target", "pair"), found, strict=True)
    }
    pair, target = numbers["pair"], numbers["target"]
    only = pair["only_later"]
    severity = graded(only, note=SMALL_EFFECT)
    return Finding(
        name,
        title,
        severity,
        f"For {share(pair['later'])} of test targets, leave-one-out trains on another session that "
        f"starts later and has the same pair of tracks (the one before, and the target); for "
        f"{share(only)} only later sessions have it. The target alone is in later sessions for "
        f"{share(target['later'])}, only there for {share(target['only_later'])}."
        + _of(len(rows), data.num_sessions),
        numbers | {"targets": len(rows)},
        "Where it matters what a model could have known, use --config.data.split=temporal."
        if severity == "note" and data.config.data.split != "temporal"
        else "",
    )


class _Spread:
    """When the earliest and the latest session began that has each of some keys."""

    def __init__(self, wanted: np.ndarray):
        """
        Args:
          wanted: [n] int64 keys, perhaps some of them equal.
        """
        self._keys, self._places = np.unique(wanted, return_inverse=True)
        limits = np.iinfo(np.int64)
        self._first = np.full(len(self._keys), limits.max)
        self._last = np.full(len(self._keys), limits.min)

    def add(self, keys: np.ndarray, begins: np.ndarray) -> None:
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[places] == keys
        np.minimum.at(self._first, places[known], begins[known])
        np.maximum.at(self._last, places[known], begins[known])

    def around(self, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n] bool each: whether a session with the n-th key began before, and after, `begins`.

        A session is neither before nor after itself, nor is one that begins at the same time.
        """
        return self._first[self._places] < begins, self._last[self._places] > begins


def _shares(earlier: np.ndarray, later: np.ndarray) -> dict[str, float]:
    return {
        "earlier": float(earlier.mean()),
        "later": float(later.mean()),
        "only_later": float((later & ~earlier).mean()),
    }


def markov(data: Data) -> Finding:
    """HR@10 of the last-track Markov baseline with and without what was heard later."""
    name, title = "future_markov", "What the future is worth"
    if not data.has_times:
        return unknown(name, title, f"What knowing the future is worth cannot be told: {NO_TIMES}.")
    hits, sessions = _markov_hits(data)
    rates = {what: float(found.mean()) for what, found in hits.items()}
    gained = hits["random"].astype(float) - hits["earlier"]
    error = gained.std() / np.sqrt(len(gained))
    relative = gained.mean() / rates["random"] if rates["random"] else 0.0
    certain = gained.mean() > 1.96 * error
    words = (
        f"The last-track Markov baseline reaches HR@10 {decimal(rates['all'], 3)} among all tracks "
        f"as leave-one-out trains it, and {decimal(rates['earlier'], 3)} without the sessions that "
        "start later than the one that it is asked about; with as many sessions drawn at random, "
        f"{decimal(rates['random'], 3)}"
    )
    words += (
        f": so knowing the future is worth {share(relative)} of its hits"
        if certain
        else ": so the difference is that of having fewer sessions, not of the future"
    )
    severity, advice = "ok", ""
    if certain:
        severity = graded(relative, note=0.0, warning=FUTURE_WARNING, serious=FUTURE_SERIOUS)
        advice = (
            "Leave-one-out shows more than a service would get; to know how much, train with "
            "--config.data.split=temporal, too."
        )
    if data.config.data.split == "temporal":
        severity, advice = ("note" if certain else "ok"), ""
    return Finding(
        name,
        title,
        severity,
        f"{words}.{_of(len(gained), data.num_sessions)}",
        {
            "hr@10": rates["all"],
            "hr@10_earlier": rates["earlier"],
            "hr@10_as_many_at_random": rates["random"],
            "future_share": relative,
            "difference": float(gained.mean()),
            "low": float(gained.mean() - 1.96 * error),
            "high": float(gained.mean() + 1.96 * error),
            "targets": len(gained),
            "sessions": sessions,
        },
        advice,
    )


def _markov_hits(data: Data) -> tuple[dict[str, np.ndarray], int]:
    """[n] bool, whether each target is among the first ten; and of how many sessions it learns."""
    split = data.split
    ends = np.cumsum(split.lengths[data.order], dtype=np.int64)
    most = max(int(np.searchsorted(ends, MOST_EVENTS, side="right")), 1)
    rows = data.order[:most][_sample(min(most, data.num_sessions), MOST_RANKED)]
    last = split.starts[rows] + split.lengths[rows] - 1
    targets, before = split.tracks[last], split.tracks[last - 1]
    wanted = np.zeros(split.num_ids, bool)
    wanted[before] = True
    parts, sessions = [], 0
    for chunk in data.chunks(most):
        sessions += len(chunk.rows)
        one = chunk.tracks[:-1]
        here = np.flatnonzero(chunk.followed & chunk.trained[1:] & wanted[one])
        of = chunk.rows[chunk.session[here]]
        parts.append((one[here], chunk.tracks[1:][here], of))
    one, two, of = (np.concatenate(column) for column in zip(*parts, strict=True))
    begins = data.begins[of]
    order = np.lexsort((begins, one))
    one, two, of, begins = one[order], two[order], of[order], begins[order]
    hits = {what: np.zeros(len(rows), bool) for what in ("all", "earlier", "random")}
    rng = np.random.default_rng(_SEED)
    by_track = np.lexsort((data.begins[rows], before))
    groups = np.flatnonzero(np.diff(before[by_track], prepend=-1))
    for asked in np.split(by_track, groups[1:]):
        start, stop = np.searchsorted(one, [before[asked[0]], before[asked[0]] + 1])
        if start == stop:
            continue
        followers = _Followers(two[start:stop], of[start:stop], begins[start:stop], rng)
        for row in asked:  # in the order of time, as `Followers` needs them
            for what, hit in followers.hits(targets[row], rows[row], data.begins[rows[row]]):
                hits[what][row] = hit
    return hits, sessions


class _Followers:
    """What came after one track, in the order of time."""

    def __init__(
        self, tracks: np.ndarray, sessions: np.ndarray, begins: np.ndarray, rng: np.random.Generator
    ):
        """
        Args:
          tracks: [k] that came after it in training spans.
          sessions: [k] in which.
          begins: [k] int64, when those began; rising.
        """
        self._known, self._codes = np.unique(tracks, return_inverse=True)
        self._sessions, self._begins = sessions, begins
        self._shuffle = rng.permutation(len(tracks))
        self._place = np.argsort(self._shuffle)
        self._counts = {what: self._sums(slice(0, 0)) for what in ("earlier", "random")}
        self._all, self._read = self._sums(slice(None)), 0

    def _sums(self, which: slice | np.ndarray) -> np.ndarray:
        return np.bincount(self._codes[which], minlength=len(self._known))

    def hits(self, target: int, session: int, begin: int) -> list[tuple[str, bool]]:
        """Whether the target is among the ten most frequent, ties counting against it.

        Args:
          target: a track.
          session: in which it is asked for.
          begin: of that session; not before those asked about so far.
        """
        code = int(np.searchsorted(self._known, target))
        if code == len(self._known) or self._known[code] != target:
            return []
        low, high = np.searchsorted(self._begins, [begin, begin + 1])
        if high > self._read:
            new = slice(self._read, high)
            self._counts["earlier"] += self._sums(new)
            self._counts["random"] += self._sums(self._shuffle[new])
            self._read = high
        own = low + np.flatnonzero(self._sessions[low:high] == session)
        # What came before in the session itself is known, however many others are drawn.
        missing = own[self._place[own] >= high]
        drawn = self._counts["random"] + self._sums(missing) if len(missing) else None
        found = {
            "all": self._all,
            "earlier": self._counts["earlier"],
            "random": self._counts["random"] if drawn is None else drawn,
        }
        return [
            (what, bool(counts[code] and (counts >= counts[code]).sum() <= _CUTOFF))
            for what, counts in found.items()
        ]


def _sample(number: int, most: int) -> np.ndarray:
    if number <= most:
        return np.arange(number)
    return np.sort(np.random.default_rng(_SEED).choice(number, most, replace=False))


def _of(taken: int, number: int) -> str:
    return f" (A sample of {taken:,} of {counted(number, 'target')}.)" if taken < number else ""
