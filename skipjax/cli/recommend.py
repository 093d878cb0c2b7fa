"""``python -m skipjax recommend``: histories in a file to recommendations in another."""

import argparse
import os
import time
from collections.abc import Iterable, Iterator, Sequence

from skipjax import files, terminal
from skipjax.cli.parsing import Parser, add_devices, positive
from skipjax.data import histories, recommendations, rows
from skipjax.data.inputs import counted, shown
from skipjax.errors import ConfigError, DataError


def run(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    columns = _columns(args)
    for path in (args.input, args.output):
        rows.format_of(path)
    if not os.path.isfile(args.input):
        raise DataError(f"{args.input}: no such file.")
    if os.path.exists(args.output) and os.path.samefile(args.input, args.output):
        raise ConfigError(f"--output is the file of --input, {args.input}; name another.")
    # Imported here, so that a mistake in a flag answers at once.
    from absl import logging

    from skipjax.recommend import Recommender, Report

    logging.set_verbosity(logging.FATAL)  # orbax logs the traceback of what is raised anyway
    start = time.monotonic()
    report = Report()
    dropped: list[str] = []
    with terminal.progress_bar() as progress, recommendations.new_file(args.output) as write:
        recommender = Recommender.load(
            args.workdir, approximate=args.approximate, devices=args.devices
        )
        read = histories.read(
            args.input,
            columns,
            skip_levels=recommender.model.skip_levels,
            on_bad_session=args.on_bad_session,
            progress=progress,
        )
        noted = _noting(read, dropped)
        for table in recommender.tables(noted, args.k, not args.keep_seen, report):
            write(table)
    seconds = time.monotonic() - start
    terminal.say(recommender.model.about)
    for remark in report.remarks():
        terminal.say(remark)
    if dropped:
        listed = f"{args.output}.dropped.txt"
        files.write_atomically(listed, "".join(f"{shown(fault, 1_000)}\n" for fault in dropped))
        terminal.say(f"{listed} has a line for each that was dropped")
    if recommender.model.reads_skips and not (columns.level_column or columns.skip_column):
        terminal.say(
            "The model reads skips, and was told of none: name their column with --skip_column or "
            "--level_column."
        )
    terminal.say(
        f"{args.output}: {counted(report.recommendations, 'recommendation')} for "
        f"{counted(report.sessions, 'session')}, in {seconds:.1f} s"
    )


def _noting(
    read: Iterable[histories.Histories], dropped: list[str]
) -> Iterator[histories.Histories]:
    """The same, while what is wrong with those left out is added to `dropped`."""
    for some in read:
        dropped += some.faults
        yield some


def _parser() -> Parser:
    parser = Parser(
        "recommend",
        "--workdir DIR --input FILE --output FILE [options]",
        "Recommends the next tracks for each session of a file, one row an event, by the best "
        "epoch of a run. The rows of a session must lie together. Sessions need not have been "
        "trained on; tracks that were not are passed over, and reported. Of long sessions the "
        "model reads the last tracks. One without any known track gets the most played, with no "
        "score. The output has session_id, track_id, score and rank, and appears when it is whole.",
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="of a run of main.py, or exported")
    add("--input", required=True, metavar="FILE", help=rows.DESCRIPTION)
    add("--output", required=True, metavar="FILE", help="the same; replaced if it is there")
    add("--k", type=positive, default=20, metavar="N", help="tracks for each session (default: 20)")
    add("--approximate", action="store_true", help="search the index that export made, not all")
    add_devices(parser)
    add("--keep_seen", action="store_true", help="recommend tracks of the session itself, too")
    add(
        "--on_bad_session",
        choices=("error", "drop"),
        default="error",
        help="stop at the first bad value, or leave out sessions that have any (default: error)",
    )
    group = parser.add_argument_group("columns of the input")
    for name, default, what in (
        ("session", "session_id", "id of the session, or of the listener"),
        ("track", "track_id", "id of the track"),
        ("position", "", "to order a session by: a whole number; or"),
        (
            "time",
            "",
            "to order it by: a whole number, or a date and time (ISO 8601); without "
            "either, rows count in the order of the file",
        ),
        ("level", "", "skip level, 0 to 3; or"),
        (
            "skip",
            "",
            "skipped: true or false, 1 or 0; only models trained with "
            "config.model.skip_embedding read either",
        ),
    ):
        shown = f" (default: {default})" if default else ""
        group.add_argument(
            f"--{name}_column", default=default, metavar="NAME", help=f"{what}{shown}"
        )
    return parser


def _columns(args: argparse.Namespace) -> histories.Columns:
    return histories.Columns(
        session_column=args.session_column,
        track_column=args.track_column,
        position_column=args.position_column,
        time_column=args.time_column,
        level_column=args.level_column,
        skip_column=args.skip_column,
    )
