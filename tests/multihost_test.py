"""main.py by two processes of two devices each, and what becomes of it when one of them fails.

Run as a program, this file is such a process: python multihost_test.py FAULTS OPTION ...
"""

import dataclasses
import fcntl
import importlib
import itertools
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from skipjax import files, step, train
from skipjax.checkpoints import Checkpoints
from skipjax.cli.main import main
from skipjax.data import batches
from skipjax.ending import Ending
from skipjax.row_adam import RowAdam

ROOT = Path(__file__).parent.parent
HOST = socket.gethostname()
AGAIN = "; start all again with the same commands: they go on from the last checkpoint.\n"
FIELDS = {
    "data.demo.num_sessions": 100,
    "data.demo.num_tracks": 900,
    "model.num_layers": 1,
    "model.width": 8,
    "model.feedforward_width": 8,
    "sampling.scope": "batch",
    "train.batch_size": 8,  # few enough ids that the table is updated by rows
    "train.num_epochs": 2,
    "train.log_every_steps": 1,
}
SQUARE = {"mesh.data": 2, "mesh.tracks": 2}
PER_EPOCH, STEPS = 13, 26
GLOO = re.compile(r"Gloo|peer ranks|^[\d :]*$")  # its threads write into each other's lines
CLOCK = ("seconds", "train/steps_per_second")


@dataclasses.dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int
    output: str  # without what gloo prints
    errors: str  # without what XLA logs
    at: float  # seconds of the clock


class Two:
    """Starts main.py twice, with the same options but for those of one of them."""

    def __init__(self, trials, place):
        self._trials, self._place = trials, place
        place.mkdir(exist_ok=True)

    def run(self, workdir, changes=SQUARE, *, faults=({}, {}), own=({}, {}), compiling=False):
        """How both ended.

        Args:
          workdir: of both.
          changes: fields besides FIELDS.
          faults: what happens to each, as `suffer` below has it.
          own: fields of each.
          compiling: whether what process 0 compiles is kept; the others find it there.
        """
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        started = []
        for index in (0, 1):
            fields = {**FIELDS, "data.cache_dir": self._place / "cache", **changes, **own[index]}
            options = [
                f"--workdir={workdir}",
                f"--coordinator=localhost:{port}",
                "--num_processes=2",
                f"--process_id={index}",
                *(f"--config.{name}={value}" for name, value in fields.items()),
            ]
            started.append(
                self._trials.start(
                    __file__,
                    json.dumps(faults[index]),
                    *options,
                    compiled=self._place / "compiled",
                    compiling=compiling,
                )
            )
        return ends(started)


def ends(started):
    waiting, found, began = list(started), {}, time.monotonic()
    while waiting:
        if time.monotonic() > began + 120:
            for trial in waiting[1:]:
                trial.signal(signal.SIGKILL)
            waiting[0].wait(0)  # raises, with where it stands
        for trial in [trial for trial in waiting if not trial.running]:
            waiting.remove(trial)
            trial.wait()
            found[trial] = End(
                trial.code,
                "\n".join(x for x in trial.output.split("\n") if not GLOO.search(x)),
                "".join(re.findall(r"^(?![IWEF]\d{4} ).*\n?", trial.errors, re.M)),
                time.monotonic(),
            )
        time.sleep(0.01)
    return [found[trial] for trial in started]


def codes(two):
    return [one.code for one in two]


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of all workers of these tests."""
    place = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        place = place.parent
    return place / "two-processes"


@pytest.fixture(scope="session")
def two(shared, tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("processes are forked here on Linux only")
    from conftest import XLA_FLAGS
    from faults.trials import Trials

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "2")
        patch.setenv("XLA_FLAGS", XLA_FLAGS)
        trials = Trials(tmp_path_factory.mktemp("trials"), None)
    yield Two(trials, shared)
    trials.close()


@pytest.fixture(scope="session")
def straight(two, shared):
    """What two processes leave that nothing happens to, on a mesh of 2 x 2."""
    workdir = shared / "straight"
    with open(shared / "lock", "w") as lock:  # of one worker at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "ends").exists():
            read = [{"read": str(shared / f"read{index}")} for index in (0, 1)]
            found = two.run(workdir, faults=read, compiling=True)
            (shared / "ends").write_text(json.dumps([dataclasses.asdict(end) for end in found]))
    return workdir, [End(**end) for end in json.loads((shared / "ends").read_text())]


def make_config(**changes):
    config = importlib.import_module("configs.tiny").get_config()
    config.update_from_flattened_dict({**FIELDS, **changes})
    return config


def lines(workdir):
    """metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name not in CLOCK} for row in rows]


def losses(workdir):
    return [row["train/loss"] for row in lines(workdir) if "train/loss" in row]


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def saved(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def final_state(workdir):
    """The last checkpoint, on this process's one device."""
    config, num_ids = make_config(), results(workdir)["tracks"] + 2
    encoder = train.make_encoder(config.model, config.data.max_length)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore(STEPS, step.init_state(config, encoder, num_ids))
    checkpoints.close()
    return jax.device_get(state)


def check_same_end(workdir, straight):
    """To the last bit."""
    from faults.states import differing

    assert results(workdir) == results(straight)
    assert lines(workdir) == lines(straight)
    assert differing(final_state(workdir), final_state(straight)) == []
    assert {*saved(straight)} <= {*saved(workdir)}
    check_nothing_is_left_over(workdir)


def check_nothing_is_left_over(workdir):
    assert not list(workdir.rglob(".*.tmp-*"))
    for path in (workdir / "checkpoints").iterdir():
        assert sorted(inner.name for inner in path.iterdir()) == ["manifest.json", "state"]


def check_as_one_process(workdir, alone):
    """Same losses, results and files as of one process, if not to the last bit."""
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-4)
    found, expected = results(workdir), results(alone)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, abs=0.02) if "/" in name else value)
    assert sorted(path.name for path in workdir.iterdir()) == sorted(
        path.name for path in alone.iterdir()
    )
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert saved(workdir) == saved(alone)
    check_nothing_is_left_over(workdir)


def test_two_processes_train_as_one_does(straight, tmp_path, capsys):
    workdir, (first, second) = straight
    assert (first.code, second.code) == (0, 0), first.errors + second.errors
    train.train_and_evaluate(make_config(), tmp_path / "run")
    assert len(losses(workdir)) == STEPS
    check_as_one_process(workdir, tmp_path / "run")
    assert isinstance(final_state(workdir).optimizer["table"], RowAdam)
    # One of them speaks, of all.
    assert "; 4 devices of 2 processes (data 2 x tracks 2): cpu\n" in first.output
    differ = re.compile(r"; (device: cpu|4 devices.*)|\d\.\d+|/\S*/run/|/\S*/straight/")
    printed = capsys.readouterr().out.removesuffix("\n")
    assert differ.sub("", first.output) == differ.sub("", printed)
    assert (first.errors, second.output, second.errors) == ("", "", ""), (first, second)


def test_each_process_reads_its_own_sessions(straight, shared):
    """Every session of an epoch, and of what is held out, is looked up by one of the two."""
    read = []
    for index in (0, 1):
        calls = json.loads((shared / f"read{index}").read_text())
        train = [starts for length, starts in calls if length == 18]
        held_out = [starts for length, starts in calls if length == 19]
        assert len(held_out) == 2 * (2 + 2)  # batches of sessions: each epoch, and twice at last
        assert len(train) >= 2 * STEPS
        epochs = [train[2 * at : 2 * (at + PER_EPOCH)] for at in range(0, STEPS, PER_EPOCH)]
        rounds = [held_out[at : at + 2] for at in range(0, 8, 2)]
        read.append([sorted(itertools.chain(*calls)) for calls in epochs + rounds])
    everything = {tuple(sorted(a + b)) for a, b in zip(*read, strict=True)}
    assert len(everything) == 1
    assert len(set(everything.pop())) == 100
    assert all(36 <= len(starts) <= 64 for both in read for starts in both)


def test_one_device_reads_what_two_processes_saved(straight, tmp_path, capsys):
    workdir, _ = straight
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr().out
    for name, value in results(workdir).items():
        if name.startswith(("test/", "test_full/")) and "cold" not in name:
            assert f" {value:.4f} " in printed, name
    listened, found = tmp_path / "listened.csv", tmp_path / "found.csv"
    names = pq.read_table(workdir / "tracks.parquet")["track_id"].to_pylist()
    rows = [f"s,{name},{i},0" for i, name in enumerate(names[5:10])]
    listened.write_text("\n".join(["session_id,track_id,position,skipped", *rows]) + "\n")
    options = [f"--workdir={workdir}", f"--input={listened}", f"--output={found}", "--k=7"]
    assert main(["recommend", *options]) == 0
    recommended = [line.split(",")[1] for line in found.read_text().splitlines()[1:]]
    assert len({*recommended} & {*names} - {*names[5:10]}) == 7


def check_killed(pair, who):
    survivor, killed = pair[1 - who], pair[who]
    assert killed.code == -signal.SIGKILL
    assert survivor.code == 75, survivor.errors
    assert survivor.at - killed.at < 10
    line = f"skipjax: process {who} on {HOST} was killed or lost its connection{AGAIN}"
    assert survivor.errors.endswith(line)
    # With process 0 goes what connects jax, which says so.
    assert who == 0 or survivor.errors == line
    assert "Traceback" not in survivor.errors


def check_asked_to_end(pair, which, workdir):
    """Returns the step that they ended at."""
    at = max(map(int, saved(workdir)))
    for one in pair:
        assert one.code == 128 + which, one.errors
        assert one.errors == (
            f"skipjax: {which.name} at step {at}, which is saved; the same command goes on from "
            "there.\n"
        )
    assert lines(workdir)[-1]["step"] == at
    check_nothing_is_left_over(workdir)
    return at


def check_stuck(pair):
    """Those that wait for the one that is stuck get nowhere, too; or are told first."""
    nowhere = "training got nowhere for 5 s"
    own = rf"skipjax: {nowhere}, and stands at \S+/skipjax/(train|ending)\.py:\d+; the same"
    told = rf"skipjax: process [01] on {HOST} ended: {nowhere}; start all again"
    lines = [one.errors.splitlines()[-1] for one in pair]
    assert codes(pair) == [75, 75]
    assert all(re.match(f"{own}|{told}", line) for line in lines), pair
    assert any(re.match(own, line) for line in lines)


@pytest.mark.slow
def test_whatever_happens_the_same_commands_come_to_the_same_end(straight, two, tmp_path):
    workdir = tmp_path / "run"
    check_killed(two.run(workdir, faults=({}, {"after": 17, "what": "kill"})), 1)
    assert saved(workdir) == ["13"]
    # Process 0 alone is asked to end.
    pair = two.run(workdir, faults=({"after": 2, "what": "SIGTERM"}, {}))
    assert "\nGoing on from step 13 in" in pair[0].output
    assert 15 < check_asked_to_end(pair, signal.SIGTERM, workdir) < 23
    # Process 1 gets nowhere, after it compiled for longer than a step may take.
    fault = {"compiling": 6, "after": 3, "what": "sleep"}
    began, before = time.monotonic(), len(losses(workdir))
    pair = two.run(workdir, SQUARE | {"train.watchdog_seconds": 5}, faults=({}, fault))
    check_stuck(pair)
    assert min(one.at for one in pair) > began + 11
    assert max(one.at for one in pair) < began + 40
    assert len(losses(workdir)) >= before + 2
    assert codes(two.run(workdir)) == [0, 0]
    check_same_end(workdir, straight[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "where"),
    [(0, "step"), (1, "save"), (0, "test")],
)
def test_killed_anywhere(straight, two, tmp_path, who, where):
    fault = {"after": 17, "what": "kill"} if where == "step" else {"where": where, "what": "kill"}
    faults = ({}, fault) if who else (fault, {})
    check_killed(two.run(tmp_path / "run", faults=faults), who)
    found = two.run(tmp_path / "run")
    assert codes(found) == [0, 0], found
    check_same_end(tmp_path / "run", straight[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "after"),
    [
        (signal.SIGINT, (None, 3)),
        (signal.SIGTERM, (25, None)),  # with no steps left to tell others in
        (signal.SIGTERM, (5, 7)),  # at nearly the same time
    ],
)
def test_asked_to_end_at_any_step(straight, two, tmp_path, which, after):
    faults = [{"after": n, "what": which.name} if n else {} for n in after]
    at = check_asked_to_end(two.run(tmp_path / "run", faults=faults), which, tmp_path / "run")
    first = min(n for n in after if n)
    assert first < at <= min(first + 6, STEPS)
    assert codes(two.run(tmp_path / "run")) == [0, 0]
    check_same_end(tmp_path / "run", straight[0])


@pytest.mark.slow
def test_asked_to_end_before_or_after_all_steps(straight, two, tmp_path):
    for who, where in [(1, "data"), (0, "test")]:
        faults = [{}, {}]
        faults[who] = {"where": where, "what": "SIGTERM"}
        pair = two.run(tmp_path / "run", faults=faults)
        assert (pair[who].code, pair[1 - who].code) == (143, 75), pair
        assert pair[who].errors == (
            "skipjax: terminated; what was saved is kept, and the same command goes on from "
            "there.\n"
        )
        other = f"skipjax: process {who} on {HOST} ended: it was asked to end{AGAIN}"
        assert pair[1 - who].errors == other
    assert codes(two.run(tmp_path / "run")) == [0, 0]
    check_same_end(tmp_path / "run", straight[0])


@pytest.mark.slow
def test_process_0_gets_nowhere(straight, two, tmp_path):
    """And every exchange waits until then, as metrics are fetched seldom."""
    changes = SQUARE | {"train.watchdog_seconds": 5, "train.log_every_steps": 100}
    pair = two.run(tmp_path / "run", changes, faults=({"after": 17, "what": "sleep"}, {}))
    check_stuck(pair)
    assert codes(two.run(tmp_path / "run", SQUARE | {"train.log_every_steps": 100})) == [0, 0]
    assert results(tmp_path / "run") == results(straight[0])


@pytest.mark.slow
@pytest.mark.parametrize(("data", "tracks", "scope"), [(4, 1, "batch"), (1, 4, "session")])
def test_other_meshes(two, tmp_path, data, tracks, scope):
    """By rows, and where a step reads more ids than there are."""
    changes = {"sampling.scope": scope, "train.num_epochs": 4, "train.patience": 9}
    pair = two.run(tmp_path / "two", changes | {"mesh.data": data, "mesh.tracks": tracks})
    assert codes(pair) == [0, 0], pair
    assert (pair[0].errors, pair[1].output, pair[1].errors) == ("", "", "")
    train.train_and_evaluate(make_config(**changes), tmp_path / "one")
    assert len(losses(tmp_path / "two")) == 52
    check_as_one_process(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_as_users_start_it(tmp_path):
    """With the config's own mesh; one is killed from outside."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    members = []
    for index in (0, 1):
        fields = FIELDS | {"data.cache_dir": tmp_path / "cache", "train.num_epochs": 1000}
        command = [
            sys.executable,
            "main.py",
            "--config=configs/tiny.py",
            f"--workdir={tmp_path}/run",
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={index}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]
        members.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        path, began = tmp_path / "run" / "metrics.jsonl", time.monotonic()
        while not path.exists() or path.read_text().count("\n") < 20:
            assert time.monotonic() - began < 100
            assert members[1].poll() is None, members[1].communicate()
            time.sleep(0.1)
        began = time.monotonic()
        members[1].kill()
        output, errors = members[0].communicate(timeout=30)
        assert time.monotonic() - began < 10
    finally:
        for member in members:
            member.kill()
            member.communicate()
    assert members[0].returncode == 75
    assert errors.endswith(f"process 1 on {HOST} was killed or lost its connection{AGAIN}")
    assert "4 devices of 2 processes (data 4 x tracks 1): cpu\n" in output


@pytest.mark.slow
def test_what_does_not_fit_is_refused_at_once(two, tmp_path):
    """A batch that cannot be dealt out; another config in one process; a folder in use."""
    began = time.monotonic()
    pair = two.run(tmp_path / "a", {"train.batch_size": 10})
    for one in pair:
        assert one.code == 2
        assert one.errors.count("\n") == 1
        assert one.errors.startswith(
            "skipjax: config.train.batch_size is 10; it must be divisible by the number of "
            "devices, 4"
        )
    pair = two.run(tmp_path / "b", own=({}, {"train.batch_size": 16}))
    why = (
        "config.train.batch_size is 16 in process 1 and 8 in process 0; start all with the same "
        "options"
    )
    assert codes(pair) == [2, 2]
    mend = "; mend that, and start all again.\n"
    assert pair[0].errors == f"skipjax: process 1 on {HOST} ended: {why}{mend}"
    assert pair[1].errors == f"skipjax: {why}.\n"
    (tmp_path / "c").mkdir()
    with files.lock(tmp_path / "c" / ".lock"):
        pair = two.run(tmp_path / "c", own=({}, {"data.cache_dir": tmp_path / "own cache"}))
    assert codes(pair) == [75, 75]
    assert "/c is in use by another process" in pair[0].errors
    assert f"process 0 on {HOST} ended: {tmp_path}/c is in use by another" in pair[1].errors
    assert all(one.errors.count("\n") == 1 for one in pair)
    assert time.monotonic() - began < 60
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"c", "c/.lock"}


def suffer(what="", after=0, where="", compiling=0.0, read=""):
    """Has something happen to this process.

    Args:
      what: "kill", "sleep" or a signal's name,
      after: so many steps, or
      where: in "data", "compiling", "save" or "test".
      compiling: seconds that compiling the step takes longer.
      read: a file for what sessions are looked up.

    Returns:
      What is to be called at the end.
    """

    def happen():
        if what == "sleep":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.Signals[what])

    def before(owner, name, do):
        whole = getattr(owner, name)

        def planted(*arguments, **options):
            do(*arguments)
            return whole(*arguments, **options)

        setattr(owner, name, planted)

    steps, calls = itertools.count(1), []
    before(Ending, "__call__", lambda *_: next(steps) == after and happen())
    for place, owner, name in [
        ("data", train, "_load"),
        ("save", Checkpoints, "_write_parts"),
        ("test", train._Run, "test"),
    ]:
        if where == place:
            before(owner, name, lambda *_: happen())
    before(
        batches,
        "spans",
        lambda _, starts, lengths, shape: calls.append((shape[1], starts[lengths > 0].tolist())),
    )
    unwatched = train.unwatched_at_first

    class Slow:
        def __init__(self, function):
            self._function = function

        def lower(self, *arguments):
            time.sleep(compiling)
            if where == "compiling":
                happen()
            return self._function.lower(*arguments)

    def unwatched_at_first(function, watchdog):
        is_step = function.__name__ == "train_step"
        return unwatched(Slow(function) if is_step else function, watchdog)

    train.unwatched_at_first = unwatched_at_first
    return lambda: read and Path(read).write_text(json.dumps(calls))


if __name__ == "__main__":
    _, faults, *options = sys.argv
    at_last = suffer(**json.loads(faults))
    sys.argv = [str(ROOT / "main.py"), f"--config={ROOT}/configs/tiny.py", *options]
    sys.path[0] = str(ROOT)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        at_last()
