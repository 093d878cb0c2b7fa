"""Checkpoints are there whole or not at all, and damage to them is found."""

import errno
import os
import re
import threading

import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import files
from skipjax.checkpoints import Checkpoints
from skipjax.errors import CheckpointError, DivergedError, OutputError


@flax.struct.dataclass
class State:
    step: jnp.ndarray
    table: jnp.ndarray


def state(step, rows=3):
    return State(jnp.int32(step), jnp.full((rows, 2), float(step)))


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    yield checkpoints
    checkpoints.close()


def test_what_was_saved_comes_back(checkpoints):
    assert checkpoints.latest_step is None
    history = [0.25]
    for step in (1, 2):
        checkpoints.save(state(step), {"history": history}, best_step=1)
        history.append(0.5)  # the background save must not see this
    checkpoints.wait()
    assert checkpoints.latest_step == 2
    assert checkpoints.progress(1) == {"history": [0.25]}
    assert checkpoints.progress(2) == {"history": [0.25, 0.5]}
    restored = checkpoints.restore(1, state(0))
    assert int(restored.step) == 1
    np.testing.assert_array_equal(restored.table, np.ones((3, 2)))


def test_the_newest_two_and_their_best_are_kept(checkpoints, tmp_path):
    kept = []
    for step, best in enumerate([1, 1, 3, 3, 3, 6, 6, 6], start=1):
        checkpoints.save(state(step), {}, best_step=best)
        checkpoints.wait()
        kept.append(sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()))
    assert kept[:4] == [[1], [1, 2], [1, 2, 3], [3, 4]]
    # While the run may have to go on from 5, it needs what was best then.
    assert kept[4:] == [[3, 4, 5], [3, 5, 6], [6, 7], [6, 7, 8]]
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.latest_step == 8
    again.save(state(9), {}, best_step=9)
    again.wait()
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {6, 8, 9}
    again.close()


def test_a_step_that_is_there_already_is_not_called_saved(checkpoints):
    checkpoints.save(state(4), {}, best_step=-1)
    with pytest.raises(OutputError, match="4 exists already"):
        checkpoints.save(state(4), {}, best_step=-1)


def test_what_is_not_finite_is_not_saved(checkpoints, tmp_path):
    checkpoints.save(state(1), {}, best_step=-1)
    for value in (np.nan, np.inf):
        bad = state(2).replace(table=state(2).table.at[1, 1].set(value))
        with pytest.raises(DivergedError, match="not finite after step 2"):
            checkpoints.save(bad, {}, best_step=-1)
    assert checkpoints.latest_step == 1


def test_a_failed_save_is_told_and_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    checkpoints.save(state(1), {}, best_step=-1)
    checkpoints.wait()
    fsync = os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    checkpoints.save(state(2), {}, best_step=-1)
    with pytest.raises(OutputError) as caught:
        checkpoints.wait()
    assert str(caught.value) == (
        f"{tmp_path}/checkpoints/2: not saved: No space left on device; make room and run the same "
        "command again: it goes on from step 1."
    )
    monkeypatch.setattr(os, "fsync", fsync)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    checkpoints.save(state(2), {}, best_step=-1)  # there is room again
    checkpoints.wait()
    assert checkpoints.latest_step == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'RESOURCE_EXHAUSTED: Error writing "table/0.0" in OCDBT database at local file "/x/": '
            "Failed to write 2730389 bytes to file 9: No space left on device "
            "[os_error_code='28']\nmore",
            "No space left on device; make room and run",
        ),
        ("... failed: Input/output error [os_error_code='5']", "Input/output error; mend that and"),
        (f"{'x' * 500} why\nmore", f"{'x' * 196} why; mend that and run the same command again"),
    ],
)
def test_why_the_arrays_were_not_saved_is_said_first(checkpoints, monkeypatch, text, said):
    def fail(*_, **__):
        raise ValueError(text)

    monkeypatch.setattr(checkpoints._arrays, "save", fail)
    with pytest.raises(OutputError) as caught:
        checkpoints.save(state(1), {}, best_step=-1)
    assert f"checkpoints/1: not saved: {said}" in str(caught.value)
    assert str(caught.value).endswith("run the same command again: it begins anew.")
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_no_thread_behind(checkpoints, monkeypatch):
    """Which would keep the process from ending, for minutes."""
    mkdir, before = os.mkdir, set(threading.enumerate())

    def full(path, *rest, **more):
        if "orbax" in os.fspath(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(path, *rest, **more)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(OutputError, match="1: not saved: No space left on device; make room"):
        checkpoints.save(state(1), {}, best_step=-1)
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        if not thread.daemon:
            thread.join(30)
            assert not thread.is_alive(), thread


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / ".7.tmp-abc" / "state").mkdir(parents=True)
    (folder / ".5.tmp-removed").mkdir()
    with files.new_folder(folder / "8") as temporary:  # somebody is at work on this one
        Checkpoints(folder).close()
        assert [path.name for path in folder.iterdir()] == [temporary.name]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda step: (step / "manifest.json").unlink(), "has no manifest"),
        (lambda step: flip(step / "manifest.json", 40), "checksum|cannot be read"),
        (lambda step: flip(largest(step), 5), "differs from its manifest"),
        (lambda step: largest(step).unlink(), "is missing"),
        (lambda step: largest(step).write_bytes(b""), "has 0 bytes"),
        (lambda step: rename_to_next(step), "is not step 3 in format 1: its manifest says step 2"),
    ],
)
def test_a_damaged_step_is_set_aside(checkpoints, tmp_path, damage, why):
    for step in (1, 2):
        checkpoints.save(state(step), {}, best_step=-1)
    checkpoints.close()
    folder, said = tmp_path / "checkpoints", []
    damage(folder / "2")
    again = Checkpoints(folder, said.append)
    assert again.latest_step == 1
    assert len(said) == 1
    assert re.search(why, said[0])
    assert "Set aside as damaged-" in said[0]
    assert {path.name for path in folder.iterdir()} == {"1", said[0].split()[-1].rstrip(".")}
    assert int(again.restore(1, state(0)).step) == 1
    again.close()


def test_a_damaged_step_is_not_restored(checkpoints, tmp_path):
    checkpoints.save(state(1), {}, best_step=-1)
    checkpoints.close()
    flip(largest(tmp_path / "checkpoints" / "1"), 9)
    again = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="differs from its manifest"):
        again.restore(1, state(0))
    with pytest.raises(CheckpointError, match="9 is missing"):
        again.progress(9)
    again.close()


def test_the_best_is_known_without_reading_the_newest(checkpoints, tmp_path, monkeypatch):
    assert checkpoints.best_step is None
    for step in (1, 2):
        checkpoints.save(state(step), {}, best_step=1)
    checkpoints.close()
    folder, read = tmp_path / "checkpoints", []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(str(path)) or sha256(path))
    again = Checkpoints(folder)
    assert again.best_step == 1
    assert read == []
    again.restore(again.best_step, state(0))
    again.progress(again.best_step)
    whole = [path for path in (folder / "1").rglob("*") if path.is_file()]
    assert len(read) == len(whole) - 1  # each once, and the manifest tells of itself
    flip(folder / "2" / "manifest.json", -20)
    with pytest.raises(CheckpointError, match=r"2/manifest\.json.* Run main\.py in this --workdir"):
        assert Checkpoints(folder).best_step
    again.close()


def largest(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != files.MANIFEST)
    return max(paths, key=lambda path: (path.stat().st_size, path.name))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def rename_to_next(step):
    step.rename(step.parent / str(int(step.name) + 1))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (state(0, rows=4), r"holds float32\[3, 2\] as \.table, but this run has float32\[4, 2\]"),
        (State(jnp.int32(0), jnp.zeros((3, 2), jnp.int32)), r"this run has int32\[3, 2\]"),
        ({"step": jnp.int32(0)}, r"holds int32\[\] as \.step, but this run has nothing"),
    ],
)
def test_another_shape_is_refused_in_one_line(checkpoints, like, message):
    checkpoints.save(state(4), {}, best_step=-1)
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.restore(4, like)
    assert "\n" not in str(caught.value)
