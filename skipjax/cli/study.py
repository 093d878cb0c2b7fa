"""``python -m skipjax study``: do skips help, on any data, with statistics and a report."""

import os
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skipjax import terminal
from skipjax.cli import config_flags
from skipjax.cli.parsing import Parser, positive
from skipjax.limits import check_limits
from skipjax.study import arms, tuning

_QUICK = {
    "data.num_sessions": 300,
    "data.demo.num_sessions": 300,
    "data.demo.num_tracks": 600,
    "model.width": 16,
    "model.num_heads": 2,
    "model.feedforward_width": 16,
    "sampling.num_negatives": 50,
    "train.num_epochs": 2,
    "eval.num_candidates": 50,
    "study.learning_rates": (),
    "study.ratios": (),
}
_QUICK_ARMS = ("causal_hidden", "bi_hidden", "bi_track", "shuffled_labels", "embedding_own")
_ON_AN_ACCELERATOR = 4  # runs at a time, which share its memory
_RUN_BYTES = 2 << 30  # memory that a run takes, roughly


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
    add("--seeds", type=positive, default=5, metavar="N", help="of the paper's arms (default: 5)")
    add(
        "--jobs",
        type=positive,
        metavar="N",
        help="runs at a time (default: one a core, or 4 on an accelerator)",
    )
    add("--arms", default="", metavar="KEY,KEY", help="only these, and what they are compared with")
    add("--quick", action="store_true", help="a few arms, tiny, untuned, 2 seeds: a look")
    rest, others = _overrides(arguments)
    args = parser.parse_args(others)
    config = config_flags.config_of(args.config, rest)
    if "study" not in config:
        parser.error(f"--config={args.config} has no config.study; see configs/table1.py")
    arms_given = args.arms
    workdir = Path(
        args.workdir or f"runs/{config.name}-{config.data.source}{'-quick' if args.quick else ''}"
    )
    if args.quick:
        given = [argument.partition("=")[0] for argument in rest]
        _make_quick(config, given)
        there = [dict(arm).get("key") for arm in config.study.arms]
        args.arms = args.arms or ",".join(key for key in _QUICK_ARMS if key in there)
        args.seeds = min(args.seeds, 2)
    keys = tuple(key.strip() for key in args.arms.split(",") if key.strip())
    if args.arms and not keys:
        parser.error(f"--arms={args.arms} names no arm")
    tuning.grids(config, arms.checked(config, keys, check_limits))
    # Imported here, so that a mistake in a flag or in any arm answers at once.
    import jax

    from skipjax.study.study import Plan, run_study

    jax.config.update("jax_platforms", "cpu")  # of this process, which trains nothing itself
    jobs, cores = _at_a_time()
    plan = Plan(
        workdir=workdir,
        seeds=args.seeds,
        jobs=args.jobs or jobs,
        cores=cores,
        keys=keys,
        command=_command(
            {"config": args.config, "seeds": args.seeds, "arms": arms_given}, args.quick, rest
        ),
        note="a quick look: tiny models, nothing tuned" if args.quick else "",
    )
    terminal.say(f"{config.name} on {config.data.source}, {plan.jobs} at a time, in {workdir}")
    with terminal.progress_bar() as progress:
        study = run_study(config, plan, progress=progress if sys.stderr.isatty() else _lines())
    _print(study, workdir)


def _lines() -> Callable[..., None]:
    """Progress for a log: a line for each run."""
    last = None

    def progress(done: int, total: int, what: str, note: str = "") -> None:
        nonlocal last
        if what in ("tuning", "training") and (done, what) != last:
            last = (done, what)
            terminal.say(f"{what}: {done} of {total} runs done")

    return progress


def _at_a_time() -> tuple[int, tuple[int, ...]]:
    """How many runs to make at a time, and the cores to share out among them, if any."""
    asked = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    if done.stdout.strip() not in ("cpu", ""):
        return _ON_AN_ACCELERATOR, ()
    cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(cores) or os.cpu_count() or 1, memory // _RUN_BYTES)), cores


def _overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that set a field, each as --config.FIELD=VALUE, and the others."""
    overrides: list[str] = []
    others: list[str] = []
    waiting = deque(arguments)
    while waiting:
        argument = waiting.popleft()
        if not argument.startswith("--config."):
            others.append(argument)
            continue
        if "=" not in argument and waiting and not waiting[0].startswith("--"):
            argument += f"={waiting.popleft()}"
        overrides.append(argument)
    return overrides, others


def _make_quick(config: Any, given: Sequence[str]) -> None:
    """Makes all runs tiny, but for the fields given on the command line."""
    values = dict(_QUICK)
    if config.data.source == "prepared":
        del values["data.num_sessions"]  # which is taken whole
    _set(config, values, given)


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


def _command(shown: dict[str, Any], quick: bool, rest: Sequence[str]) -> str:
    """What reproduces the study, without folders: where data lies here is nobody's business."""
    words = [f"--{name}={value}" for name, value in shown.items() if value] + ["--quick"] * quick
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name != "--config.data.cache_dir":
            words.append(f"{name}{equals}{Path(value).name if name.endswith('.path') else value}")
    return shlex.join(["python", "-m", "skipjax", "study", *words])


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
