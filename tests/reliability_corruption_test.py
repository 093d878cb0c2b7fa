"""A single fault in what lies on disk is noticed before it is used."""

import importlib
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pytest
from faults.damage import done_to, single_faults
from faults.states import differing, make_state
from pyarrow import parquet

from skipjax import train
from skipjax.checkpoints import Checkpoints
from skipjax.data import sources, table
from skipjax.data.sessions import Sessions
from skipjax.data.split import split_as
from skipjax.errors import CheckpointError, DataError
from skipjax.study.outcomes import outcome_of_runs

pytestmark = pytest.mark.reliability

FAULTS, SEED = 500, 0


@pytest.fixture
def checkpoints_folder(tmp_path):
    """Of steps 2 to 4, of which 2 is the best."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (2, 3, 4):
        checkpoints.save(make_state(step), {"history": [0.25, 0.5]}, best_step=2)
    checkpoints.wait()
    checkpoints.close()
    return tmp_path / "checkpoints"


def chosen(folder, short):
    faults = single_faults(folder, FAULTS, SEED)
    assert len(faults) >= 400
    return faults[::8] if short else faults


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    checkpoints_folder, short, tally
):
    faults, lost = chosen(checkpoints_folder / "4", short), []
    like, before = jax.eval_shape(lambda: make_state(0)), make_state(3)
    for i, fault in enumerate(faults):
        said = []
        with done_to(checkpoints_folder / "4", fault):
            checkpoints = Checkpoints(checkpoints_folder, said.append)
            found = checkpoints.latest_step
            restored = checkpoints.restore(found, like) if not i % 8 else before
            checkpoints.close()
            there = {path.name for path in checkpoints_folder.iterdir()}
            if "damaged-4" in there:
                (checkpoints_folder / "damaged-4").rename(checkpoints_folder / "4")
        as_promised = (
            found == 3
            and there == {"2", "3", "damaged-4"}
            and len(said) == 1
            and "damaged-4" in said[0]
            and "\n" not in said[0]
            and not differing(restored, before)
        )
        if not as_promised:
            lost.append((i, fault, found, there, said))
    tally("a damaged checkpoint is set aside, the one before it used", len(faults), len(lost))
    assert not lost, f"seed {SEED}: {lost}"
    checkpoints = Checkpoints(checkpoints_folder)  # the control: without a fault it is sound
    assert checkpoints.latest_step == 4
    assert not differing(checkpoints.restore(4, like), make_state(4))
    checkpoints.close()


def test_a_damaged_best_checkpoint_is_refused(checkpoints_folder, short, tally):
    faults, lost = chosen(checkpoints_folder / "2", short), []
    like = jax.eval_shape(lambda: make_state(0))
    for i, fault in enumerate(faults):
        with done_to(checkpoints_folder / "2", fault):
            checkpoints = Checkpoints(checkpoints_folder)
            for use, arguments in ((checkpoints.progress, ()), (checkpoints.restore, (like,))):
                try:
                    use(2, *arguments)
                except CheckpointError as error:
                    if "\n" not in str(error):
                        continue
                lost.append((i, fault))
            checkpoints.close()
    tally("a damaged older checkpoint is refused", len(faults), len(lost))
    assert not lost, f"seed {SEED}: {lost}"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a small run on demo sessions, whose `data.cache_dir` nobody else uses."""
    config = importlib.import_module("configs.tiny").get_config()
    config.data.cache_dir = str(tmp_path_factory.mktemp("cache"))
    config.data.demo.num_sessions = 60
    config.train.num_epochs = 1
    config.eval.keep_top = 10
    return config


def test_damaged_sessions_are_refused(config, short, tally):
    sources.load(config.data)
    (folder,) = Path(config.data.cache_dir).iterdir()
    faults, lost = chosen(folder, short), []
    for i, fault in enumerate(faults):
        with done_to(folder, fault):
            try:
                Sessions.open(folder)
            except DataError as error:
                if "\n" not in str(error) and str(folder) in str(error):
                    continue
            lost.append((i, fault))
    tally("damaged prepared sessions (Arrow) are refused", len(faults), len(lost))
    assert not lost, f"seed {SEED}: {lost}"
    assert Sessions.open(folder).num_sessions == 60


def test_damaged_results_are_refused_or_read_as_they_were(config, tmp_path, short, tally):
    """sessions.parquet, as a run writes it and the study reads it."""
    train.train_and_evaluate(config, tmp_path / "run")
    split = split_as(config.data, sources.load(config.data))
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(tmp_path / "run" / "sessions.parquet", folder)

    def read():
        outcome = outcome_of_runs("arm", (0,), [folder], split)
        return outcome.sampled, outcome.full, outcome.top

    expected = read()
    faults, lost = chosen(folder, short), []
    for i, fault in enumerate(faults):
        with done_to(folder, fault):
            try:
                found = read()
            except CheckpointError as error:
                if "\n" in str(error):
                    lost.append((i, fault, str(error)))
            else:  # what flipped says nothing: the name of the library that wrote it, say
                if not all(map(np.array_equal, found, expected)):
                    lost.append((i, fault))
    tally("damaged results (Parquet) are refused, or read as they were", len(faults), len(lost))
    assert not lost, f"seed {SEED}: {lost}"


def test_damaged_parquet_input_is_refused_or_read_as_it_was(tmp_path, short, tally, rng):
    """Logs that somebody else wrote, with page checksums."""
    rows = [
        (f"s{s}", f"t{int(rng.integers(40))}", i, i % 3 == 0) for s in range(30) for i in range(9)
    ]
    names = ("session_id", "track_id", "position", "skipped")
    table_in = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    logs = tmp_path / "logs"
    logs.mkdir()
    parquet.write_table(table_in, logs / "plays.parquet", write_page_checksum=True)
    columns = table.Columns(position_column="position", skip_column="skipped")

    def read(name):
        try:
            return table.prepare([logs], tmp_path / name, columns).digest
        finally:
            shutil.rmtree(tmp_path / name, ignore_errors=True)

    expected = read("sound")
    faults, lost = chosen(logs, short), []
    for i, fault in enumerate(faults):
        with done_to(logs, fault):
            try:
                if read(str(i)) != expected:
                    lost.append((i, fault))
            except DataError as error:
                if "\n" in str(error):
                    lost.append((i, fault, str(error)))
    tally(
        "damaged Parquet input that has page checksums is refused, or read as it was",
        len(faults),
        len(lost),
    )
    assert not lost, f"seed {SEED}: {lost}"
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}
