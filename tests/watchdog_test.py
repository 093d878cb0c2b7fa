import os
import signal
import subprocess
import sys
import time

import pytest

from skipjax import signals

BEGIN = """
import sys, threading, time
from skipjax import signals
from skipjax.watchdog import Watchdog
watchdog = Watchdog(0.3, "the test", lambda why: print(f"({why})"))
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("waiting", "where"),
    [
        ("time.sleep(60)", "<string>:8"),
        ("while True: pass", "<string>:8"),
        ("", ""),
    ],
    ids=["asleep", "busy", "in a library"],
)
def test_who_gets_nowhere_is_ended(waiting, where):
    if not where:  # a function of skipjax that calls a library that waits
        waiting = "sys.modules['signal'].signal = lambda *_: threading.Event().wait()\n"
        waiting += "    signals.clean_up_on_sigterm('nothing')"
        where = signals.__file__
    began = time.monotonic()
    ended = run(f"print('so far')\nwith watchdog:\n    {waiting}")
    assert ended.returncode == 75, ended.stderr
    # Although nobody flushed it.
    assert ended.stdout == "so far\n(the test got nowhere for 0.3 s)\n"
    begins = f"skipjax: the test got nowhere for 0.3 s, and stands at {where}"
    assert ended.stderr.startswith(begins)
    assert ended.stderr.endswith("; the same command goes on from the last checkpoint.\n")
    assert ended.stderr.count("\n") == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "program",
    [
        "for _ in range(30): time.sleep(0.03); watchdog.beat()",
        "with watchdog.paused('compiling'): time.sleep(0.8)",
        """
    with watchdog.paused("compiling"):
        with watchdog.paused("evaluating"):
            time.sleep(0.1)
        time.sleep(0.8)
    time.sleep(0.1)
""",
        """
    try:
        with watchdog.paused("compiling"):
            raise OSError
    except OSError:
        time.sleep(0.1)
""",
    ],
    ids=["beats", "paused", "nested", "an error"],
)
def test_who_gets_on_is_left_alone(program):
    ended = run(f"with watchdog:\n    {program}\ntime.sleep(0.5)\nprint('done')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_it_watches_again_after_a_pause():
    program = "with watchdog, watchdog.paused('compiling'): time.sleep(0.5)"
    assert run(program).returncode == 0
    program = "with watchdog:\n    with watchdog.paused('compiling'): pass\n    time.sleep(60)"
    assert run(program).returncode == 75


def test_time_in_which_the_process_is_suspended_does_not_count():
    program = """
with watchdog:
    print("here", flush=True)
    time.sleep(0.05)  # the end of which comes while it is suspended
    time.sleep(0.1)
print("done")
"""
    command = [sys.executable, "-c", BEGIN + program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.read() == "done\n"
        assert process.wait() == 0
