"""One run of a study, in a process of its own: `python -m skipjax.study.worker`.

Reads a JSON object from a line of stdin: `config`, `workdir`, `cores` to run on, `cache`, a folder
for compiled programs, and whether to `keep_checkpoints`.
"""

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from skipjax import files
from skipjax.errors import DivergedError, Interrupted, SkipjaxError

DIVERGED = "diverged.json"  # in the folder of a run whose loss left the finite numbers


def main() -> int:
    spec = json.loads(sys.stdin.readline())
    # Nothing more comes: when it ends, so has the study, and its next start finds nobody here.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    if spec["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec["cores"])
    import jax  # after that: it counts the cores when it is imported

    from skipjax.train import train_and_evaluate

    jax.config.update("jax_compilation_cache_dir", spec["cache"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    workdir = Path(spec["workdir"])
    (workdir / DIVERGED).unlink(missing_ok=True)
    try:
        train_and_evaluate(ConfigDict(_tupled(spec["config"])), workdir)
    except DivergedError as error:
        files.write_json(workdir / DIVERGED, {"error": str(error)})
    except (SkipjaxError, Interrupted) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not spec["keep_checkpoints"]:
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    return 0


def _tupled(value: Any) -> Any:
    """JSON has no tuples, configs no lists."""
    if isinstance(value, dict):
        return {name: _tupled(item) for name, item in value.items()}
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
