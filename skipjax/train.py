"""The training loop: epochs, selection on validation, resuming, and the final test."""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from skipjax import (
    evaluate,
    files,
    memory,
    processes,
    run_report,
    signals,
    step,
    terminal,
    writers,
)
from skipjax.checkpoints import Checkpoints
from skipjax.compiling import unwatched_at_first
from skipjax.data import dropped, sources
from skipjax.data.batches import SessionBatches, check_batch_size, prefetch, steps_per_epoch
from skipjax.data.catalogue import TRACKS
from skipjax.data.parts import Split, parts_table
from skipjax.data.split import split_as
from skipjax.encoders import Encoder, make_encoder
from skipjax.ending import Ending
from skipjax.errors import DivergedError, Interrupted, OutputError
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT
from skipjax.limits import check_data_limits, check_limits, fields
from skipjax.mesh import ONE, Layout, make_layout
from skipjax.watchdog import Watchdog
from skipjax.workdir import (
    SESSIONS,
    SPLIT,
    as_json,
    check_same_config,
    check_same_data,
    check_same_run,
    check_same_split,
    finished,
)

SELECTION = "hr@10"  # of validation, under the fixed candidates; the same rule for every arm


def train_and_evaluate(config: Any, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains the model that `config` describes, tests its best epoch, and leaves all in `workdir`.

    A run that was interrupted goes on from its newest checkpoint, with the same result as if it
    had not been; one that is finished is not repeated.

    Several processes (see `processes.start`) call it alike, and `workdir` is the same folder to all
    of them; the first one writes what one can write alone.

    Args:
      config: as `configs/common.py`.
      workdir: gets `config.json`, `tracks.parquet`, `metrics.jsonl`, `tensorboard/`,
        `checkpoints/`, `sessions.parquet` and `results.json`; where sessions are in different
        parts, `split.parquet`, too.

    Returns:
      What stands in `results.json`: "valid/hr@10", "test/hr@10" (among sampled candidates),
      "test_full/hr@10" (whole catalogue), "baseline/popularity/test_full/hr@10", and so on.

    Raises:
      ConfigError: a field with an impossible value.
      DataError: input that is missing, malformed or has nothing usable in it.
      CheckpointError: `workdir` holds another run, or a checkpoint that cannot be read.
      BusyError: another process works in `workdir`.
      DivergedError: the loss is not finite.
      OutputError: something cannot be written.
      Interrupted: SIGTERM or Ctrl-C came while training; the step under way is finished and saved.
    """
    encoder, first = check_config(config), processes.first()
    own = ("data.path", "data.cache_dir")  # which may be on disks of their own
    settings = {f"config.{n}": v for n, v in fields(config) if n not in own}
    processes.check_same({"the workdir": os.fspath(workdir), **settings})
    layout = make_layout(config.mesh)
    for section in ("train", "eval"):
        check_batch_size(config[section].batch_size, section, layout.size)
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise OutputError(f"{workdir} is a file; choose another --workdir.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminal.quiet(not first))
        new = not workdir.exists()
        if first and not new:
            stack.enter_context(files.lock(workdir / ".lock"))
            check_same_run(config, workdir)
        with processes.first_goes_first("data"):  # the others find what it prepares
            split = _load(config, layout)
        processes.check_same({"the digest of the data": split.digest})
        layout = dataclasses.replace(layout, num_ids=split.num_ids)
        check_data_limits(config, split, _device_bytes(layout))
        watchdog = Watchdog(config.train.watchdog_seconds, tell=processes.tell_gone)
        compiled = functools.partial(unwatched_at_first, watchdog=watchdog)
        evaluator = evaluate.Evaluator(config, encoder, split, layout, compiled)
        train_step = step.make_train_step(config, encoder, _num_steps(config, split), layout)
        if first and new:  # made only now, so that input that cannot be used leaves nothing behind
            files.make_folder(workdir)
            stack.enter_context(files.lock(workdir / ".lock"))
            check_same_run(config, workdir)  # somebody else may have been here meanwhile
        parts = parts_table(split)
        results = processes.from_first(_finished(config, workdir, split, parts) if first else None)
        if results is not None:
            terminal.say(f"{workdir} is finished; these are its results.")
            run_report.show(config, results, workdir)
            return results
        if first:
            files.remove_leftovers(workdir)
            files.write_json(workdir / "config.json", as_json(config))
        checkpoints = Checkpoints(workdir / "checkpoints", terminal.say)
        stack.callback(checkpoints.close)
        run = _Run(config, workdir, split, encoder, evaluator, checkpoints, train_step, layout)
        stack.callback(run.writer.close)
        if first:
            _write_tracks(split, workdir / TRACKS)  # of the data that the run is known to have
            if parts is not None:
                _write_table(parts, workdir / SPLIT)
        with watchdog:
            run.train(watchdog)
            results = run.test(watchdog)
        if first:
            files.write_json(workdir / "results.json", results)
        run.record_test(results)
        run_report.show(config, results, workdir)
        return results


def _finished(
    config: Any, workdir: Path, split: Split, parts: pa.Table | None
) -> dict[str, Any] | None:
    """The results in `workdir`, if there is nothing left to do."""
    results = finished(config, workdir)
    made = (SESSIONS, TRACKS) if parts is None else (SESSIONS, TRACKS, SPLIT)
    check_same_split(parts, workdir)
    if results is None or not all((workdir / name).exists() for name in made):
        return None
    check_same_data(results["data"], split.digest, workdir)
    return results


def check_config(config: Any) -> Encoder:
    """Names what is wrong with a config before any data is read.

    Returns:
      The encoder it describes.

    Raises:
      ConfigError: a field with an impossible value.
    """
    check_limits(config)
    held_out = HELD_OUT[config.data.split]
    encoder = make_encoder(config.model, config.data.max_length, held_out)
    step.make_train_step(config, encoder, num_steps=1)
    step.hyperparameters(config, num_steps=1)
    return encoder


class _Run:
    """One run in progress: what the epochs share."""

    def __init__(
        self, config, workdir, split, encoder, evaluator, checkpoints, train_step, layout=ONE
    ):
        self.config, self.workdir = config, workdir
        self.split, self.evaluator, self.layout = split, evaluator, layout
        self.checkpoints, self.train_step = checkpoints, train_step
        self.batches = SessionBatches(
            split,
            batch_size=config.train.batch_size,
            max_length=config.data.max_length,
            seed=config.seed,
            num_devices=layout.size,
            mine=layout.mine,
        )
        self.num_steps = _num_steps(config, split)
        self.hyper = step.hyperparameters(config, self.num_steps)
        self.flush = step.make_flush(config, layout)
        self.state = step.init_state(config, encoder, split.num_ids, layout)
        self.logical = step.without_padding(self.state, split.num_ids)
        self.history: list[float] = []  # the selection metric after each epoch
        self.pending: list[dict[str, Any]] = []  # metrics of the steps since the last line
        start = checkpoints.latest_step
        if start is not None:
            self._go_on(start)
        self.writer = (
            writers.MetricWriter(workdir, start or 0) if processes.first() else writers.NullWriter()
        )

    def _go_on(self, start: int) -> None:
        progress = self.checkpoints.progress(start)
        check_same_data(progress["data"], self.split.digest, self.workdir)
        check_same_config(progress["config"], self.config, self.workdir)
        self.state = self.checkpoints.restore(start, self.state, self.logical)
        self.history = progress["history"]
        self.pending = [
            {name: np.float32(value) for name, value in values.items()}
            for values in progress["pending"]
        ]
        if self.best_epoch:  # rather now than after the last epoch
            self.checkpoints.progress(self._best_step)
        terminal.say(f"Going on from step {start} in {self.workdir}.")

    @property
    def best_epoch(self) -> int:
        """Counted from 1; the first of equals; 0 before the first validation."""
        return int(np.argmax(self.history)) + 1 if self.history else 0

    @property
    def _best_step(self) -> int:
        """-1 before the first validation."""
        return self.best_epoch * self.batches.steps_per_epoch or -1

    @property
    def stopped_early(self) -> bool:
        return len(self.history) - self.best_epoch >= self.config.train.patience

    def train(self, watchdog: Watchdog) -> None:
        """All epochs that are left."""
        config, per_epoch = self.config, self.batches.steps_per_epoch
        key = step.train_key(config)
        train_step = unwatched_at_first(self.train_step, watchdog)
        self.flush = unwatched_at_first(self.flush, watchdog)
        ending = Ending(self.layout)
        start = done = int(self.state.step)
        ready = prefetch(self.batches.from_step(done))
        with (
            contextlib.closing(ready),
            terminal.progress_bar() as progress,
            signals.noted() as asked_to_end,
        ):
            began = time.monotonic()
            while done < self.num_steps and not self.stopped_early:
                batch = self.layout.put(next(ready))
                self.state, values = train_step(self.state, batch, self.hyper, key)
                watchdog.beat()
                if done == start:  # it has been compiled just now
                    memory.return_freed_memory()
                done += 1
                self.pending.append(values)
                epoch, within = -(-done // per_epoch), done % per_epoch
                every = config.train.checkpoint_every_steps
                saving = not within or (every and not done % every)
                if saving or not done % config.train.log_every_steps:
                    values = _means(self.pending, done)
                    elapsed = time.monotonic() - began
                    values["train/steps_per_second"] = len(self.pending) / elapsed
                    self.writer.write(done, epoch, values)
                    note = f"epoch {epoch}/{config.train.num_epochs}"
                    note += f"  loss {values['train/loss']:.4f}"
                    progress(done, self.num_steps, "training", note)
                    self.pending.clear()
                    began = time.monotonic()
                if not within:
                    self.checkpoints.wait()  # so that no more than this epoch can be lost
                    self._validate(done, epoch, watchdog)
                last = done == self.num_steps or self.stopped_early
                number = ending(asked_to_end(), last)
                if saving or number:
                    self._save()
                    began = time.monotonic()
                if number:
                    self._end(done, number)
            self.checkpoints.wait()

    def _end(self, done: int, number: int) -> NoReturn:
        self.checkpoints.wait()
        raise Interrupted(
            f"{signal.Signals(number).name} at step {done}, which is saved; the same command goes "
            "on from there.",
            number,
        )

    def _validate(self, done: int, epoch: int, watchdog: Watchdog) -> None:
        self.state = self.flush(self.state, self.hyper)
        ranks = self.evaluator.ranks(
            self.state.params, "valid", full=False, progress=lambda *_: watchdog.beat()
        )
        values = evaluate.summarise(ranks, (*self.config.eval.metrics, SELECTION))
        self.history.append(values[f"valid/{SELECTION}"])
        self.writer.write(done, epoch, values)
        mark = " *" if self.best_epoch == epoch else ""
        terminal.say(f"epoch {epoch:>3}  valid {SELECTION.upper()} {self.history[-1]:.4f}{mark}")

    def _save(self) -> None:
        self.writer.sync()
        pending = [{n: float(v) for n, v in one.items()} for one in jax.device_get(self.pending)]
        progress = {
            "config": as_json(self.config),
            "data": self.split.digest,
            "history": self.history,
            "pending": pending,
        }
        self.checkpoints.save(self.state, progress, self._best_step, self.logical)

    def test(self, watchdog: Watchdog) -> dict[str, Any]:
        """The results of the best epoch."""
        config, names = self.config, self.config.eval.metrics
        if self._best_step != int(self.state.step):
            # It was flushed before it was saved.
            with watchdog.paused("reading"):
                self.state = self.checkpoints.restore(self._best_step, self.state, self.logical)
        results: dict[str, Any] = {
            "name": config.name,
            "source": config.data.source,
            "synthetic": self.split.synthetic,
            "seed": config.seed,
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early and len(self.history) < config.train.num_epochs,
            "split": self.split.name,
            "skipped_means": self.split.skipped_means,
            "sessions": self.split.num_sessions,
            "parts": {which: len(part.sessions) for which, part in self.split.parts.items()},
            "tracks": self.split.num_ids - FIRST_TRACK_ID,
            "data": self.split.digest,
            "test/cold_share": self.split.cold_share("test"),
        }
        params = self.state.params
        valid = self.evaluator.ranks(
            params, "valid", full=False, progress=lambda *_: watchdog.beat()
        )
        results |= evaluate.summarise(valid, (*names, SELECTION))
        keep = config.eval.keep_top
        top = np.zeros((results["parts"]["test"], keep), np.int32) if keep else None
        with terminal.progress_bar() as show:

            def progress(*where):
                watchdog.beat()
                show(*where)

            ranks = self.evaluator.ranks(params, "test", full=True, top=top, progress=progress)
        if processes.first():
            _write_table(evaluate.sessions_table(self.split, ranks, top), self.workdir / SESSIONS)
        results |= evaluate.summarise(ranks, names)
        popular = evaluate.popularity_ranks(self.split, "test", self.evaluator.candidates)
        results |= evaluate.summarise(popular, names, prefix="baseline/popularity/")
        return results

    def record_test(self, results: dict[str, Any]) -> None:
        """Adds the test to the curves."""
        numbers = {name: value for name, value in results.items() if name.startswith("test")}
        self.writer.write(self._best_step, self.best_epoch, numbers)


def _load(config: Any, layout: Layout) -> Split:
    data = config.data
    with terminal.progress_bar() as progress:
        sessions = sources.load(data, progress=progress)
    split = split_as(data, sessions)
    terminal.say(run_report.facts(config, split, layout))
    if text := dropped.described(sessions.info.get("dropped", {})):
        terminal.say(f"dropped as bad: {text}")
    return split


def _write_tracks(split: Split, path: Path) -> None:
    """Each track's id in the source and its events in training, in the order of the model's ids."""
    counts = pa.array(split.train_counts[FIRST_TRACK_ID:])
    _write_table(pa.table({"track_id": split.track_ids, "plays": counts}), path)


def _write_table(table: pa.Table, path: Path) -> None:
    with files.new_file(path) as file:
        parquet.write_table(table, file, write_page_checksum=True)


def _device_bytes(layout: Layout) -> int | None:
    """Memory of the accelerators that share a table, if that is where parameters lie."""
    available = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return available and available * layout.tracks


def _num_steps(config: Any, split: Split) -> int:
    return config.train.num_epochs * steps_per_epoch(split, config.train.batch_size)


def _means(pending: list[dict[str, jax.Array]], done: int) -> dict[str, float]:
    """Means of the last steps' metrics; raises DivergedError naming the first bad step."""
    fetched = jax.device_get(pending)
    for i, values in enumerate(fetched):
        if not math.isfinite(values["loss"]):
            bad = done - len(fetched) + i + 1
            raise DivergedError(
                f"the loss is {values['loss']} at step {bad}; lower "
                "config.optimizer.learning_rate, or set config.optimizer.clip_norm."
            )
    return {f"train/{n}": float(np.mean([v[n] for v in fetched])) for n in fetched[0]}
