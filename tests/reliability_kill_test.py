"""Training that is killed or asked to end at any moment goes on as if nothing had been."""

import re
import signal
import time

import numpy as np
import pytest
from faults.runs import SAVES, read_lines, steps_saved, until_it_trains
from faults.trials import Fault, one_line

pytestmark = pytest.mark.reliability

SEED = 0
POINTS = ("epoch", "epoch", "save", "save", "save", "time", "time", "time")
MOMENTS, PARTS = 20, 4  # of each signal
KILLS, CHAINS = 200, 4


def leftovers(workdir):
    return [str(path.relative_to(workdir)) for path in workdir.rglob(".*.tmp-*")]


def goes_on(run, workdir):
    """What is not as promised when the command is given again, to the end."""
    newest = max(steps_saved(workdir), default=0)
    again = run.start(workdir)
    if again.wait() != 0:
        return [f"then exit code {again.code}: {again.errors}"]
    broken = run.undisturbed.differences(run.ending(workdir))
    if leftovers(workdir):
        broken.append(f"{leftovers(workdir)} left")
    if list((workdir / "checkpoints").glob("damaged-*")):
        broken.append("a checkpoint was damaged")
    if re.findall(r"Going on from step (\d+)", again.output) != [str(newest)] * bool(newest):
        broken.append(f"after step {newest}: {again.output}")
    return broken


@pytest.mark.parametrize("point", range(len(POINTS)))
def test_sigkill(small_run, tmp_path, shim, tally, short, point):
    if short and point and POINTS[point] == POINTS[point - 1]:
        pytest.skip("short: one of each kind")
    run, workdir = small_run(point % 2), tmp_path / "run"
    rng = np.random.default_rng((SEED, point))
    kind = POINTS[point] if shim else "time"
    if kind == "time":
        trial = run.start(workdir)
        until_it_trains(trial, workdir, int(rng.integers(1, 18)))
        time.sleep(rng.uniform(0, run.seconds_training / 20))
        trial.signal(signal.SIGKILL)
    else:  # as the last line of an epoch is written, or in the middle of a save
        below = "metrics.jsonl" if kind == "epoch" else "checkpoints*"
        operations = run.operations(below)
        if kind == "epoch":
            number = [x.number for x in operations if x.name == "write"][5::6][point]
        else:
            writing = [".tmp-" in x.path and x.name != "unlink" for x in operations]
            most = len(writing) * 2 // 3  # another run may need fewer
            amid = [i for i in range(5, most) if all(writing[i - 5 : i + 5])]
            number = operations[rng.choice(amid)].number
        trial = run.start(workdir, fault=Fault(f"{workdir}/{below}", "kill", number))
    assert trial.wait() == -signal.SIGKILL, trial.errors
    reached = max((line["step"] for line in read_lines(workdir)), default=0)
    begun = [0, 0, *(step for step in SAVES if step < reached)]
    broken = []
    if kind == "save" and not leftovers(workdir):
        broken.append("no save was going on")
    if max(steps_saved(workdir), default=0) < begun[-2]:
        broken.append(f"at step {reached}, but only {steps_saved(workdir)} were saved")
    broken += goes_on(run, workdir)
    tally("SIGKILL while training: one save lost at most, same end", 1, bool(broken))
    assert not broken, f"seed {SEED}, point {point}: {broken}"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    ("which", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_asked_to_end(small_run, tmp_path, tally, short, which, code, part):
    tried, trained, lost = 0, 0, []
    for moment in range(MOMENTS)[:: 8 if short else 1][part::PARTS]:
        rng = np.random.default_rng((SEED, which, moment))
        run, workdir = small_run(int(rng.integers(2))), tmp_path / str(moment)
        trial = run.start(workdir)
        until_it_trains(trial, workdir, int(rng.integers(1, 21)))
        time.sleep(rng.uniform(0, run.seconds_training / 10))
        trial.signal(which)
        if trial.wait() == 0:
            continue  # it was done just before
        tried += 1
        lines = read_lines(workdir)
        reached, newest = lines[-1]["step"], max(steps_saved(workdir), default=0)
        broken = []
        if trial.code != code:
            broken.append(f"exit code {trial.code}")
        if not (one_line(trial.errors) and "the same command goes on from there" in trial.errors):
            broken.append(trial.errors)
        if leftovers(workdir):
            broken.append(f"{leftovers(workdir)} left")
        if reached < SAVES[-1]:
            trained += 1
            if f"{which.name} at step {reached}, which is saved" not in trial.errors:
                broken.append(f"at step {reached}: {trial.errors}")
        if newest != reached:
            broken.append(f"at step {reached}, but {newest} was saved")
        if broken := broken + goes_on(run, workdir):
            lost.append((moment, broken))
    tally("SIGTERM, Ctrl-C: exit 143, 130, then on from exactly that step", tried, len(lost))
    assert not lost, f"seed {SEED}: {lost}"
    assert trained >= tried / 2 or short


@pytest.mark.parametrize("chain", range(CHAINS))
def test_killed_again_and_again(small_run, tmp_path, tally, short, chain):
    run, rng = small_run(chain % 2), np.random.default_rng((SEED, chain))
    wanted = (5 if chain < 2 else 0) if short else KILLS // CHAINS
    kills, lost = 0, []
    while kills < wanted:  # a run may be done before it is killed often enough
        began, workdir = kills, tmp_path / str(kills)
        while True:
            trial = run.start(workdir)
            if kills < wanted:
                if rng.random() < 0.75:
                    until_it_trains(trial, workdir, int(rng.integers(1, 12)))
                    time.sleep(rng.uniform(0, run.seconds_training / 10))
                else:
                    time.sleep(rng.uniform(0, run.seconds))
                trial.signal(signal.SIGKILL)
            if trial.wait() == 0:
                break
            kills += 1
            assert trial.code == -signal.SIGKILL, trial.errors
        if broken := run.undisturbed.differences(run.ending(workdir)):
            lost.append((f"kills {began} to {kills}", broken))
    tally("killed again and again: same end", kills, len(lost))
    assert not lost, f"seed {SEED}, chain {chain}: {lost}"
