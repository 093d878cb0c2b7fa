"""Trains and tests one model: python main.py --config=configs/sasrec_skip.py."""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

from skipjax.cli.config_flags import parse
from skipjax.errors import ConfigError, Interrupted, SkipjaxError, one_line
from skipjax.memory import restart_with_huge_pages
from skipjax.signals import clean_up_on_sigterm

_STOPPED = "what was saved is kept, and the same command goes on from there"
_CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; by default runs/<config>-<source>."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, where several processes train together."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many these are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.")
_CLUSTER = flags.DEFINE_bool(
    "cluster", False, "Take all three from Slurm, Open MPI or Kubernetes instead."
)


def main(argv):
    if len(argv) > 1:
        raise ConfigError(f"unknown argument {argv[1]!r}; options begin with --.")
    if _CONFIG.value is None:
        raise ConfigError("say what to run: --config=configs/sasrec_skip.py, for example.")
    restart_with_huge_pages()
    # Imported here, so that --help and a misspelt flag answer at once.
    from skipjax import processes
    from skipjax.silence import silence_failed_writes
    from skipjax.train import train_and_evaluate

    silence_failed_writes()
    config = _CONFIG.value
    workdir = _WORKDIR.value or f"runs/{config.name}-{config.data.source}"
    which = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    with processes.start(*which, cluster=_CLUSTER.value):
        train_and_evaluate(config, workdir)


if __name__ == "__main__":
    clean_up_on_sigterm(_STOPPED)
    try:
        app.run(main, flags_parser=parse)
    except (SkipjaxError, Interrupted) as error:
        print(one_line(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read the output has gone, as in `| head`; nor can it be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print(f"skipjax: interrupted; {_STOPPED}.", file=sys.stderr)
        sys.exit(130)
