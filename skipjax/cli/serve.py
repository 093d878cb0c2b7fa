"""``python -m skipjax serve``: trained models over HTTP, and a page to try them on."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipjax import terminal
from skipjax.cli.parsing import Parser, count
from skipjax.errors import ConfigError

_PACKAGES = ("fastapi", "prometheus_client", "uvicorn")  # of the extra


def run(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    if args.port >= 1 << 16:
        raise ConfigError(f"--port is {args.port}; give one from 0 (any free one) to 65535.")
    _check_once(args.model)
    # Imported here, so that a mistake in a flag answers at once.
    try:
        from skipjax.serving import server
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _PACKAGES:
            raise
        raise ConfigError(
            f"the service needs {missing}, which is not installed: pip install 'skipjax[serve]'."
        ) from error
    from absl import logging

    from skipjax.recommend import Recommender

    logging.set_verbosity(logging.FATAL)  # orbax logs the traceback of what is raised anyway
    listening = server.listen(args.host, args.port)
    with listening:
        recommenders = _named([(folder, Recommender.load(folder)) for folder in args.model])
        where = server.url(listening)

        def ready(seconds: float) -> None:
            models = ", ".join(
                f"{name} ({len(recommender.model.catalogue):,} tracks)"
                for name, recommender in recommenders.items()
            )
            terminal.say(f"{where} serves {models}; warm after {seconds:.1f} s")

        if not ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
            terminal.say(
                f"There is no authentication: whoever can reach {args.host} may ask, and read the "
                "names of all tracks."
            )
        server.serve(recommenders, listening, on_ready=ready, verbose=args.verbose)


def _check_once(folders: Sequence[str]) -> None:
    """Raises ConfigError if two are the same folder."""
    found: dict[Path, str] = {}
    for folder in folders:
        first = found.setdefault(path := Path(folder).resolve(), folder)
        if first is not folder:
            also = "" if first == folder else f", as {first}, too"
            raise ConfigError(f"--model {folder} is given twice{also} ({path}); give it once.")


def _named(loaded: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Models by the name of their config; where that is not one model's alone, by their folder's.

    Raises:
      ConfigError: two folders have the same name, and their models the same config.
    """
    names = [recommender.model.name for _, recommender in loaded]
    found: dict[str, Any] = {}
    for folder, recommender in loaded:
        name = recommender.model.name
        if names.count(name) > 1:
            name = Path(folder).resolve().name
        if name in found:
            raise ConfigError(
                f"--model {folder}: there is a model {name!r} already; rename the folder."
            )
        found[name] = recommender
    return found


def _parser() -> Parser:
    parser = Parser(
        "serve",
        "--model DIR [--model DIR] [options]",
        "Serves trained models over HTTP, to this machine alone: POST /recommend, GET /tracks, "
        "/tracks/ID/similar, /models, /healthz, /metrics, /openapi.json; and the session explorer, "
        "a page to try them on, at /. SIGTERM or Ctrl-C end it when what is in flight is answered.",
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        action="append",
        metavar="DIR",
        help="what `export` wrote, or a workdir of main.py; again for another, to compare them",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=count, default=8000, metavar="N", help="0 for any free (default: 8000)")
    add("--verbose", action="store_true", help="log each request")
    return parser
