"""Runs in processes of their own: kept, repeated, and what they say when they fail."""

import importlib
import json
import os

import pytest

from skipjax.errors import SkipjaxError
from skipjax.study.runner import Run, run_all
from skipjax.workdir import as_json

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


@pytest.mark.usefixtures("quick_start")
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


@pytest.mark.slow
def test_what_changes_no_result_repeats_nothing_and_more_epochs_go_on(tmp_path):
    first, _ = run(tmp_path, [make_run(tmp_path, "one")])
    written = (tmp_path / "runs" / "one" / "results.json").stat()
    again, _ = run(tmp_path, [make_run(tmp_path, "one", eval__batch_size=32)])
    assert again == first
    assert (tmp_path / "runs" / "one" / "results.json").stat() == written
    more, _ = run(tmp_path, [make_run(tmp_path, "one", train__num_epochs=2)])
    assert more[0]["epochs"] == 2
    with pytest.raises(SkipjaxError, match=r"config\.loss\.alpha = 0\.5, not 0\.2"):
        run(tmp_path, [make_run(tmp_path, "one", loss__alpha=0.2)])


@pytest.mark.slow
def test_results_of_a_shorter_run_do_not_stand_for_a_longer_one(tmp_path):
    """As it is when the longer run was interrupted."""
    short = make_run(tmp_path, "one")
    run(tmp_path, [short])
    longer = make_run(tmp_path, "one", train__num_epochs=3)
    (short.workdir / "config.json").write_text(json.dumps(as_json(longer.config)))
    found, _ = run(tmp_path, [longer])
    assert found[0]["epochs"] == 3


@pytest.mark.slow
def test_a_run_that_diverged_may_succeed_with_other_fields(tmp_path):
    bad = make_run(tmp_path, "one", optimizer__learning_rate=1e30, train__num_epochs=2)
    assert run(tmp_path, [bad])[0] == [None]
    assert run(tmp_path, [bad])[0] == [None]
    with pytest.raises(SkipjaxError, match=r"config\.optimizer\.learning_rate = 1e\+30, not"):
        run(tmp_path, [make_run(tmp_path, "one")])


@pytest.mark.slow
def test_damaged_results_are_named(tmp_path):
    only = make_run(tmp_path, "damaged")
    run(tmp_path, [only])
    (only.workdir / "results.json").write_text("{")
    with pytest.raises(SkipjaxError, match=r"damaged/results\.json cannot be read: .*remove it"):
        run(tmp_path, [only])
