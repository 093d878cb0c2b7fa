"""Runs a program again and again, each time with another fault. Linux only."""

import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_TIMEOUT_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Fault:
    """What the shim does (shim.c): `action` at operation `number` on paths that match `where`.

    Attributes:
      where: an absolute path, in which * stands for anything.
      action: "kill", "eio", "full", "short", or "count" for none.
      number: counted from 1.
      log: a file that gets a line for each operation, if not None.
    """

    where: str
    action: str = "count"
    number: int = 0
    log: Path | None = None


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of the shim's log. `name` is "write", "fsync", "rename" ...; `number` 0 is a note."""

    number: int
    name: str
    path: str
    other: str
    size: int


def read_log(path: Path) -> list[Operation]:
    operations = []
    for line in path.read_text().splitlines():
        number, name, path, other, size = line.split("\t")
        operations.append(Operation(int(number), name, path, other, int(size)))
    return operations


def one_line(errors: str) -> bool:
    """Whether a program said what was wrong as it should."""
    return errors.startswith("skipjax: ") and errors.endswith("\n") and errors.count("\n") == 1


def compile_shim(folder: Path) -> Path | None:
    """The shim as a shared library in `folder`; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "shim.so"
    command = [compiler, "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-o", library]
    subprocess.run([*command, HERE / "shim.c", "-ldl"], check=True)
    return library


class Trial:
    """A program that is running, or has ended."""

    def __init__(self, trials: "Trials", pid: int, number: int):
        self._trials, self._pid, self._number = trials, pid, number
        self._fd = os.pidfd_open(pid)  # stays its own, whatever becomes of the number
        self.code: int | None = None  # exit code, or minus the signal that ended it

    def signal(self, which: signal.Signals) -> None:
        """Sends a signal; nothing happens if it has ended."""
        if self.running:
            signal.pidfd_send_signal(self._fd, which)

    @property
    def running(self) -> bool:
        return self.code is None and not self._ended(0)

    def wait(self, seconds: float = _TIMEOUT_SECONDS) -> int:
        """Its exit code, or minus the signal that ended it.

        Raises:
          TimeoutError: it is still running, and was killed; with where it was.
        """
        if self.code is None:
            in_time = self._ended(seconds)
            if not in_time:
                signal.pidfd_send_signal(self._fd, signal.SIGUSR1)
                time.sleep(1)
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            self.code = self._trials._ask(reap=self._pid)["code"]
            os.close(self._fd)
            if not in_time:
                raise TimeoutError(f"still running after {seconds} s:\n{self.errors}")
        return self.code

    @property
    def output(self) -> str:
        return self._trials._printed("output", self._number).read_text()

    @property
    def errors(self) -> str:
        return self._trials._printed("errors", self._number).read_text()

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


class Trials:
    """Starts programs by forking a process that has imported everything (server.py)."""

    def __init__(self, folder: Path, shim: Path | None):
        self.shim, self._folder, self._started = shim, folder, 0
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",  # main.py must not start itself anew
            # Both would start threads at import.
            "OPENBLAS_NUM_THREADS": "1",
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        if shim:
            environment["LD_PRELOAD"] = str(shim)
        self._server = subprocess.Popen(
            [sys.executable, HERE / "server.py"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threads = self._answer()["threads"]
        if threads != 1:
            self.close()
            raise RuntimeError(f"{threads} threads before the fork: not all would survive it")

    def start(
        self,
        *command: str | os.PathLike,
        fault: Fault | None = None,
        compiled: Path | None = None,
        compiling: bool = False,
    ) -> Trial:
        """Starts a Python program in `folder`, given as on the command line: a path, or -m NAME.

        Args:
          command: words.
          fault: what happens to it.
          compiled: a folder with what JAX compiled before.
          compiling: keeps there what is compiled now; not for one that is to be killed, which would
            leave halves.
        """
        self._started += 1
        number = self._started
        asked = None
        if fault:
            log = str(fault.log) if fault.log else ""
            asked = [fault.where, fault.action, fault.number, log]
        pid = self._ask(
            command=[str(word) for word in command],
            folder=str(self._folder),
            output=str(self._printed("output", number)),
            errors=str(self._printed("errors", number)),
            fault=asked,
            compiled=str(compiled) if compiled else None,
            compiling=compiling,
        )["pid"]
        return Trial(self, pid, number)

    def run(self, *command: str | os.PathLike, **options) -> Trial:
        """The same, when it has ended."""
        trial = self.start(*command, **options)
        trial.wait()
        return trial

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _printed(self, which: str, number: int) -> Path:
        return self._folder / f"{which}-{number}.txt"

    def _ask(self, **request) -> dict:
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self._server.wait()}")
        return json.loads(line)
