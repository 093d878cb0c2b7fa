"""``python -m skipjax study``: do skips help, on any data, with statistics and a report."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipjax import terminal
from skipjax.cli import config_flags
from skipjax.cli.parsing import Parser, count
from skipjax.memory import restart_with_huge_pages

_QUICK = {
    "data.num_sessions": 300,
    "data.demo.num_sessions": 300,
    "data.demo.num_tracks": 600,
    "model.width": 16,
    "model.num_heads": 2,
    "model.feedforward_width": 16,
    "sampling.num_negatives": 50,
    "train.num_epochs": 2,
    "eval.num_candidates": 100,
    "study.learning_rates": (),
    "study.ratios": (),
}
_QUICK_ARMS = "causal_hidden,bi_hidden,bi_track,shuffled_labels,embedding_own"


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "study",
        "--config=FILE [options] [--config.FIELD=VALUE ...]",
        "Tunes and trains the arms of a config with several seeds, ranks baselines, and compares: "
        "study.json, study.md, report.html, sessions.parquet. Interrupted, the same command goes "
        "on; what is finished is not repeated.",
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="such as configs/table1.py")
    add("--workdir", metavar="DIR", help="default: runs/<config>-<source>")
    add("--seeds", type=count, default=5, metavar="N", help="of the paper's arms (default: 5)")
    add("--jobs", type=count, default=0, metavar="N", help="runs at a time (default: one a core)")
    add("--arms", default="", metavar="KEY,KEY", help="only these, and what they are compared with")
    add("--quick", action="store_true", help="a few arms, tiny and untuned, for a look")
    args, rest = parser.parse_known_args(arguments)
    if unknown := [argument for argument in rest if not argument.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {unknown[0]}")
    config = config_flags.config_of(args.config, rest)
    if "study" not in config:
        parser.error(f"--config={args.config} has no config.study; see configs/table1.py")
    if args.quick:
        _set(config, _QUICK, [argument.partition("=")[0] for argument in rest])
        args.arms = args.arms or _QUICK_ARMS
        args.seeds = min(args.seeds, 2)
    restart_with_huge_pages()
    # Imported here, so that a misspelt flag answers at once.
    from skipjax.study.study import Plan, run_study

    cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
    workdir = Path(args.workdir or f"runs/{config.name}-{config.data.source}")
    plan = Plan(
        workdir=workdir,
        seeds=args.seeds,
        jobs=args.jobs or len(cores) or os.cpu_count() or 1,
        cores=cores,
        keys=tuple(key for key in args.arms.split(",") if key),
        command=_shown(arguments),
    )
    with terminal.progress_bar() as progress:
        study = run_study(config, plan, progress=progress)
    _print(study, workdir)


def _set(config: Any, values: dict[str, Any], given: Sequence[str]) -> None:
    """Sets fields, but for those given on the command line."""
    for field, value in values.items():
        if f"--config.{field}" in given:
            continue
        *sections, last = field.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = value


def _shown(arguments: Sequence[str]) -> str:
    """The command, without folders: where a file lies on this machine is nobody's business."""
    shown = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--jobs" or name == "--workdir":
            continue  # no result depends on them
        keep = name == "--config" or "/" not in value
        shown.append(f"{name}{equals}{value if keep else Path(value).name}")
    return " ".join(["python -m skipjax study", *shown])


def _print(study: dict[str, Any], workdir: Path) -> None:
    terminal.out().print(terminal.study_table(study))
    for arm in study["arms"]:
        for name in ("test/hr@10", "test_full/hr@10"):
            if arm["group"] == "table1" and name in arm["comparisons"]:
                terminal.say(arm["comparisons"][name]["sentence"])
    terminal.say(study["family"])
    for name, what in (
        ("report.html", "all of it, to read"),
        ("study.md", "the tables, in Markdown"),
        ("study.json", "the numbers"),
        ("sessions.parquet", "the rank of every test session, arm and seed"),
    ):
        terminal.say(f"{workdir / name}  {what}")
