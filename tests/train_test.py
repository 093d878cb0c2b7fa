"""The loop: what it leaves, how it goes on, what it refuses."""

import collections
import importlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import make_sessions, random_listening
from pyarrow import parquet

from skipjax import run_report, step, train
from skipjax.checkpoints import Checkpoints
from skipjax.cli.main import main
from skipjax.data.batches import SessionBatches
from skipjax.data.split import split_as
from skipjax.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    Interrupted,
    OutputError,
)
from skipjax.files import lock
from skipjax.mesh import ONE
from skipjax.workdir import as_json, check_same_split


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make(cache):
    def make(**changes):
        """The tiny config, smaller still: a block, and 80 sessions, so 3 steps an epoch."""
        config = importlib.import_module("configs.tiny").get_config()
        config.model.num_layers = 1
        config.data.cache_dir = str(cache)
        config.data.demo.num_sessions = 80
        config.train.log_every_steps = 1
        for name, value in changes.items():
            section, _, field = name.rpartition("__")
            target = config
            for part in section.split("__") if section else ():
                target = target[part]
            target[field] = value
        return config

    return make


@pytest.fixture(scope="session")
def ran(make, tmp_path_factory):
    """ran(workdir, **changes) is what training there returned, though it was done once for all."""
    done = {}

    def ran(workdir, **changes):
        key = json.dumps(changes)
        if key not in done:
            place = tmp_path_factory.mktemp("ran") / "run"
            done[key] = place, train.train_and_evaluate(make(**changes), place)
        place, results = done[key]
        shutil.copytree(place, workdir, dirs_exist_ok=True)
        return dict(results)

    return ran


def lines(workdir):
    """metrics.jsonl, without what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "train/steps_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def final_state(config, workdir, num_ids):
    """The newest checkpoint's state."""
    encoder = train.make_encoder(config.model, config.data.max_length)
    checkpoints = Checkpoints(workdir / "checkpoints")
    like = step.init_state(config, encoder, num_ids)
    state = checkpoints.restore(checkpoints.latest_step, like)
    checkpoints.close()
    return jax.device_get(state)


@pytest.mark.usefixtures("traced_once")
def test_a_run_leaves_what_the_readme_says(make, tmp_path, capsys):
    config, workdir = make(), tmp_path / "run"
    results = train.train_and_evaluate(config, workdir)
    assert json.loads((workdir / "results.json").read_text()) == results
    names = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")
    for which in ("valid", "test", "test_full", "baseline/popularity/test"):
        assert all(0 <= results[f"{which}/{name}"] <= 1 for name in names)
    assert results["baseline/popularity/test_full/hr@10"] > 0
    assert results["synthetic"] is True
    assert json.loads((workdir / "config.json").read_text())["loss"]["alpha"] == 0.5
    assert list((workdir / "tensorboard").glob("events.*"))
    rows = lines(workdir)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6, 3 * results["best_epoch"]]
    assert [row["epoch"] for row in rows[:8]] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert {"train/loss", "train/nll", "train/infonce"} <= rows[0].keys()
    valid = [row["valid/hr@10"] for row in rows if "valid/hr@10" in row]
    assert results["valid/hr@10"] == max(valid)
    assert results["best_epoch"] == 1 + valid.index(max(valid))
    printed = capsys.readouterr().out
    assert "synthetic" in printed
    assert f"{results['test_full/hr@10']:.4f}" in printed

    # Once more: nothing is trained, the same is printed.
    before = (workdir / "metrics.jsonl").read_bytes()
    assert train.train_and_evaluate(config, workdir) == results
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("causal", [True, False])
def test_k_steps_kill_and_resume_is_the_straight_run(make, ran, tmp_path, monkeypatch, causal):
    changes = {"model__causal": causal, "train__checkpoint_every_steps": 1}
    config = make(**changes)
    expected = ran(tmp_path / "straight", **changes)
    num_ids = expected["tracks"] + 2
    straight = final_state(config, tmp_path / "straight", num_ids)
    whole, workdir = SessionBatches.batch, tmp_path / "stopped"
    for stop in (1, 3, 4):  # inside, between and inside epochs; one after the other

        def batch(self, number, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return whole(self, number)

        monkeypatch.setattr(SessionBatches, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, workdir)
        assert not (workdir / "results.json").exists()
    monkeypatch.undo()
    assert train.train_and_evaluate(config, workdir) == expected
    state = final_state(config, workdir, num_ids)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(straight), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert lines(workdir) == lines(tmp_path / "straight")


@pytest.mark.parametrize(("levels", "which"), [((), "no"), ((0, 1, 2, 3), "every"), ((1,), None)])
def test_data_without_skips_or_plays_is_said(make, levels, which):
    config = make(data__skip_levels=levels)
    split = train.split_as(config.data, train.sources.load(config.data))
    said = [
        line for line in run_report.facts(config, split, ONE).splitlines() if "as skipped" in line
    ]
    assert [line.partition(" event counts as skipped (skip level")[0] for line in said] == (
        [which] if which else []
    )
    config.loss.alpha = 0.0
    assert "as skipped" not in run_report.facts(config, split, ONE)


@pytest.mark.parametrize("labels", ["shuffled", "ignored"])
def test_labels_that_are_not_the_logged_ones_are_said(make, labels):
    config = make(data__labels=labels)
    split = train.split_as(config.data, train.sources.load(config.data))
    said = run_report.facts(config, split, ONE)
    assert f"a control: skip labels of training are {labels}\n" in f"{said}\n"
    assert split.skipped.any()  # in what is held out
    assert ("no event counts as skipped" in said) == (labels == "ignored")
    assert split.skipped_means == f"skip level 1 or 2; labels of training {labels}"


@pytest.mark.usefixtures("traced_once")
def test_a_resumed_run_that_lost_its_place_would_be_noticed(make, ran, tmp_path):
    # The control for the test above: another order of batches gives other parameters.
    results = {}
    for seed in (0, 1):
        config = make(seed=seed)
        found = ran(tmp_path / str(seed), **({"seed": seed} if seed else {}))
        results[seed] = final_state(config, tmp_path / str(seed), found["tracks"] + 2)
    assert not np.array_equal(results[0].params["table"], results[1].params["table"])


def test_more_epochs_go_on_where_fewer_ended(make, ran, tmp_path):
    straight = train.train_and_evaluate(make(train__num_epochs=3), tmp_path / "straight")
    ran(tmp_path / "more", train__num_epochs=1)
    longer = train.train_and_evaluate(make(train__num_epochs=3), tmp_path / "more")
    assert longer == straight
    assert longer["epochs"] == 3
    assert lines(tmp_path / "more") == lines(tmp_path / "straight")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"loss__alpha": 0.4},
        {"optimizer__learning_rate": 0.1},
        {"data__demo__seed": 1},
        {"eval__num_candidates": 50},
    ],
)
def test_a_field_that_changes_the_result_is_refused(make, ran, tmp_path, change):
    ran(tmp_path, train__num_epochs=1)
    field = next(iter(change)).replace("__", ".")
    with pytest.raises(CheckpointError, match=rf"config\.{field} = .* choose another --workdir"):
        train.train_and_evaluate(make(**change), tmp_path)


def test_num_epochs_may_not_change_under_a_decay(make, tmp_path):
    decay = {"optimizer__decay": "cosine"}
    train.train_and_evaluate(make(train__num_epochs=1, **decay), tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.train\.num_epochs = 1, not 2"):
        train.train_and_evaluate(make(train__num_epochs=2, **decay), tmp_path)


def test_other_data_under_the_same_config_is_refused(make, tmp_path):
    table = tmp_path / "plays.csv"
    changes = {
        "data__source": "table",
        "data__path": str(table),
        "data__table__position_column": "i",
        "data__table__skip_column": "skipped",
        "sampling__num_negatives": 20,
        "train__batch_size": 16,
        "eval__num_candidates": 20,
        "train__num_epochs": 1,
    }

    def write(shift):
        rows = [
            f"s{s},t{(s * 3 + i + shift * (i == 2)) % 40},{i},{i % 2}"
            for s in range(20)
            for i in range(6)
        ]
        table.write_text("session_id,track_id,i,skipped\n" + "\n".join(rows) + "\n")

    write(0)
    train.train_and_evaluate(make(**changes), tmp_path / "run")
    write(1)
    for epochs in (1, 2):  # whether it is finished or has more to do
        changes["train__num_epochs"] = epochs
        with pytest.raises(CheckpointError, match=r"other data .* choose another --workdir"):
            train.train_and_evaluate(make(**changes), tmp_path / "run")


@pytest.mark.usefixtures("traced_once")
def test_the_best_epoch_outlives_newer_ones_and_is_tested(make, ran, tmp_path, monkeypatch):
    # The first epoch is made to look best; the run then stops after `patience` more.
    found = train.evaluate.summarise
    values = iter([0.9, 0.5, 0.9, 0.4])

    def planted(ranks, names, prefix=""):
        numbers = found(ranks, names, prefix)
        if set(ranks) == {"valid"}:
            numbers["valid/hr@10"] = next(values, 0.9)
        return numbers

    monkeypatch.setattr(train.evaluate, "summarise", planted)
    config = make(train__num_epochs=9, train__patience=3)
    results = train.train_and_evaluate(config, tmp_path / "long")
    assert (results["best_epoch"], results["epochs"]) == (1, 4)
    assert results["stopped_early"]
    kept = {int(p.name) for p in (tmp_path / "long" / "checkpoints").iterdir()}
    assert kept == {3, 9, 12}
    monkeypatch.undo()
    one = ran(tmp_path / "one", train__num_epochs=1)
    same = [name for name in one if name.startswith(("test/", "test_full/"))]
    assert {name: one[name] for name in same} == {name: results[name] for name in same}


@pytest.mark.usefixtures("traced_once")
def test_a_loss_that_is_not_finite_ends_the_run_by_step(make, tmp_path):
    config = make(optimizer__learning_rate=1e30, train__checkpoint_every_steps=1)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+; lower"):
        train.train_and_evaluate(config, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    bad = checkpoints.latest_step
    checkpoints.close()
    assert bad is None or bad < 6


@pytest.mark.parametrize(
    ("number", "stop"),  # inside an epoch, at its end, at the end of all
    [
        (signal.SIGTERM, 2),
        (signal.SIGTERM, 3),
        (signal.SIGTERM, 6),
        (signal.SIGINT, 2),
        pytest.param(signal.SIGINT, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 6, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("traced_once")
def test_a_signal_ends_the_run_after_its_step(
    make, ran, tmp_path, monkeypatch, number, stop, request
):
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, interrupt))
    config = make(train__log_every_steps=3)
    expected = ran(tmp_path / "straight", train__log_every_steps=3)
    make_train_step = step.make_train_step

    def planted(*args, **kwargs):
        train_step = make_train_step(*args, **kwargs)

        def counted(state, *rest):
            if int(state.step) + 1 == stop:
                signal.raise_signal(number)
            return train_step(state, *rest)

        return counted

    monkeypatch.setattr(step, "make_train_step", planted)
    handlers = [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(
        Interrupted, match=f"{number.name} at step {stop}, which is saved"
    ) as caught:
        train.train_and_evaluate(config, tmp_path / "run")
    assert caught.value.exit_code == 128 + number
    assert [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)] == handlers
    monkeypatch.undo()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.latest_step == stop
    checkpoints.close()
    assert train.train_and_evaluate(config, tmp_path / "run") == expected
    assert lines(tmp_path / "run") == lines(tmp_path / "straight")


@pytest.mark.usefixtures("traced_once")
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(make, ran, tmp_path, capsys):
    changes = {"model__causal": True, "train__checkpoint_every_steps": 1}
    config = make(**changes)
    expected = ran(tmp_path / "straight", **changes)
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    damaged = tmp_path / "run" / "checkpoints" / "6"
    array = max((p for p in damaged.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1])
    capsys.readouterr()
    assert train.train_and_evaluate(config, tmp_path / "run") == expected
    printed = capsys.readouterr().out
    assert "Set aside as damaged-6." in printed
    assert "Going on from step 5" in printed
    assert lines(tmp_path / "run") == lines(tmp_path / "straight")
    assert (damaged.parent / "damaged-6").is_dir()


@pytest.mark.usefixtures("traced_once")
def test_a_damaged_best_epoch_is_said_at_once(make, tmp_path, monkeypatch):
    found = train.evaluate.summarise

    def planted(ranks, names, prefix=""):
        return found(ranks, names, prefix) | (
            {"valid/hr@10": 0.5} if set(ranks) == {"valid"} else {}
        )

    monkeypatch.setattr(train.evaluate, "summarise", planted)
    train.train_and_evaluate(make(train__num_epochs=4, train__patience=9), tmp_path)
    (tmp_path / "checkpoints" / "3" / "manifest.json").write_text("{}")  # of the first, the best
    with pytest.raises(CheckpointError, match=r"checkpoints/3.* to train again"):
        train.train_and_evaluate(make(train__num_epochs=5, train__patience=9), tmp_path)


def test_a_lost_config_does_not_let_another_run_in(make, ran, tmp_path):
    ran(tmp_path, train__num_epochs=1)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.seed = 0, not 1"):
        train.train_and_evaluate(make(seed=1), tmp_path)
    assert not (tmp_path / "config.json").exists()
    (tmp_path / "config.json").write_text(json.dumps(as_json(make(seed=1))))
    with pytest.raises(CheckpointError, match=r"config\.seed = 0, not 1"):
        train.train_and_evaluate(make(seed=1), tmp_path)


@pytest.mark.usefixtures("traced_once")
def test_a_lost_or_damaged_config_is_made_again(make, ran, tmp_path, capsys):
    """Where a checkpoint holds it; which of those is damaged is known by its manifest."""
    expected = ran(tmp_path)
    path = tmp_path / "config.json"
    content, newest = path.read_text(), tmp_path / "checkpoints" / "6" / "manifest.json"
    capsys.readouterr()
    for text in (None, "{", content.replace('"seed": 0', '"seed": 1')):
        path.unlink() if text is None else path.write_text(text)
        assert train.train_and_evaluate(make(), tmp_path) == expected
        assert path.read_text() == content
        said = f"{path} was lost or damaged; made again from the newest checkpoint."
        assert said in capsys.readouterr().out
    path.unlink()
    (tmp_path / "results.json").unlink()
    newest.write_text(newest.read_text().replace('"seed": 0', '"seed": 1'))
    assert train.train_and_evaluate(make(), tmp_path) == expected
    assert path.read_text() == content
    shutil.rmtree(tmp_path / "checkpoints")
    path.unlink()
    with pytest.raises(OutputError, match="not a run's folder"):
        train.train_and_evaluate(make(), tmp_path)


def test_a_folder_of_other_things_is_refused(make, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"holds thesis\.tex, but no config\.json"):
        train.train_and_evaluate(make(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".lock"}


def test_a_second_process_is_refused(make, tmp_path):
    with lock(tmp_path / ".lock"), pytest.raises(BusyError, match="in use by another process"):
        train.train_and_evaluate(make(), tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data__source": "msd"}, ConfigError, "Did you mean 'mssd'"),
        ({"data__source": "mssd"}, ConfigError, r"config\.data\.path is empty"),
        ({"data__source": "mssd", "data__path": "nowhere"}, DataError, "nowhere: no such file"),
        ({"data__min_length": 20, "data__max_length": 20, "train__batch_size": 2}, None, None),
        ({"data__max_length": 15}, None, None),
        ({"train__batch_size": 0}, ConfigError, r"config\.train\.batch_size is 0; it must be"),
        ({"loss__temperature": 0.0}, ConfigError, r"config\.loss\.temperature is 0\.0"),
        ({"loss__alpha": 0.0, "loss__beta": 0.0}, ConfigError, "nothing to learn"),
        ({"loss__context": "tracks"}, ConfigError, r"config\.loss\.context is 'tracks'"),
        ({"model__num_heads": 5}, ConfigError, r"divisible by config\.model\.num_heads \(5\)"),
        ({"eval__metrics": ("hr@10", "auc")}, ConfigError, "there is no metric 'auc'"),
        ({"eval__num_candidates": 300}, ConfigError, r"config\.eval\.num_candidates is 300"),
        ({"train__batch_size": 81}, ConfigError, "batch_size is 81, but there are only 80 sess"),
        ({"sampling__num_negatives": 300}, ConfigError, "num_negatives is 300, but there are only"),
        ({"eval__keep_top": 301}, ConfigError, "keep_top is 301, but there are only"),
        (
            {"optimizer__warmup_steps": 6, "optimizer__decay": "linear"},
            ConfigError,
            "warmup_steps is 6, but the run and its linear decay end after 6 steps",
        ),
    ],
)
def test_input_that_cannot_be_used_leaves_nothing_behind(make, tmp_path, change, error, message):
    workdir = tmp_path / "deep" / "run"
    if error is None:  # the controls: valid all the same
        train.train_and_evaluate(make(train__num_epochs=1, **change), workdir)
        assert (workdir / "results.json").exists()
        return
    with pytest.raises(error, match=message) as caught:
        train.train_and_evaluate(make(**change), workdir)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_a_file_is_named(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.* cannot be (created|written)"):
        train.train_and_evaluate(make(), tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="file is a file; choose another --workdir"):
        train.train_and_evaluate(make(), tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *itertools.product(
            ["config.json", "results.json"], [b"{", b"", b"\xff", b"[1]", b"3", b"null"]
        ),
        ("results.json", b'{"epochs": 1, "best_epoch": 1}'),
    ],
)
def test_a_damaged_file_is_named(make, tmp_path, name, text):
    config = make(train__num_epochs=1)
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    (tmp_path / name).write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: it is damaged") as caught:
        train.train_and_evaluate(config, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    fix = {"config.json": "choose another --workdir", "results.json": "the same command makes it"}
    assert fix[name] in str(caught.value)


BY_TIME = {
    "model__num_layers": 1,
    "data__split": "temporal",
    "data__temporal__test_hours": 6.0,
    "data__temporal__valid_hours": 4.0,
    "train__batch_size": 12,
}


@pytest.mark.parametrize("name", ["causal", "bidirectional"])
def test_a_split_in_time_from_training_to_evaluation(make, tmp_path, capsys, name):
    config = make(model__causal=name == "causal", **BY_TIME)
    # All positions of a whole session are trained, but that a causal model does not read its last.
    longest = config.data.max_length - config.model.causal
    assert train.check_config(config).num_positions == longest
    workdir = tmp_path / "run"
    results = train.train_and_evaluate(config, workdir)
    said = capsys.readouterr().out
    assert results["split"] == "temporal: last 6 h, gap 30 min"
    assert f"epoch {results['best_epoch']} of 2; temporal: last 6 h, gap 30 min" in said

    parts = parquet.read_table(workdir / "split.parquet")
    counts = collections.Counter(parts["part"].to_pylist())
    assert dict(counts) == results["parts"]
    assert sum(counts.values()) == results["sessions"] < 80
    assert f"{counts['train']} sessions to train on, {counts['valid']} to validate with" in said
    left_out = 80 - results["sessions"]
    assert f"left out: {left_out} sessions at a boundary of the split in time" in said
    table = parquet.read_table(workdir / "sessions.parquet")
    tested = parts.filter(pc.equal(parts["part"], "test"))["session_id"]
    assert table["session_id"].to_pylist() == tested.to_pylist()
    tracks = parquet.read_table(workdir / "tracks.parquet").to_pylist()
    plays = {row["track_id"]: row["plays"] for row in tracks}
    cold = np.mean([plays[track] == 0 for track in table["target"].to_pylist()])
    assert 0 < cold == results["test/cold_share"] < 1
    assert f"cold: training never sees {cold:.1%} of the test targets" in said
    found = (np.array(table["rank_full"]) <= 10).mean()
    assert results["test_full/hr@10"] == pytest.approx(found)

    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    said = capsys.readouterr().out
    assert f"on {counts['test']} synthetic demo sessions, epoch {results['best_epoch']}; " in said
    assert "; temporal: last 6 h, gap 30 min" in said
    assert f"cold: training never sees {cold:.1%}" in said
    for metric in ("test/hr@10", "test_full/mrr", "baseline/popularity/test/hr@10"):
        assert f"{results[metric]:.4f}" in said


def test_a_split_in_time_goes_on_and_is_made_again(make, tmp_path, monkeypatch):
    config = make(**BY_TIME)
    results = train.train_and_evaluate(config, tmp_path / "run")
    path = tmp_path / "run" / "split.parquet"
    content = path.read_bytes()
    path.unlink()
    assert train.train_and_evaluate(config, tmp_path / "run") == results
    assert path.read_bytes() == content
    whole = SessionBatches.batch

    def stopped(self, number):
        if number == -(-results["parts"]["train"] // 12) + 1:  # the second of the second epoch
            raise KeyboardInterrupt
        return whole(self, number)

    monkeypatch.setattr(SessionBatches, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, tmp_path / "stopped")
    monkeypatch.undo()
    assert train.train_and_evaluate(config, tmp_path / "stopped") == results
    assert lines(tmp_path / "stopped") == lines(tmp_path / "run")


def test_another_split_is_refused(make, tmp_path):
    """As another version may make of the same config and data."""
    config = make(**BY_TIME, train__num_epochs=1)
    train.train_and_evaluate(config, tmp_path)
    path = tmp_path / "split.parquet"
    parts = parquet.read_table(path)
    moved = pc.if_else(pc.equal(parts["part"], "valid"), "train", parts["part"])
    for content, message in (
        (parts.set_column(1, "part", moved), "other sessions for training, validation and test"),
        (None, "split.parquet cannot be read .*; remove it, and training makes it again"),
    ):
        if content is None:
            path.write_bytes(b"PAR1")
        else:
            parquet.write_table(content, path)
        for again in (
            lambda: train.train_and_evaluate(config, tmp_path),
            lambda: check_same_split(parts, tmp_path),
        ):
            with pytest.raises(CheckpointError, match=message) as caught:
                again()
            assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    check_same_split(parts, tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.data\.split = 'temporal', not 'leave_one"):
        train.train_and_evaluate(make(train__num_epochs=1), tmp_path)
    with pytest.raises(CheckpointError, match=r"temporal\.gap_minutes = 30\.0, not 31\.0"):
        train.train_and_evaluate(make(**BY_TIME, data__temporal__gap_minutes=31.0), tmp_path)


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_what_is_held_out_does_not_change_the_loss(make, split):
    """Ids and labels, as long as the catalogue is the same."""
    rng = np.random.default_rng(0)
    listening = random_listening(rng, num_sessions=45, low=4)
    # All tracks are in training, so that ids stay what they are.
    for s in range(4):
        tracks = [f"t{(18 * s + i) % 60:04d}" for i in range(18)] + ["t0000"] * 2
        listening[s] = [(track, i % 3) for i, track in enumerate(tracks)]
    held_out = range(15, 45) if split == "temporal" else range(45)
    config = make(
        data__split=split,
        data__temporal__test_hours=15.0,
        data__temporal__valid_hours=14.0,
        data__temporal__gap_minutes=0.0,
        model__skip_embedding=True,
        model__num_layers=1,
        sampling__num_negatives=20,
        train__batch_size=10,
    )
    encoder, made = train.check_config(config), []
    for change in (False, True):
        for s in held_out if change else ():
            first = 0 if split == "temporal" else len(listening[s]) - 2
            listening[s][first:] = [
                (f"t{(int(track[1:]) * 7 + 3) % 60:04d}", (level + 2) % 4)
                for track, level in listening[s][first:]
            ]
        times = pa.array([3600 * s for s, some in enumerate(listening) for _ in some], pa.int64())
        sessions = make_sessions(listening, context={"time": times}, time_unit="s")
        made.append(split_as(config.data, sessions))
        size = len(made[-1].parts["train"].sessions)
        assert size == (45 if split == "leave_one_out" else 15)
    assert (made[0].tracks != made[1].tracks).any()
    assert (made[0].skipped != made[1].skipped).any()
    train_step = step.make_train_step(config, encoder, num_steps=2)
    hyper, key = step.hyperparameters(config, num_steps=2), step.train_key(config)
    ends = []
    for one in made:
        batches = SessionBatches(one, batch_size=10, max_length=20, seed=0)
        state, losses = step.init_state(config, encoder, one.num_ids), []
        for i in range(2):
            state, values = train_step(state, batches.batch(i), hyper, key)
            losses.append(float(values["loss"]))
        ends.append((losses, jax.device_get(state)))
    assert ends[0][0] == ends[1][0]
    for ours, theirs in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "name",
    [
        "sasrec_skip",
        "bert4rec_skip",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("sasrec", "bert4rec", "recommended")),
    ],
)
def test_each_config_runs(make, tmp_path, name):
    """Every published config end to end, on less data and fewer negatives."""
    config = importlib.import_module(f"configs.{name}").get_config()
    small = make()
    config.data = small.data
    config.train.num_epochs = 1
    config.sampling.num_negatives = 20
    config.eval.num_candidates = 50
    results = train.train_and_evaluate(config, tmp_path)
    assert np.isfinite(results["test_full/mrr"])


@pytest.mark.parametrize("scope", ["batch", "full"])
def test_other_softmaxes_run(make, tmp_path, scope):
    results = train.train_and_evaluate(make(sampling__scope=scope), tmp_path)
    assert results["epochs"] == 2


@pytest.mark.slow
def test_kill_in_a_process_of_its_own(make, tmp_path, cache):
    """SIGKILL at any moment; the command run again ends as if nothing had been."""
    command = [
        sys.executable,
        "main.py",
        "--config=configs/tiny.py",
        f"--config.data.cache_dir={cache}",
        "--config.train.num_epochs=6",
        "--config.train.checkpoint_every_steps=1",
    ]
    straight = subprocess.run([*command, f"--workdir={tmp_path}/a"], capture_output=True)
    assert straight.returncode == 0, straight.stderr
    for number in (1, 4, 9):  # killed as soon as that checkpoint is there, or a while later
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        process = subprocess.Popen([*command, f"--workdir={tmp_path}/b"], stdout=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "b/checkpoints" / str(number)).exists():
            time.sleep(0.01)
        time.sleep(0.05 * number)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        again = subprocess.run([*command, f"--workdir={tmp_path}/b"], capture_output=True)
        assert again.returncode == 0, again.stderr
        a, b = (json.loads((tmp_path / n / "results.json").read_text()) for n in "ab")
        assert a == b
        assert lines(tmp_path / "a") == lines(tmp_path / "b")


@pytest.mark.usefixtures("traced_once")
def test_what_a_finished_run_has_lost_is_made_again(make, ran, tmp_path):
    expected = ran(tmp_path, train__num_epochs=1)
    for name in ("sessions.parquet", "tracks.parquet"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        assert train.train_and_evaluate(make(train__num_epochs=1), tmp_path) == expected
        assert (tmp_path / name).read_bytes() == content


def test_dropped_sessions_are_said(make, tmp_path, capsys):
    table = tmp_path / "plays.csv"
    rows = [f"s{s},t{(s * 3 + i) % 40},{i},{i % 2}" for s in range(20) for i in range(6)]
    rows[8] = "s1,t5,2,maybe"
    table.write_text("session_id,track_id,i,skipped\n" + "\n".join(rows) + "\n")
    changes = {
        "data__source": "table",
        "data__path": str(table),
        "data__table__position_column": "i",
        "data__table__skip_column": "skipped",
        "eval__num_candidates": 20,
        "sampling__num_negatives": 10,
        "train__batch_size": 8,
        "train__num_epochs": 1,
    }
    with pytest.raises(DataError, match=r"plays\.csv row 10, column skipped"):
        train.train_and_evaluate(make(**changes), tmp_path / "run")
    results = train.train_and_evaluate(
        make(data__on_bad_session="drop", **changes), tmp_path / "run"
    )
    assert results["sessions"] == 19
    assert "dropped as bad: 1 session (6 events)" in capsys.readouterr().out
