"""``python -m skipjax evaluate``: ranks the held-out tracks of a run again."""

import ast
import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipjax import metrics, terminal
from skipjax.cli.parsing import Parser, add_devices
from skipjax.errors import ConfigError
from skipjax.ids import LEAVE_ONE_OUT
from skipjax.limits import check_limits, did_you_mean, fields

_FREE = ("data.path", "data.cache_dir")  # where data lies; that it is the same, is checked


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "evaluate",
        "--workdir DIR [--devices DATAxTRACKS] [--config.eval.FIELD=VALUE ...]",
        "Ranks the test tracks of a run again, among candidates and among all tracks, by its best "
        "epoch and on its own data. Without changes, that gives its results.json; with "
        "--config.eval.num_candidates=500, say, how it fares among fewer. Nothing is written. "
        "--config.data.path and --config.data.cache_dir say where the data lies now.",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a run of main.py")
    add_devices(parser)
    changes = [argument for argument in arguments if argument.startswith("--config.")]
    args = parser.parse_args([a for a in arguments if a not in changes])
    # Imported here, so that a mistake in a flag answers at once.
    from absl import logging

    from skipjax import evaluate, trained
    from skipjax.data import sources
    from skipjax.data.parts import parts_table
    from skipjax.data.split import split_as
    from skipjax.workdir import check_same_data, check_same_split

    logging.set_verbosity(logging.FATAL)  # orbax logs the traceback of what is raised anyway
    workdir = Path(args.workdir)
    best = trained.read(workdir, args.devices)
    config = copy.deepcopy(best.config)
    for change in changes:
        _set(config, change)
    check_limits(config)
    names = tuple(map(metrics.canonical, config.eval.metrics))
    with terminal.progress_bar() as progress:
        split = split_as(config.data, sources.load(config.data, progress=progress))
        check_same_data(best.data, split.digest, workdir)
        check_same_split(parts_table(split), workdir)
        evaluator = evaluate.Evaluator(config, best.encoder, split, best.layout)
        ranks = evaluator.ranks(best.params, "test", full=True, progress=progress)
    results = evaluate.summarise(ranks, names)
    popular = evaluate.popularity_ranks(split, "test", evaluator.candidates)
    results |= evaluate.summarise(popular, names, prefix="baseline/popularity/")
    label = "synthetic demo sessions" if split.synthetic else config.data.source
    number = len(split.parts["test"].sessions)
    title = f"{config.name} on {number:,} {label}, epoch {len(best.history)}"
    if split.name != LEAVE_ONE_OUT:
        title += f"; {split.name}"
    terminal.out().print(terminal.results_table(title, results, names))
    if cold := split.cold_share("test"):
        terminal.say(terminal.cold_targets(cold))


def _set(config: Any, change: str) -> None:
    """Changes a field as --config.FIELD=VALUE says; whether it may be that, is seen later."""
    field, equals, text = change.removeprefix("--config.").partition("=")
    before = dict(fields(config))
    if field not in before:
        known = [f"config.{name}" for name in before]
        raise ConfigError(
            f"there is no field config.{field}.{did_you_mean(f'config.{field}', known)}"
        )
    if not field.startswith("eval.") and field not in _FREE:
        raise ConfigError(
            f"config.{field} is what the run was trained with; only config.eval.* can be changed, "
            "and where the data lies."
        )
    if not equals:
        raise ConfigError(f"{change} has no value; give it as {change}=VALUE.")
    value: Any = text
    if not isinstance(before[field], str):
        with contextlib.suppress(ValueError, SyntaxError):  # it is then not what it must be
            value = ast.literal_eval(text)
    section, _, name = field.rpartition(".")
    with config.ignore_type():
        config[section][name] = value
