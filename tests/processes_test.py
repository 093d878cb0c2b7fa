"""Two processes on one host, and what becomes of one when the other is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skipjax import processes
from skipjax.errors import ConfigError, PeerError

ROOT = Path(__file__).parent.parent
HOST = socket.gethostname()
GO_ON = "; start all again with the same commands: they go on from the last checkpoint.\n"
MEMBER = """
import os, signal, sys, time
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from skipjax import processes, signals
from skipjax.errors import BusyError, Interrupted, SkipjaxError, one_line

def total():
    mesh = jax.make_mesh((2,), ("all",), axis_types=(AxisType.Auto,))
    ones = jax.make_array_from_callback(
        (2,), NamedSharding(mesh, P("all")), lambda _: np.ones(1, np.float32)
    )
    sum_all = jax.shard_map(
        lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=P("all"), out_specs=P()
    )
    return int(jax.jit(sum_all)(ones).addressable_data(0)[0])

signals.clean_up_on_sigterm("all is kept")
try:
    with processes.start(*eval(sys.argv[1])[:3], cluster=sys.argv[1] == "()"):
        index = processes.index()
        exec(sys.argv[2])
except (SkipjaxError, Interrupted) as error:
    print(one_line(error), file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def pair():
    """Starts two processes that run the same; yields them."""
    members = []

    def start(program, *, cluster=False):
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        for index in (0, 1):
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            if cluster:
                slurm = {"JOB_ID": port, "STEP_NODELIST": "localhost", "NTASKS": 2}
                slurm |= {"PROCID": index, "LOCALID": index}
                environment |= {f"SLURM_{name}": str(value) for name, value in slurm.items()}
            which = () if cluster else (f"localhost:{port}", 2, index)
            members.append(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", MEMBER, repr(which), program],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
        return members

    yield start
    for member in members:
        if member.poll() is None:
            member.kill()
        member.communicate()


def line(member):
    """The next line of its output that is not gloo's."""
    for line in member.stdout:
        if not line.startswith("[Gloo]"):
            return line
    raise AssertionError(member.stderr.read())


@pytest.mark.parametrize("cluster", [False, True], ids=["flags", "cluster"])
def test_two_processes_agree_and_heed_sigterm(pair, tmp_path, cluster):
    """And end as they do when training was interrupted and saved: with 143, both of them."""
    members = pair(
        f"""
assert (processes.number(), index, processes.first()) == (2, index, index == 0)
assert processes.from_first({{"of": index, "list": [1, "ü"]}}) == {{"of": 0, "list": [1, "ü"]}}
assert total() == 2
prepared = Path({str(tmp_path)!r}) / "prepared"
with processes.first_goes_first("prepare"):
    assert prepared.exists() == (index == 1)
    time.sleep(0.2)
    prepared.touch()
processes.barrier("prepared")
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    raise AssertionError("SIGTERM is no longer ours")
except SystemExit as error:
    assert error.code == 143
with signals.noted() as noted:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    assert noted() == signal.SIGTERM
    raise Interrupted("saved.", noted())
""",
        cluster=cluster,
    )
    for member in members:
        _, errors = member.communicate(timeout=60)
        assert member.returncode == 143, errors
        assert errors.endswith("skipjax: terminated; all is kept.\nskipjax: saved.\n")
    assert errors.count("\n") == 2


def waiting_for(pair, victim):
    """Two processes, of which the other one waits for `victim` in a collective."""
    members = pair(f"""
assert total() == 2
print("here", flush=True)
if index == {victim}:
    time.sleep(60)
total()
""")
    assert [line(member) for member in members] == ["here\n"] * 2
    return members


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_in_a_collective(pair, victim):
    members = waiting_for(pair, victim)
    time.sleep(0.2)
    began = time.monotonic()
    members[victim].kill()
    survivor = members[1 - victim]
    _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode == 75, errors
    lost = f"skipjax: process {victim} on {HOST} was killed or lost its connection"
    assert errors.endswith(lost + GO_ON)
    assert "Traceback" not in errors
    assert time.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_stopped_ends_the_other_in_a_collective(pair, victim):
    members = waiting_for(pair, victim)
    began = time.monotonic()
    members[victim].send_signal(signal.SIGSTOP)
    survivor = members[1 - victim]
    _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode == 75, errors
    assert errors.endswith(f"process {victim} on {HOST} has been silent for 8 s{GO_ON}")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("who", [0, 1])
def test_an_error_of_one_ends_the_other_in_a_collective(pair, who):
    """Also if jax tells the other one first, by the connection that it loses."""
    members = pair(f"""
assert total() == 2
if index == {who}:
    raise BusyError("runs/x is in use by another process.")
total()
""")
    why = "runs/x is in use by another process"
    for index, member in enumerate(members):
        _, errors = member.communicate(timeout=60)
        assert member.returncode == 75, errors
        other = f"process {who} on {HOST} ended: {why}{GO_ON}"
        assert errors.endswith("skipjax: " + (f"{why}.\n" if index == who else other))
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("node1:1", 2), "several processes need all of --coordinator=HOST:PORT, --num_proc"),
        (("", 2, 0), "several processes need all of"),
        (("node1", 2, 0), r"^--coordinator=node1: wanted HOST:PORT, such as node1:12345\.$"),
        ((":1", 2, 0), "^--coordinator=:1: wanted HOST:PORT"),
        (("node1:", 2, 0), "^--coordinator=node1:: wanted HOST:PORT"),
        (("node1:99999", 2, 0), "^--coordinator=node1:99999: wanted HOST:PORT"),
        (("node1:1", -2, 0), "^--num_processes=-2: wanted at least 1"),
        (("node1:1", 2, 2), "^--process_id=2: wanted 0 to 1, as --num_processes=2"),
        (("node1:1", 2, -3), "^--process_id=-3: wanted 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message), processes.start(*arguments):
        pass


def test_a_cluster_needs_no_more_and_no_less():
    with pytest.raises(ConfigError, match="--cluster"), processes.start("a:1", cluster=True):
        pass
    program = "from skipjax import processes\nwith processes.start(cluster=True): pass"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ConfigError: --cluster finds none of Slurm, Open MPI and Kubernetes" in found.stderr


@pytest.mark.parametrize("arguments", [(), ("node1:1", 1, 0)])
def test_alone(arguments):
    with processes.start(*arguments):
        assert (processes.number(), processes.index(), processes.first()) == (1, 0, True)
        value = object()
        assert processes.from_first(value) is value
        processes.barrier("nobody else")
        with processes.first_goes_first("nobody else"):
            pass


def test_nobody_at_the_coordinator():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    message = r"^process 0 did not answer within 0\.3 s \(localhost:\d+ says Connection refused\)"
    joining = processes.start(f"localhost:{port}", 2, 1, wait_seconds=0.3)
    with pytest.raises(PeerError, match=message), joining:
        pass
    message = r"^process 1 did not come within 0\.3 s"
    leading = processes.start(f"localhost:{port}", 2, 0, wait_seconds=0.3)
    with pytest.raises(PeerError, match=message), leading:
        pass


def test_errors_of_the_exchange_are_told_from_others(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE_SECONDS", 0.0)
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed\nby peer")
    with pytest.raises(ValueError, match="Gloo"), processes.peer_errors():
        raise gloo  # of which nobody knows, where there are no others
    monkeypatch.setattr(processes, "_peers", object())
    failed = r"^the exchange with other processes failed \(UNKNOWN: Gloo .* closed by peer\); start"
    unsaved = OSError("the checkpoint is not saved")
    unsaved.__cause__ = gloo
    with pytest.raises(PeerError, match=failed) as caught, processes.peer_errors():
        raise unsaved
    assert caught.value.exit_code == 75
    with pytest.raises(MemoryError), processes.peer_errors():
        raise MemoryError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")


def test_main_takes_the_flags():
    found = subprocess.run(
        [sys.executable, "main.py", "--config=configs/tiny.py", "--coordinator=node1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("skipjax: several processes need all of --coordinator=HOST:PORT")
    assert found.stderr.count("\n") == 1
