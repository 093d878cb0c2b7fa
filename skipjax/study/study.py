"""Do skips help: tunes and trains arms × seeds, ranks baselines, and writes what came out."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from skipjax import files, metrics
from skipjax.data import sources
from skipjax.data.candidates import Candidates
from skipjax.data.sessions import Sessions
from skipjax.data.split import LeaveOneOut, split_as
from skipjax.environment import environment
from skipjax.errors import CheckpointError, ConfigError, DataError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.study import baselines, summary
from skipjax.study.arms import Arm, arms_of, chosen, configured, value_of
from skipjax.study.markdown import table1
from skipjax.study.measures import Facts, Outcome
from skipjax.study.report.write import write_report
from skipjax.study.runner import Run, run_all

SELECTION = "valid/hr@10"  # what learning rates and weights are chosen by
_BEGUN = "begun.json"
# What the report is made of; a study may measure more.
_METRICS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")
_TOP = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a study is run.

    Attributes:
      workdir: gets `study.json`, `study.md`, `report.html`, `sessions.parquet`, and the runs.
      seeds: of the arms of the paper's table.
      jobs: runs at a time.
      cores: shared out among them; empty leaves that to the operating system.
      keys: arms to run, with those they are compared with; empty for all.
      command: that began it, for the record.
    """

    workdir: Path
    seeds: int
    jobs: int
    cores: tuple[int, ...]
    keys: tuple[str, ...]
    command: str


def run_study(config: Any, plan: Plan, *, progress: Callable[..., None]) -> dict[str, Any]:
    """Runs, or goes on with, the study that `config` describes.

    Args:
      config: as `configs/table1.py`.
      plan: how.
      progress: called with what is done, what there is in all, and a word for it.

    Returns:
      What stands in `study.json`.

    Raises:
      SkipjaxError: what a run of `train_and_evaluate` raises, or an impossible study.
    """
    arms = chosen(arms_of(config), plan.keys)
    config.eval.keep_top = max(config.eval.keep_top, _TOP)
    config.eval.metrics = tuple(
        dict.fromkeys([*map(metrics.canonical, config.eval.metrics), *_METRICS])
    )
    if plan.seeds < 1:
        raise ConfigError(f"--seeds is {plan.seeds}; it must be at least 1.")
    sessions = sources.load(config.data, progress=progress)
    split = split_as(config.data, sessions)
    num_tracks = split.num_ids - FIRST_TRACK_ID
    if num_tracks < config.eval.keep_top:
        raise ConfigError(
            f"the {config.eval.keep_top} best tracks of each session are compared, but there are "
            f"only {num_tracks}; use more data, or lower config.eval.keep_top to {_TOP}."
        )
    candidates = Candidates(split, config.eval.num_candidates, config.eval.seed)
    files.make_folder(plan.workdir)
    with files.lock(plan.workdir / ".lock"):
        begun = _begun(plan.workdir, split.digest)
        study = _Study(config, plan, split, progress)
        tuning, tuned = study.tune(arms)
        trained = study.train(arms, tuned)
        outcomes = [outcome for outcome, _ in trained] + study.baselines(candidates)
        described = [
            _described(arm, tuned, curves) for arm, (_, curves) in zip(arms, trained, strict=True)
        ]
        described += [
            {
                "key": key,
                "label": label,
                "group": "baseline",
                "against": None,
                "settings": {},
                "curves": [],
            }
            for key, (label, _) in baselines.BASELINES.items()
        ]
        about = {
            "name": config.name,
            "source": config.data.source,
            "synthetic": config.data.source == "demo",
            "digest": split.digest,
            "command": plan.command,
            "environment": begun["environment"],
            "tuning": tuning,
        }
        facts = facts_of(sessions, split)
        progress(0, 1, "comparing")
        found = summary.summarise(facts, outcomes, described, about)
        _write(plan.workdir, found, summary.sessions_table(*_targets(split), facts, outcomes))
    return found


class _Study:
    """A study in progress: what its phases share."""

    def __init__(self, config, plan, split, progress):
        self.config, self.plan, self.split, self.progress = config, plan, split, progress

    def tune(self, arms: Sequence[Arm]) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
        """Learning rate, then α : β, of each arm that is tuned itself, on validation, one seed.

        Returns:
          All that was tried, and by key the settings chosen.
        """
        study = self.config.study
        itself = [arm for arm in arms if arm.tuned_as == arm.key]
        tried: list[dict[str, Any]] = []
        best: dict[str, dict[str, float]] = {}
        rates = {
            arm.key: [{"optimizer.learning_rate": rate} for rate in study.learning_rates]
            for arm in itself
        }
        ratios = {
            arm.key: [{"loss.alpha": alpha, "loss.beta": beta} for alpha, beta in study.ratios]
            for arm in itself
            if arm.has_skip_term
        }
        number = sum(map(len, rates.values())) + sum(map(len, ratios.values()))
        if number > study.most_tuning_runs:
            raise ConfigError(
                f"the grids of config.study come to {number} runs, more than "
                f"config.study.most_tuning_runs ({study.most_tuning_runs}); shorten "
                "learning_rates or ratios."
            )
        for stage in (rates, ratios):
            # A grid of one leaves nothing to choose; its only point is taken as it is.
            wanted = [
                (arm, {**arm.settings, **best.get(arm.key, {}), **point})
                for arm in itself
                for point in stage.get(arm.key, [])
            ]
            results = self._run(
                [self._configured(arm, settings, 0, "tuning") for arm, settings in wanted],
                "tuning",
            )
            for (arm, settings), result in zip(wanted, results, strict=True):
                tried.append(
                    {
                        "arm": arm.key,
                        "learning_rate": _value_in(self.config, settings, _RATE),
                        "alpha": _value_in(self.config, settings, "loss.alpha"),
                        "beta": _value_in(self.config, settings, "loss.beta"),
                        SELECTION: result and result[SELECTION],
                        "chosen": False,
                    }
                )
            for arm in itself:
                own = [one for one in tried if one["arm"] == arm.key]
                finite = [one for one in own if one[SELECTION] is not None]
                if own and not finite:
                    raise DataError(
                        f"no learning rate of {tuple(study.learning_rates)} trains the arm "
                        f"{arm.key!r}: each loss left the finite numbers; add lower ones."
                    )
                if finite:
                    winner = max(finite, key=lambda one: one[SELECTION])
                    best[arm.key] = {_RATE: winner["learning_rate"]}
                    if arm.has_skip_term:
                        best[arm.key] |= {
                            "loss.alpha": winner["alpha"],
                            "loss.beta": winner["beta"],
                        }
        for one in tried:
            chosen_here = best[one["arm"]]
            one["chosen"] = one["learning_rate"] == chosen_here[_RATE] and (
                "loss.alpha" not in chosen_here
                or (one["alpha"], one["beta"])
                == (chosen_here["loss.alpha"], chosen_here["loss.beta"])
            )
        return tried, {arm.key: _tuned_settings(arm, best.get(arm.tuned_as, {})) for arm in arms}

    def train(
        self, arms: Sequence[Arm], tuned: Mapping[str, Mapping[str, float]]
    ) -> list[tuple[Outcome, list[dict[str, Any]]]]:
        """The outcome and the training curves of each arm."""
        runs, of_arm = [], []
        for arm in arms:
            seeds = self.plan.seeds
            if arm.group != "table1":
                seeds = min(seeds, self.config.study.other_seeds)
            own = [
                self._configured(arm, {**arm.settings, **tuned[arm.key]}, seed, "runs")
                for seed in range(seeds)
            ]
            of_arm.append(own)
            runs += own
        results = self._run(runs, "training")
        for run, result in zip(runs, results, strict=True):
            if result is None:
                raise DataError(
                    f"the loss of {run.workdir} left the finite numbers, though its validation "
                    "run did not; add a lower learning rate to config.study.learning_rates."
                )
            if result["data"] != self.split.digest:
                raise CheckpointError(f"{run.workdir} is of other data; choose another --workdir.")
        return [
            (
                _outcome(arm.key, [run.workdir for run in own], self.split),
                [_curve(seed, run.workdir) for seed, run in enumerate(own)],
            )
            for arm, own in zip(arms, of_arm, strict=True)
        ]

    def baselines(self, candidates: Candidates) -> list[Outcome]:
        """Those that need no training."""
        split, found = self.split, []
        for i, (key, (label, make)) in enumerate(baselines.BASELINES.items()):
            self.progress(i, len(baselines.BASELINES), "ranking", label)
            ranked = baselines.rank(
                make(split), split, "test", candidates, k=self.config.eval.keep_top
            )
            found.append(_made(key, (0,), split, *(some[None] for some in ranked)))
        return found

    def _configured(self, arm: Arm, settings: Mapping[str, Any], seed: int, phase: str) -> Run:
        name = f"seed{seed}"
        if phase == "tuning":
            name = "-".join(
                str(_value_in(self.config, settings, field))
                for field in (_RATE, *(("loss.alpha", "loss.beta") if arm.has_skip_term else ()))
            )
        config = configured(self.config, arm.key, {**settings, "seed": seed})
        return Run(config, self.plan.workdir / phase / arm.key / name)

    def _run(self, runs: list[Run], what: str) -> list[dict[str, Any] | None]:
        return run_all(
            runs,
            jobs=self.plan.jobs,
            cores=self.plan.cores,
            cache=self.plan.workdir / "compiled",
            keep_checkpoints=self.config.study.keep_checkpoints,
            progress=self.progress,
            what=what,
        )


_RATE = "optimizer.learning_rate"


def _value_in(config: Any, settings: Mapping[str, Any], field: str) -> Any:
    """A field's value where `settings` are set upon `config`."""
    return settings[field] if field in settings else value_of(config, field, "the study reads")


def _tuned_settings(arm: Arm, best: Mapping[str, float]) -> dict[str, float]:
    """What an arm takes over: weights only if it has the skip term itself."""
    return {field: value for field, value in best.items() if field == _RATE or arm.has_skip_term}


def facts_of(sessions: Sessions, split: LeaveOneOut) -> Facts:
    """What is known of the test sessions, whatever is trained."""
    lengths, targets = split.held_out("test")
    events = split.starts + lengths
    skips = np.concatenate([[0], np.cumsum(split.skipped)])
    context = {
        name: np.array(sessions.context[name].take(pa.array(events)).to_pylist(), object)
        for name in sessions.context.column_names
    }
    return Facts(
        target_skipped=split.skipped[events],
        popularity=split.train_counts[targets],
        position=lengths.astype(np.int32),
        skips_before=(skips[events] - skips[split.starts]).astype(np.int32),
        context=context,
    )


def _targets(split: LeaveOneOut) -> tuple[pa.Array, pa.Array]:
    _, targets = split.held_out("test")
    return split.session_ids, split.track_ids.take(pa.array(targets - FIRST_TRACK_ID))


def _outcome(key: str, workdirs: Sequence[Path], split: LeaveOneOut) -> Outcome:
    found = []
    for workdir in workdirs:
        path = workdir / "sessions.parquet"
        try:
            table = parquet.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); remove {workdir}, and it is run again."
            ) from None
        if not table["session_id"].combine_chunks().equals(split.session_ids):
            raise CheckpointError(f"{path} is of other sessions; remove {workdir}.")
        top = pc.index_in(pc.list_flatten(table["top"]), value_set=split.track_ids)
        top = top.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int32) + FIRST_TRACK_ID
        ranks = (table[name].to_numpy() for name in ("rank_sampled", "rank_full"))
        found.append((*ranks, top.reshape(split.num_sessions, -1)))
    return _made(key, tuple(range(len(workdirs))), split, *map(np.stack, zip(*found, strict=True)))


def _made(key, seeds, split, sampled, full, top) -> Outcome:
    return Outcome(
        key=key,
        seeds=seeds,
        sampled=sampled,
        full=full,
        top=top,
        num_tracks=split.num_ids - FIRST_TRACK_ID,
        counts=split.train_counts,
    )


def _curve(seed: int, workdir: Path) -> dict[str, Any]:
    """Validation HR@10 and mean training loss of each epoch."""
    losses: dict[int, list[float]] = {}
    valid: dict[int, float] = {}
    for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        if "train/loss" in values:
            losses.setdefault(values["epoch"], []).append(values["train/loss"])
        if SELECTION in values:
            valid[values["epoch"]] = values[SELECTION]
    epochs = sorted(valid)
    return {
        "seed": seed,
        "epoch": epochs,
        SELECTION: [valid[epoch] for epoch in epochs],
        "train/loss": [
            float(np.mean(losses[epoch])) if epoch in losses else None for epoch in epochs
        ],
    }


def _described(
    arm: Arm, tuned: Mapping[str, Mapping[str, float]], curves: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "key": arm.key,
        "label": arm.label,
        "group": arm.group,
        "against": arm.against,
        "settings": {**arm.settings, **tuned[arm.key]},
        "curves": curves,
    }


def _begun(workdir: Path, digest: str) -> dict[str, Any]:
    """When and with what this study was begun, written once."""
    path = workdir / _BEGUN
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        if begun["data"] != digest:
            raise CheckpointError(
                f"{workdir} holds a study of other data than config.data now gives; choose another "
                "--workdir."
            )
        return begun
    facts = environment(["jax", "flax", "optax", "numpy"])
    begun = {
        "data": digest,
        "environment": {
            "begun": facts["date"],
            "machine": "{cpu}, {cpus} CPUs, {memory_gb} GB".format(**facts["hardware"]),
            **facts["versions"],
        },
    }
    files.write_json(path, begun)
    return begun


def _write(workdir: Path, found: dict[str, Any], table: pa.Table) -> None:
    with files.new_file(workdir / "sessions.parquet") as path:
        parquet.write_table(table, path)
    files.write_json(workdir / "study.json", found)
    files.write_atomically(workdir / "study.md", table1(found))
    write_report(found, workdir / "report.html")
