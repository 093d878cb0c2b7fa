"""Many training runs, several at a time, each in a process of its own; finished ones are kept."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skipjax import files
from skipjax.errors import SkipjaxError
from skipjax.study.worker import DIVERGED
from skipjax.workdir import as_json, check_same_run, finished

Progress = Callable[..., None]
LOG = "log.txt"


@dataclasses.dataclass(frozen=True)
class Run:
    """A config and the folder of its run."""

    config: Any
    workdir: Path


def run_all(
    runs: Sequence[Run],
    *,
    jobs: int,
    cores: Sequence[int],
    cache: Path,
    keep_checkpoints: bool,
    progress: Progress,
    what: str,
) -> list[dict[str, Any] | None]:
    """Trains and tests all of `runs`; one that was interrupted goes on, a finished one is kept.

    Args:
      runs: what to run.
      jobs: how many at a time.
      cores: shared out among them, so that a result does not depend on how many run; empty leaves
        that to the operating system.
      cache: folder for compiled programs.
      keep_checkpoints: or remove them when a run is done.
      progress: called with the runs done, their total, and `what`.
      what: names the phase.

    Returns:
      The results of each, None where the loss was not finite.

    Raises:
      SkipjaxError: a run ended with an error; its log says more.
    """
    # One core each, rather than all for a few: the same program whatever `jobs` is. Another first
    # one for each study, so that two of few jobs each are not both on the same.
    begin = os.getpid()
    slots = [[cores[(begin + i) % len(cores)]] if cores else [] for i in range(jobs)]
    waiting = deque(run for run in runs if _results(run) is _MISSING)
    running: dict[int, tuple[subprocess.Popen, Run]] = {}
    failure = None
    try:
        while running or (waiting and not failure):
            for slot, own in enumerate(slots):
                if slot not in running and waiting and not failure:
                    run = waiting.popleft()
                    running[slot] = (_start(run, own, cache, keep_checkpoints), run)
            for slot, (process, run) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    _close(process)
                    if process.returncode or _results(run) is _MISSING:
                        failure = failure or _failure(run, process.returncode)
            progress(len(runs) - len(waiting) - len(running), len(runs), what)
            time.sleep(0.05)
    finally:  # also when interrupted
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            _close(process)
    if failure:
        raise failure
    return [_results(run) for run in runs]


_MISSING = object()


def _results(run: Run) -> Any:
    """What a run left: its results, None if it diverged, _MISSING if it is not done."""
    check_same_run(run.config, run.workdir)
    if (run.workdir / DIVERGED).exists():
        return None
    results = finished(run.config, run.workdir)
    return _MISSING if results is None else results


def _start(run: Run, cores: Sequence[int], cache: Path, keep: bool) -> subprocess.Popen:
    files.make_folder(run.workdir.parent)
    spec = {
        "config": as_json(run.config),
        "workdir": str(run.workdir),
        "cores": cores,
        "cache": str(cache),
        "keep_checkpoints": keep,
    }
    # Beside the run's folder, which must not exist before the run makes it.
    with open(_log(run), "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "skipjax.study.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            # On a GPU, they share its memory.
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            },
        )
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()  # and left open: its end ends the run
    return process


def _close(process: subprocess.Popen) -> None:
    process.wait()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _log(run: Run) -> Path:
    return run.workdir.with_name(f"{run.workdir.name}.{LOG}")


def _failure(run: Run, code: int) -> SkipjaxError:
    lines = _log(run).read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    error = SkipjaxError(f"the run in {run.workdir} ended with exit code {code}: {said}")
    error.exit_code = code if code in (2, 65, 73, 75, 76) else 1
    return error
