"""``python -m skipjax prepare``: raw listening logs to a folder of sessions."""

import argparse
import shlex
import time
from collections.abc import Sequence

from skipjax import terminal
from skipjax.cli.parsing import Parser, choose, count, positive
from skipjax.data import layout, mssd, rows, table
from skipjax.data.dropped import described
from skipjax.data.sessions import Sessions

KINDS = {
    "mssd": "log files of Spotify's Music Streaming Sessions Dataset, as published",
    "table": "any CSV, TSV, JSON lines or Parquet whose columns you name",
}


def run(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m skipjax prepare KIND SRC... --out DIR [options]\n")
        for kind, what in KINDS.items():
            print(f"  {kind:<6} {what}")
        print("\npython -m skipjax prepare KIND --help lists the options.")
        if not arguments:
            raise SystemExit(2)
        return
    kind = choose(arguments[0], KINDS, "kind of log")
    parser = _parser(kind)
    args = parser.parse_args(arguments[1:])
    options = {
        "num_sessions": args.sessions or 0,
        "min_length": args.min_length,
        "max_length": args.max_length,
        "on_bad_session": args.on_bad_session,
    }
    start = time.monotonic()
    with terminal.progress_bar() as progress:
        if kind == "mssd":
            sessions = mssd.prepare(args.sources, args.out, **options, progress=progress)
        else:
            sessions = table.prepare(
                args.sources, args.out, _columns(args), **options, progress=progress
            )
    _report(sessions, args, time.monotonic() - start)


def _parser(kind: str) -> Parser:
    usage = "SRC [SRC ...] --out DIR [options]"
    parser = Parser(f"prepare {kind}", usage, f"Prepares {KINDS[kind]}.")
    add = parser.add_argument
    endings = (
        ".csv, .csv.gz, or a .tar or .tar.gz of them (read without unpacking)"
        if kind == "mssd"
        else f"{rows.DESCRIPTION}; other names are read as CSV"
    )
    add("sources", nargs="+", metavar="SRC", help=f"files, folders or glob patterns: {endings}")
    add("--out", required=True, metavar="DIR", help="the folder to make")
    add(
        "--sessions",
        type=positive,
        metavar="N",
        help="keep a uniform sample of N sessions (default: all)",
    )
    add(
        "--max_length",
        type=count,
        default=20,
        metavar="N",
        help="cut longer sequences into sessions of N events (default: 20)",
    )
    add(
        "--min_length",
        type=count,
        default=4,
        metavar="N",
        help="leave out shorter sessions and remainders (default: 4)",
    )
    add(
        "--on_bad_session",
        choices=("error", "drop"),
        default="error",
        help="stop at the first bad value, or leave out the sessions that have any and list them "
        f"in DIR/{layout.DROPPED} (default: error)",
    )
    if kind == "table":
        columns = parser.add_argument_group("columns")
        _add_columns(columns)
    return parser


def _add_columns(group: argparse._ArgumentGroup) -> None:
    for name, default, what in (
        ("session", "session_id", "id of the sequence: a session, or a listener"),
        ("track", "track_id", "id of the track"),
        ("position", "", "to order a sequence by: a whole number; or"),
        ("time", "", "to order it by: a whole number, or a date and time (ISO 8601)"),
        ("level", "", "skip level, 0 to 3; or"),
        ("skip", "", "skipped: true or false, 1 or 0"),
    ):
        shown = f" (default: {default})" if default else ""
        group.add_argument(
            f"--{name}_column", default=default, metavar="NAME", help=f"{what}{shown}"
        )
    group.add_argument(
        "--context_columns", default="", metavar="A,B", help="kept beside the events"
    )


def _columns(args: argparse.Namespace) -> table.Columns:
    return table.Columns(
        session_column=args.session_column,
        track_column=args.track_column,
        position_column=args.position_column,
        time_column=args.time_column,
        level_column=args.level_column,
        skip_column=args.skip_column,
        context_columns=tuple(filter(None, args.context_columns.split(","))),
    )


def _report(sessions: Sessions, args: argparse.Namespace, seconds: float) -> None:
    facts = sessions.summary()
    out = terminal.out()
    out.print(terminal.sessions_table(f"sessions in {args.out}", facts, args.min_length))
    out.print(f"Prepared in {seconds:.1f} s. To train on it:", markup=False)
    out.print(
        "  python main.py --config=configs/sasrec_skip.py --config.data.source=prepared "
        f"--config.data.path={shlex.quote(args.out)}",
        markup=False,
    )
    if dropped := described(sessions.info.get("dropped", {})):
        out.print(f"Dropped: {dropped}; {args.out}/{layout.DROPPED} lists them.", markup=False)
    if args.sessions and args.sessions > facts["sessions"]:
        out.print(f"Note: there were only {facts['sessions']:,} sessions to keep.", markup=False)
