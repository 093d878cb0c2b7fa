"""How fast the service answers, against the bare model on the same cores; and whether it errs.

    python -m benchmarks.serving [--quick] [--json FILE] [--workloads W1 W2]

Exported models of the default architecture with random weights: 10 K and 1 M tracks, width 128. The
service is a process pinned to two cores; the load, another one, has the rest, and holds every
answer against the one that its session got when asked for by itself. The floor is what encoder and
scoring take on the service's two cores without any service, on a batch of as many sessions as there
are clients (256 if there are more), and is measured before and after the load. A single request
also has to come and go by HTTP: what that takes is measured with a request in which no model takes
part, and added to the floor.

  one at a time   one client, one session in a request
  256 at a time   one client, 256 sessions in a request
  64 clients      each asks anew as soon as it is answered
  at random       requests come at 70 % of the rate of the row above, answered or not
  saturated       as many clients as it takes until no more sessions are answered in a second
  malformed       1,000 requests that make no sense, each of which must be answered 4xx
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.serving_load import K, random_sessions, track
from skipjax.environment import described, environment

WIDTH, BATCH, CLIENTS, MALFORMED = 128, 256, 64, 1000
CORES = 2  # of the service
# name: tracks, seconds of each load
WORKLOADS = {"W1": (10_000, 10.0), "W2": (1_000_000, 20.0)}
QUICK = {"quick": (2_000, 0.6)}
FLOORS = (1, CLIENTS, BATCH)  # sessions together
OPEN_SHARE = 0.7
GAIN = 1.05  # of twice as many clients; with less it is saturated
MOST_CLIENTS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tracks, short")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, help="by default, all")
    parser.add_argument("--make", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--floor", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        folder, num_tracks, *ks = args.make
        _make(Path(folder), int(num_tracks), [int(k) for k in ks])
        return
    if args.floor:
        print(json.dumps(_floor(Path(args.floor[0]), float(args.floor[1]))))
        return
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    load_before = os.getloadavg()[0]
    service_cores, load_cores = _cores()
    asked = {name: WORKLOADS[name] for name in args.workloads or WORKLOADS}
    results = {}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name, (num_tracks, seconds) in (QUICK if args.quick else asked).items():
            cores = (service_cores, load_cores)
            results[name] = _workload(num_tracks, seconds, cores, args.quick, bar)
    facts = {
        **environment(["jax", "fastapi", "uvicorn"]),
        "command": _command(args),
        "cores": {"service": len(service_cores), "load": len(load_cores)},
        "load_average": [round(load, 2) for load in (load_before, os.getloadavg()[0])],
        "results": results,
    }
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n")
    for name, result in results.items():
        if problem := _problem(result):
            raise SystemExit(f"{name}: {problem}")


def _command(args: argparse.Namespace) -> str:
    """What was run, without where on this machine."""
    json_file = f" --json {args.json.name}" if args.json else ""
    workloads = " --workloads " + " ".join(args.workloads) if args.workloads else ""
    return "python -m benchmarks.serving" + " --quick" * args.quick + workloads + json_file


def _cores() -> tuple[list[int], list[int]]:
    """Those of the service and those of the load; the same where there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[:CORES], cores[CORES:] or cores


def _problem(result: dict[str, Any]) -> str:
    """What must not be, if it is."""
    rows = [*result["loads"].values(), *result["saturating"]]
    for name in ("errors", "lost", "strangers"):
        if number := sum(row[name] for row in rows):
            return f"{number} {name}"
    malformed = result["malformed"]
    missing = malformed["requests"] - malformed["answered_4xx"]
    return f"{missing} malformed requests not answered 4xx" if missing else ""


def _workload(
    num_tracks: int, seconds: float, cores: tuple[list[int], list[int]], quick: bool, bar: Progress
) -> dict[str, Any]:
    task = bar.add_task(f"{num_tracks:,} tracks", total=10)

    def floor() -> dict[str, list[float]]:
        found = _python(cores[0], "benchmarks.serving", "--floor", model, str(seconds / 2))
        bar.advance(task)
        return found

    with tempfile.TemporaryDirectory() as scratch:
        model = f"{scratch}/model"
        ks = ["20"] if quick else ["20", "100"]  # for each of which much is compiled
        _python(cores[0] + cores[1], "benchmarks.serving", "--make", model, str(num_tracks), *ks)
        bar.advance(task)
        floors = [floor()]
        with _service(model, cores[0]) as (port, warm_seconds):

            def load(kind: str, **plan: Any) -> dict[str, Any]:
                plan = {"kind": kind, "num_tracks": num_tracks, "seconds": seconds, **plan}
                return _python(cores[1], "benchmarks.serving_load", str(port), json.dumps(plan))

            http = load("http", seconds=seconds / 4)
            loads = {}
            for name, plan in (
                ("one at a time", {"clients": 1}),
                ("256 at a time", {"clients": 1, "sessions": BATCH}),
                ("64 clients", {"clients": CLIENTS}),
            ):
                loads[name] = load("closed", **plan)
                bar.advance(task)
            rate = OPEN_SHARE * loads["64 clients"]["sessions_per_second"]
            loads["at random"] = load("open", rate=rate)
            bar.advance(task)
            saturating = [loads["64 clients"]]
            while not quick and saturating[-1]["clients"] < MOST_CLIENTS:
                saturating.append(load("closed", clients=2 * saturating[-1]["clients"]))
                bar.advance(task)
                before, after = (row["sessions_per_second"] for row in saturating[-2:])
                if after < GAIN * before:
                    break
            malformed = load("malformed", number=MALFORMED)
        floors += [] if quick else [floor()]
    bar.remove_task(task)
    return {
        "tracks": num_tracks,
        "warm_seconds": warm_seconds,
        "floor_ms": {
            size: statistics.median(floor[size] for floor in floors) for size in floors[0]
        },
        "floor_runs_ms": floors,
        "http_ms": http["p50_ms"],
        "loads": loads,
        "saturating": saturating[1:],
        "malformed": malformed,
    }


def _python(cores: list[int], module: str, *arguments: str) -> Any:
    """What a module prints as JSON, run in a process pinned to some cores."""
    with _pinned(cores):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True
        )
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{module} ended with {process.returncode}.")
    return json.loads(out or "null")


@contextlib.contextmanager
def _pinned(cores: list[int]) -> Iterator[None]:
    """What is started meanwhile runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _service(model: str, cores: list[int]) -> Iterator[tuple[int, float]]:
    """Its port, and the seconds that it took to warm up."""
    command = [sys.executable, "-m", "skipjax", "serve", f"--model={model}", "--port=0"]
    pipe = subprocess.PIPE
    with (
        _pinned(cores),
        subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process,
    ):
        try:
            line = process.stdout.readline()
            found = re.search(r":(\d+) serves .* warm after ([\d.]+) s", line)
            if not found:
                said = line or process.stderr.read()
                raise SystemExit(f"the service did not start: {said}")
            yield int(found[1]), float(found[2])
        finally:
            process.terminate()
            _, said = process.communicate()
    if process.returncode != 143:
        raise SystemExit(f"the service ended with {process.returncode}: {said}")


def _make(folder: Path, num_tracks: int, ks: list[int]) -> None:
    """An exported model of the default architecture, with random weights."""
    from configs import sasrec_skip
    from skipjax import encoders
    from skipjax.data.catalogue import Catalogue
    from skipjax.serving.export import export
    from skipjax.trained import Trained

    config = sasrec_skip.get_config()
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    params = encoders.init_params(jax.random.key(0), encoder, 2 + num_tracks, WIDTH)
    # So that scores lie apart, as those of a trained model do.
    params = jax.tree.map(lambda x: 20 * x, params)
    names = pa.array([track(i) for i in range(num_tracks)], pa.large_string())
    catalogue = Catalogue(names, np.arange(num_tracks)[::-1])
    trained = Trained(config, encoder, params, catalogue, [0.0], {}, "", folder)
    export(trained, folder, ks=ks)


def _floor(folder: Path, seconds: float) -> dict[str, float]:
    """Milliseconds of encoder and scoring by the number of sessions; medians."""
    from skipjax.serving import exported

    model = exported.load(folder)
    return {str(size): 1e3 * _seconds_of_batch(model, size, seconds) for size in FLOORS}


def _seconds_of_batch(model: Any, size: int, seconds: float) -> float:
    length = model.lengths[-1]
    tracks = np.zeros((size, length), np.int32)
    for row, session in zip(tracks, random_sessions(len(model.catalogue), size), strict=True):
        row[: len(session)] = model.catalogue.ids_of(pa.array(session, pa.large_string()))
    valid, feedback = tracks > 0, np.zeros_like(tracks)
    taken: list[float] = []
    while len(taken) < 6 or sum(taken[1:]) < seconds:
        start = time.perf_counter()
        hidden = model.hidden(tracks, valid, feedback)
        jax.block_until_ready(model.best(hidden, tracks, K))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])  # the first compiles


def _print(facts: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for result in facts["results"].values():
        floors, http = result["floor_ms"], result["http_ms"]
        cores = facts["cores"]
        table = Table(
            title=f"{result['tracks'] / 1e6:g} M tracks, service on {cores['service']} cores",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("", no_wrap=True)
        for name in ("p50 ms", "p99 ms", "sessions/s", "asked", "floor", "× floor"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, row in [
            *result["loads"].items(),
            *((f"{row['clients']} clients", row) for row in result["saturating"]),
        ]:
            floor, ratio = _against(name, row, floors, http)
            table.add_row(
                name,
                f"{row['p50_ms']:.3g}",
                f"{row['p99_ms']:.3g}",
                f"{row['sessions_per_second']:,.0f}",
                f"{row['requests']:,}",
                floor,
                ratio,
            )
        console.print(table)
        malformed = result["malformed"]
        console.print(
            f"HTTP alone {http:.2f} ms; warm after {result['warm_seconds']:.1f} s; of "
            f"{malformed['requests']:,} malformed requests {malformed['answered_4xx']:,} were "
            f"answered 4xx; errors, lost, wrong: "
            + ", ".join(
                str(sum(row[name] for row in [*result["loads"].values(), *result["saturating"]]))
                for name in ("errors", "lost", "strangers")
            )
        )
    console.print("load {} to {}; ".format(*facts["load_average"]) + described(facts))


def _against(
    name: str, row: dict[str, Any], floors: dict[str, float], http: float
) -> tuple[str, str]:
    """The floor of a row, and how many times that it takes; '' for those without one."""
    if name == "one at a time":
        floor = floors["1"] + http
        return f"{floor:.3g} ms", f"{row['p50_ms'] / floor:.2f}"
    if name == "256 at a time":
        return f"{floors['256']:.3g} ms", f"{row['p50_ms'] / floors['256']:.2f}"
    if name == "at random":
        return "", ""
    best = (
        1e3 * CLIENTS / floors["64"] if row["clients"] == CLIENTS else 1e3 * BATCH / floors["256"]
    )
    return f"{best:,.0f}/s", f"{best / row['sessions_per_second']:.2f}"


if __name__ == "__main__":
    main()
