"""Trains and tests one model: python main.py --config=configs/sasrec_skip.py."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; by default runs/<config>-<source>."
)
flags.mark_flag_as_required("config")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; options begin with --.")
    # Imported here, so that --help and a misspelt flag answer at once.
    from skipjax.errors import SkipjaxError
    from skipjax.train import train_and_evaluate

    logging.set_verbosity(logging.ERROR)
    config = _CONFIG.value
    workdir = _WORKDIR.value or f"runs/{config.name}-{config.data.source}"
    try:
        train_and_evaluate(config, workdir)
    except SkipjaxError as error:
        print(f"skipjax: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nskipjax: interrupted; the same command goes on from {workdir}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    app.run(main)
