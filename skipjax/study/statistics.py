"""Whether one arm differs from another: over sessions and over seeds, both being samples.

A claim such as "S+ beats S-" is about other sessions than those tested and about other seeds than
those trained. Sessions are resampled (bootstrap), paired, since all arms rank the same ones; seeds
are resampled across them, as rows and columns of one table ("pigeonhole" bootstrap, Owen 2007).
That seeds must be counted, and often weigh more than the test set, is what Bouthillier et al. 2021
show for benchmarks in machine learning. Done plainly, both ways err:

- R = 3 to 5 seeds drawn with replacement vary too little, by a factor of (R - 1) / R in variance,
  and normal or percentile limits take their spread as known. So the deviations are stretched by
  sqrt(R / (R - 1)), as Rao and Wu 1988 do for small strata, and limits are Student's, with degrees
  of freedom after Satterthwaite 1946.
- The noise of single (seed, session) cells moves the sessions' means, the seeds' means and their
  product, so the crossed bootstrap counts it three times (McCullagh 2000; Owen 2007). So the seeds'
  deviations are shrunk by what of them cell noise explains, which the sessions tell precisely. It
  is a floor, too: degrees of freedom are counted as if seeds varied no less than that.

How often this rule errs is simulated by `python -m benchmarks.study_statistics` (4,000 draws of a
case, so that 5 % has a standard error of .3 %): hits, three in ten, on 400 sessions whose
difficulty the arms share, seeds that move an arm by 0 to 4 times what cell noise moves a seed's
mean. Two sets of seeds of the same arm, which differ in nothing, were found to differ at p < .05 in

    seeds on each side                            3              5
    this rule                           0.2 to 4.0 %   1.4 to 4.3 %
    crossed bootstrap, normal limits    0.3 to 15  %   0.3 to  9  %
    sessions alone                      5   to 63  %   5   to 64  %

and at p < .0025, as a Holm correction may ask, by this rule in at most .1 %. A difference of four
standard errors is found in 73 to 77 % and 90 to 92 %, one of six in 95 to 98 % and 99.9 %; at
p < .0025 the latter in 22 to 38 % and 80 to 82 %, so 3 seeds say little once many arms are
compared. Where seeds move one arm far more than the other the approximation is strained: 6.0 % for
5 seeds against 3 that move it six times as much, 7.1 % for 3 against 3 where one side is moved by 8
times cell noise and the other not at all, and for 3 against a baseline without a seed 4.4, 5.2 and
6.9 % where they move the arm by 1, 2 and 4 times. The small p are strained more: p < .0025 is found
in 1.5 % in the last case, in 1.1 % with the 8 times.

Seeds are not paired by number, though runs of one seed share batch order and candidates. Pairing
halves the degrees of freedom: of the differences of four standard errors it finds 31 to 59 % with 3
seeds, 80 to 85 % with 5. It would pay only if seeds of the same number moved together much: with a
correlation of .8, at twice cell noise, it finds 49 and 84 %, and not pairing 41 and 57 %. If they
do, not pairing errs on the safe side, and finds what is not there in .4 and .5 %.

References:
  Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), arXiv 0712.1111.
  McCullagh 2000, Resampling and exchangeable arrays, Bernoulli 6(2).
  Rao and Wu 1988, Resampling inference with complex survey data, JASA 83(401).
  Satterthwaite 1946, An approximate distribution of estimates of variance components, Biometrics
  Bulletin 2(6).
  Fieller 1954, Some problems in interval estimation, JRSS B 16(2).
  Bouthillier et al. 2021, Accounting for variance in machine learning benchmarks, MLSys, arXiv
  2103.03098.
  Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6(2).
"""

import dataclasses
import math
from collections.abc import Container

import numpy as np
from scipy import stats

from skipjax.errors import ConfigError, DataError

SIGNIFICANT = 0.05
_MAX_UNITS = 20_000
_CHUNK_BYTES = 32 << 20  # of weights at a time


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an arm differs from its base in the mean of a measure.

    Attributes:
      difference: of the means, arm less base.
      relative: difference / base; None where the base is not above 0, or the measure is a contrast.
      low, high: the interval of the difference.
      relative_low, relative_high: the interval of the relative difference, after Fieller, so that
        it holds 0 just when the other does; None where there is no `relative`, or where the base
        cannot be told from 0.
      p: two-sided, not corrected.
      level: of the intervals.
      num_seeds: of arm and base. One stands for an arm that does not depend on a seed; with one on
        both sides sessions alone are counted.
    """

    difference: float
    relative: float | None
    low: float
    high: float
    relative_low: float | None
    relative_high: float | None
    p: float
    level: float
    num_seeds: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Resampled:
    """The means of N runs over S sessions, and how they move when sessions are drawn anew.

    Attributes:
      means: [N] float64.
      replicates: [B, N] float64, each row of another draw, the same draw for all runs.
      num_sessions: S, or the smaller part of them where the measure is a contrast.
      contrast: whether the means are differences of two groups' means.
    """

    means: np.ndarray
    replicates: np.ndarray
    num_sessions: int
    contrast: bool = False

    def runs(self, of: slice) -> "Resampled":
        return dataclasses.replace(self, means=self.means[of], replicates=self.replicates[:, of])


def compare(
    arm: np.ndarray,
    base: np.ndarray,
    *,
    contrast: np.ndarray | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compares the means of per-session values of two arms on the same sessions.

    Args:
      arm: [R, S] values of R seeds.
      base: [R', S]; seeds are not paired by number. R = 1 or R' = 1 stands for an arm without a
        seed, such as most-popular.
      contrast: [S] bool; given, the measure is the mean where it is True less the mean elsewhere.
      resamples: how often to draw.
      seed: of the draws.
      level: of the intervals.

    Raises:
      ConfigError: resamples below 2 or a level outside 0 to 1.
      DataError: values that are not of the same, at least 2, sessions, or not finite.
    """
    arm, base = np.atleast_2d(arm), np.atleast_2d(base)
    if arm.shape[1] != base.shape[1]:
        raise DataError(
            f"the arm has values of {arm.shape[1]} sessions, its base of {base.shape[1]}; "
            "compare the same sessions."
        )
    runs = resample(np.concatenate([arm, base]), contrast=contrast, resamples=resamples, seed=seed)
    of_arm, of_base = runs.runs(slice(len(arm))), runs.runs(slice(len(arm), None))
    return compare_resampled(of_arm, of_base, seed=seed, level=level)


def resample(
    values: np.ndarray,
    *,
    contrast: np.ndarray | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Resampled:
    """Draws sessions with replacement, together for all runs; the costly half of `compare`.

    Above 20,000 sessions time and memory, but for reading the values, do not depend on S.

    Args:
      values: [N, S].
      contrast: [S] bool, as in `compare`; each group is drawn from itself.
      resamples: how often to draw.
      seed: of the draws; the same seed gives the same draws.

    Raises:
      ConfigError: resamples below 2.
      DataError: as in `compare`.
    """
    if resamples < 2:
        raise ConfigError(f"resamples is {resamples}; draw at least 2 times, better 10,000.")
    rng = np.random.default_rng(seed)
    if contrast is None:
        return Resampled(*_draw(values, resamples, rng), values.shape[1])
    means, replicates = _draw(values[:, contrast], resamples, rng)
    other_means, other_replicates = _draw(values[:, ~contrast], resamples, rng)
    smaller = min(contrast.sum(), (~contrast).sum())
    return Resampled(means - other_means, replicates - other_replicates, int(smaller), True)


def compare_resampled(
    arm: Resampled, base: Resampled, *, seed: int = 0, level: float = 0.95
) -> Comparison:
    """`compare` for runs of one `resample`, so that many arms share its draws.

    Raises:
      ConfigError: a level outside 0 to 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; it must be between 0 and 1, such as 0.95.")
    rng = np.random.default_rng((seed, 1))
    arm_replicates, arm_seeds = _resample_seeds(arm, rng)
    base_replicates, base_seeds = _resample_seeds(base, rng)
    covariance = np.cov(arm_replicates, base_replicates)
    variance = max(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), 0.0)
    parts = [(arm_seeds, len(arm.means) - 1), (base_seeds, len(base.means) - 1)]
    parts += [(max(variance - arm_seeds - base_seeds, 0.0), arm.num_sessions - 1)]
    freedom = _degrees_of_freedom(variance, parts)

    mean, base_mean = float(arm.means.mean()), float(base.means.mean())
    difference, error = mean - base_mean, math.sqrt(variance)
    width = float(stats.t.ppf((1 + level) / 2, freedom))
    relative, limits = None, (None, None)
    if base_mean > 0 and not arm.contrast:
        relative = difference / base_mean
        limits = _ratio_limits(mean, base_mean, width**2 * covariance)
        if limits[0] is not None:  # nothing falls by more than all of it
            limits = (max(limits[0], -1.0), limits[1])
    rounding = 1e-12 * (abs(mean) + abs(base_mean))
    if error > rounding:
        p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    else:
        p = float(abs(difference) <= rounding)
    return Comparison(
        difference=difference,
        relative=relative,
        low=difference - width * error,
        high=difference + width * error,
        relative_low=limits[0],
        relative_high=limits[1],
        p=p,
        level=level,
        num_seeds=(len(arm.means), len(base.means)),
    )


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusts p [M] of M questions, after Holm 1979.

    Those below .05 hold all together: the chance that any of them is false is at most 5 %.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def sentence(
    label: str,
    base_label: str,
    metric: str,
    found: Comparison,
    p_holm: float | None = None,
    without_seed: Container[str] = (),
) -> str:
    """What a comparison says, in words; only the corrected p decides, where there is one.

    Args:
      label: of the arm.
      base_label: of its base.
      metric: in words, such as "HR@10 (all tracks)".
      found: the comparison.
      p_holm: its p, corrected; None for one that is not.
      without_seed: labels of arms that do not depend on one. Of others it is said where a single
        run hides how much its seed matters.
    """
    decides = found.p if p_holm is None else p_holm
    in_percent = found.relative_low is not None
    if in_percent:
        numbers = [100 * found.relative, 100 * found.relative_low, 100 * found.relative_high]
        unit, digits = " %", 1
    else:
        numbers, unit = [found.difference, found.low, found.high], ""
        largest = max(map(abs, numbers)) or 1.0
        digits = max(1, 2 - math.floor(math.log10(largest)))  # three figures of the largest
    beats = decides < SIGNIFICANT and found.difference > 0
    worse = decides < SIGNIFICANT and found.difference < 0
    if worse:
        numbers = [-numbers[0], -numbers[2], -numbers[1]]
    size, low, high = (_rounded(number, digits) for number in numbers)
    sign = "+" if not (beats or worse) and not size.startswith("-") else ""
    if beats:
        claim = f"{label} beats {base_label} by {size}{unit} {'' if in_percent else 'in '}{metric}"
    elif worse:
        claim = f"{label} is worse than {base_label} by {size}{unit} in {metric}"
    else:
        claim = (
            f"No difference found between {label} and {base_label} in {metric}: {sign}{size}{unit}"
        )
    more = ""
    if found.p < SIGNIFICANT <= decides:
        more = " (The interval is not corrected.)"
    single = [
        name
        for name, runs in zip((label, base_label), found.num_seeds, strict=True)
        if runs == 1 and name not in without_seed
    ]
    if len(single) == 2:
        more += " One run each, so seeds are not counted."
    elif single:
        more += f" One run of {single[0]}, so its seed is not counted."
    interval = f"{100 * found.level:g} % CI {low} to {high}"
    which = "uncorrected" if p_holm is None else "Holm-corrected"
    return f"{claim}, {interval}, {which} p {_spoken_p(decides)}.{more}"


def _draw(values: np.ndarray, resamples: int, rng: np.random.Generator):
    """Means [N] and their replicates [B, N], whose variance is that of a mean over S sessions."""
    num_runs, size = values.shape
    if size < 2 or not np.isfinite(values).all():
        raise DataError(
            f"there are {size} sessions to compare on, all of whose values must be finite; give at "
            "least 2 (of each group, if groups are compared)."
        )
    means = values.mean(axis=1)
    deviations = _bundled(values, means, rng)
    units = deviations.shape[1]
    deviations *= math.sqrt(units / (units - 1)) / size
    replicates = np.empty((resamples, num_runs))
    rows = max(1, _CHUNK_BYTES // (8 * units))
    weights = np.empty((min(rows, resamples), units))
    for start in range(0, resamples, rows):
        chunk = weights[: resamples - start]
        for row in chunk:
            row[:] = np.bincount(rng.integers(units, size=units), minlength=units)
        np.matmul(chunk, deviations.T, out=replicates[start : start + rows])
    replicates += means
    return means, replicates


def _bundled(values: np.ndarray, means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deviations from the means, [N, S], or summed over random bundles of sessions, [N, units].

    Bundles vary as sessions do, and 20,000 of them tell a variance to 1 %, which is what 10,000
    draws tell, too; drawing each of 450,000 sessions would take 20 times as long for nothing.
    """
    size = values.shape[1]
    if size <= _MAX_UNITS:
        return values - means[:, None]
    bundle = rng.permutation(size) % _MAX_UNITS
    return np.stack(
        [np.bincount(bundle, run - mean) for run, mean in zip(values, means, strict=True)]
    )


def _resample_seeds(runs: Resampled, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Means over resampled seeds [B], and the variance that seeds, cell noise included, give them.

    The mean over the runs themselves varies with the sessions, cell noise included; what the
    seeds' weights add to that is the rest of the seeds' spread.
    """
    resamples, num_seeds = runs.replicates.shape
    mean = runs.replicates.mean(axis=1)
    if num_seeds == 1:
        return mean, 0.0
    spread = float(runs.means.var(ddof=1))
    # Sessions move two runs alike but for cell noise: variance less covariance of their means.
    apart = runs.replicates.var(axis=0, ddof=1).mean() - mean.var(ddof=1)
    cell = max(float(apart) * num_seeds / (num_seeds - 1), 0.0)
    beyond = max(spread - cell, 0.0)
    if not beyond:
        return mean, cell / num_seeds
    stretch = math.sqrt(num_seeds / (num_seeds - 1) * beyond / (spread + cell))
    shares = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), resamples) / num_seeds
    moved = ((shares - 1 / num_seeds) * runs.replicates).sum(axis=1)
    return mean + stretch * moved, spread / num_seeds


def _degrees_of_freedom(variance: float, parts: list[tuple[float, int]]) -> float:
    """Satterthwaite's, for a variance made of (variance, degrees of freedom) that are estimates."""
    uncertain = sum(part**2 / freedom for part, freedom in parts if part)
    return max(variance**2 / uncertain, 1.0) if uncertain else math.inf


def _ratio_limits(mean: float, base: float, reach: np.ndarray) -> tuple[float | None, float | None]:
    """Fieller's limits of mean / base - 1; `reach` [2, 2] is their covariance times t squared.

    They are the ratios r at which (mean - r base)² equals its own reach.
    """
    a, b, c = base**2 - reach[1, 1], mean * base - reach[0, 1], mean**2 - reach[0, 0]
    if a <= 0:
        return None, None
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return float((b - root) / a - 1), float((b + root) / a - 1)


def _rounded(number: float, digits: int) -> str:
    text = f"{number:.{digits}f}"
    return text.lstrip("-") if not float(text) else text


def _spoken_p(p: float) -> str:
    if p < 0.001:
        return "< .001"
    if p > 0.995:
        return "= 1"
    digits = 3 if p < 0.1 else 2
    while digits < 6 and (p < SIGNIFICANT) != (round(p, digits) < SIGNIFICANT):
        digits += 1  # rounding must not contradict the verdict
    return "= " + f"{p:.{digits}f}".lstrip("0")
