"""Does it matter for quality how the track table is optimised?

    python -m benchmarks.table_optimizers [--json FILE] [--quick] [--jobs N]
        [--learning-rates RATE,...] [--config.FIELD=VALUE ...]

Deferred, dense and lazy Adam, and dense Adam with the usual ε, each with three seeds and at its own
best learning rate: that of the best validation HR@10 of the first seed, the smaller of equals. Each
run is main.py with the causal S+ config and the overrides given here, in a temporary workdir; jobs
share the cores out among them. Run it in the root of the repository.
"""

import argparse
import concurrent.futures
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from skipjax.environment import described, environment

CONFIG = "sasrec_skip.py:track"
# With the session's own negatives, a step on a small catalogue reads more ids than the table has
# rows, and deferred Adam then is dense Adam (see by_rows in skipjax/step.py).
SCOPE = "--config.sampling.scope=batch"
OPTIMIZERS = {
    "deferred": ["--config.optimizer.table=deferred"],
    "dense": ["--config.optimizer.table=dense"],
    "lazy": ["--config.optimizer.table=lazy"],
    "dense, ε = 1e-8": [
        "--config.optimizer.table=dense",
        "--config.optimizer.table_epsilon=1e-8",
    ],
}
LEARNING_RATES = (0.0005, 0.001, 0.002, 0.005)
SEEDS = (0, 1, 2)
SELECTION = "valid/hr@10"
COLUMNS = {
    "HR@10": "test/hr@10",
    "full HR@10": "test_full/hr@10",
    "full MRR": "test_full/mrr",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument(
        "--quick", action="store_true", help="one epoch on few sessions, one learning rate"
    )
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--learning-rates",
        metavar="RATE,...",
        type=lambda rates: tuple(sorted(float(rate) for rate in rates.split(","))),
        default=LEARNING_RATES,
        help="to choose from",
    )
    args, overrides = parser.parse_known_args()
    if unknown := [o for o in overrides if not o.startswith("--config.")]:
        parser.error(f"unknown argument {unknown[0]}; overrides begin with --config.")
    rates = args.learning_rates
    if args.quick:
        rates = (0.001,)
        overrides += ["--config.data.demo.num_sessions=300", "--config.train.num_epochs=1"]
    results = _study(rates, overrides, args.jobs)
    flags = [f"--jobs={args.jobs}", f"--learning-rates={','.join(map(str, rates))}"]
    facts = {
        **environment(["jax", "flax", "optax", "numpy"]),
        "command": " ".join(["python -m benchmarks.table_optimizers", *flags, *_shown(overrides)]),
        "results": results,
    }
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def _study(rates: tuple[float, ...], overrides: list[str], jobs: int) -> dict[str, Any]:
    """For each optimiser, its learning rate, means and deviations, and the runs behind them."""
    shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    cores = sorted(os.sched_getaffinity(0))
    for i in range(jobs):
        shares.put(set(cores[i::jobs]) or set(cores))
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        # Runs that differ in nothing but seed and learning rate are the same program.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{scratch}/compiled")
        common = [f"--config.data.cache_dir={scratch}/cache", SCOPE]

        def all_of(runs: list[tuple[str, float, int]], what: str) -> dict[Any, dict[str, Any]]:
            def one(optimizer: str, rate: float, seed: int) -> dict[str, Any]:
                own = [f"--config.optimizer.learning_rate={rate}", f"--config.seed={seed}"]
                workdir = Path(scratch) / f"{list(OPTIMIZERS).index(optimizer)}-{rate}-{seed}"
                given = [*common, *overrides, *OPTIMIZERS[optimizer], *own]
                return {"learning_rate": rate, **_run(CONFIG, workdir, given)}

            running = [pool.submit(one, *it) for it in runs]
            done = [future.result() for future in track(running, what, console=console)]
            return dict(zip(runs, done, strict=True))

        # What a thread starts stays on the thread's cores.
        with concurrent.futures.ThreadPoolExecutor(
            jobs, initializer=lambda: os.sched_setaffinity(0, shares.get())
        ) as pool:
            first, *others = SEEDS
            grid = [(name, rate, first) for name in OPTIMIZERS for rate in rates]
            done = all_of(grid, "learning rates")
            best = {
                name: max(rates, key=lambda rate: done[name, rate, first][SELECTION])
                for name in OPTIMIZERS
            }
            done |= all_of([(name, best[name], s) for name in OPTIMIZERS for s in others], "seeds")
    results = {}
    for name, rate in best.items():
        seeds = [done[name, rate, seed] for seed in SEEDS]
        results[name] = {
            "overrides": OPTIMIZERS[name],
            "learning_rate": rate,
            f"{SELECTION} of seed {first}": {r: done[name, r, first][SELECTION] for r in rates},
        }
        for metric in (SELECTION, *COLUMNS.values()):
            values = [result[metric] for result in seeds]
            results[name][metric] = {
                "mean": statistics.mean(values),
                "std": statistics.stdev(values),  # of a sample: n - 1
                "seeds": values,
            }
        results[name]["runs"] = [done[it] for it in done if it[0] == name]
    return results


def _run(config: str, workdir: Path, overrides: list[str]) -> dict[str, Any]:
    """The results of main.py with that file of configs/, and the seconds it took."""
    command = [sys.executable, "main.py", f"--config=configs/{config}", f"--workdir={workdir}"]
    start = time.monotonic()
    done = subprocess.run([*command, *overrides], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)  # main.py has said why
    seconds = time.monotonic() - start
    results = json.loads((workdir / "results.json").read_text())
    return {**results, "seconds": round(seconds, 1)}


def _shown(overrides: list[str]) -> list[str]:
    """Without folders: where a file lies on this machine is nobody's business."""
    return [f"{o.partition('=')[0]}={Path(o.partition('=')[2]).name}" for o in overrides]


def _print(facts: dict[str, Any]) -> None:
    results = facts["results"]
    one = next(iter(results.values()))["runs"][0]
    data = "synthetic demo sessions" if one["synthetic"] else one["source"]
    table = Table(
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{data}: {one['sessions']:,} sessions, {one['tracks']:,} tracks",
    )
    table.add_column("track table", no_wrap=True)
    for name in ("rate", *COLUMNS, "best epochs"):
        table.add_column(name, justify="right", no_wrap=True)
    blank = " " * len(" ± 0.0000")
    popular = [f"{one['baseline/popularity/' + name]:.4f}{blank}" for name in COLUMNS.values()]
    table.add_row("most popular", "", *popular, "", end_section=True)
    for name, result in results.items():
        numbers = [
            f"{result[metric]['mean']:.4f} ± {result[metric]['std']:.4f}"
            for metric in COLUMNS.values()
        ]
        rate = result["learning_rate"]
        runs = [r for r in result["runs"] if r["learning_rate"] == rate]
        epochs = ", ".join(str(run["best_epoch"]) for run in runs)
        table.add_row(name, f"{rate:g}", *numbers, epochs)
    console = Console(highlight=False)
    console.width = max(console.width, 100)  # a pipe counts as 80, too few for the table
    console.print(table)
    seeds = ", ".join(map(str, SEEDS))
    console.print(
        f"rate: best of validation; mean ± standard deviation of seeds {seeds}; HR@10 among\n"
        "sampled candidates, the rest among all tracks"
    )
    console.print(described(facts))


if __name__ == "__main__":
    main()
