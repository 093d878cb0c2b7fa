"""``python -m skipjax prepare``: raw listening logs to a folder of sessions."""

import argparse
import math
import os
import shlex
import time
from collections.abc import Sequence

import pyarrow.compute as pc

from skipjax import terminal
from skipjax.cli.parsing import Parser, choose, count, positive
from skipjax.data import layout, recognise, rows, table, temporal
from skipjax.data.dropped import described
from skipjax.data.inputs import Progress
from skipjax.data.sessions import Sessions
from skipjax.data.sources import READERS
from skipjax.errors import ConfigError, DataError

KINDS = {
    "mssd": "log files of Spotify's Music Streaming Sessions Dataset, as published",
    "yambda": "Yandex's open logs of plays, likes and dislikes, flat or sequential",
    "lastfm": "plays with their times, in the form of the Last.fm-1K data set",
    "spotify": "the extended streaming history that Spotify gives its users",
    "inter": "RecBole's files of interactions",
    "table": "any CSV, TSV, JSON lines or Parquet whose columns you name",
}
_ENDINGS = {
    "mssd": ".csv, .csv.gz, or a .tar or .tar.gz of them (read without unpacking)",
    "yambda": ".parquet; of a folder multi_event.parquet is read, or else listens.parquet",
    "lastfm": ".tsv, .tsv.gz, or a .tar or .tar.gz of them (read without unpacking)",
    "spotify": "of a folder, Streaming_History_Audio_*.json and endsong_*.json are read, and are "
    "one listener's",
    "inter": ".inter, .inter.gz",
    "table": f"{rows.DESCRIPTION}; other names are read as CSV",
}
_ABOUT = {
    "mssd": "Skip levels are those of skip_1 (1), skip_2 alone (2) and skip_3 alone (3).",
    "yambda": "Kept of each play: its time, how much of the track was played, whether it was "
    "organic, and from multi_event the last like or dislike that followed it in its session; those "
    "that follow no play of their track are left out and counted.",
    "lastfm": "Tab-separated, without a header: user, time, artist id, artist, track id, track. A "
    "track without an id goes by 'artist — title'. Skips are not logged: kept is how soon the next "
    "play follows, so that a run can infer them; what comes out is marked as inferred.",
    "spotify": "Plays are ordered by ts, when they ended. A play that was skipped has level 2, or "
    "1 if it took less than 10 s; where older files do not say (null), level 2 if the next or "
    "previous button ended it within 30 s. Podcasts, audiobooks, plays without a track and plays "
    "that are there twice are left out and counted. No name, address or country is kept.",
    "inter": "Fields are found by name and type: user_id or session_id, item_id, timestamp; and at "
    "least one of rating, level, skip, played_percent.",
    "table": "At least one column must tell of skips: level, skip, rating or percent.",
}


def run(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m skipjax prepare KIND SRC... --out DIR [options]\n")
        for kind, what in KINDS.items():
            print(f"  {kind:<8} {what}")
        print("\npython -m skipjax prepare KIND --help lists the options.")
        if not arguments:
            raise SystemExit(2)
        return
    kind = _kind(arguments[0])
    args = _parser(kind).parse_args(arguments[1:])
    start = time.monotonic()
    try:
        with terminal.progress_bar() as progress:
            sessions = _prepared(kind, args, progress)
    except (ConfigError, DataError) as error:
        if advice := recognise.advice(args.sources, kind):
            kept = ConfigError if isinstance(error, ConfigError) else DataError
            raise kept(f"{_sentence(error)} {advice}") from error
        raise
    _report(sessions, args, time.monotonic() - start)


def _kind(name: str) -> str:
    """The kind of log, or an error that names the one that fits if a source was given instead."""
    if name in KINDS or not os.path.exists(name):
        return choose(name, KINDS, "kind of log")
    fitting = recognise.kinds(name)
    if reasons := [recognise.NO_READER[kind] for kind in fitting if kind in recognise.NO_READER]:
        raise DataError(f"{name}: {reasons[0]}.")
    if fitting:
        raise ConfigError(
            f"{name}: say what kind of log it is, before it; by its looks, this is "
            f"{recognise.described(fitting)}."
        )
    raise ConfigError(f"{name}: say what kind of log it is, before it: {', '.join(KINDS)}.")


def _sentence(error: Exception) -> str:
    text = str(error.args[0] if error.args else error)
    return text if text.endswith(".") else f"{text}."


def _prepared(kind: str, args: argparse.Namespace, progress: Progress) -> Sessions:
    options = {
        "num_sessions": args.sessions or 0,
        "min_length": args.min_length,
        "max_length": args.max_length,
        "on_bad_session": args.on_bad_session,
        "progress": progress,
    }
    if kind == "mssd":
        options["track_features"] = args.features
    else:
        options["gap_minutes"] = args.gap_minutes
    if kind == "table":
        options["columns"] = _columns(args)
    elif kind == "inter":
        options |= {"time_unit": args.time_unit, "context_columns": _context(args)}
    return READERS[kind].prepare(args.sources, args.out, **options)


def _parser(kind: str) -> Parser:
    usage = "SRC [SRC ...] --out DIR [options]"
    parser = Parser(f"prepare {kind}", usage, f"Prepares {KINDS[kind]}. {_ABOUT[kind]}")
    add = parser.add_argument
    add("sources", nargs="+", metavar="SRC", help=f"files, folders or patterns: {_ENDINGS[kind]}")
    add("--out", required=True, metavar="DIR", help="the folder to make")
    sample = "keep a uniform sample of N sessions"
    if kind != "mssd":
        sample = "keep N sessions, those of listeners drawn uniformly"
    add("--sessions", type=positive, metavar="N", help=f"{sample} (default: all)")
    if kind != "mssd":
        gap = READERS[kind].GAP_MINUTES
        add(
            "--gap_minutes",
            type=_minutes,
            default=gap,
            metavar="M",
            help="begin a new session where the next event is more than M minutes away; 0 never "
            f"does (default: {gap:g})",
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
        help="stop at the first bad value, or leave out the "
        f"{'sessions' if kind in ('mssd', 'table', 'inter') else 'listeners'} that have any and "
        f"list them in DIR/{layout.DROPPED} (default: error)",
    )
    if kind == "mssd":
        add(
            "--features",
            metavar="SRC",
            help="track features (tf_*.csv, a folder or tar of them) to lay beside the tracks",
        )
    if kind in ("table", "inter"):
        _add_columns(parser.add_argument_group("columns"), kind)
    return parser


def _add_columns(group: argparse._ArgumentGroup, kind: str) -> None:
    for name, default, what in (
        ("session", "session_id", "id of the sequence: a session, or a listener"),
        ("track", "track_id", "id of the track"),
        ("position", "", "to order a sequence by: a whole number; or"),
        ("time", "", "to order it by: a whole number, or a date and time (ISO 8601)"),
        ("level", "", "skip level, 0 to 3; or"),
        ("skip", "", "skipped: true or false, 1 or 0"),
        ("rating", "", "a number; a run's data.skip_rating says which are skips"),
        ("percent", "", "share of the track that was played; data.skip_below_percent likewise"),
    ):
        shown = f" (default: {default})" if default else ""
        if kind == "table":
            group.add_argument(
                f"--{name}_column", default=default, metavar="NAME", help=f"{what}{shown}"
            )
    group.add_argument(
        "--time_unit",
        default="",
        choices=("", *layout.UNITS_PER_SECOND),
        metavar="UNIT",
        help=f"of times that are whole numbers: {', '.join(layout.UNITS_PER_SECOND)}",
    )
    group.add_argument(
        "--context_columns", default="", metavar="A,B", help="kept beside the events"
    )


def _minutes(text: str) -> float:
    """An argparse type: a number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _context(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(filter(None, args.context_columns.split(",")))


def _columns(args: argparse.Namespace) -> table.Columns:
    return table.Columns(
        session_column=args.session_column,
        track_column=args.track_column,
        position_column=args.position_column,
        time_column=args.time_column,
        time_unit=args.time_unit,
        level_column=args.level_column,
        skip_column=args.skip_column,
        rating_column=args.rating_column,
        percent_column=args.percent_column,
        context_columns=_context(args),
    )


def _times(sessions: Sessions) -> str:
    """From when to when, which shows a wrong unit; '' if that is not known."""
    unit = sessions.info.get("time_unit")
    if not unit or "time" not in sessions.context.column_names:
        return ""
    ends = pc.min_max(sessions.context["time"])
    first, last = ends["min"].as_py(), ends["max"].as_py()
    if sessions.info.get("source") in temporal.RELATIVE:
        return f"{(last - first) / (86_400 * layout.UNITS_PER_SECOND[unit]):,.1f} days"
    return f"{temporal.as_date(first, unit)} to {temporal.as_date(last, unit)}"


def _report(sessions: Sessions, args: argparse.Namespace, seconds: float) -> None:
    facts = sessions.summary()
    out = terminal.out()
    shown = terminal.sessions_table(f"sessions in {args.out}", facts, args.min_length)
    if times := _times(sessions):
        shown.add_row("times", times)
    out.print(shown)
    out.print(f"Prepared in {seconds:.1f} s. To train on it:", markup=False)
    out.print(
        "  python main.py --config=configs/sasrec_skip.py --config.data.source=prepared "
        f"--config.data.path={shlex.quote(args.out)}",
        markup=False,
    )
    if found := sessions.info.get("features"):
        out.print(
            f"Features: of {found['tracks']:,} of {facts['tracks']:,} tracks; {found['others']:,} "
            "rows are of other tracks.",
            markup=False,
        )
    if dropped := described(sessions.info.get("dropped", {})):
        out.print(f"Dropped: {dropped}; {args.out}/{layout.DROPPED} lists them.", markup=False)
    if args.sessions and args.sessions > facts["sessions"]:
        out.print(f"Note: there were only {facts['sessions']:,} sessions to keep.", markup=False)
