"""``python -m skipjax audit``: what a prepared folder hides, before training on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags as ml_config_flags

from skipjax import files, terminal
from skipjax.cli import config_flags
from skipjax.cli.parsing import Parser
from skipjax.errors import ConfigError, DataError, OutputError
from skipjax.limits import did_you_mean, fields, wanted

_STYLES = {"serious": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "audit",
        "DIR [--out DIR2] [--config=FILE] [--config.FIELD=VALUE ...]",
        "Looks through the sessions in DIR, which `prepare` made, and says in plain sentences what "
        "training on them should know: skips and whether anything tells them, order, duplicates, "
        "repeats, popularity, the future in leave-one-out, and more. Writes audit.json, the "
        "numbers, and audit.html, a page to read. Fields of the config, such as "
        "--config.data.skip_levels='(1,2,3)', are those of the run to come.",
    )
    parser.add_argument("folder", metavar="DIR", help="what `python -m skipjax prepare` made")
    parser.add_argument("--out", metavar="DIR2", help="where to write (default: DIR-audit)")
    parser.add_argument("--config", metavar="FILE", help="default: the values of configs/common.py")
    changes = [argument for argument in arguments if argument.startswith("--config.")]
    args = parser.parse_args([argument for argument in arguments if argument not in changes])
    config = config_flags.config_of(args.config, changes) if args.config else _config_of(changes)
    folder = Path(args.folder)
    if folder.is_file():
        raise _no_folder(folder)
    out = Path(args.out) if args.out else _beside(folder)
    _check_outside(out, folder)
    # Imported here, so that a mistake in a flag answers at once.
    from skipjax.audit.report import JSON_NAME, PAGE_NAME, verdict, write_report
    from skipjax.audit.run import audit
    from skipjax.data.sessions import Sessions

    with terminal.progress_bar() as progress:
        progress(0, 1, "checking")
        sessions = Sessions.open(folder)
        found = audit(sessions, config, folder.resolve().name, progress)
        progress(0, 1, "drawing")
        files.make_folder(out)
        files.write_json(out / JSON_NAME, found)
        write_report(found, out / PAGE_NAME)
    _print(found, verdict(found))
    terminal.say(f"{out / PAGE_NAME}  all of it, to read")
    terminal.say(f"{out / JSON_NAME}  the numbers")


def _no_folder(path: Path) -> DataError:
    from skipjax.data import recognise

    fitting = [kind for kind in recognise.kinds(path) if kind in recognise.WHAT]
    kind = fitting[0] if len(fitting) == 1 else "KIND"
    looks = (
        f" By its looks, this is {' or '.join(map(recognise.WHAT.get, fitting))}."
        if fitting
        else ""
    )
    return DataError(
        f"{path} is a file; an audit looks through the folder that "
        f"`python -m skipjax prepare {kind} {path} --out DIR` makes of it.{looks}"
    )


def _beside(folder: Path) -> Path:
    """DIR-audit, also for `DIR/`, `.` and `..`."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    return folder.with_name(f"{folder.name}-audit")


def _check_outside(out: Path, folder: Path) -> None:
    """A prepared folder holds what its manifest lists, and nothing else."""
    inside = out.resolve()
    if folder.resolve() in (inside, *inside.parents):
        raise ConfigError(
            f"--out={out} lies in {folder}, whose files are listed in its manifest; choose another "
            f"place, such as {_beside(folder)}."
        )
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is no folder; choose another place with --out.")


def _config_of(changes: Sequence[str]) -> Any:
    """The fields that an audit reads, with --config.FIELD=VALUE overrides.

    Raises:
      ConfigError: a field that there is not, or a value that it may not have.
    """
    from skipjax.audit.settings import defaults

    known = [field for field, _ in fields(defaults())]
    for change in changes:
        field = change.removeprefix("--config.").partition("=")[0]
        if field not in known:
            raise ConfigError(
                f"an audit reads no field config.{field}.{did_you_mean(field, known, 'config.')} "
                "With --config=FILE, all fields of that config may be given."
            )
    flag_values = flags.FlagValues()
    argv = ["skipjax", *changes]
    holder = ml_config_flags.DEFINE_config_dict(
        "config", defaults(), flag_values=flag_values, sys_argv=argv
    )
    config_flags.parse(argv, flag_values)
    config = holder.value
    for field, value in fields(config):
        if instead := wanted(field, value):
            raise ConfigError(f"config.{field} is {value!r}; {instead}")
    return config


def _print(found: dict[str, Any], verdict: str) -> None:
    from rich.markup import escape

    out = terminal.out()
    for finding in found["findings"]:
        kind = finding["severity"]
        out.print(
            f"[{_STYLES[kind]}]{kind:<8}[/] [bold]{escape(finding['title'])}[/]: "
            f"{escape(finding['sentence'])}"
        )
        if finding["advice"]:
            out.print(f"{'':8} {escape(finding['advice'])}")
    out.print(escape(verdict))
