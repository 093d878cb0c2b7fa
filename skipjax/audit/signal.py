"""Whether skip labels follow anything: simple baselines told apart played from skipped.

All are fitted on the events that leave-one-out trains on, and tested on those that it holds out.
Of a play they read what is known before it: the track, and what happened earlier. What was logged
of the play itself, such as a reason for its end, they never see.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from skipjax.audit import auc as measures
from skipjax.audit.data import Chunk, Data
from skipjax.audit.feedback import has_hours, hours_of
from skipjax.audit.finding import Finding
from skipjax.audit.thresholds import AUC_NONE, AUC_TOO_GOOD, AUC_WEAK
from skipjax.data.inputs import counted

MOST_SESSIONS = 100_000  # to test on; a whole chunk more or less
MOST_EVENTS = 500_000  # to fit the regression on
FOLDS = 5
_SEED = 0
_LEAST = 10  # skips and plays among held-out events, below which an AUC says nothing
# How many plays at the mean rate each rate begins with: rates of few plays are not to be believed.
_OF_TRACK, _OF_SESSION, _OF_LISTENER, _OF_GROUP = 5.0, 2.0, 5.0, 20.0

NAMES = {
    "track": "the track's skip rate",
    "session": "the session's skip rate so far",
    "listener": "the listener's skip rate in earlier sessions",
    "previous": "whether the track before was skipped",
    "position": "position in the session",
    "popularity": "plays of the track",
    "hour": "hour of the day",
    "all": "all of these (logistic regression)",
}


def signal(data: Data) -> Finding:
    title = "Signal in skip labels"
    true, held_out = _measured(data, shuffled=False)
    numbers: dict[str, Any] = {"held_out": held_out, "baselines": true, "shuffled": None}
    if not true:
        skips = held_out["skips"]
        return Finding(
            "signal",
            title,
            "note",
            f"Whether skips follow a pattern cannot be told: {counted(skips, 'skip')} among "
            f"{counted(held_out['events'], 'held-out play')} to test on, and "
            f"{counted(held_out['training_skips'], 'skip')} to learn from.",
            numbers,
            known=False,
        )
    shuffled, _ = _measured(data, shuffled=True)
    *singles, whole = true
    numbers["shuffled"] = shuffled[-1]
    best = max(singles, key=lambda row: row["auc"])
    found = f"AUC {_two(whole['auc'])}, 95 % {_two(whole['low'])}–{_two(whole['high'])}"
    one = (
        f"the best alone is {NAMES[best['name']]} ({_two(best['auc'])}); with shuffled labels the "
        f"AUC is {_two(numbers['shuffled']['auc'])}"
    )
    advice = ""
    if whole["low"] <= 0.5 and whole["high"] >= AUC_WEAK:
        severity = "warning"
        words = f"There are too few held-out plays to tell whether skips follow a pattern ({found})"
        advice = "More sessions are needed before a study of skips can say anything."
    elif whole["low"] <= 0.5 or whole["high"] < AUC_NONE:
        severity = "serious"
        words = f"Labels carry no signal that these baselines can see ({found})"
        advice = (
            "Look at what counts as skipped: other thresholds, or another column. If it is "
            "as it should be, do not expect skips to help."
        )
    elif whole["auc"] >= AUC_TOO_GOOD:
        severity = "warning"
        words = f"Labels can be told almost without error ({found})"
        advice = (
            "No listener is as predictable. Look at how plays and skips came into the data: skips "
            "that were chosen or added by other rules than plays teach these rules."
        )
    elif whole["auc"] < AUC_WEAK:
        severity = "note"
        words = f"Labels carry a weak signal ({found})"
        advice = "Expect small effects of skips, and give a study many sessions and seeds."
    else:
        severity = "ok"
        words = f"Labels follow a pattern that simple baselines see ({found})"
    return Finding("signal", title, severity, f"{words}; {one}.", numbers, advice)


def _two(value: float) -> str:
    """.50"""
    return f"{value:.2f}".removeprefix("0")


@dataclasses.dataclass
class _Counts:
    """Plays and skips of training events: [FOLDS, V] by track, by place and by hour."""

    tracks: np.ndarray
    skips: np.ndarray
    places: np.ndarray
    hours: np.ndarray | None
    previous: np.ndarray


def _measured(data: Data, shuffled: bool) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """AUC of each baseline and of all together, the latter last; and on what.

    With shuffled labels, of all together alone. Empty where there are too few skips or plays to fit
    or test with.
    """
    counts = _count(data, shuffled)
    several = data.num_listeners < data.num_sessions
    parts = []
    sessions = 0
    for chunk, skipped in _labelled(data, shuffled):
        if sessions >= MOST_SESSIONS:
            break
        parts.append(_features(data, chunk, skipped, counts, several))
        sessions += len(chunk.rows)
    names = list(parts[0].columns)
    train, test = (
        {
            name: np.concatenate([getattr(part, which)[name] for part in parts])
            for name in (*names, "skipped", "cluster")
        }
        for which in ("train", "test")
    )
    held_out = {
        "events": len(test["skipped"]),
        "skips": int(test["skipped"].sum()),
        "sessions": sessions,
        "training_events": len(train["skipped"]),
        "training_skips": int(train["skipped"].sum()),
    }
    for one in (train, test):
        skips = int(one["skipped"].sum())
        if min(skips, len(one["skipped"]) - skips) < _LEAST:
            return [], held_out
    if len(train["skipped"]) > MOST_EVENTS:
        chosen = np.random.default_rng(_SEED).choice(len(train["skipped"]), MOST_EVENTS, False)
        train = {name: column[chosen] for name, column in train.items()}
    rows = []
    for name in () if shuffled else names:
        # Which way it points, training says: a high rate so far may mean fewer skips to come.
        way = measures.auc(train[name], train["skipped"])
        rows.append(_row(name, test[name] if way >= 0.5 else -test[name], test))
    columns = [np.stack([one[name] for name in names], axis=1) for one in (train, test)]
    fitted = measures.LogisticRegression(columns[0], train["skipped"])
    rows.append(_row("all", fitted(columns[1]), test))
    return rows, held_out


def _row(name: str, scores: np.ndarray, test: dict[str, np.ndarray]) -> dict[str, Any]:
    middle, low, high = measures.auc_interval(scores, test["skipped"], test["cluster"], _SEED)
    return {"name": name, "auc": middle, "low": low, "high": high}


def _labelled(data: Data, shuffled: bool) -> Iterator[tuple[Chunk, np.ndarray]]:
    """Chunks with their labels, or with these dealt out anew among training and held-out events."""
    for number, chunk in enumerate(data.chunks()):
        skipped = chunk.skipped
        if shuffled:
            rng, skipped = np.random.default_rng((_SEED, number)), skipped.copy()
            for part in (chunk.trained, ~chunk.trained):
                skipped[part] = rng.permutation(skipped[part])
        yield chunk, skipped


def _count(data: Data, shuffled: bool) -> _Counts:
    size, longest = data.split.num_ids, int(data.split.lengths.max())
    with_hours = has_hours(data)
    counts = _Counts(
        tracks=np.zeros((FOLDS, size), np.int32),
        skips=np.zeros((FOLDS, size), np.int32),
        places=np.zeros((2, longest)),
        hours=np.zeros((2, 24)) if with_hours else None,
        previous=np.zeros((2, 3)),
    )
    for chunk, skipped in _labelled(data, shuffled):
        trained = chunk.trained
        tracks, labels = chunk.tracks[trained], skipped[trained]
        fold = _folds(data, chunk)[trained]
        for number in range(FOLDS):
            some = fold == number
            counts.tracks[number] += np.bincount(tracks[some], minlength=size).astype(np.int32)
            counts.skips[number] += np.bincount(tracks[some & labels], minlength=size).astype(
                np.int32
            )
        groups = [(counts.places, chunk.place), (counts.previous, _previous(chunk, skipped))]
        if counts.hours is not None:
            groups.append((counts.hours, hours_of(data, chunk)))
        for sums, values in groups:
            sums[0] += np.bincount(values[trained], minlength=sums.shape[1])
            sums[1] += np.bincount(values[trained], labels, sums.shape[1])
    return counts


def _folds(data: Data, chunk: Chunk) -> np.ndarray:
    """[e] 0 to FOLDS - 1, the same for all of a listener's events."""
    return (data.listeners[chunk.rows] % FOLDS)[chunk.session]


def _previous(chunk: Chunk, skipped: np.ndarray) -> np.ndarray:
    """[e] 0 for the first of a session, else 1 if the one before was played, 2 if skipped."""
    before = np.zeros(len(skipped), np.int64)
    before[1:] = np.where(chunk.followed, 1 + skipped[:-1], 0)
    return before


@dataclasses.dataclass
class _Features:
    """Columns of the training and of the held-out events of a chunk, with labels and clusters."""

    columns: tuple[str, ...]
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def _features(
    data: Data,
    chunk: Chunk,
    skipped: np.ndarray,
    counts: _Counts,
    several: bool,
) -> _Features:
    """What is known before each event; `several` says whether listeners have several sessions."""
    trained, fold = chunk.trained, _folds(data, chunk)
    plays, skips = counts.tracks.sum(axis=0), counts.skips.sum(axis=0)
    mean = skips.sum() / max(plays.sum(), 1)
    of_track, of_track_skips = plays[chunk.tracks], skips[chunk.tracks]
    # A training event must not be told by its own label: its fold, the listener's, is left out.
    own = counts.tracks[fold, chunk.tracks], counts.skips[fold, chunk.tracks]
    of_track = np.where(trained, of_track - own[0], of_track)
    of_track_skips = np.where(trained, of_track_skips - own[1], of_track_skips)
    skips_before, plays_before = _so_far(chunk, skipped)
    columns = {
        "track": _log_odds(of_track_skips, of_track, mean, _OF_TRACK),
        "session": _log_odds(skips_before, plays_before, mean, _OF_SESSION),
    }
    if several:
        columns["listener"] = _log_odds(*_earlier(chunk, skipped), mean, _OF_LISTENER)
    groups = {"previous": (counts.previous, _previous(chunk, skipped))}
    # Held-out places may be beyond all that training has: the last of those stands for them.
    last = np.flatnonzero(counts.places[0])[-1]
    groups["position"] = (counts.places, np.minimum(chunk.place, last))
    if counts.hours is not None:
        groups["hour"] = (counts.hours, hours_of(data, chunk))
    for name, (sums, values) in groups.items():
        columns[name] = _log_odds(sums[1], sums[0], mean, _OF_GROUP)[values]
    # Of the folds left: on average as many more as to stand beside all of them.
    scale = np.where(trained, FOLDS / (FOLDS - 1), 1.0)
    columns["popularity"] = np.log1p(of_track * scale)
    columns = {name: columns[name] for name in NAMES if name in columns}
    others = {"skipped": skipped, "cluster": data.listeners[chunk.rows][chunk.session]}
    rest = ~trained
    return _Features(
        tuple(columns),
        {name: column[trained] for name, column in (columns | others).items()},
        {name: column[rest] for name, column in (columns | others).items()},
    )


def _log_odds(skips: np.ndarray, plays: np.ndarray, mean: float, prior: float) -> np.ndarray:
    rate = (skips + prior * mean) / (plays + prior)
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    return np.log(rate / (1 - rate))


def _so_far(chunk: Chunk, skipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[e] how many of the session's events before each were skipped, and how many there were."""
    total = np.concatenate([[0], np.cumsum(skipped)])
    first = np.arange(len(skipped)) - chunk.place
    return total[:-1] - total[first], chunk.place


def _earlier(chunk: Chunk, skipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[e] the same of training events in earlier sessions of the listener."""
    starts = np.flatnonzero(chunk.place == 0)
    firsts = np.flatnonzero(np.concatenate([[True], np.diff(chunk.listeners) > 0]))
    first = starts[firsts[chunk.listeners]]  # [s] the first event of each session's listener
    found = []
    for flags in (skipped & chunk.trained, chunk.trained):
        total = np.concatenate([[0], np.cumsum(flags)])
        found.append((total[starts] - total[first])[chunk.session])
    return found[0], found[1]
