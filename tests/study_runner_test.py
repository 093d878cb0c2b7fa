"""Runs in processes of their own: kept, repeated, and what they say when they fail."""

import importlib
import os

import pytest

from skipjax.errors import SkipjaxError
from skipjax.study.runner import Run, run_all

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def make_run(tmp_path, name, **fields):
    config = importlib.import_module("configs.tiny").get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.train.num_epochs = 1
    for field, value in fields.items():
        section, _, last = field.partition("__")
        config[section][last] = value
    return Run(config, tmp_path / "runs" / name)


def run(tmp_path, runs, jobs=2):
    told = []
    results = run_all(
        runs,
        jobs=jobs,
        cores=CORES,
        cache=tmp_path / "compiled",
        keep_checkpoints=False,
        progress=lambda done, total, what: told.append((done, total, what)),
        what="testing",
    )
    return results, told


def test_runs_are_made_once_and_one_that_diverges_is_none(tmp_path):
    runs = [
        make_run(tmp_path, "good"),
        make_run(tmp_path, "bad", optimizer__learning_rate=1e30),
    ]
    first, told = run(tmp_path, runs)
    assert first[1] is None
    assert first[0]["epochs"] == 1
    assert told[-1] == (2, 2, "testing")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [
        "bad",
        "bad.log.txt",
        "good",
        "good.log.txt",
    ]
    assert not (tmp_path / "runs" / "good" / "checkpoints").exists()
    written = (tmp_path / "runs" / "good" / "results.json").stat()
    again, _ = run(tmp_path, runs)
    assert again == first
    assert (tmp_path / "runs" / "good" / "results.json").stat() == written


def test_a_run_that_fails_is_named_with_what_it_said(tmp_path):
    runs = [make_run(tmp_path, "wrong", loss__negatives="none")]
    with pytest.raises(SkipjaxError, match=r"runs/wrong ended with exit code 2: .*'none'") as found:
        run(tmp_path, runs)
    assert found.value.exit_code == 2


def test_damaged_results_are_named(tmp_path):
    only = make_run(tmp_path, "damaged")
    run(tmp_path, [only])
    (only.workdir / "results.json").write_text("{")
    with pytest.raises(SkipjaxError, match=r"damaged cannot be read .*remove it, and it is run"):
        run(tmp_path, [only])
