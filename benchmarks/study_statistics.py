"""How often the study's statistics find a difference: where there is none, and where there is one.

    python -m benchmarks.study_statistics [--quick] [--json FILE] [--draws N] [--jobs N]

Draws hits of two arms on 400 sessions over and over, and counts how often their difference is found
by `compare` of skipjax/study/statistics.py, and by three rules in its place. A session is a hit,
three times in ten, where its difficulty, which all seeds of both arms share, a seed's effect and
the noise of that cell, all normal, add up to more than a threshold. Seed effects are in units of
what cell noise moves a seed's mean; a planted difference is in standard errors, of cells and seeds.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import special, stats

from skipjax.cli.parsing import positive
from skipjax.environment import described, environment
from skipjax.study.statistics import Resampled, compare_resampled, resample

SEED = 0
DRAWS, RESAMPLES = 4_000, 2_000
BATCH = 50  # tests that share the draws of sessions, as the arms of a study do
LEVELS = (0.05, 0.0025)
NUM_SESSIONS = 400
HIT_RATE = 0.3
SHARED = 0.7  # of the variance of sessions and cells: difficulty
THRESHOLD = float(stats.norm.isf(HIT_RATE))
# Of a cell, given its session, averaged; after Owen 1956.
CELL_VARIANCE = 2 * float(special.owens_t(THRESHOLD, math.sqrt((1 - SHARED) / (1 + SHARED))))
# What moves a mean as cell noise does.
UNIT = math.sqrt(CELL_VARIANCE / NUM_SESSIONS) / float(stats.norm.pdf(THRESHOLD))


@dataclasses.dataclass(frozen=True)
class Case:
    """Two arms, of which the second is the base."""

    question: str  # the table it stands in
    num_seeds: tuple[int, int]  # one stands for an arm without a seed
    seed_effects: tuple[float, float]  # standard deviations
    planted: int = 0  # by how many standard errors the arm is better
    correlation: float = 0.0  # of the effects of seeds of the same number
    own: float = 0.0  # standard deviation of difficulties that only the seeds of one arm share


def _cases() -> list[Case]:
    questions = {
        0: "Two sets of seeds of the same arm",
        4: "A difference of four standard errors",
        6: "A difference of six standard errors",
    }
    cases = [
        Case(question, (num_seeds, num_seeds), (effect, effect), planted)
        for planted, question in questions.items()
        for num_seeds in (3, 5)
        for effect in (0, 0.5, 1, 2, 4)
    ]
    strained = "No difference, but seeds of one arm move it more"
    cases += [Case(strained, (3, 1), (effect, 0), own=0.5) for effect in (1, 2, 4)]
    cases += [Case(strained, (5, 3), (0.5, 3)), Case(strained, (3, 3), (8, 0))]
    together = "Seeds of the same number move together, by a correlation of .8"
    return cases + [
        Case(together, (num_seeds, num_seeds), (2, 2), planted, correlation=0.8)
        for planted in (0, 4)
        for num_seeds in (3, 5)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 draws, to see that it runs")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--draws", metavar="N", type=positive, default=DRAWS, help="of each case")
    parser.add_argument("--jobs", metavar="N", type=positive, default=1, help="cases at a time")
    args = parser.parse_args()
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    draws, resamples = (5, 100) if args.quick else (args.draws, RESAMPLES)
    simulate = functools.partial(_simulate, draws=draws, resamples=resamples)
    cases = _cases()
    with contextlib.ExitStack() as stack:
        each = map
        if args.jobs > 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # of a process
            spawn = multiprocessing.get_context("spawn")
            pool = concurrent.futures.ProcessPoolExecutor(args.jobs, mp_context=spawn)
            each = stack.enter_context(pool).map
        found = each(simulate, cases, range(len(cases)))
        results = list(track(found, "cases", len(cases), console=Console(stderr=True)))
    flags = f"{'--quick' if args.quick else f'--draws {draws}'} --jobs {args.jobs}"
    facts = {
        **environment(["numpy", "scipy"]),
        "command": f"python -m benchmarks.study_statistics {flags}",
        "draws": draws,
        "resamples": resamples,
        "num_sessions": NUM_SESSIONS,
        "hit_rate": HIT_RATE,
        "shared_variance": SHARED,
        "results": results,
    }
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


def _simulate(case: Case, number: int, *, draws: int, resamples: int) -> dict[str, Any]:
    """How often each rule finds a difference; the case's number seeds it."""
    rng = np.random.default_rng((SEED, number))
    num_runs = sum(case.num_seeds)
    differences, p = [], []
    for start in range(0, draws, BATCH):
        hits = np.concatenate(_hits(case, min(BATCH, draws - start), rng), axis=1)
        hits = hits.reshape(-1, NUM_SESSIONS)
        drawn = resample(hits, resamples=resamples, seed=int(rng.integers(2**32)))
        for first in range(0, len(hits), num_runs):
            middle = first + case.num_seeds[0]
            arm = drawn.runs(slice(first, middle))
            base = drawn.runs(slice(middle, first + num_runs))
            differences.append(arm.means.mean() - base.means.mean())
            p.append(_p_values(arm, base, int(rng.integers(2**32))))
    rules: dict[str, dict[str, Any]] = {rule: {} for rule in p[0]}
    for rule, level in itertools.product(rules, LEVELS):
        found = float(np.mean([each[rule] < level for each in p]))
        error = _monte_carlo_error(found, draws)
        rules[rule][f"p<{level}"] = {"found": found, "standard_error": error}
    return {
        **dataclasses.asdict(case),
        "seed": [SEED, number],
        "difference_in_standard_errors": float(np.mean(differences) / np.std(differences)),
        "rules": rules,
    }


def _hits(case: Case, num_tests: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Hits [num_tests, R, S] of the arm and of its base."""
    counts, effects = np.array(case.num_seeds), np.array(case.seed_effects)
    variance = ((1 + effects**2) / counts).sum()
    variance -= 2 * case.correlation * effects.prod() / counts[0]
    half = case.planted * math.sqrt(variance) / 2  # a half up, a half down: what is curved cancels
    difficulty = math.sqrt(SHARED) * rng.standard_normal((num_tests, 1, NUM_SESSIONS))
    together = rng.standard_normal((num_tests, counts.max(), 1))
    arms = []
    for count, effect, lift in zip(counts, effects, (half, -half), strict=True):
        seeds = math.sqrt(case.correlation) * together[:, :count]
        seeds = seeds + math.sqrt(1 - case.correlation) * rng.standard_normal(seeds.shape)
        own = case.own * rng.standard_normal(difficulty.shape)
        cells = math.sqrt(1 - SHARED) * rng.standard_normal((num_tests, count, NUM_SESSIONS))
        # What seeds and own difficulties add to the variance would move the rate, too.
        threshold = THRESHOLD * math.sqrt(1 + case.own**2 + (UNIT * effect) ** 2)
        arms.append(difficulty + own + UNIT * (effect * seeds + lift) + cells > threshold)
    return arms


def _p_values(arm: Resampled, base: Resampled, seed: int) -> dict[str, float]:
    """By rule. Pairing by number needs as many seeds on both sides."""
    p = {
        "this rule": compare_resampled(arm, base, seed=seed).p,
        "crossed, normal": _crossed_p(arm, base, seed),
        "sessions alone": compare_resampled(_as_one_run(arm), _as_one_run(base)).p,
    }
    if len(arm.means) == len(base.means):
        moved = arm.replicates - base.replicates
        pairs = dataclasses.replace(arm, means=arm.means - base.means, replicates=moved)
        nothing = Resampled(np.zeros(1), np.zeros((len(moved), 1)), arm.num_sessions)
        p["paired seeds"] = compare_resampled(pairs, nothing, seed=seed).p
    return p


def _crossed_p(arm: Resampled, base: Resampled, seed: int) -> float:
    """The plain crossed bootstrap: seeds with replacement, too, and normal limits."""
    rng = np.random.default_rng(seed)
    moved = []
    for runs in (arm, base):
        resamples, count = runs.replicates.shape
        shares = rng.multinomial(count, np.full(count, 1 / count), resamples) / count
        moved.append((shares * runs.replicates).sum(axis=1))
    error = np.std(moved[0] - moved[1], ddof=1)
    return float(2 * stats.norm.sf(abs(arm.means.mean() - base.means.mean()) / error))


def _as_one_run(runs: Resampled) -> Resampled:
    means, replicates = runs.means.mean(keepdims=True), runs.replicates.mean(axis=1, keepdims=True)
    return dataclasses.replace(runs, means=means, replicates=replicates)


def _monte_carlo_error(share: float, draws: int) -> float:
    return math.sqrt(share * (1 - share) / draws)


def _print(facts: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.width = max(console.width, 100)  # a pipe counts as 80, too few for the tables
    rules = list(facts["results"][0]["rules"])
    for question, results in itertools.groupby(facts["results"], lambda it: it["question"]):
        table = Table(title=question, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("seeds", "effects", "difference", *rules):
            table.add_column(name, justify="right", no_wrap=True)
        for result in results:
            row = [":".join(f"{x:g}" for x in result[k]) for k in ("num_seeds", "seed_effects")]
            row.append(f"{result['difference_in_standard_errors']:z.1f} s.e.")
            for rule in rules:
                levels = result["rules"].get(rule, {}).values()
                row.append(" / ".join(f"{100 * level['found']:.2f}" for level in levels))
            table.add_row(*row)
        console.print(table)
    draws, levels = facts["draws"], " / ".join(f"p < {level:g}" for level in LEVELS)
    errors = " / ".join(f"{100 * _monte_carlo_error(level, draws):.2f}" for level in LEVELS)
    console.print(f"% of {draws:,} draws with {levels}; Monte-Carlo standard error there {errors}")
    console.print(described(facts))


if __name__ == "__main__":
    main()
