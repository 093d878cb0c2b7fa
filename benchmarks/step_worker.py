"""One contender of benchmarks/train_step.py, alone in a process, so that its memory is its own.

The process reads a JSON object from stdin, says that it is ready, then runs as many steps as each
further line says and answers with the seconds; the end of stdin ends it. Meanwhile it waits, so
that several can be measured in turn.
"""

import contextlib
import importlib
import json
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NUM_STEPS = 100_000  # of a run, more than will be made

_SMALL_PAGES = "skipjax, 4 KB pages"  # what skipjax/memory.py saves
# name: (where it is made, its kind there)
CONTENDERS = {
    "skipjax": ("skipjax", "deferred"),
    _SMALL_PAGES: ("skipjax", "deferred"),
    "skipjax lazy": ("skipjax", "lazy"),
    "skipjax dense": ("skipjax", "dense"),
    "torch Adam": ("torch", "adam"),
    "torch Adam fused": ("torch", "fused"),
    "torch SparseAdam": ("torch", "sparse"),
}


class Worker:
    """The parent's end of such a process."""

    def __init__(self, spec: dict[str, Any]):
        self.ended = ""  # why, if it has: most likely for want of memory
        self._ready: dict[str, Any] | None = None
        # Side by side, nobody may take all of a GPU's memory at the start.
        environ = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if spec["contender"] == _SMALL_PAGES:
            environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=0"
        if spec["quick"]:  # compiling would take most of the time
            environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
            environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(spec["batches"]).parent / "compiled")
            environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.step_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environ,
        )
        self._send(spec)

    def ready(self) -> dict[str, Any]:
        """Waits until it is; what it then says: memory, seconds of the first step, ..."""
        if self._ready is None:
            self._ready = self._answer()
        return self._ready

    def run(self, num_steps: int) -> dict[str, Any]:
        """Seconds a step, over so many (or the rates, if it measures the floor); memory."""
        self._send(num_steps)
        return self._answer()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _send(self, message: Any) -> None:
        # If it has ended, there will be no answer, either.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self.ended = f"its process ended with exit code {self._process.wait()}"
            return {}
        return json.loads(line)


def side_by_side(
    specs: dict[str, dict[str, Any]],
    *,
    rounds: int,
    round_seconds: float,
    start_one_by_one: bool = True,
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measures processes in turn: in each round, every one takes a few steps while others wait.

    The time of a first step means something only with `start_one_by_one`; else all but the first
    start together, which may find in its cache what the first has compiled.

    Returns:
      By name: {"ready": what it said first, "steps_a_round": int, "rounds": what it said in each},
      and, by name, why a process ended early.
    """
    workers: dict[str, Worker] = {}
    found = {}
    try:
        for name, spec in specs.items():
            workers[name] = Worker(spec)
            if start_one_by_one or len(workers) == 1:
                workers[name].ready()
        for name, worker in workers.items():
            ready = worker.ready()
            steps = max(1, round(round_seconds / ready.get("seconds", round_seconds)))
            found[name] = {"ready": ready, "steps_a_round": steps, "rounds": []}
        for _ in range(rounds):
            for name, worker in workers.items():
                if not worker.ended:
                    found[name]["rounds"].append(worker.run(found[name]["steps_a_round"]))
            advance()
    finally:
        for worker in workers.values():
            worker.close()
    ended = {name: worker.ended for name, worker in workers.items() if worker.ended}
    return {name: each for name, each in found.items() if name not in ended}, ended


def step_config(spec: dict[str, Any]) -> Any:
    """configs/sasrec_skip.py with the benchmark's sizes."""
    config = importlib.import_module("configs.sasrec_skip").get_config()
    config.sampling.scope = spec["scope"]
    for name, value in spec["fields"].items():
        section, field = name.split(".")
        config[section][field] = value
    return config


def main() -> None:
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.stdin.readline())
    work = _floor if spec["contender"] == "floor" else _contender
    for answer in work(spec, map(json.loads, sys.stdin)):
        print(json.dumps(answer), file=answers)


def _contender(spec, requests):
    config, batches = step_config(spec), pickle.loads(Path(spec["batches"]).read_bytes())
    library, kind = CONTENDERS[spec["contender"]]
    make = _make_skipjax if library == "skipjax" else _make_torch
    start = time.perf_counter()
    step, wait, peak = make(config, kind, spec["num_ids"])
    init = {"init_seconds": time.perf_counter() - start, "init_peak_gb": peak()}
    _forget_peak()
    done = 0

    def run(num_steps):
        nonlocal done
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(num_steps):
            step(batches[done % len(batches)])
            done += 1
        wait()
        taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        return {
            "seconds": taken / num_steps,
            "page_faults": (after.ru_minflt - before.ru_minflt) / num_steps,
            # By other programs: on a quiet machine, next to none.
            "preemptions": (after.ru_nivcsw - before.ru_nivcsw) / num_steps,
            "peak_gb": peak(),
        }

    first = run(1)["seconds"]  # compiles
    run(2)  # settles caches and allocators
    yield {**init, "first_step_seconds": first, **run(2)}
    for num_steps in requests:
        yield run(num_steps)


def _floor(spec, requests):
    import jax

    from benchmarks import floor

    device = jax.local_devices()[0]
    memory = device.memory_stats() if device.platform == "gpu" else None
    yield {
        "platform": device.platform,
        "device": device.device_kind,
        "device_gb": memory["bytes_limit"] / 1e9 if memory else None,
    }
    size, num_bytes, seconds = (512, 1 << 22, 0.01) if spec["quick"] else (2048, 1 << 28, 0.2)
    width = spec["fields"]["model.width"]
    for _ in requests:
        yield {
            "matmul_gflops": floor.matmul_gflops(size, seconds),
            "copy_gbps": floor.copy_gbps(num_bytes, seconds),
            "gather_gbps": floor.gather_gbps(spec["num_ids"], width, seconds),
        }


def _make_skipjax(config, kind, num_ids):
    import jax

    from skipjax import encoders, memory, step

    config.optimizer.table = kind
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    state = step.init_state(config, encoder, num_ids)
    train_step = step.make_train_step(config, encoder, _NUM_STEPS)
    hyper, key = step.hyperparameters(config, _NUM_STEPS), step.train_key(config)
    jax.block_until_ready(state)
    device = jax.local_devices()[0]

    compiled = False

    def run(batch):
        nonlocal state, compiled
        state, _ = train_step(state, batch, hyper, key)
        if not compiled:  # as skipjax/train.py does
            memory.return_freed_memory()
            compiled = True

    def peak():
        if device.platform == "gpu":
            return device.memory_stats()["peak_bytes_in_use"] / 1e9
        return _peak_rss_gb()

    return run, lambda: jax.block_until_ready(state), peak


def _make_torch(config, kind, num_ids):
    import torch

    from benchmarks import torch_step

    on_gpu = torch.cuda.is_available()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run = torch_step.make_step(config, num_ids, kind, "cuda" if on_gpu else "cpu")
    wait = torch.cuda.synchronize if on_gpu else lambda: None

    def peak():
        return torch.cuda.max_memory_allocated() / 1e9 if on_gpu else _peak_rss_gb()

    return run, wait, peak


def _peak_rss_gb() -> float:
    return _proc_kib("/proc/self/status", "VmHWM") * 1024 / 1e9


def _forget_peak() -> None:
    """From here on, VmHWM is that of the steps; where that is not allowed, of all."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def available_gb() -> float:
    """What this machine's memory has room for."""
    return _proc_kib("/proc/meminfo", "MemAvailable") * 1024 / 1e9


def _proc_kib(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"no {name} in {path}")


if __name__ == "__main__":
    main()
