"""Starts programs in a hundredth of the time: all is imported once, and forked for each.

Nothing here may start a JAX backend or a thread before the fork. Run by `trials.Trials`: a request
is a line of JSON on stdin, its answer one on stdout.
"""

import ctypes
import faulthandler
import gc
import importlib
import json
import os
import runpy
import signal
import sys

import jax

_IMPORTS = ("skipjax.train", "skipjax.cli.config_flags", "skipjax.cli.prepare", "skipjax.data.demo")


def serve() -> dict | None:
    """Answers requests; returns in a child, with what it was asked to run, or at the end."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    for module in _IMPORTS:
        importlib.import_module(module)
    gc.freeze()  # else each child looks through all of that when it ends
    answer = {"threads": len(os.listdir("/proc/self/task"))}
    while True:
        os.write(answers, json.dumps(answer).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(requests, 1 << 16)
            if not more:
                return None
            line += more
        request = json.loads(line)
        if "reap" in request:
            status = os.waitpid(request["reap"], 0)[1]
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = {"pid": os.fork()}
            if not answer["pid"]:
                os.close(requests)
                os.close(answers)
                return request


def become(request: dict) -> None:
    """Makes this process the program that was asked for, and the shim ready."""
    os.dup2(os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
    os.dup2(os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    faulthandler.register(signal.SIGUSR1)  # for one that hangs
    os.chdir(request["folder"])
    jax.config.update("jax_compilation_cache_dir", request["compiled"])
    if not request["compiling"]:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    if request["fault"]:
        where, action, number, log = request["fault"]
        ctypes.CDLL(None).faults_arm(
            where.encode(), action.encode(), ctypes.c_long(number), log.encode()
        )


if __name__ == "__main__":
    asked = serve()
    if asked:
        become(asked)
        program, *rest = asked["command"]
        if program == "-m":
            sys.argv, sys.path[0] = rest, ""
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = [program, *rest], os.path.dirname(program)
            runpy.run_path(program, run_name="__main__")
