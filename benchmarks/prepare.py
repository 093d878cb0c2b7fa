"""How fast MSSD logs are prepared, and in how much memory.

    python -m benchmarks.prepare [--quick] [--json FILE]

Makes synthetic logs of the size of MSSD's (one file: 196,000 sessions, 3.3 M rows, 550 MB) in a
temporary folder, and prepares them in a process of their own, several times. The floor is what
pyarrow takes to do no more than read one file, in the same run. Two files show what memory
depends on: on the number of different tracks, not on the number of rows.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from skipjax.data import demo, mssd

NUM_TRACKS = 600_000  # about as many as one of MSSD's files has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(*args.measure)))
        return
    repeats = 1 if args.quick else 5
    with tempfile.TemporaryDirectory() as scratch, Progress(transient=True) as bar:
        logs = _make_logs(scratch, args.quick, bar)
        first, both = str(logs[0]), ":".join(map(str, logs))
        cases = {
            "1, only read": ("floor", first, repeats),
            "1, prepared": ("prepare", first, repeats),
        }
        if len(logs) > 1:
            cases[f"{len(logs)}, prepared"] = ("prepare", both, 2)
        task = bar.add_task("measuring", total=sum(case[2] for case in cases.values()))
        results = {}
        for name, (what, paths, times) in cases.items():
            runs = []
            for _ in range(times):
                runs.append(_in_a_process(what, paths, scratch))
                bar.advance(task)
            results[name] = _summarised(runs, paths)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.prepare" + " --quick" * args.quick,
        "hardware": _hardware(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "results": results,
    }
    _print(facts)
    if args.json:
        Path(args.json).write_text(json.dumps(facts, indent=2) + "\n")


def _make_logs(folder: str, quick: bool, bar: Progress) -> list[Path]:
    """Two log files, which draw on the same tracks; or a tenth of one."""
    task = bar.add_task("making logs")
    paths = demo.write_logs(
        folder,
        num_sessions=demo.FILE_SESSIONS // 10 if quick else 2 * demo.FILE_SESSIONS,
        num_tracks=NUM_TRACKS // 10 if quick else NUM_TRACKS,
        progress=lambda done, total, what: bar.update(task, completed=done, total=total),
    )
    bar.remove_task(task)
    return paths


def _in_a_process(what: str, paths: str, scratch: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        command = [sys.executable, "-m", "benchmarks.prepare", "--measure", what, paths, out]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _measure(what: str, paths: str, out: str) -> dict[str, float]:
    start = time.perf_counter()
    if what == "floor":
        rows = pyarrow.csv.read_csv(paths).num_rows
    else:
        rows = mssd.prepare(paths.split(":"), Path(out) / "out").num_events
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": rows, "peak_rss_mb": _peak_rss_mb()}


def _peak_rss_mb() -> float:
    """Of this program alone; `getrusage` would count what its parent had when starting it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status")


def _summarised(runs: list[dict[str, float]], paths: str) -> dict[str, float | list[float]]:
    seconds = [run["seconds"] for run in runs]
    return {
        "rows": runs[0]["rows"],
        "bytes": sum(os.path.getsize(path) for path in paths.split(":")),
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "rows_per_second": runs[0]["rows"] / statistics.median(seconds),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
    }


def _hardware() -> dict[str, str | int]:
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cpus": os.cpu_count(), "memory_gb": round(memory / 2**30)}


def _print(facts: dict) -> None:
    table = Table(title="MSSD logs (synthetic); seconds are medians", title_justify="left")
    table.add_column("log files", no_wrap=True)
    for name in ("rows", "seconds", "min", "max", "rows/s", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in facts["results"].items():
        table.add_row(
            name,
            f"{result['rows']:,}",
            f"{result['seconds_median']:.2f}",
            f"{min(result['seconds']):.2f}",
            f"{max(result['seconds']):.2f}",
            f"{result['rows_per_second']:,.0f}",
            f"{result['peak_rss_mb']:,.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        "{cpu}, {cpus} CPUs, {memory_gb} GB; ".format(**facts["hardware"])
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        highlight=False,
    )


if __name__ == "__main__":
    main()
