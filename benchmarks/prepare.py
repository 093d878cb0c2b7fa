"""How fast MSSD logs are prepared, and in how much memory.

    python -m benchmarks.prepare [--quick] [--json FILE]

Makes synthetic logs of the size of MSSD's (one file: 196,000 sessions, 3.3 M rows, 550 MB) in a
temporary folder, and prepares them in a process of their own, several times. The floor is what
pyarrow takes to do no more than read one file, in turn with the rest. It uses every core it gets,
so on a machine with other work it is the seconds that grow, and the ratio that shrinks; the CPU
seconds move least. Two files show what memory depends on: on the number of different tracks, not
on the number of rows.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.csv
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from skipjax.data import demo, mssd
from skipjax.environment import described, environment

NUM_TRACKS = 600_000  # about as many as one of MSSD's files has
SEED = 0
FLOOR = "read 1 file"


@dataclasses.dataclass
class _Case:
    what: str
    paths: list[Path]
    repeats: int
    runs: list[dict[str, float]] = dataclasses.field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(*args.measure)))
        return
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    load_before = os.getloadavg()[0]
    num_sessions = demo.FILE_SESSIONS // 10 if args.quick else 2 * demo.FILE_SESSIONS
    num_tracks = NUM_TRACKS // 10 if args.quick else NUM_TRACKS
    repeats = 1 if args.quick else 5
    bar = Progress(console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory() as scratch, bar:
        logs = _make_logs(scratch, num_sessions, num_tracks, bar)
        cases = {
            FLOOR: _Case("floor", logs[:1], repeats),
            "prepare 1 file": _Case("prepare", logs[:1], repeats),
        }
        if len(logs) > 1:
            cases[f"prepare {len(logs)} files"] = _Case("prepare", logs, 2)
        task = bar.add_task("measuring", total=sum(case.repeats for case in cases.values()))
        for number in range(repeats):
            for case in cases.values():
                if number < case.repeats:
                    case.runs.append(_in_a_process(case, scratch))
                    bar.advance(task)
        results = {name: _summarised(case, cases[FLOOR]) for name, case in cases.items()}
    facts = {
        **environment(["numpy", "pyarrow"]),
        "command": _command(args),
        "load_average": [round(load, 2) for load in (load_before, os.getloadavg()[0])],
        "logs": {
            "demo_version": demo.VERSION,
            "seeds": [SEED],
            "num_sessions": num_sessions,
            "num_tracks": num_tracks,
        },
        "results": results,
    }
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


def _command(args: argparse.Namespace) -> str:
    """What was run, without where on this machine."""
    json_file = f" --json {args.json.name}" if args.json else ""
    return "python -m benchmarks.prepare" + " --quick" * args.quick + json_file


def _make_logs(folder: str, num_sessions: int, num_tracks: int, bar: Progress) -> list[Path]:
    """Log files that draw on the same tracks."""
    task = bar.add_task("making logs")
    paths = demo.write_logs(
        folder,
        num_sessions=num_sessions,
        num_tracks=num_tracks,
        seed=SEED,
        progress=lambda done, total, what: bar.update(task, completed=done, total=total),
    )
    bar.remove_task(task)
    return paths


def _in_a_process(case: _Case, scratch: str) -> dict[str, float]:
    paths = os.pathsep.join(map(str, case.paths))
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        command = [sys.executable, "-m", "benchmarks.prepare", "--measure", case.what, paths, out]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _measure(what: str, paths: str, out: str) -> dict[str, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    if what == "floor":
        rows = pyarrow.csv.read_csv(paths).num_rows
    else:
        rows = mssd.prepare(paths.split(os.pathsep), Path(out) / "out").num_events
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start  # of all threads
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rows": rows,
        "peak_rss_mb": _peak_rss_mb(),
    }


def _peak_rss_mb() -> float:
    """Of this program alone; `getrusage` would count what its parent had when starting it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status")


def _summarised(case: _Case, floor: _Case) -> dict[str, float | list[float]]:
    seconds, cpu_seconds, rows, peaks = (
        [run[name] for run in case.runs]
        for name in ("seconds", "cpu_seconds", "rows", "peak_rss_mb")
    )
    ratios = [  # by row, of runs next to each other
        run["seconds"] / run["rows"] * other["rows"] / other["seconds"]
        for run, other in zip(case.runs, floor.runs, strict=False)
    ]
    return {
        "rows": rows[0],
        "bytes": sum(path.stat().st_size for path in case.paths),
        "seconds": [round(value, 3) for value in seconds],
        "seconds_median": statistics.median(seconds),
        "cpu_seconds_median": statistics.median(cpu_seconds),
        "times_floor_by_row_median": statistics.median(ratios),
        "rows_per_second": rows[0] / statistics.median(seconds),
        "peak_rss_mb": max(peaks),
    }


def _print(facts: dict) -> None:
    rows = facts["results"][FLOOR]["rows"]
    title = f"MSSD logs (synthetic), {rows / 1e6:.1f} M rows a file; medians; × floor is by row"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("s", "min", "max", "CPU s", "× floor", "rows/s", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in facts["results"].items():
        table.add_row(
            name,
            f"{result['seconds_median']:.2f}",
            f"{min(result['seconds']):.2f}",
            f"{max(result['seconds']):.2f}",
            f"{result['cpu_seconds_median']:.2f}",
            f"{result['times_floor_by_row_median']:.2f}",
            f"{result['rows_per_second']:,.0f}",
            f"{result['peak_rss_mb']:,.0f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print("load {} to {}; ".format(*facts["load_average"]) + described(facts))


if __name__ == "__main__":
    main()
