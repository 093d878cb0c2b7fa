"""Do skips help: tunes and trains arms × seeds, ranks baselines, and writes what came out."""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from skipjax import files, metrics, terminal
from skipjax.data import dropped, sources
from skipjax.data.candidates import Candidates
from skipjax.data.split import split_as
from skipjax.environment import environment
from skipjax.errors import CheckpointError, DataError
from skipjax.ids import FIRST_TRACK_ID
from skipjax.limits import check_data_limits
from skipjax.study import baselines, summary
from skipjax.study.arms import Arm, checked, configured
from skipjax.study.baseline_ranks import rank
from skipjax.study.markdown import table1
from skipjax.study.measures import Outcome
from skipjax.study.outcomes import curve_of_run, facts_of, outcome_of, outcome_of_runs
from skipjax.study.report.write import write_report
from skipjax.study.runner import Run, run_all
from skipjax.study.tuning import ALPHA, BETA, RATE, Results, Settings, grids, tune, value_in
from skipjax.train import check_config
from skipjax.workdir import as_json, check_same_data, check_same_run

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
      note: what readers should know, beside the study's name.
    """

    workdir: Path
    seeds: int
    jobs: int
    cores: tuple[int, ...]
    keys: tuple[str, ...]
    command: str
    note: str = ""


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
    config.eval.keep_top = max(config.eval.keep_top, _TOP)
    config.eval.metrics = tuple(
        dict.fromkeys([*map(metrics.canonical, config.eval.metrics), *_METRICS])
    )
    arms = checked(config, plan.keys, check_config)
    grids(config, arms)
    sessions = sources.load(config.data, progress=progress)
    if text := dropped.described(sessions.info.get("dropped", {})):
        terminal.say(f"dropped as bad: {text}")
    split = split_as(config.data, sessions)
    checked(config, plan.keys, lambda run: check_data_limits(run, split))
    candidates = Candidates(split, config.eval.num_candidates, config.eval.seed)
    files.make_folder(plan.workdir)
    with files.lock(plan.workdir / ".lock"):
        begun = _begun(config, plan.workdir, split.digest)
        study = _Study(config, plan, split, progress)
        study.say_what_is_left_out(arms)
        tuning, tuned = tune(config, arms, study.try_out)
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
            "name": f"{config.name}, {plan.note}" if plan.note else config.name,
            "source": config.data.source,
            "synthetic": split.synthetic,
            "digest": split.digest,
            "split": split.name,
            "skipped_means": split.skipped_means,
            "command": plan.command,
            "environment": begun["environment"],
            "tuning": tuning,
        }
        facts = facts_of(sessions, split)
        progress(0, 1, "comparing")
        found = summary.summarise(facts, outcomes, described, about)
        _, targets = split.held_out("test")
        targets = split.track_ids.take(pa.array(targets - FIRST_TRACK_ID))
        table = summary.sessions_table(split.ids_of("test"), targets, facts, outcomes)
        _write(plan.workdir, found, table)
    return found


class _Study:
    """A study in progress: what its phases share."""

    def __init__(self, config, plan, split, progress):
        self.config, self.plan, self.split, self.progress = config, plan, split, progress

    def try_out(self, wanted: list[tuple[Arm, Settings]]) -> list[Results]:
        """Results of arms with settings, of one seed."""
        runs = []
        for arm, settings in wanted:
            fields = (RATE, ALPHA, BETA) if arm.has_skip_term else (RATE,)
            name = "-".join(str(value_in(self.config, settings, field)) for field in fields)
            seed = self.config.seed
            runs.append(self._configured(arm, settings, seed, Path("tuning", arm.key, name)))
        return self._run(runs, "tuning")

    def say_what_is_left_out(self, arms: Sequence[Arm]) -> None:
        """Of finished runs, those that this study's tables will not have."""
        seeds = {arm.key: {f"seed{seed}" for seed in self._seeds(arm)} for arm in arms}
        others: dict[str, int] = {}
        for path in sorted(self.plan.workdir.glob("runs/*/*/results.json")):
            key, seed = path.parent.parent.name, path.parent.name
            if seed not in seeds.get(key, ()):
                others[key] = others.get(key, 0) + 1
        if others:
            listed = ", ".join(f"{count} of {key}" for key, count in others.items())
            terminal.say(
                f"finished runs that this command leaves out of the tables: {listed}; --arms and "
                "--seeds that name them take them in"
            )

    def train(
        self, arms: Sequence[Arm], tuned: Mapping[str, Mapping[str, float]]
    ) -> list[tuple[Outcome, list[dict[str, Any]]]]:
        """The outcome and the training curves of each arm."""
        runs, of_arm = [], []
        for arm in arms:
            seeds = self._seeds(arm)
            own = [
                self._configured(
                    arm,
                    {**arm.settings, **tuned[arm.key]},
                    seed,
                    Path("runs", arm.key, f"seed{seed}"),
                )
                for seed in seeds
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
                outcome_of_runs(
                    arm.key, self._seeds(arm), [run.workdir for run in own], self.split
                ),
                [curve_of_run(run.config.seed, run.workdir) for run in own],
            )
            for arm, own in zip(arms, of_arm, strict=True)
        ]

    def baselines(self, candidates: Candidates) -> list[Outcome]:
        """Those that need no training."""
        split, found = self.split, []
        for i, (key, (label, make)) in enumerate(baselines.BASELINES.items()):
            self.progress(i, len(baselines.BASELINES), "ranking", label)
            ranked = rank(make(split), split, "test", candidates, k=self.config.eval.keep_top)
            found.append(outcome_of(key, (0,), split, *(some[None] for some in ranked)))
        return found

    def _seeds(self, arm: Arm) -> range:
        number = self.plan.seeds
        if arm.group != "table1":
            number = min(number, _others(self.config))
        return range(self.config.seed, self.config.seed + number)

    def _configured(self, arm: Arm, settings: Settings, seed: int, folder: Path) -> Run:
        config = configured(self.config, arm.key, {**settings, "seed": seed})
        return Run(config, self.plan.workdir / folder)

    def _run(self, runs: list[Run], what: str) -> list[Results]:
        return run_all(
            runs,
            jobs=self.plan.jobs,
            cores=self.plan.cores,
            cache=self.plan.workdir / "compiled",
            keep_checkpoints=self.config.study.keep_checkpoints,
            progress=self.progress,
            what=what,
        )


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


def _others(config: Any) -> int:
    return config.study.other_seeds


def _begun(config: Any, workdir: Path, digest: str) -> dict[str, Any]:
    """When and with what this study was begun, written once.

    It may go on with more seeds or arms, but with nothing else that would change a result.
    """
    config = copy.deepcopy(config)
    with config.unlocked():
        del config.study.arms, config.study.other_seeds, config.study.keep_checkpoints
    path = workdir / _BEGUN
    if path.exists() and not _is_object(workdir / "config.json"):
        # The command tells all of it, and each run compares it with its own.
        terminal.say(f"{workdir / 'config.json'} was lost or damaged; made again.")
    else:
        check_same_run(config, workdir, fixed=("train.num_epochs", "train.patience"))
    if path.exists():
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            before = begun["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error!r}); remove it.") from None
        check_same_data(before, digest, workdir)
        files.write_json(workdir / "config.json", as_json(config))
        return begun
    files.write_json(workdir / "config.json", as_json(config))
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


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (FileNotFoundError, ValueError):
        return False


def _write(workdir: Path, found: dict[str, Any], table: pa.Table) -> None:
    with files.new_file(workdir / "sessions.parquet") as path:
        parquet.write_table(table, path, write_page_checksum=True)
    files.write_json(workdir / "study.json", found)
    files.write_atomically(workdir / "study.md", table1(found))
    write_report(found, workdir / "report.html")
