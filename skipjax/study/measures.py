"""What a study measures of an arm: one value per seed, and the groups of sessions to look into."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from skipjax import metrics
from skipjax.errors import DataError
from skipjax.ids import FIRST_TRACK_ID

RANKINGS = {"test": "sampled", "test_full": "full"}  # prefix of a name, field of an Outcome
SESSION_METRICS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")
CUTOFF = 10  # of skip@10, coverage@10 and popularity@10
MAX_CONTEXT_VALUES = 24
RARE_SESSIONS = 30  # values of a context column with fewer are pooled as OTHER
OTHER = "other"
_POSITION_BINS = (5, 10, 15, 20)
_SKIPS_BINS = (1, 3, 6, 10)
_WORDS = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR", "skip": "skip", "auc": "AUC"}
_AMONG = {"test": "sampled candidates", "test_full": "all tracks"}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of S test sessions whatever is trained, in the order of the split.

    Attributes:
      target_skipped: [S] bool.
      popularity: [S] int64, how often training spans hold the target.
      position: [S] int32, tracks before the target.
      skips_before: [S] int32, those of them that were skipped.
      context: columns [S] of the source, such as context_type; may be empty.
    """

    target_skipped: np.ndarray
    popularity: np.ndarray
    position: np.ndarray
    skips_before: np.ndarray
    context: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        columns = {field: getattr(self, field) for field in _FACTS} | dict(self.context)
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or not self.num_sessions:
            raise DataError(f"facts must be of the same sessions, at least one, but are {lengths}.")

    @property
    def num_sessions(self) -> int:
        return len(self.target_skipped)


_FACTS = ("target_skipped", "popularity", "position", "skips_before")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The test of one arm, trained with R seeds, on S sessions.

    Attributes:
      key: of the arm.
      seeds: R of them; a deterministic baseline has R = 1 and the seed 0.
      sampled: [R, S] int32, ranks of the target among sampled candidates, 1 is best.
      full: [R, S] int32, ranks among all tracks.
      top: [R, S, K] int32, ids of the recommended tracks, best first, ids below FIRST_TRACK_ID
        standing for none; or None where nobody asked.
      num_tracks: real tracks in the catalogue.
      counts: [V] int64, training counts by id.
    """

    key: str
    seeds: tuple[int, ...]
    sampled: np.ndarray
    full: np.ndarray
    top: np.ndarray | None
    num_tracks: int
    counts: np.ndarray

    def __post_init__(self):
        for field in RANKINGS.values():
            ranks = getattr(self, field)
            if ranks.shape != self.sampled.shape or ranks.shape[:1] != (len(self.seeds),):
                raise DataError(
                    f"the {field} ranks of {self.key!r} have the shape {ranks.shape}; with seeds "
                    f"{self.seeds} both rankings must be [{len(self.seeds)}, sessions]."
                )
            if not ranks.size or ranks.min() < 1:
                raise DataError(f"a {field} rank of {self.key!r} is below 1, or there is none.")
        if self.top is not None and (
            self.top.shape[:2] != self.sampled.shape or self.top.shape[2] < CUTOFF
        ):
            raise DataError(
                f"the recommendations of {self.key!r} have the shape {self.top.shape}; they must "
                f"be {[*self.sampled.shape]} times at least {CUTOFF} tracks."
            )


def measure(outcome: Outcome, facts: Facts) -> dict[str, np.ndarray]:
    """All measures of an arm, by name.

    Left out is what these sessions cannot say: what concerns skipped targets where there are none,
    played ones likewise, and coverage and popularity where `outcome.top` is None.

    Returns:
      {name: [R] float64}. Under test/ and test_full/: HR, NDCG and MRR of all targets; the same of
      played and of skipped targets under played/ and skipped/; gap_mrr, MRR of played less that of
      skipped ones; auc; skip@10, the share of skipped targets within the first 10. And coverage@10,
      popularity@10.

    Raises:
      DataError: ranks of other sessions.
    """
    require_same_sessions(outcome, facts)
    skipped = facts.target_skipped
    found = {}
    for prefix in RANKINGS:
        for metric in SESSION_METRICS:
            values = session_values(outcome, f"{prefix}/{metric}")
            found[f"{prefix}/{metric}"] = values.mean(axis=1)
            for which, mask in (("played", ~skipped), ("skipped", skipped)):
                if mask.any():
                    found[f"{which}/{prefix}/{metric}"] = values[:, mask].mean(axis=1)
        if skipped.any():
            found[f"{prefix}/skip@{CUTOFF}"] = found[f"skipped/{prefix}/hr@{CUTOFF}"]
        if skipped.any() and not skipped.all():
            played_mrr, skipped_mrr = (found[f"{x}/{prefix}/mrr"] for x in ("played", "skipped"))
            found[f"{prefix}/gap_mrr"] = played_mrr - skipped_mrr
            ranks = getattr(outcome, RANKINGS[prefix])
            found[f"{prefix}/auc"] = np.array([auc(seed, skipped) for seed in ranks])
    if outcome.top is not None:
        found[f"coverage@{CUTOFF}"], found[f"popularity@{CUTOFF}"] = _recommended(outcome)
    return found


def session_values(outcome: Outcome, name: str) -> np.ndarray:
    """[R, S] float64, the value of each session of a measure such as "test_full/hr@10"."""
    prefix, _, metric = name.partition("/")
    return metrics.per_session(metric)(getattr(outcome, RANKINGS[prefix]))


def require_same_sessions(outcome: Outcome, facts: Facts) -> None:
    """Checks that ranks and facts have as many sessions.

    Raises:
      DataError: they have not.
    """
    if outcome.sampled.shape[1] != facts.num_sessions:
        raise DataError(
            f"{outcome.key!r} ranks {outcome.sampled.shape[1]} sessions, but there are facts of "
            f"{facts.num_sessions}; give both of the same split."
        )


def auc(ranks: np.ndarray, skipped: np.ndarray) -> float:
    """The chance that a random played target ranks above a random skipped one; a tie counts half.

    It is the Mann-Whitney statistic over the number of pairs, counted by sorting.

    Args:
      ranks: [S] int, 1 is best.
      skipped: [S] bool, with both values.
    """
    played, ordered = ranks[~skipped], np.sort(ranks[skipped])
    beaten = len(ordered) - np.searchsorted(ordered, played, side="right")
    not_beating = len(ordered) - np.searchsorted(ordered, played, side="left")
    return float((beaten + not_beating).mean() / (2 * len(ordered)))


def hr_at(ranks: np.ndarray, cutoffs: Sequence[int]) -> list[float]:
    """HR at each cutoff, the mean over seeds and sessions of ranks [R, S]."""
    return [float(metrics.hit_rate(ranks, k).mean()) for k in cutoffs]


def spoken(name: str) -> str:
    """A measure's name in words: "test_full/hr@10" is "HR@10 (all tracks)"."""
    prefix, _, metric = name.partition("/")
    kind, _, cutoff = metric.partition("@")
    words = _WORDS.get(kind, kind) + (f"@{cutoff}" if cutoff else "")
    if metric == "gap_mrr":
        words = "MRR of played less skipped targets"
    return f"{words} ({_AMONG[prefix]})"


def groups(facts: Facts) -> list[tuple[str, str, np.ndarray]]:
    """Sessions by what is known of them: (by, value, mask [S] bool), each `by` a partition.

    By the target (played, skipped), its position, the skips before it, its popularity, and by each
    context column of 2 to 24 values, those of fewer than 30 sessions being pooled as "other".
    The deciles of popularity are of the sessions' targets, "1" the least popular; targets equally
    popular stay together, so deciles are uneven, or missing, where counts repeat.
    """
    found = [
        ("target", "played", ~facts.target_skipped),
        ("target", "skipped", facts.target_skipped),
        *_binned("position", facts.position, _POSITION_BINS),
        *_binned("skips_before", facts.skips_before, _SKIPS_BINS),
        *_deciles("popularity_decile", facts.popularity),
    ]
    for name, column in facts.context.items():
        found += _values(name, column)
    return [(by, value, mask) for by, value, mask in found if mask.any()]


def _recommended(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Coverage [R], the share of tracks recommended to anybody, and mean training count [R]."""
    coverage, popularity = np.zeros((2, len(outcome.seeds)))
    for i, top in enumerate(outcome.top[..., :CUTOFF]):
        times = np.bincount(top.ravel(), minlength=len(outcome.counts))[FIRST_TRACK_ID:]
        coverage[i] = (times > 0).sum() / outcome.num_tracks
        popularity[i] = times @ outcome.counts[FIRST_TRACK_ID:] / max(times.sum(), 1)
    return coverage, popularity


def _binned(by: str, numbers: np.ndarray, starts: tuple[int, ...]):
    edges = [0, *starts]
    names = [
        str(a) if a + 1 == b else f"{a} to {b - 1}" for a, b in zip(edges, starts, strict=False)
    ]
    bins = np.searchsorted(starts, numbers, side="right")
    return [(by, name, bins == i) for i, name in enumerate([*names, f"{starts[-1]} and more"])]


def _deciles(by: str, numbers: np.ndarray):
    ordered = np.sort(numbers)
    below, upto = (np.searchsorted(ordered, numbers, side=side) for side in ("left", "right"))
    decile = 5 * (below + upto) // len(numbers)  # of the middle of those equally popular
    return [(by, str(i + 1), decile == i) for i in range(10)]


def _values(by: str, column: np.ndarray):
    names, codes = np.unique([_name(value) for value in column], return_inverse=True)
    if not 2 <= len(names) <= MAX_CONTEXT_VALUES:
        return []
    rare = np.bincount(codes) < RARE_SESSIONS
    kept = sorted((str(name) for name in names[~rare]), key=_natural)
    masks = {name: names[codes] == name for name in kept if name != OTHER}
    rest = ~functools.reduce(np.logical_or, masks.values(), np.zeros(len(codes), bool))
    masks[OTHER] = rest
    found = [(by, name, mask) for name, mask in masks.items() if mask.any()]
    return found if len(found) > 1 else []


def _name(value) -> str:
    """A context value in words: truth values as in JSON, whole numbers without a point."""
    if value is None or value != value:
        return "unknown"
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _natural(name: str):
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
