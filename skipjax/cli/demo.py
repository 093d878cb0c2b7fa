"""``python -m skipjax demo``: made-up logs in MSSD's schema."""

from collections.abc import Sequence

from skipjax import files, terminal
from skipjax.cli.parsing import Parser, count
from skipjax.data import demo


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "demo",
        "--out DIR [options]",
        "Writes made-up listening logs in MSSD's schema; nobody heard them.",
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="the folder to make")
    add("--sessions", type=count, default=4_000, metavar="N", help="default: 4000")
    add("--tracks", type=count, default=5_000, metavar="N", help="default: 5000")
    add("--seed", type=count, default=0, metavar="N", help="default: 0")
    add(
        "--skip_share",
        type=float,
        default=None,
        metavar="X",
        help="share of events skipped at levels 1 and 2 (default: MSSD's 0.517; the paper's: 0.15)",
    )
    args = parser.parse_args(arguments)
    with terminal.progress_bar() as progress, files.new_folder(args.out, synthetic=True) as folder:
        written = demo.write_logs(
            folder,
            num_sessions=args.sessions,
            num_tracks=args.tracks,
            seed=args.seed,
            skip_share=args.skip_share,
            progress=progress,
        )
        size = sum(path.stat().st_size for path in written)
    what = "1 log file" if len(written) == 1 else f"{len(written)} log files"
    terminal.say(f"{args.out}: {what} of synthetic sessions, {size / 1e6:.1f} MB. To prepare them:")
    terminal.say(f"  python -m skipjax prepare mssd {args.out} --out DIR")
