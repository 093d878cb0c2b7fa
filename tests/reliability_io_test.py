"""Every operation on files fails once: nothing is lost that was saved, nothing said that is not."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest
from faults.states import differing, make_state
from faults.trials import HERE, Fault, one_line, read_log

from skipjax.checkpoints import Checkpoints
from skipjax.data import demo
from skipjax.data.sessions import Sessions

pytestmark = pytest.mark.reliability

ACTIONS = ("kill", "eio", "full", "short")
PARTS = 3


@pytest.fixture(autouse=True)
def _needs_a_compiler(shim):
    if shim is None:
        pytest.skip("no C compiler")


class Saving:
    """A folder with steps 1 (the best), 2 and 3, and a process that saves step 4."""

    def __init__(self, trials, place):
        self.trials, self.place = trials, place
        self.like = jax.eval_shape(lambda: make_state(0))
        checkpoints = Checkpoints(place / "before")
        for step in (1, 2, 3):
            checkpoints.save(make_state(step), {"history": [0.5]}, best_step=1)
        checkpoints.wait()
        checkpoints.close()
        assert {path.name for path in (place / "before").iterdir()} == {"1", "2", "3"}

    def attempt(self, name, action="count", number=0, compiling=False):
        """A fresh folder, the process when it has ended, and the log of its operations."""
        folder, log = self.place / name, self.place / f"{name}.log"
        shutil.copytree(self.place / "before", folder)
        trial = self.trials.run(
            *(HERE / "save_step.py", folder, 4, 1),
            fault=Fault(f"{folder}*", action, number, log),
            compiled=self.place / "compiled",
            compiling=compiling,
        )
        return folder, trial, read_log(log)

    def broken_promises(self, folder, trial, action):
        """What an attempt left that it should not have."""
        said = trial.output == "saved\n"
        broken = []

        def promise(kept, what):
            if not kept:
                broken.append(what)

        if action == "kill":
            promise(trial.code == -signal.SIGKILL, f"exit code {trial.code}")
        else:
            promise(trial.code == (0 if said else 73), f"exit code {trial.code}")
            promise(said or one_line(trial.errors), trial.errors)
            hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
            if action in ("full", "short"):  # then room is needed; else the next save clears up
                promise(not hidden, f"{hidden} left")
        checkpoints = Checkpoints(folder, broken.append)
        newest = checkpoints.latest_step
        promise(newest == 4 or (newest == 3 and not said), f"newest is {newest}")
        for step in {1, newest} if newest else ():
            restored = checkpoints.restore(step, self.like)
            promise(not differing(restored, make_state(step)), f"step {step} differs")
        checkpoints.save(make_state(5), {}, best_step=1)
        checkpoints.wait()
        checkpoints.close()
        there = {path.name for path in folder.iterdir()}
        promise(there == {"1", str(newest), "5"}, f"{there} after the next save")
        return broken


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("saves")


@pytest.fixture(scope="module")
def saving(trials, place):
    return Saving(trials, place)


@pytest.fixture(scope="module")
def undisturbed(saving):
    """What saving does to files when nothing fails."""
    folder, trial, operations = saving.attempt("undisturbed", compiling=True)
    assert (trial.code, trial.output, trial.errors) == (0, "saved\n", "")
    assert {path.name for path in folder.iterdir()} == {"1", "3", "4"}
    return folder, operations


def replayed(operations, until):
    """What the operations made of each path, before the rename to `until`.

    Returns:
      {path: (bytes written, whether all is synced)}; a folder's entries are synced with it.
    """
    written, synced = {}, {}

    def changed(path):
        synced[path] = False

    for operation in operations:
        path, name = operation.path, operation.name
        if operation.other == until:
            return {path: (size, synced[path]) for path, size in written.items()}
        if name in ("open", "mkdir"):
            written.setdefault(path, 0)
            changed(path)
            changed(os.path.dirname(path))
        elif name == "write":
            written[path] += operation.size
            changed(path)
        elif name == "fsync":
            synced[path] = True
        elif name == "rename":
            for old in [old for old in written if f"{old}/".startswith(f"{path}/")]:
                new = operation.other + old.removeprefix(path)
                written[new], synced[new] = written.pop(old), synced.pop(old)
            changed(os.path.dirname(path))
    raise AssertionError(f"nothing was renamed to {until}")


def test_all_that_is_written_is_seen_and_on_disk_before_it_is_called_saved(undisturbed):
    """The control of the shim, and a save that survives the loss of power."""
    folder, operations = undisturbed
    new = str(folder / "4")
    found = replayed(operations, new)
    (at,) = [i for i, operation in enumerate(operations) if operation.other == new]
    temporary = operations[at].path
    for path in [folder / "4", *(folder / "4").rglob("*")]:
        size, synced = found[temporary + str(path).removeprefix(new)]
        assert synced, path
        assert not path.is_file() or size >= path.stat().st_size > 0
    then = [(x.name, x.path) for x in operations[at + 1 :]]
    assert ("fsync", str(folder)) in then[: then.index(("saved", ""))]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("action", ACTIONS)
def test_a_fault_at_each_operation_of_a_save(saving, undisturbed, tally, short, action, part):
    names = [x.name for x in undisturbed[1] if x.number]
    count = names.count("write") if action == "short" else len(names)
    numbers = range(1, count + 1)[:: 8 if short else 1][part::PARTS]
    tried, lost = 0, []
    for number in numbers:
        name = f"{action}-{number}"
        folder, trial, operations = saving.attempt(name, action, number)
        hit = [x for x in operations if x.number == number]
        if not hit:  # threads need some fewer, now and then
            continue
        tried += 1
        if broken := saving.broken_promises(folder, trial, action):
            lost.append((number, hit[0], broken))
    what = {
        "kill": "killed at an operation of a save",
        "eio": "an operation of a save fails (EIO)",
        "full": "disk full from an operation of a save on",
        "short": "disk full in the middle of a write of a save",
    }[action]
    tally(f"{what}: the newest checkpoint is whole", tried, len(lost))
    assert not lost, "\n".join(map(repr, lost))
    assert tried >= 0.5 * len(numbers)


@pytest.mark.parametrize("action", ["kill", "eio", "full"])
def test_a_fault_at_each_operation_of_preparing_sessions(trials, tmp_path, tally, short, action):
    logs = tmp_path / "logs"
    demo.write_logs(logs, num_sessions=40, num_tracks=100, seed=0)

    def prepare(name, number=0):
        """The process when it has ended, and the log of its operations; made in `name`/made."""
        folder, log = tmp_path / name, tmp_path / f"{name}.log"
        folder.mkdir(exist_ok=True)
        fault = Fault(f"{folder}/*", action if number else "count", number, log)
        command = ("-m", "skipjax", "prepare", "mssd", logs, "--out", folder / "made")
        return trials.run(*command, fault=fault), read_log(log)

    trial, undisturbed = prepare("undisturbed")
    assert trial.code == 0, trial.errors
    expected = Sessions.open(tmp_path / "undisturbed" / "made").digest
    # All of the last, and some of the very many before, when rows are put in order on the disk.
    count, rng = len(undisturbed), np.random.default_rng(0)
    numbers = [*range(count, count - 24, -1), *rng.choice(count - 24, 24, replace=False) + 1]
    numbers = list(map(int, numbers))[:: 8 if short else 1]
    lost = []
    for number in numbers:
        name = str(number)
        trial, operations = prepare(name, number)
        broken, there = [], sorted(os.listdir(tmp_path / name))
        made = "made" in there
        allowed = {-signal.SIGKILL} if action == "kill" else {73, 0} if made else {73}
        if trial.code not in allowed:
            broken.append(f"exit code {trial.code}: {trial.errors}")
        if trial.code == 73 and not one_line(trial.errors):
            broken.append(trial.errors)
        if action == "full" and there not in ([], ["made"]):
            broken.append(f"{there} left")
        if not made:
            trial, _ = prepare(name)
            if trial.code != 0:
                broken.append(f"then exit code {trial.code}: {trial.errors}")
        if os.listdir(tmp_path / name) != ["made"]:
            broken.append(f"then {os.listdir(tmp_path / name)} left")
        elif Sessions.open(tmp_path / name / "made").digest != expected:
            broken.append("then other sessions")
        if broken:
            lost.append((operations[number - 1], broken))
    tally("killed, EIO, disk full while preparing: all or nothing", len(numbers), len(lost))
    assert not lost, "\n".join(map(repr, lost))
