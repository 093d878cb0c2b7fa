"""``python -m skipjax export``: a run's best epoch as a folder that stands alone."""

from collections.abc import Sequence
from pathlib import Path

from skipjax import terminal
from skipjax.cli.parsing import Parser, positive

_QUERIES = 1_000  # test sessions by which an index is measured


def run(arguments: Sequence[str]) -> None:
    parser = Parser(
        "export",
        "--workdir DIR --out DIR [--k N ...] [--index faiss]",
        "Writes the best epoch of a run as a folder that needs no training code: the model as "
        "functions that jax loads (for CPU, GPU and TPU), the tracks with their names and "
        "embeddings (Parquet), a model card and a manifest with checksums. `recommend`, `similar` "
        "and `serve` take that folder as they take a workdir.",
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="of a run of main.py")
    add("--out", required=True, metavar="DIR", help="a new folder")
    add(
        "--k",
        type=positive,
        nargs="+",
        metavar="N",
        help="how many tracks can be asked for; a number in between costs what the next larger "
        "one does (default: 20 100)",
    )
    add(
        "--index",
        choices=("faiss",),
        help="add an HNSW index, which finds most of the best tracks without scoring all, "
        f"measured on {_QUERIES:,} test sessions of the run's data",
    )
    args = parser.parse_args(arguments)
    # Imported here, so that a mistake in a flag answers at once.
    from absl import logging

    from skipjax import trained
    from skipjax.serving.export import default_ks, export, measured_index

    logging.set_verbosity(logging.FATAL)  # orbax logs the traceback of what is raised anyway
    with terminal.progress_bar() as progress:
        best = trained.read(Path(args.workdir))
        ks = args.k or default_ks(best)
        index = measured_index(best, ks, _QUERIES, progress) if args.index else None
        facts = export(best, args.out, ks=ks, index=index)
    terminal.say(f"{facts['about']}, {facts['tracks']:,} tracks")
    terminal.say(f"{args.out}: up to {max(ks)} tracks for a session; model_card.md says more")
    if index:
        shares = [f"{share:.1%} of the best {k}" for k, share in index.facts["recall"].items()]
        terminal.say(f"{args.out}/index.faiss finds {', '.join(shares)}")
