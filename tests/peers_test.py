import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from skipjax import connections
from skipjax.errors import BusyError, ConfigError

SILENCE = 1.0
MEMBER = f"""
import os, sys, threading, time
from skipjax.connections import listen
from skipjax.errors import SkipjaxError, one_line
from skipjax.peers import Peers

port, count, index, wait_seconds = int(sys.argv[1]), *map(int, sys.argv[2:5])
options = {{"agree": {{"num_processes": count}}, "wait_seconds": wait_seconds,
            "silence_seconds": {SILENCE}}}
try:
    if index == 0:
        peers = Peers.lead(listen(port), count, told={{"a": [1]}}, **options)
    else:
        peers = Peers.join(index, count, [("127.0.0.1", port)], **options)
    print("here", flush=True)
    exec(sys.argv[5])
except SkipjaxError as error:
    print(one_line(error), file=sys.stderr)
    sys.exit(error.exit_code)
"""
WAIT = "threading.Event().wait()"
LEAVE = "peers.farewell(); peers.close()"
HOST = socket.gethostname()
GO_ON = "; start all again with the same commands: they go on from the last checkpoint.\n"


class Group:
    """Processes that watch each other, by their index."""

    def __init__(self, port):
        self.port = port
        self.members = {}

    def start(self, count, index, program=WAIT, *, wait_seconds=30):
        arguments = map(str, (self.port, count, index, wait_seconds, program))
        member = subprocess.Popen(
            [sys.executable, "-c", MEMBER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.members[index] = member
        return member

    def all(self, *programs):
        """Starts one for each program, and waits until all have come."""
        for index, program in enumerate(programs):
            self.start(len(programs), index, program)
        for member in self.members.values():
            assert member.stdout.readline() == "here\n", member.stderr.read()

    def ends(self, index, seconds=10.0):
        """Exit code, output and errors."""
        member = self.members[index]
        code = member.wait(seconds)
        # Not `communicate`, which would miss what a `readline` has read beyond its line.
        with member.stdout, member.stderr:
            return code, member.stdout.read(), member.stderr.read()


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def group():
    group = Group(free_port())
    yield group
    for member in group.members.values():
        if member.poll() is None:
            member.kill()
        member.wait()
        member.stdout.close()
        member.stderr.close()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_process_that_is_killed_ends_the_others(group, victim):
    group.all(WAIT, "while True: pass", WAIT)  # busy with Python is no better than waiting
    began = time.monotonic()
    group.members[victim].kill()
    for index in {0, 1, 2} - {victim}:
        code, _, errors = group.ends(index)
        assert code == 75
        lost = f"skipjax: process {victim} on {HOST} was killed or lost its connection"
        assert errors == lost + GO_ON
    assert time.monotonic() - began < SILENCE + 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_stopped_ends_the_others_and_then_itself(group, victim):
    group.all(WAIT, WAIT, WAIT)
    began = time.monotonic()
    group.members[victim].send_signal(signal.SIGSTOP)
    for index in {0, 1, 2} - {victim}:
        code, _, errors = group.ends(index)
        assert code == 75
        assert errors == f"skipjax: process {victim} on {HOST} has been silent for 1 s" + GO_ON
    assert SILENCE / 2 < time.monotonic() - began < SILENCE + 2
    group.members[victim].send_signal(signal.SIGCONT)
    assert group.ends(victim)[0] == 75


def test_who_lives_is_left_alone(group):
    """However busy; and all may be suspended, as machines are."""
    busy = "until = time.monotonic() + 1.5\nwhile time.monotonic() < until: pass\n"
    group.all("time.sleep(1.5);" + LEAVE, busy + LEAVE, LEAVE)
    time.sleep(1.2)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for member in group.members.values():
            member.send_signal(number)
        time.sleep(1.5 if number == signal.SIGSTOP else 0)
    assert [group.ends(index) for index in range(3)] == [(0, "", "")] * 3


@pytest.mark.parametrize("last", [0, 1])
def test_a_farewell_is_no_death(group, last):
    programs = [LEAVE + "; print('left')"] * 3
    programs[last] = f"time.sleep(0.6); print('last', flush=True); {programs[last]}"
    group.all(*programs)
    assert group.members[last].stdout.readline() == "last\n"
    assert [group.ends(index) for index in range(3)] == [(0, "left\n", "")] * 3


def test_one_may_be_killed_after_its_farewell(group):
    group.all("time.sleep(0.8);" + LEAVE, "peers.farewell()", "time.sleep(0.8);" + LEAVE)
    time.sleep(0.3)
    group.members[1].kill()
    assert [group.ends(index) for index in (0, 2)] == [(0, "", "")] * 2


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("says", "ends", "what_to_do"),
    [
        ("", 75, GO_ON),
        (", 75", 75, GO_ON),
        (", 73", 73, "; mend that, and start all again.\n"),  # trying again would not help
    ],
)
def test_an_error_of_one_ends_the_others(group, who, says, ends, what_to_do):
    failing = f"peers.gone('the disk is full.'{says}); peers.close(); sys.exit(73)"
    programs = [WAIT, LEAVE, WAIT]  # of which one has done all it had to
    programs[who] = failing
    group.all(*programs)
    for index in {0, 1, 2} - {who}:
        code, _, errors = group.ends(index)
        assert code == ends
        assert errors == f"skipjax: process {who} on {HOST} ended: the disk is full" + what_to_do
    assert group.ends(who) == (73, "", "")


def test_an_error_of_all_is_everyones_own(group):
    programs = [
        f"time.sleep({index / 3}); peers.gone('no such field.'); peers.close(); sys.exit(2)"
        for index in range(3)
    ]
    group.all(*programs)
    assert [group.ends(index) for index in range(3)] == [(2, "", "")] * 3


def test_what_all_agree_on(group):
    program = """
for number in range(3):
    value = peers.meet(f"meeting {number}", {"from": index, "is": [number, None]})
    assert value == {"from": 0, "is": [number, None]}, value
    time.sleep(index / 20)
value = peers.meet("a large one", "x" * 10_000_000 if index == 0 else None)
assert value == "x" * 10_000_000
assert peers.told == {"a": [1]}
print("agreed")
"""
    group.all(*[program + LEAVE] * 3)
    assert [group.ends(index) for index in range(3)] == [(0, "agreed\n", "")] * 3


def test_processes_at_different_places_end(group):
    group.all("peers.meet('reading')", "peers.meet('writing')")
    for index in (0, 1):
        code, _, errors = group.ends(index)
        assert code == 75
        named = "skipjax: the processes are at different places: ['reading', 'writing']"
        assert errors == named + GO_ON


STRANGERS = [
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"[" * 60_000 + b"\n",
    b"x" * 1_000_000,
    b"\xff\xfe\n",
    b"{}\n[]\n1\n",
    b'{"process": 1, "agree": {"num_processes": 2}, "token": "other"}\n',
    b'{"process": [1], "agree": {"num_processes": 2}, "token": ""}\n',
    b'{"process": 1, "agree": {"num_processes": 2}, "token": "", "host": 5}\n',
    b'{"gone": "all is lost", "about": "you"}\n{"farewell": true}\n',
]


def test_strangers_neither_count_nor_harm(group):
    """Neither before all have come, but for the one that is as good as a process, nor after."""

    def disturb(strangers):
        for said in strangers:
            with contextlib.suppress(ConnectionError):
                stranger = stack.enter_context(socket.create_connection(("127.0.0.1", group.port)))
                stranger.sendall(said)

    with contextlib.ExitStack() as stack:
        group.start(2, 0, "time.sleep(1);" + LEAVE)
        for _ in range(100):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(socket.create_connection(("127.0.0.1", group.port)))
                break
            time.sleep(0.05)
        disturb(said for said in STRANGERS if b'"host"' not in said)
        group.start(2, 1, LEAVE)
        for member in group.members.values():
            assert member.stdout.readline() == "here\n"
        disturb(STRANGERS)
        assert [group.ends(index) for index in (0, 1)] == [(0, "", "")] * 2


def test_those_that_do_not_come_are_named(group):
    group.start(4, 0, wait_seconds=1)
    group.start(4, 2, wait_seconds=1)
    why = "processes 1, 3 did not come within 1 s; start all 4 within that time, and check that"
    code, _, errors = group.ends(0)
    assert (code, errors) == (75, f"skipjax: {why} they can reach this host.\n")
    code, _, errors = group.ends(2)
    assert code == 75
    assert errors.startswith(f"skipjax: process 0 on {HOST} ended: {why}")
    assert errors.count("\n") == 1


def test_who_waits_says_for_what_and_how_long(group):
    early = MEMBER.replace(
        "port, count",
        "import skipjax.connections as c, skipjax.peers as p\n"
        "c.NOTICE_SECONDS = p.NOTICE_SECONDS = 0.1\nport, count",
        1,
    )
    assert early != MEMBER
    ends = []
    for index in (0, 1):
        arguments = (str(group.port), "2", str(index), "1", LEAVE)
        done = subprocess.run(
            [sys.executable, "-c", early, *arguments], capture_output=True, text=True, timeout=20
        )
        ends.append(done.stderr.splitlines()[0])
    assert ends[0] == (
        f"skipjax: waiting 1 s at most for process 1 to reach port {group.port} of {HOST} ..."
    )
    assert ends[1] == (
        "skipjax: waiting 1 s at most for process 0 "
        f"(127.0.0.1:{group.port} says Connection refused) ..."
    )


@pytest.mark.parametrize("answers", [False, True])
def test_nobody_or_something_else_at_the_address(group, answers):
    with contextlib.ExitStack() as stack:
        problem = "Connection refused"
        if answers:
            server = stack.enter_context(socket.create_server(("127.0.0.1", group.port)))
            server.settimeout(20)
            problem = "has no skipjax"
        member = group.start(2, 1, wait_seconds=1)
        while answers and member.poll() is None:
            with contextlib.suppress(TimeoutError):
                server.settimeout(0.5)
                with server.accept()[0] as connection:
                    connection.sendall(b"220 mail at your service\r\n")
                    connection.recv(4096)
        code, _, errors = group.ends(1)
    assert code == 75
    assert re.fullmatch(
        rf"skipjax: process 0 did not answer within 1 s \(127.0.0.1:{group.port}[^)]*{problem}\); "
        "start all processes within that time, and check where it is.\n",
        errors,
    )


def test_processes_that_do_not_fit_are_refused_and_may_come_again(group):
    """Process 0 says so, too: its terminal may be the only one that is read."""
    refused = []
    group.start(3, 0, LEAVE)
    for count, index, wrong in [
        (2, 1, "num_processes is 2 in process 1 and 3 in process 0"),
        (3, 3, "there is no process 3 of 3"),
    ]:
        refused.append(wrong + "; waiting for processes 1, 2")
        group.start(count, index)
        assert group.ends(index) == (2, "", f"skipjax: {wrong}.\n")
    both = [group.start(3, 1, LEAVE) for _ in range(2)]
    while all(member.poll() is None for member in both):
        time.sleep(0.05)
    group.start(3, 2, LEAVE)
    ends = {member.communicate(timeout=10)[1]: member.returncode for member in both}
    there = f"process 1 is there already, on {HOST}; each has its own id"
    assert ends == {f"skipjax: {there}.\n": 2, "": 0}
    assert group.ends(2) == (0, "here\n", "")
    refused.append(there + "; waiting for process 2")
    said = "".join(f"skipjax: refused one on {HOST}: {text} ...\n" for text in refused)
    assert group.ends(0) == (0, "here\n", said)


def test_one_that_gave_up_before_all_came_may_come_again(group):
    group.start(3, 0, LEAVE)
    impatient = group.start(3, 1)
    time.sleep(0.4)
    impatient.kill()
    impatient.communicate()
    time.sleep(0.1)
    group.start(3, 1, LEAVE)
    group.start(3, 2, LEAVE)
    assert [group.ends(index)[0] for index in range(3)] == [0, 0, 0]


def test_addresses_are_tried_in_turn(group):
    one, others = '("127.0.0.1", port)', '("127.0.0.1", 1), ("x" * 70, port), ("::1", 70000), '
    several = MEMBER.replace(one, others + one)
    assert several != MEMBER
    group.start(2, 0, LEAVE)
    arguments = (str(group.port), "2", "1", "10", LEAVE)
    joined = subprocess.run(
        [sys.executable, "-c", several, *arguments], capture_output=True, text=True, timeout=20
    )
    assert (joined.returncode, joined.stderr) == (0, "")
    assert group.ends(0)[0] == 0


def test_ports():
    with connections.listen() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BusyError, match=f"^port {port} of this host is in use"):
            connections.listen(port)
    connections.listen(port).close()
    if os.geteuid():
        with pytest.raises(ConfigError, match=r"^port 1 cannot be opened"):
            connections.listen(1)
