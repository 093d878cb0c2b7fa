"""A run's folder: one writer at a time, and a disk that fails or is full."""

import hashlib
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from faults.runs import SAVES, until_it_trains
from faults.trials import Fault, one_line

pytestmark = pytest.mark.reliability

SEED = 0
FAULTS, PARTS = 48, 4


def contents(folder):
    """All that lies in a folder, by path."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leftovers(workdir):
    return [str(path.relative_to(workdir)) for path in workdir.rglob(".*.tmp-*")]


@pytest.mark.parametrize("encoder", [0, 1])
def test_a_second_writer_is_refused_at_once(small_run, tmp_path, tally, encoder):
    run, workdir = small_run(encoder), tmp_path / "run"
    first = run.start(workdir)
    until_it_trains(first, workdir)
    first.signal(signal.SIGSTOP)  # still there, but it changes nothing meanwhile
    before, began = contents(workdir), time.monotonic()
    second = run.start(workdir)
    second.wait()
    seconds = time.monotonic() - began
    assert second.code == 75, second.errors
    assert one_line(second.errors)
    assert f"{workdir} is in use by another process" in second.errors
    assert second.output == ""
    assert contents(workdir) == before
    assert first.running
    first.signal(signal.SIGCONT)
    assert first.wait() == 0, first.errors
    lost = run.undisturbed.differences(run.ending(workdir))
    tally("a second writer is refused at once (exit 75)", 1, bool(lost))
    assert not lost
    assert seconds < run.seconds


def test_of_two_that_begin_at_once_one_is_refused(small_run, tmp_path, tally):
    run, workdir = small_run(0), tmp_path / "run"
    both = [run.start(workdir), run.start(workdir)]
    codes = sorted(trial.wait() for trial in both)
    lost = codes != [0, 75] or run.undisturbed.differences(run.ending(workdir))
    tally("a second writer is refused at once (exit 75)", 1, bool(lost))
    assert not lost, [codes, *(trial.errors for trial in both)]


@pytest.mark.parametrize("part", range(PARTS))
def test_a_fault_anywhere_in_a_run(small_run, tmp_path, shim, tally, short, part):
    """Not of a save alone: of the curves, the results, the lock, the removal of old steps."""
    if shim is None:
        pytest.skip("no C compiler")
    tried, lost = 0, []
    for number in range(FAULTS)[:: 8 if short else 1][part::PARTS]:
        rng = np.random.default_rng((SEED, number))
        run, workdir = small_run(int(rng.integers(2))), tmp_path / str(number)
        action = ("kill", "eio", "full")[number % 3]
        # Three of four times not of a checkpoint, which are most of them.
        below = "[!c]*" if rng.random() < 0.75 else "*"
        at = int(rng.integers(1, len(run.operations(below)) + 1))
        log = tmp_path / f"{number}.log"
        trial = run.start(workdir, Fault(f"{workdir}/{below}", action, at, log))
        trial.wait()
        hit = [line for line in log.read_text().splitlines() if line.startswith(f"{at}\t")]
        if not hit:
            continue
        tried += 1
        broken = []
        if trial.code not in ((-signal.SIGKILL,) if action == "kill" else (0, 73)):
            broken.append(f"exit code {trial.code}")
        if trial.code == 73 and not one_line(trial.errors):
            broken.append(trial.errors)
        if trial.code == 0 and (wrong := run.undisturbed.differences(run.ending(workdir))):
            broken.append(f"called done, but {wrong}")
        if action == "full" and workdir.exists() and leftovers(workdir):
            broken.append(f"{leftovers(workdir)} left")
        again = run.start(workdir)
        if again.wait():
            broken.append(f"then exit code {again.code}: {again.errors}")
        elif wrong := run.undisturbed.differences(run.ending(workdir)):
            broken.append(f"then {wrong}")
        elif leftovers(workdir):
            broken.append(f"then {leftovers(workdir)} left")
        if broken:
            lost.append((number, action, hit, broken))
    tally("an operation of a whole run fails: same end when run again", tried, len(lost))
    assert not lost, f"seed {SEED}: {lost}"
    assert tried


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_run, small_disk, tally, short):
    """Filled up in the middle of training, to the last 0 to 100 KB; then room is made again."""
    filler, tried, lost = small_disk / "filler", 0, []
    moments = range(8)[:: 8 if short else 1]
    for moment in moments:
        rng = np.random.default_rng((SEED, moment))
        run, workdir = small_run(moment % 2), small_disk / "run"
        trial = run.start(workdir)
        # Counted in steps: a run may be far faster or slower than the one that was timed.
        until_it_trains(trial, workdir, steps=int(rng.integers(1, SAVES[-1] // 2 + 1)))
        trial.signal(signal.SIGSTOP)
        there = os.statvfs(small_disk)
        room = there.f_bavail * there.f_frsize
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(room - int(rng.integers(100_000)), 4096))
        before = sorted((workdir / "checkpoints").glob("[0-9]*"))
        trial.signal(signal.SIGCONT)
        trial.wait()
        broken = []
        if trial.code == 73:
            tried += 1
            if not (one_line(trial.errors) and "No space left on device" in trial.errors):
                broken.append(trial.errors)
        elif trial.code != 0:  # as it is if what was still to be written found room after all
            broken.append(f"exit code {trial.code}: {trial.errors}")
        if leftovers(workdir):
            broken.append(f"{leftovers(workdir)} left")
        if before and not list((workdir / "checkpoints").glob("[0-9]*")):
            broken.append("old steps are gone")
        filler.unlink()
        again = run.start(workdir)
        if again.wait():
            broken.append(f"then exit code {again.code}: {again.errors}")
        elif wrong := run.undisturbed.differences(run.ending(workdir)):
            broken.append(f"then {wrong}")
        if broken:
            lost.append((moment, broken))
        shutil.rmtree(workdir)
    tally(
        "disk full while training: old steps stay, same end with room again",
        tried,
        len(lost),
    )
    assert not lost, f"seed {SEED}: {lost}"
    assert tried >= len(moments) / 2
