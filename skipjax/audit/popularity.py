"""How unevenly plays lie on tracks, and how far knowing that alone gets."""

import numpy as np
from scipy.special import gammaln

from skipjax.audit.data import Data
from skipjax.audit.finding import Finding, graded, share, worst
from skipjax.audit.thresholds import (
    ONE_PLAY_NOTE,
    POPULAR_NOTE,
    POPULAR_WARNING,
    SAMPLED_POPULAR_NOTE,
    SAMPLED_POPULAR_WARNING,
    TOP_NOTE,
    TOP_WARNING,
)
from skipjax.ids import FIRST_TRACK_ID
from skipjax.study.wording import decimal

SHARES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)  # of tracks, for the chart


def concentration(data: Data) -> Finding:
    counts = sum(
        np.bincount(chunk.tracks - FIRST_TRACK_ID, minlength=len(data.split.track_ids))
        for chunk in data.chunks()
    )
    counts = np.sort(counts)[::-1]
    number, total = len(counts), counts.sum()
    covered = np.cumsum(counts) / total
    tops = {part: float(covered[max(round(part * number), 1) - 1]) for part in SHARES}
    once = float((counts == 1).mean())
    uneven = gini(counts)
    advice = []
    if tops[0.01] >= TOP_WARNING:
        advice.append("A few tracks decide every mean: look at rare ones apart.")
    if once >= ONE_PLAY_NOTE and data.possible(data.config.data.split, min_plays=5):
        advice.append(
            "Tracks with one play cannot be both learned and asked for: "
            "--config.data.min_plays=5 leaves out those with fewer plays."
        )
    return Finding(
        "popularity",
        "Popularity",
        worst(
            graded(tops[0.01], note=TOP_NOTE, warning=TOP_WARNING), graded(once, note=ONE_PLAY_NOTE)
        ),
        f"The most played 1 % of tracks have {share(tops[0.01])} of the plays, 10 % of them "
        f"{share(tops[0.1])} (Gini {decimal(uneven, 2)}); {share(once)} of tracks have one play.",
        {
            "gini": uneven,
            "top_1_percent": tops[0.01],
            "top_10_percent": tops[0.1],
            "one_play_share": once,
            "one_play_tracks": int((counts == 1).sum()),
            "most_plays": int(counts[0]),
            "median_plays": float(np.median(counts)),
            "plays_of_top": {f"{part:g}": value for part, value in tops.items()},
        },
        " ".join(advice),
    )


def gini(counts: np.ndarray) -> float:
    """0 where all counts are equal, towards 1 where one has everything."""
    rising = np.sort(counts).astype(np.float64)
    places = np.arange(1, len(rising) + 1)
    return float((2 * places - len(rising) - 1) @ rising / (len(rising) * rising.sum()))


def most_popular(data: Data) -> Finding:
    """What ranking by training plays alone reaches in the test of leave-one-out."""
    split = data.split
    _, targets = split.held_out("test")
    counts = split.train_counts
    falling = -counts[FIRST_TRACK_ID:]  # ids are by falling count
    ranks = np.searchsorted(falling, -counts[targets], side="right")  # ties count against
    full = float((ranks <= 10).mean())
    wanted = data.config.eval.num_candidates
    others = len(falling) - 1
    drawn = min(wanted, others)
    sampled = float(_chance_of_hit(ranks - 1, others, drawn).mean()) if drawn else 1.0
    severity = worst(
        graded(full, note=POPULAR_NOTE, warning=POPULAR_WARNING),
        graded(sampled, note=SAMPLED_POPULAR_NOTE, warning=SAMPLED_POPULAR_WARNING),
    )
    among = f", and about {decimal(sampled, 3)} among {drawn:,} sampled ones" if drawn > 1 else ""
    return Finding(
        "most_popular",
        "The most-popular baseline",
        severity,
        f"Recommending the most played tracks to everybody gives HR@10 {decimal(full, 3)} among "
        f"all tracks{among}: a model must beat that.",
        {"hr@10": full, "sampled_hr@10": sampled, "num_candidates": drawn},
        "Compare models with this baseline and among all tracks: a high HR may be popularity alone."
        if severity != "ok"
        else "",
    )


def _chance_of_hit(better: np.ndarray, others: int, drawn: int, k: int = 10) -> np.ndarray:
    """Chance that fewer than k of `drawn` tracks are among the `better` ones of `others`.

    That the candidates are drawn from tracks outside the session makes next to no difference.
    """
    values, places = np.unique(better, return_inverse=True)
    found = np.arange(k)[:, None]
    worse = others - values
    possible = (found <= values) & (found <= drawn) & (drawn - found <= worse)
    with np.errstate(invalid="ignore"):
        logs = _choose(values, found) + _choose(worse, drawn - found) - _choose(others, drawn)
    chances = np.where(possible, np.exp(np.where(possible, logs, 0.0)), 0.0).sum(axis=0)
    return np.minimum(chances, 1.0)[places]


def _choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return gammaln(n + 1.0) - gammaln(np.maximum(k, 0) + 1.0) - gammaln(np.maximum(n - k, 0) + 1.0)
