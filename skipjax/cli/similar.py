"""``python -m skipjax similar``: the tracks whose embeddings are nearest to that of one."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from skipjax import terminal
from skipjax.cli.parsing import Parser, add_devices, positive


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "similar",
        "TRACK_ID --workdir DIR [--k N] [--devices DATAxTRACKS]",
        "Lists the tracks whose embeddings have the largest cosine with that of a track.",
    )
    parser.add_argument("track", metavar="TRACK_ID", help="as in the data that was trained on")
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="of a run of main.py, or exported"
    )
    parser.add_argument(
        "--k", type=positive, default=10, metavar="N", help="how many (default: 10)"
    )
    add_devices(parser)
    args = parser.parse_args(arguments)
    # Imported here, so that a mistake in a flag answers at once.
    from absl import logging

    from skipjax.recommend import Recommender

    logging.set_verbosity(logging.FATAL)  # orbax logs the traceback of what is raised anyway
    recommender = Recommender.load(args.workdir, devices=args.devices)
    found = recommender.similar(args.track, args.k)
    table = Table(title=escape(f"nearest to {args.track}"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("track")
    table.add_column("cosine", justify="right")
    for row in found.to_pylist():
        table.add_row(str(row["rank"]), escape(row["track_id"]), f"{row['cosine']:.4f}")
    terminal.out().print(table)
    terminal.say(recommender.model.about)
