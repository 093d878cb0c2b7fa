"""``python -m skipjax compare``: any two arms of a study."""

from collections.abc import Sequence
from pathlib import Path

from skipjax import terminal
from skipjax.cli.parsing import Parser


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "compare",
        "ARM BASE --workdir DIR [--metric NAME]",
        "Compares two arms of a finished study, over its sessions and seeds at once, among sampled "
        "candidates and among all tracks.",
    )
    parser.add_argument("arm", metavar="ARM", help="its key, as in the study's config")
    parser.add_argument("base", metavar="BASE", help="that of what it is compared with")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the study")
    parser.add_argument(
        "--metric",
        type=str.lower,
        default="hr@10",
        metavar="NAME",
        help="hr@K, ndcg@K, mrr or mrr@K (default: hr@10)",
    )
    args = parser.parse_args(arguments)
    from skipjax.study.pair import compare_arms

    pairs = compare_arms(
        Path(args.workdir) / "sessions.parquet", args.arm, args.base, metric=args.metric
    )
    for pair in pairs:
        terminal.say(f"{pair.sentence} ({pair.mean:.4f} against {pair.base_mean:.4f})")
    runs, of_base = pairs[0].found.num_seeds
    terminal.say(
        f"{pairs[0].num_sessions:,} sessions; runs: {runs} of {args.arm}, {of_base} of {args.base}"
    )
