"""How long a training step takes, and in how much memory, as the catalogue grows.

    python -m benchmarks.train_step [--quick] [--json FILE] [--plot FILE.png]
                                    [--workloads W0 W1 W2 W3] [--scopes batch session]

The step is that of configs/sasrec_skip.py at batch 256, from NumPy batches made beforehand. It is
compared on the same batches with skipjax's other optimisers of the table, with the same step in
eager PyTorch (benchmarks/torch_step.py) and with a floor, counted (benchmarks/step_cost.py) and
divided by what this machine is measured to do. Every contender is a process of its own; several
wait for one another and take a few steps in turn, round after round, so that × compares seconds of
the same minute. Those that would fill more than half of the memory together are measured in groups,
with skipjax in each. What does not fit at all is left out and named. Beside it: the cost of 30 %
padding. Peak memory is the process's own, program and start included (on a GPU, the device's);
"beyond" is without the table, m and v.

Sessions are as long as MSSD's, half of their tracks are skipped, and tracks are drawn uniformly:
the more different rows a step touches, the harder for an optimiser that works by rows.
"""

import argparse
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.step_contest import FULL, QUICK, SEED, WORKLOADS, Contest
from benchmarks.step_worker import step_config
from skipjax.environment import described, environment
from skipjax.memory import restart_with_huge_pages

SCOPES = ("batch", "session")
BUSY_LOAD = 0.5
INSTALL = "PyTorch is not installed, so left out; to compare: pip install -e '.[benchmark]'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny sizes, few steps")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw them there")
    parser.add_argument(
        "--from-json", metavar="FILE", type=Path, help="show what was measured; measure nothing"
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, help="by default, all")
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, help="by default, both")
    args = parser.parse_args()
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{option}: there is no folder {path.parent}")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: pip install -e '.[benchmark]'")
    facts = json.loads(args.from_json.read_text()) if args.from_json else _measure(args)
    _print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    if args.plot:
        from benchmarks.step_plot import draw

        draw(facts, args.plot)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    sizes = QUICK if args.quick else FULL
    names = args.workloads or (["W0"] if args.quick else list(WORKLOADS))
    scopes = args.scopes or (SCOPES[1:] if args.quick else SCOPES)
    # Padding hardly depends on the catalogue.
    padding_tracks = WORKLOADS["W1"] // sizes.tracks_divisor
    load_before = os.getloadavg()[0]
    bar = Progress(console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory() as scratch, bar:
        task = bar.add_task("measuring", total=(len(names) + 1) * len(scopes))
        contest = Contest(sizes, Path(scratch), lambda parts: bar.advance(task, parts))
        results = {
            scope: {name: contest.workload(scope, name) for name in names} for scope in scopes
        }
        padding = {scope: contest.padding(scope, padding_tracks) for scope in scopes}
    return {
        **environment(["jax", "jaxlib", "numpy", *(["torch"] if contest.has_torch else [])]),
        "command": _command(args),
        "device": contest.device,
        "cpus_used": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in (load_before, os.getloadavg()[0])],
        "seeds": {"batches": SEED, "config": step_config({"scope": "batch", "fields": {}}).seed},
        "config": {"file": "configs/sasrec_skip.py", **sizes.fields},
        "rounds": sizes.rounds,
        "has_torch": contest.has_torch,
        "host_batch_ms": contest.host_batch_ms,
        "results": results,
        "padding": padding,
    }


def _command(args: argparse.Namespace) -> str:
    """What was run, without where on this machine."""
    command = "python -m benchmarks.train_step" + " --quick" * args.quick
    for option, values in (("workloads", args.workloads), ("scopes", args.scopes)):
        if values:
            command += f" --{option} " + " ".join(values)
    for option, path in (("json", args.json), ("plot", args.plot)):
        command += f" --{option} {path.name}" if path else ""
    return command


def _print(facts: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.width = max(console.width, 110)  # a pipe counts as 80, too few for the table
    for scope, workloads in facts["results"].items():
        console.print(_table(scope, workloads, facts["rounds"]))
        for name, workload in workloads.items():
            for line in _remarks(workload):
                console.print(f"{name}: {line}", soft_wrap=True)
        console.print()
    for scope, padding in facts["padding"].items():
        if "left_out" in padding:
            console.print(f"padding, {scope} scope: {padding['left_out']}")
            continue
        padded, packed = padding["padded"], padding["packed"]
        console.print(
            f"{1 - padded['valid_share']:.0%} padding, {scope} scope, "
            f"{padding['num_tracks']:,} tracks: {1e3 * padded['seconds_median']:.1f} ms, "
            f"{padding['ratio_median']:.2f} × the {1e3 * packed['seconds_median']:.1f} ms of as "
            f"many tracks in sessions of equal length",
            soft_wrap=True,
        )
    if not facts["has_torch"]:
        console.print(INSTALL, markup=False)
    host = ", ".join(f"{name} {ms:.2f}" for name, ms in facts["host_batch_ms"].items())
    console.print(f"making a batch on the host, not counted above (ms): {host}", soft_wrap=True)
    load, device = facts["load_average"], facts["device"]
    if load[0] > BUSY_LOAD:
        console.print("The machine was busy before. Seconds grow, those of PyTorch's threads most.")
    console.print(
        f"on {device['device']}, {facts['cpus_used']} CPUs used, load {load[0]} to {load[1]}; "
        + described(facts),
        soft_wrap=True,
    )


def _table(scope: str, workloads: dict[str, Any], rounds: int) -> Table:
    what = {"batch": "negatives shared by the batch", "session": "each session's own negatives"}
    table = Table(
        title=f"{scope} scope: {what[scope]}; ms a step, medians of {rounds} rounds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("tracks", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    columns = ("ms", "min", "max", "× skipjax", "× floor", "peak GB", "beyond")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for workload in workloads.values():
        tracks = f"{workload['num_tracks']:,}"
        for name, each in workload["contenders"].items():
            times = each.get("times_skipjax_median")
            floors = each["times_floor_median"]
            approximate = "" if each.get("same_rounds") else "~"
            table.add_row(
                tracks,
                name,
                *(f"{1e3 * value:.1f}" for value in _spread(each["seconds"])),
                f"{approximate}{times:.2f}" if times else "",
                f"{floors:.2f}" if floors else "",
                f"{each['peak_gb']:.2f}",
                f"{each['beyond_tables_gb']:.2f}",
            )
            tracks = ""
        for name in workload["left_out"]:
            table.add_row(tracks, name, "–")
            tracks = ""
        if workload["floor"]:
            seconds = workload["floor"]["seconds"]
            table.add_row("", "floor", *(f"{1e3 * value:.1f}" for value in _spread(seconds)))
        table.add_section()
    return table


def _spread(seconds: list[float]) -> tuple[float, float, float]:
    return sorted(seconds)[len(seconds) // 2], min(seconds), max(seconds)


def _remarks(workload: dict[str, Any]) -> list[str]:
    lines = []
    growth = workload["contenders"].get("skipjax", {}).get("times_w0_median")
    if growth:
        lines.append(f"skipjax takes {growth:.2f} × its step at W0, in the same rounds")
    if floor := workload["floor"]:
        terms = floor["terms_seconds_median"].items()
        rates = floor["rates_median"]
        lines.append(
            "floor "
            + " + ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in terms)
            + f" ms: {floor['binds']} binds; {rates['matmul_gflops']:,.0f} GFLOP/s, "
            f"copies {rates['copy_gbps']:.0f}, gathers {rates['gather_gbps']:.1f} GB/s; "
            f"{floor['cost']['rows']:,.0f} rows"
        )
    if len(workload["together"]) > 1:
        groups = " | ".join(", ".join(group) for group in workload["together"])
        lines.append(f"measured in turn: {groups} (~: not in the same rounds as skipjax)")
    lines += [f"{name} left out: {reason}" for name, reason in workload["left_out"].items()]
    return lines


if __name__ == "__main__":
    restart_with_huge_pages()  # for all contenders alike
    main()
