"""The six arms of the paper's Table 1, one after the other, on any data.

    python -m benchmarks.six_arms [--json FILE] [--quick] [--jobs N] [--config.FIELD=VALUE ...]

Each arm is main.py with its published config and the overrides given here, in a temporary workdir.
Run it in the root of the repository.
"""

import argparse
import concurrent.futures
import json
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

ARMS = {
    "causal S-": "sasrec.py",
    "causal S+ track": "sasrec_skip.py:track",
    "causal S+ hidden": "sasrec_skip.py:hidden",
    "bidirectional S-": "bert4rec.py",
    "bidirectional S+ track": "bert4rec_skip.py:track",
    "bidirectional S+ hidden": "bert4rec_skip.py:hidden",
}
COLUMNS = {
    "HR@1": "test/hr@1",
    "HR@10": "test/hr@10",
    "NDCG@10": "test/ndcg@10",
    "full HR@10": "test_full/hr@10",
    "full MRR": "test_full/mrr",
}
POPULARITY = "baseline/popularity/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument(
        "--quick", action="store_true", help="one epoch on few sessions, for a look"
    )
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="arms at a time")
    args, overrides = parser.parse_known_args()
    if unknown := [o for o in overrides if not o.startswith("--config.")]:
        parser.error(f"unknown argument {unknown[0]}; overrides begin with --config.")
    if args.quick:
        overrides += ["--config.data.demo.num_sessions=300", "--config.train.num_epochs=1"]
    with tempfile.TemporaryDirectory() as scratch:
        overrides_here = [f"--config.data.cache_dir={scratch}/cache", *overrides]
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            running = [
                pool.submit(run, config, Path(scratch) / str(i), overrides_here)
                for i, config in enumerate(ARMS.values())
            ]
            console = Console(stderr=True)
            results = [future.result() for future in track(running, "training", console=console)]
    facts = {
        **environment(["jax", "flax", "optax", "numpy"]),
        "command": " ".join(
            ["python -m benchmarks.six_arms", f"--jobs={args.jobs}", *shown(overrides)]
        ),
        "results": dict(zip(ARMS, results, strict=True)),
    }
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


def run(config: str, workdir: Path, overrides: list[str]) -> dict[str, Any]:
    """The results of main.py with that file of configs/, and the seconds it took."""
    command = [sys.executable, "main.py", f"--config=configs/{config}", f"--workdir={workdir}"]
    start = time.monotonic()
    done = subprocess.run([*command, *overrides], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)  # main.py has said why
    seconds = time.monotonic() - start
    results = json.loads((workdir / "results.json").read_text())
    return {**results, "seconds": round(seconds, 1)}


def shown(overrides: list[str]) -> list[str]:
    """Without folders: where a file lies on this machine is nobody's business."""
    return [f"{o.partition('=')[0]}={Path(o.partition('=')[2]).name}" for o in overrides]


def _print(facts: dict[str, Any]) -> None:
    results = facts["results"]
    first = next(iter(results.values()))
    data = "synthetic demo sessions" if first["synthetic"] else first["source"]
    table = Table(
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{data}: {first['sessions']:,} sessions, {first['tracks']:,} tracks",
    )
    table.add_column("arm", no_wrap=True)
    for name in (*COLUMNS, "epoch", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    popular = [f"{first[POPULARITY + name]:.4f}" for name in COLUMNS.values()]
    table.add_row("most popular", *popular, "", "", end_section=True)
    for arm, result in results.items():
        numbers = [f"{result[name]:.4f}" for name in COLUMNS.values()]
        epochs = f"{result['best_epoch']}/{result['epochs']}"
        table.add_row(arm, *numbers, epochs, f"{result['seconds']:.0f}")
    console = Console(highlight=False)
    console.width = max(console.width, 100)  # a pipe counts as 80, too few for the table
    console.print(table)
    console.print("HR@1 to NDCG@10 among sampled candidates, the rest among all tracks; best epoch")
    console.print(f"seed {first['seed']}; {described(facts)}")


if __name__ == "__main__":
    main()
