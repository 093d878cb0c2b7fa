"""How fast logs are prepared, and in how much memory.

    python -m benchmarks.prepare [--quick] [--json FILE]

Makes synthetic logs of the size of MSSD's (a file: 196,000 sessions, 3.3 M rows, 550 MB) and of
Yambda-50M's (10,000 listeners, 46 M listens, 880,000 tracks) in a temporary folder, and prepares
them in processes of their own, several times. The floor is what pyarrow takes to do no more than
read one file of each, in turn with the rest. Both use every core they get, so on a machine with
other work it is the seconds that grow, and the ratio that shrinks; the CPU seconds move least. Two
sizes of each show what memory depends on: on the number of different tracks, not on the number of
rows. That is memory of the program's own; pages of the finished folder, which is mapped and checked
when it is opened, are the system's to drop.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from skipjax.data import demo, mssd, yambda
from skipjax.environment import described, environment

NUM_TRACKS = 600_000  # about as many as one of MSSD's files has
SEED = 0
LISTENERS = 10_000
LISTENS = 4_600  # of a listener, on average
YAMBDA_TRACKS = 880_000
_ROW_GROUP = 1 << 20


@dataclasses.dataclass
class _Case:
    what: str
    paths: list[Path]
    repeats: int
    floor: str
    runs: list[dict[str, float]] = dataclasses.field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small part of it, once")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(*args.measure)))
        return
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    load_before = os.getloadavg()[0]
    facts = measured(args.quick)
    facts = {
        **environment(["numpy", "pyarrow"]),
        "command": _command(args),
        "load_average": [round(load, 2) for load in (load_before, os.getloadavg()[0])],
        **facts,
    }
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


def measured(quick: bool) -> dict:
    """What was prepared, and how that went."""
    num_sessions = demo.FILE_SESSIONS // 10 if quick else 2 * demo.FILE_SESSIONS
    num_tracks = NUM_TRACKS // 10 if quick else NUM_TRACKS
    listeners = LISTENERS // 100 if quick else LISTENERS
    yambda_tracks = YAMBDA_TRACKS // 100 if quick else YAMBDA_TRACKS
    repeats = 1 if quick else 5
    bar = Progress(console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory() as scratch, bar:
        logs = _make_logs(scratch, num_sessions, num_tracks, bar)
        part, whole = (
            make_listens(Path(scratch) / f"listens-{n}.parquet", n, yambda_tracks)
            for n in (listeners // 4, listeners)
        )
        csv_floor, parquet_floor = "read 1 MSSD file", "read Yambda"
        cases = {
            csv_floor: _Case("csv", logs[:1], repeats, csv_floor),
            "MSSD, 1 file": _Case("mssd", logs[:1], repeats, csv_floor),
            parquet_floor: _Case("parquet", [whole], min(repeats, 3), parquet_floor),
            "Yambda, a quarter": _Case("yambda", [part], min(repeats, 2), parquet_floor),
            "Yambda": _Case("yambda", [whole], min(repeats, 3), parquet_floor),
        }
        if len(logs) > 1:
            cases[f"MSSD, {len(logs)} files"] = _Case("mssd", logs, 2, csv_floor)
        task = bar.add_task("measuring", total=sum(case.repeats for case in cases.values()))
        for number in range(repeats):
            for case in cases.values():
                if number < case.repeats:
                    case.runs.append(_in_a_process(case, scratch))
                    bar.advance(task)
        return {
            "logs": {
                "demo_version": demo.VERSION,
                "seeds": [SEED],
                "num_sessions": num_sessions,
                "num_tracks": num_tracks,
                "yambda_listeners": listeners,
                "yambda_tracks": yambda_tracks,
            },
            "results": {name: _summarised(case, cases[case.floor]) for name, case in cases.items()},
        }


def make_listens(path: Path, listeners: int, tracks: int) -> Path:
    """A file of the size and the types of Yambda's flat `listens`: few tracks have most plays."""
    rng = np.random.default_rng(SEED)
    kinds = {
        "uid": pa.uint32(),
        "timestamp": pa.uint32(),
        "item_id": pa.uint32(),
        "is_organic": pa.uint8(),
        "played_ratio_pct": pa.uint16(),
        "track_length_seconds": pa.uint32(),
    }
    schema = pa.schema(kinds)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, listeners, 200):
            counts = rng.geometric(1 / LISTENS, min(200, listeners - start))
            rows = int(counts.sum())
            uids = np.repeat(100 * np.arange(start, start + len(counts)), counts)
            pauses = np.where(rng.random(rows) < 1 / 15, rng.exponential(20_000, rows), 180)
            times = np.cumsum(pauses.astype(np.int64))
            first = np.repeat(times[np.cumsum(counts) - counts], counts)
            columns = {
                "uid": uids,
                "timestamp": 5 * ((times - first) // 5),
                "item_id": 10 * (tracks ** rng.random(rows)).astype(np.int64),
                "is_organic": rng.integers(0, 2, rows),
                "played_ratio_pct": np.where(
                    rng.random(rows) < 0.6, 100, rng.integers(0, 100, rows)
                ),
                "track_length_seconds": 5 * rng.integers(20, 80, rows),
            }
            arrays = [
                pa.array(columns[name].astype(kind.to_pandas_dtype()), kind)
                for name, kind in kinds.items()
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema), row_group_size=_ROW_GROUP)
    return path


def _command(args: argparse.Namespace) -> str:
    """What was run, without where on this machine."""
    json_file = f" --json {args.json.name}" if args.json else ""
    return "python -m benchmarks.prepare" + " --quick" * args.quick + json_file


def _make_logs(folder: str, num_sessions: int, num_tracks: int, bar: Progress) -> list[Path]:
    """Log files that draw on the same tracks."""
    task = bar.add_task("making logs")
    paths = demo.write_logs(
        Path(folder) / "logs",
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
    measure = {"mssd": _mssd, "yambda": _yambda, "csv": _csv, "parquet": _parquet}[what]
    with _watched() as memory:
        facts = measure(paths.split(os.pathsep), Path(out) / "out")
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start  # of all threads
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        **facts,
        "peak_mb": max(memory),
    }


def _csv(paths: list[str], _: Path) -> dict[str, int]:
    return {"rows": pyarrow.csv.read_csv(paths[0]).num_rows}


def _parquet(paths: list[str], _: Path) -> dict[str, int]:
    with pq.ParquetFile(paths[0], page_checksum_verification=True) as file:
        return {"rows": sum(batch.num_rows for batch in file.iter_batches(1 << 17))}


def _mssd(paths: list[str], out: Path) -> dict[str, int]:
    return _counts(mssd.prepare(paths, out))


def _yambda(paths: list[str], out: Path) -> dict[str, int]:
    return _counts(yambda.prepare(paths, out))


def _counts(sessions) -> dict[str, int]:
    left_out = sessions.info["left_out"]["events"]
    return {"rows": sessions.num_events + left_out, "tracks": sessions.num_tracks}


@contextlib.contextmanager
def _watched() -> Iterator[list[float]]:
    """Yields a list that gets the program's own memory in MB, many times a second."""
    memory, done = [_own_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            memory.append(_own_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


def _own_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("no RssAnon in /proc/self/status")


def _summarised(case: _Case, floor: _Case) -> dict[str, float | list[float]]:
    seconds, cpu_seconds, rows, peaks = (
        [run[name] for run in case.runs] for name in ("seconds", "cpu_seconds", "rows", "peak_mb")
    )
    ratios = [  # by row, of runs next to each other
        run["seconds"] / run["rows"] * other["rows"] / other["seconds"]
        for run, other in zip(case.runs, floor.runs, strict=False)
    ]
    return {
        "rows": rows[0],
        "tracks": case.runs[0].get("tracks", 0),
        "bytes": sum(path.stat().st_size for path in case.paths),
        "seconds": [round(value, 3) for value in seconds],
        "seconds_median": statistics.median(seconds),
        "cpu_seconds_median": statistics.median(cpu_seconds),
        "times_floor_by_row_median": statistics.median(ratios),
        "rows_per_second": rows[0] / statistics.median(seconds),
        "peak_mb": max(peaks),
    }


def _print(facts: dict) -> None:
    title = "synthetic logs; medians; × floor is by row"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("M rows", "s", "min", "max", "CPU s", "× floor", "rows/s", "tracks", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in facts["results"].items():
        table.add_row(
            name,
            f"{result['rows'] / 1e6:.1f}",
            f"{result['seconds_median']:.2f}",
            f"{min(result['seconds']):.2f}",
            f"{max(result['seconds']):.2f}",
            f"{result['cpu_seconds_median']:.2f}",
            f"{result['times_floor_by_row_median']:.2f}",
            f"{result['rows_per_second']:,.0f}",
            f"{result['tracks']:,}" if result["tracks"] else "",
            f"{result['peak_mb']:,.0f}",
        )
    console = Console(highlight=False, width=120)
    console.print(table)
    console.print("load {} to {}; ".format(*facts["load_average"]) + described(facts))


if __name__ == "__main__":
    main()
