"""A run so small that it can be made hundreds of times, and what must be the same at its end."""

import dataclasses
import fcntl
import importlib
import json
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax

from faults.states import differing
from faults.trials import ROOT, Fault, Operation, Trial, Trials, read_log
from skipjax import encoders, step
from skipjax.checkpoints import Checkpoints

_CLOCK = ("seconds", "train/steps_per_second")  # all that may differ between two equal runs
_FIELDS = {
    "data.demo.num_sessions": 60,
    "data.demo.num_tracks": 500,
    "model.num_layers": 1,
    "model.width": 8,
    "model.feedforward_width": 8,
    "sampling.scope": "batch",
    "train.batch_size": 12,  # few enough ids that the table is updated by rows
    "train.num_epochs": 4,
    "train.patience": 9,
    "train.log_every_steps": 1,
    "train.checkpoint_every_steps": 2,
}
# Steps that are saved: every second one, and the last of each epoch of five.
SAVES = sorted({*range(2, 21, 2), *range(5, 21, 5)})


@dataclasses.dataclass(frozen=True)
class Ending:
    """What a run leaves: its results, the lines of metrics.jsonl, the newest state."""

    results: dict[str, Any]
    lines: list[dict[str, Any]]
    state: Any

    def differences(self, other: "Ending") -> list[str]:
        found = [] if self.results == other.results else ["results.json"]
        found += [] if self.lines == other.lines else ["metrics.jsonl"]
        return found + differing(self.state, other.state)


class SmallRun:
    """`main.py` with a small config, of a causal encoder or a bidirectional one.

    Attributes:
      undisturbed: how it ends when nothing happens to it.
      seconds: that it takes, `seconds_training` of them from the first step to the last save.
    """

    def __init__(self, trials: Trials, place: Path, causal: bool):
        """`place` is used by all of the same encoder; what is compiled is there from then on."""
        self._trials, self._place = trials, place
        self._changes = {**_FIELDS, "model.causal": causal, "data.cache_dir": str(place / "cache")}
        place.mkdir(exist_ok=True)
        with open(place / "lock", "w") as lock:  # of other processes of the same test session
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / "seconds").exists():
                self._run_undisturbed()
        self.seconds, self.seconds_training = json.loads((place / "seconds").read_text())
        self.undisturbed = self.ending(place / "undisturbed")
        steps = [line["step"] for line in self.undisturbed.lines if "train/loss" in line]
        assert steps == list(range(1, SAVES[-1] + 1))

    def _run_undisturbed(self) -> None:
        trial = self.start(self._place / "compiling", compiling=True)  # and preparing the data
        assert trial.wait() == 0, trial.errors
        workdir, began = self._place / "undisturbed", time.time()
        log = self._place / "operations"
        trial = self.start(workdir, Fault(f"{workdir}*", log=log) if self._trials.shim else None)
        until_it_trains(trial, workdir)
        trains = time.time()
        assert trial.wait() == 0, trial.errors
        last = workdir / "checkpoints" / str(SAVES[-1]) / "manifest.json"
        seconds = time.time() - began, last.stat().st_mtime - trains
        assert not self.ending(workdir).differences(self.ending(self._place / "compiling"))
        (self._place / "seconds").write_text(json.dumps(seconds))

    def operations(self, below: str) -> list[Operation]:
        """Of an undisturbed run, on paths in its workdir that match `below`, numbered from 1."""
        where = str(self._place / "undisturbed" / below)
        found = [
            operation
            for operation in read_log(self._place / "operations")
            if fnmatch(operation.path, where) or fnmatch(operation.other, where)
        ]
        return [dataclasses.replace(one, number=i) for i, one in enumerate(found, start=1)]

    def start(self, workdir: Path, fault: Fault | None = None, compiling: bool = False) -> Trial:
        flags = [f"--config.{field}={value}" for field, value in self._changes.items()]
        command = [ROOT / "main.py", f"--config={ROOT}/configs/tiny.py", f"--workdir={workdir}"]
        compiled = self._place / "compiled"
        return self._trials.start(
            *command, *flags, fault=fault, compiled=compiled, compiling=compiling
        )

    def ending(self, workdir: Path) -> Ending:
        results = json.loads((workdir / "results.json").read_text())
        checkpoints = Checkpoints(workdir / "checkpoints")
        try:
            newest = checkpoints.latest_step
            state = jax.device_get(checkpoints.restore(newest, self._like(results["tracks"] + 2)))
        finally:
            checkpoints.close()
        return Ending(results, read_lines(workdir), state)

    def _like(self, num_ids: int) -> Any:
        config = importlib.import_module("configs.tiny").get_config()
        config.update_from_flattened_dict(self._changes)
        encoder = encoders.make_encoder(config.model, config.data.max_length)
        assert step.by_rows(config, num_ids)
        return jax.eval_shape(lambda: step.init_state(config, encoder, num_ids))


def until_it_trains(trial: Trial, workdir: Path, steps: int = 1) -> None:
    """Returns after so many steps more, or when the run has ended."""
    path = workdir / "metrics.jsonl"

    def lines():
        return path.read_text().count("train/loss") if path.exists() else 0

    wanted = lines() + steps
    while trial.running and lines() < wanted:
        time.sleep(0.002)


def steps_saved(workdir: Path) -> list[int]:
    """Steps whose checkpoints have their names."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def read_lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the clock; none before there is one. A last line may be cut short."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{k: v for k, v in line.items() if k not in _CLOCK} for line in lines]
