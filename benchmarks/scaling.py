"""What training on several devices sends, whether it learns the same, and what 256 GPUs might do.

    python -m benchmarks.scaling [--quick] [--json FILE] [--plot FILE.png] [--most-gpus 256]
                                 [--sessions-per-gpu 256] [--tracks 100000000] [--set NAME=VALUE]
    python -m benchmarks.scaling --largest [--limit-gb GB] [--json FILE]

The first has four parts.

  losses   50 steps of configs/sasrec_skip.py on virtual devices, by layout (C × T: C copies of the
           table, each shared by T devices), against one device: nowhere more than 1e-4 apart. That
           one device with its padding left in is beside them, as layouts pack differently, too.
  bytes    that each device sends for a step, for evaluation and for the best tracks: counted from
           the compiled program (benchmarks/collectives.py), by the design's formula and at the very
           least (benchmarks/scaling_counts.py). The ranks themselves are compared, too.
  scaling  weak (the same sessions on each device) and strong (the same batch). Virtual devices
           share the CPU's cores, so that seconds only show that nothing is out of proportion.
  model    of a step on 1 to 256 GPUs at 100 M tracks of width 128, on paper, with the formula
           (benchmarks/scaling_model.py). A model, not a measurement.

The second looks for the largest table that trains on one GPU: as many tracks as the compiled step
has memory for, and then some steps. On a CPU it needs --limit-gb, and only tries the code.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import scaling_model
from benchmarks.scaling_counts import Sizes
from benchmarks.scaling_worker import ask
from skipjax.environment import described, environment

SEED = 0
DEVICES = 8
SCOPES = ("session", "batch")
ONE = (1, 1)
EIGHT = ((8, 1), (2, 4), (1, 8))
FEWER = (ONE, (2, 1), (1, 2), (4, 1), (2, 2), (1, 4))
RTOL = 1e-4  # of losses
LARGEST = {"batch_size": 64, "scope": "session", "steps": 3}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a measurement."""

    num_tracks: int = 100_000
    batch_size: int = 64  # of all devices; weak scaling has an eighth of it on each
    loss_steps: int = 50
    timed_steps: int = 8
    rank_sessions: int = 256
    keep_top: int = 20
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    layouts: tuple[tuple[int, int], ...] = EIGHT
    fewer: tuple[tuple[int, int], ...] = FEWER


QUICK = Plan(  # a smoke run, whose seconds mean nothing
    num_tracks=3000,
    batch_size=32,
    loss_steps=6,
    timed_steps=4,
    rank_sessions=64,
    fields={
        "model.width": 16,
        "model.num_heads": 2,
        "model.num_layers": 1,
        "sampling.num_negatives": 50,
        "eval.num_candidates": 50,
        "eval.chunk_size": 512,
    },
    layouts=((2, 4),),
    fewer=(),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny sizes, few steps")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the model there")
    parser.add_argument("--most-gpus", type=int, default=256, help="of the model")
    parser.add_argument("--sessions-per-gpu", type=int, default=256, help="of the model")
    parser.add_argument("--tracks", type=int, default=100_000_000, help="of the model")
    fields = [field.name for field in dataclasses.fields(scaling_model.Hardware)]
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help=f"what the model assumes of GPUs: {', '.join(fields)}",
    )
    parser.add_argument("--largest", action="store_true", help="the largest table of one GPU alone")
    parser.add_argument("--limit-gb", type=float, default=0.0, help="as if it had so much memory")
    args = parser.parse_args()
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{option}: there is no folder {path.parent}")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: pip install -e '.[benchmark]'")
    try:
        changed = {name: float(value) for name, _, value in (one.split("=") for one in args.set)}
        hardware = dataclasses.replace(scaling_model.Hardware(), **changed)
    except (TypeError, ValueError) as error:
        parser.error(f"--set: {error}")
    console = Console(highlight=False)
    console.width = max(console.width, 120)  # a pipe counts as 80, too few for the tables
    load_before = os.getloadavg()[0]
    found = _largest(args) if args.largest else _measure(args, hardware, set(changed))
    facts = {
        **environment(["jax", "jaxlib", "numpy"]),
        "command": _command(args),
        "seed": SEED,
        "load_average": [round(load, 2) for load in (load_before, os.getloadavg()[0])],
        **found,
    }
    _print(facts, console)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    if args.plot and not args.largest:
        from benchmarks.scaling_plot import draw

        draw(facts, args.plot)
    if problem := _problem(facts):
        raise SystemExit(problem)


def _command(args: argparse.Namespace) -> str:
    """What was run, without where on this machine."""
    command = "python -m benchmarks.scaling" + " --quick" * args.quick + " --largest" * args.largest
    for option in ("most_gpus", "sessions_per_gpu", "tracks"):
        if getattr(args, option) != {"most_gpus": 256, "sessions_per_gpu": 256}.get(option, 10**8):
            command += f" --{option.replace('_', '-')} {getattr(args, option)}"
    command += f" --limit-gb {args.limit_gb:g}" if args.limit_gb else ""
    command += " --set " + " ".join(args.set) if args.set else ""
    for option, path in (("json", args.json), ("plot", args.plot)):
        command += f" --{option} {path.name}" if path else ""
    return command


def _largest(args: argparse.Namespace) -> dict[str, Any]:
    platform = next(ask({"job": "device"}))
    if platform["platform"] == "cpu" and not args.limit_gb:
        raise SystemExit("--largest: there is no GPU here; --limit-gb tries the code without one.")
    spec = {"job": "largest", "seed": SEED, "fields": QUICK.fields if args.quick else {}, **LARGEST}
    return {
        "device": platform,
        "largest": next(ask({**spec, "limit_bytes": round(1e9 * args.limit_gb)})),
    }


def _measure(
    args: argparse.Namespace, hardware: scaling_model.Hardware, changed: set[str]
) -> dict[str, Any]:
    plan = QUICK if args.quick else Plan()
    layouts = (ONE, *plan.layouts)

    def spec(job, cases):
        fields = {**plan.fields, "eval.keep_top": plan.keep_top}
        sizes = {"seed": SEED, "num_tracks": plan.num_tracks, "num_batches": plan.loss_steps}
        return {"job": job, "fields": fields, "cases": cases, **sizes}

    def case(layout, batch_size=plan.batch_size, steps=plan.loss_steps, scope="session", **more):
        data, tracks = layout
        sizes = {"batch_size": batch_size, "steps": steps, "scope": scope}
        return {"data": data, "tracks": tracks, **sizes, **more}

    loss_cases = [case(ONE), *([] if args.quick else [case(ONE, packed=False)])]
    loss_cases += [case(layout) for layout in plan.layouts]
    weak, timed = plan.batch_size // DEVICES, plan.timed_steps
    jobs = {
        "losses": spec("train", loss_cases),
        "batch_scope": spec(
            "train", [case(one, steps=timed, scope="batch") for one in plan.layouts]
        ),
        "weak": spec(
            "train",
            [case(one, batch_size=weak * one[0] * one[1], steps=timed) for one in plan.fewer],
        ),
        "strong": spec("train", [case(one, steps=timed) for one in plan.fewer if one != ONE]),
        "ranking": spec("rank", [case(one, batch_size=plan.rank_sessions) for one in layouts]),
        "cost": spec(
            "cost",
            [
                case(ONE, batch_size=args.sessions_per_gpu, scope=scope)
                for scope in (SCOPES[:1] if args.quick else SCOPES)
            ],
        ),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    total = sum(len(job["cases"]) for job in jobs.values())
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        for name, job in jobs.items():
            if not job["cases"]:
                continue
            found[name] = []
            for answer in ask(job, DEVICES):
                found[name].append(answer)
                bar.advance(task)
    platform = next(ask({"job": "device"}))
    _compare_losses(found["losses"])
    _compare_ranks(found["ranking"])
    return {
        "virtual_devices": DEVICES,
        "device": platform,
        "largest": "not measured: there is no GPU here"
        if platform["platform"] == "cpu"
        else "not measured: see --largest",
        "config": {"file": "configs/sasrec_skip.py", "tracks": plan.num_tracks, **plan.fields},
        "results": found,
        "model": {
            "note": "a model on paper, not a measurement",
            "formula": scaling_model.__doc__,
            "tracks": args.tracks,
            "hardware": dataclasses.asdict(hardware),
            "sources": {
                name: "--set" if name in changed else source
                for name, source in scaling_model.SOURCES.items()
            },
            "steps": {
                one["scope"]: scaling_model.grid(
                    Sizes(**one["sizes"]),
                    one["flops"],
                    one["temporary_bytes"],
                    args.tracks,
                    args.most_gpus,
                    hardware,
                )
                for one in found["cost"]
            },
        },
    }


def _compare_losses(cases: list[dict[str, Any]]) -> None:
    """Adds how far losses are from those of the first case."""
    wanted = np.array(cases[0]["losses"])
    for one in cases:
        one["apart"] = float(np.max(np.abs(np.array(one["losses"]) / wanted - 1)))


def _compare_ranks(cases: list[dict[str, Any]]) -> None:
    """Replaces ranks and best tracks by the share that differs from the first case's."""
    first = {name: cases[0][name] for name in ("ranks", "top")}
    for one in cases:
        ranks, top = one.pop("ranks"), one.pop("top")
        one["differing"] = {
            name: float(np.mean(np.array(some) != first["ranks"][name]))
            for name, some in ranks.items()
        } | {"best": float(np.mean(np.array(top) != first["top"]))}


def _problem(facts: dict[str, Any]) -> str:
    """What must not be, if it is."""
    for name, cases in facts.get("results", {}).items():
        for one in cases:
            where = f"{name}, {_layout(one)}"
            for what, counted in one.get("programs", {"step": one}).items():
                if counted.get("bytes_by_kind") != counted.get("designed_by_kind"):
                    return f"{where}: {what} does not send what it is designed to."
                if counted.get("holds_full_table"):
                    return f"{where}: {what} has an array as long as the whole table."
            if name == "losses" and not one["apart"] <= RTOL:
                return f"{where}: losses are {one['apart']:.1e} apart, more than {RTOL:g}."
            if any(share > 0.01 for share in one.get("differing", {}).values()):
                return f"{where}: ranks differ: {one['differing']}."
    return ""


def _layout(one: dict[str, Any]) -> str:
    return f"{one['data']} × {one['tracks']}" + ("" if one.get("packed", True) else ", padded")


def _print(facts: dict[str, Any], console: Console) -> None:
    if "results" not in facts:
        one = facts["largest"]
        console.print(
            f"{facts['device']['device']}: {one['num_tracks']:,} tracks of width {one['width']} "
            f"train in {one['limit_bytes'] / 1e9:.3g} GB ({one['limit_is']} limit); losses "
            + ", ".join(f"{loss:.4f}" for loss in one["losses"])
        )
        console.print(described(facts))
        return
    results = facts["results"]
    table = _table("Losses, against one device's", "apart at most")
    for one in results["losses"]:
        table.add_row(_layout(one), f"{one['apart']:.1e}")
    console.print(table)
    for title, name in (
        ("Step on eight devices, each session with its own negatives", "losses"),
        ("Step on eight devices, negatives shared by the batch", "batch_scope"),
        ("Weak scaling up to these eight", "weak"),
        ("Strong scaling up to these eight, from the one above", "strong"),
    ):
        rows = [one for one in results.get(name, ()) if one.get("packed", True)]
        if rows:
            console.print(_bytes_table(title, rows))
    programs = [
        {**one, **counted, "program": program}
        for one in results["ranking"]
        for program, counted in one["programs"].items()
        if counted["bytes"]
    ]
    console.print(_bytes_table("Evaluation and recommending, a batch", programs))
    differing = max(max(one["differing"].values()) for one in results["ranking"])
    console.print(f"Ranks and best tracks that differ by layout: at most {differing:.2%}.\n")
    model = facts["model"]
    console.print(model["formula"].strip(), markup=False, soft_wrap=True)
    for name, value in model["hardware"].items():
        console.print(f"    {name} = {value:g}  ({model['sources'][name]})", soft_wrap=True)
    for scope, steps in model["steps"].items():
        console.print(_model_table(scope, steps, model["tracks"]))
    console.print("The model is no measurement. Seconds on virtual devices share one CPU's cores.")
    largest = facts["largest"]
    console.print(f"Largest table on one GPU: {largest}.")
    console.print("load {} to {}; ".format(*facts["load_average"]) + described(facts))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _bytes_table(title: str, rows: list[dict[str, Any]]) -> Table:
    columns = ("sessions each", "ms", "MB sent", "designed", "at least", "×", "largest array")
    table = _table(title, *columns)
    for one in rows:
        devices = one["data"] * one["tracks"]
        least = one["least_bytes"]
        table.add_row(
            " ".join(filter(None, (one.get("program"), _layout(one)))),
            f"{one['batch_size'] // devices}",
            f"{one['step_ms']:.0f}" if "step_ms" in one else "",
            f"{one['bytes'] / 1e6:.3f}",
            f"{one['designed_bytes'] / 1e6:.3f}",
            f"{least / 1e6:.3f}",
            f"{one['bytes'] / least:.1f}" if least else "",
            one["largest_array"],
        )
    return table


def _model_table(scope: str, steps: list[dict[str, Any]], num_tracks: int) -> Table:
    table = _table(
        f"Model: {num_tracks / 1e6:g} M tracks, scope {scope}, the best T for each number of GPUs",
        *("T", "GB", "compute ms", "update", "sending", "step", "MB sent", "at least"),
        *("sessions/s", "each"),
    )
    best = scaling_model.best(steps)
    for one in best:
        share = one["sessions_per_second"] / one["gpus"]
        first = best[0]["sessions_per_second"] / best[0]["gpus"]
        table.add_row(
            f"{one['gpus']} GPUs",
            f"{one['tracks']}",
            f"{one['memory_bytes'] / 1e9:.1f}",
            *(
                f"{1e3 * one[f'{part}seconds']:.2f}"
                for part in ("compute_", "update_", "communication_", "")
            ),
            f"{one['sent_bytes'] / 1e6:,.1f}",
            f"{one['least_bytes'] / 1e6:,.1f}",
            f"{one['sessions_per_second']:,.0f}",
            f"{share / first:.0%}",
        )
    return table


if __name__ == "__main__":
    main()
