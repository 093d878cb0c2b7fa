"""How fast held-out tracks are ranked, and in how much memory beyond the track table.

    python -m benchmarks.evaluate [--quick] [--json FILE] [--workloads W1 W2 W3]

5,000 sessions, batches of 256, width 128, catalogues of 100 K, 1 M and, where memory allows,
10 M tracks: against all of them, and against 1000 candidates each. All contenders rank the same
random states and tracks and must agree; each run is a process of its own, in turn with the others.
The floor of full ranking is its matrix product at the rate of this machine's square ones; that of
sampled ranking is reading its rows of the table. "Evaluator" is the whole way that training goes:
drawing the candidates (the second time they are kept), the encoder, ranks. The PyTorch rows need
torch, and are left out without it. Bytes beyond the table count all that is used meanwhile,
compiled code included.
"""

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from skipjax.environment import described, environment
from skipjax.memory import restart_with_huge_pages

WIDTH, BATCH_SIZE, NUM_CANDIDATES, CHUNK_SIZE = 128, 256, 1000, 4096
KINDS = {
    "full": ("floor", "skipjax", "skipjax bfloat16", "PyTorch"),
    "sampled": ("floor", "skipjax", "PyTorch", "Evaluator, first time", "Evaluator, again"),
}
# name: tracks, runs of each contender
WORKLOADS = {"W1": (100_000, 3), "W2": (1_000_000, 3), "W3": (10_000_000, 2)}
QUICK = {"quick": (20_000, 1)}
SLOW_TO_START = ("skipjax bfloat16", "Evaluator, first time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sessions and tracks, once")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, help="by default, all")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        kind, who, num_sessions, num_tracks, out = args.measure
        print(json.dumps(_measure(kind, who, int(num_sessions), int(num_tracks), Path(out))))
        return
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    load_before = os.getloadavg()[0]
    console = Console(highlight=False)
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        console.print("torch is not installed: no PyTorch rows.")
    num_sessions = 512 if args.quick else 5000
    results: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        asked = {name: WORKLOADS[name] for name in args.workloads or WORKLOADS}
        for name, (num_tracks, repeats) in (QUICK if args.quick else asked).items():
            needed = 3 * 4 * WIDTH * num_tracks  # the table, twice while it is made, and room
            if needed > _available_bytes():
                console.print(f"{name} left out: it needs {needed / 1e9:.0f} GB of free memory.")
                continue
            results[name] = {"tracks": num_tracks}
            for kind, contenders in KINDS.items():
                left = [who for who in contenders if has_torch or who != "PyTorch"]
                if args.quick:  # each costs seconds of compiling
                    left = [who for who in left if who not in SLOW_TO_START]
                results[name][kind] = _compare(kind, left, num_sessions, num_tracks, repeats, bar)
    facts = {
        **environment(["jax", "numpy", *["torch"] * has_torch]),
        "command": _command(args),
        "cpus_used": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in (load_before, os.getloadavg()[0])],
        "sessions": num_sessions,
        "results": results,
    }
    _print(facts, console)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


def _command(args: argparse.Namespace) -> str:
    """What was run, without where on this machine."""
    json_file = f" --json {args.json.name}" if args.json else ""
    workloads = " --workloads " + " ".join(args.workloads) if args.workloads else ""
    return "python -m benchmarks.evaluate" + " --quick" * args.quick + workloads + json_file


def _available_bytes() -> int:
    return _proc_kb("/proc/meminfo", "MemAvailable") * 1024


def _proc_kb(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"no {name} in {path}")


def _compare(
    kind: str,
    contenders: list[str],
    num_sessions: int,
    num_tracks: int,
    repeats: int,
    bar: Progress,
) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {who: [] for who in contenders}
    task = bar.add_task(f"{kind}, {num_tracks:,} tracks", total=repeats * len(contenders))
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(repeats):
            for who in contenders:
                numbers = (str(num_sessions), str(num_tracks))
                command = [sys.executable, "-m", "benchmarks.evaluate", "--measure", kind, who]
                done = subprocess.run(
                    [*command, *numbers, scratch], check=True, stdout=subprocess.PIPE, text=True
                )
                runs[who].append(json.loads(done.stdout))
                bar.advance(task)
        differing = _differing(Path(scratch), kind, num_tracks)
    return {
        who: {
            "seconds": [round(run["seconds"], 4) for run in some],
            "seconds_median": statistics.median(run["seconds"] for run in some),
            "times_floor_median": statistics.median(
                run["seconds"] / floor["seconds"]
                for run, floor in zip(some, runs["floor"], strict=True)
            ),
            "mb_beyond_table": max(run["mb_beyond_table"] for run in some),
            "rate": statistics.median(run["rate"] for run in some),
            **differing.get(who, {}),
        }
        for who, some in runs.items()
    }


def _differing(scratch: Path, kind: str, num_tracks: int) -> dict[str, dict[str, float]]:
    """How the ranks of others differ from skipjax's; raises where by more than near-ties."""
    ours = np.load(scratch / "skipjax.npy")
    found = {}
    for path in sorted(scratch.glob("*.npy")):
        apart = np.abs(np.load(path).astype(np.int64) - ours)
        found[path.stem] = {"ranks_differing": float((apart > 0).mean())}
        # Scores of other summations are 1e-6 of their spread apart: so many tracks lie between.
        most = 2 + 4e-6 * (num_tracks if kind == "full" else NUM_CANDIDATES)
        if apart.max() > most and "bfloat16" not in path.stem:
            raise SystemExit(f"{path.stem}: a rank differs by {apart.max()}, at most {most:.0f}.")
    return found


def _measure(
    kind: str, who: str, num_sessions: int, num_tracks: int, out: Path
) -> dict[str, float]:
    """One run of one contender: seconds, memory and rate; its ranks go into `out`."""
    num_ids = 2 + num_tracks
    if who == "floor":
        return _floor(kind, num_sessions, num_ids)
    if who.startswith("Evaluator"):
        prepared = _evaluator(who, num_sessions, num_ids)
    else:
        rng = np.random.default_rng(0)
        data = {
            "hidden": rng.standard_normal((num_sessions, WIDTH), np.float32),
            "target": rng.integers(2, num_ids, num_sessions, np.int32),
        }
        if kind == "sampled":
            shape = (num_sessions, NUM_CANDIDATES)
            data["candidates"] = rng.integers(2, num_ids - 1, shape, np.int32)
            data["candidates"] += data["candidates"] >= data["target"][:, None]
        table = rng.standard_normal((num_ids, WIDTH), np.float32)
        prepared = (_torch if who == "PyTorch" else _skipjax)(kind, who, data, table)
        del table
    gc.collect()
    time.sleep(0.2)  # JAX lets go of what it copied from in a thread of its own
    before = _proc_kb("/proc/self/status", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    ranks, seconds = prepared()
    beyond = _proc_kb("/proc/self/status", "VmHWM") - before
    if not who.startswith("Evaluator"):
        np.save(out / f"{who}.npy", ranks)
    rate = _work(kind, num_sessions, num_ids) / seconds / 1e9
    return {"seconds": seconds, "mb_beyond_table": max(beyond, 0) / 1024, "rate": rate}


def _work(kind: str, num_sessions: int, num_ids: int) -> int:
    """Floating-point operations of full ranking, bytes of rows read by sampled ranking."""
    if kind == "full":
        return 2 * num_sessions * num_ids * WIDTH
    return 4 * num_sessions * (1 + NUM_CANDIDATES) * WIDTH


def _floor(kind: str, num_sessions: int, num_ids: int) -> dict[str, float]:
    from benchmarks import floor

    rate = floor.matmul_gflops() if kind == "full" else floor.gather_gbps(num_ids, WIDTH)
    seconds = _work(kind, num_sessions, num_ids) / rate / 1e9
    return {"seconds": seconds, "mb_beyond_table": 0.0, "rate": rate}


Prepared = Callable[[], tuple[np.ndarray, float]]


def _batches(data: dict[str, np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """All of one shape, the last one filled up."""
    return [
        tuple(
            np.concatenate([part, np.repeat(part[-1:], BATCH_SIZE - len(part), axis=0)])
            for part in (array[start : start + BATCH_SIZE] for array in data.values())
        )
        for start in range(0, len(data["target"]), BATCH_SIZE)
    ]


def _timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    ranks = run()
    return ranks, time.perf_counter() - start


def _skipjax(kind: str, who: str, data: dict[str, np.ndarray], table: np.ndarray) -> Prepared:
    import jax
    import jax.numpy as jnp

    from skipjax import ranking

    precision = "bfloat16" if "bfloat16" in who else "float32"

    @jax.jit
    def rank(table, hidden, *ids):
        if kind == "sampled":
            return ranking.sampled_ranks(hidden, table, *ids, precision=precision)
        return ranking.full_ranks(hidden, table, *ids, chunk_size=CHUNK_SIZE, precision=precision)

    batches, number = _batches(data), len(data["target"])
    table = jnp.array(table).block_until_ready()

    def run():
        found = [rank(table, *batch) for batch in batches]
        return np.concatenate([np.asarray(some) for some in found])[:number]

    def prepared():
        rank(table, *batches[0]).block_until_ready()  # compiles
        return _timed(run)

    return prepared


def _torch(kind: str, who: str, data: dict[str, np.ndarray], table: np.ndarray) -> Prepared:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = torch.from_numpy(table)
    batches = [tuple(map(torch.from_numpy, batch)) for batch in _batches(data)]
    number = len(data["target"])

    # Written into what is kept, so that no time goes into fresh memory, which can be slow to get.
    kept = torch.empty(BATCH_SIZE * max(CHUNK_SIZE, (1 + NUM_CANDIDATES) * WIDTH))

    def full(hidden, target):
        bar = (hidden * table[target]).sum(dim=1)[:, None]
        above = torch.zeros(len(hidden))
        for start in range(2, len(table), CHUNK_SIZE):
            rows = table[start : start + CHUNK_SIZE]
            scores = kept[: len(hidden) * len(rows)].view(len(hidden), len(rows))
            torch.mm(hidden, rows.T, out=scores)
            row = ((target >= start) & (target < start + len(rows))).nonzero()[:, 0]
            scores[row, target[row].long() - start] = -torch.inf
            above += scores.ge_(bar).sum(dim=1)
        return 1 + above.int()

    def sampled(hidden, target, candidates):
        ids = torch.cat([target[:, None], candidates], dim=1)
        rows = kept[: ids.numel() * WIDTH].view(ids.numel(), WIDTH)
        torch.index_select(table, 0, ids.flatten(), out=rows)
        scores = torch.bmm(rows.view(*ids.shape, WIDTH), hidden[:, :, None])[:, :, 0]
        return 1 + (scores[:, 1:] >= scores[:, :1]).sum(dim=1)

    rank = full if kind == "full" else sampled

    def prepared():
        with torch.inference_mode():
            rank(*batches[0])
            return _timed(lambda: torch.cat([rank(*batch) for batch in batches]).numpy()[:number])

    return prepared


def _evaluator(who: str, num_sessions: int, num_ids: int) -> Prepared:
    import jax
    import pyarrow as pa

    from configs import sasrec
    from skipjax import encoders, evaluate
    from skipjax.data.parts import Split, everywhere

    config = sasrec.get_config()
    config.eval.batch_size, config.eval.num_candidates = BATCH_SIZE, NUM_CANDIDATES
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 1 + config.data.max_length, num_sessions, np.int32)
    split = Split(
        tracks=rng.integers(2, num_ids, lengths.sum(), np.int32),
        skipped=np.zeros(lengths.sum(), bool),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        session_ids=pa.array([f"session-{i}" for i in range(num_sessions)]),
        track_ids=pa.nulls(num_ids - 2),
        train_counts=np.zeros(num_ids, np.int64),
        left_out={},
        digest="",
        parts=everywhere(num_sessions),
    )
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    params = encoders.init_params(jax.random.key(0), encoder, num_ids, WIDTH)
    jax.block_until_ready(params)
    evaluator = evaluate.Evaluator(config, encoder, split)

    def run():
        return evaluator.ranks(params, "valid", full=False)["valid"]

    def prepared():
        run()  # compiles, and draws
        if who == "Evaluator, first time":
            evaluator.candidates = evaluate.Candidates(split, NUM_CANDIDATES, config.eval.seed)
        return _timed(run)

    return prepared


def _print(facts: dict[str, Any], console: Console) -> None:
    title = f"{facts['sessions']:,} sessions, {facts['cpus_used']} CPUs; medians"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("s", "min", "max", "× floor", "rate", "+ MB", "ranks differ"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in facts["results"].values():
        for kind, unit in (("full", "GFLOP/s"), ("sampled", "GB/s")):
            for who, row in result[kind].items():
                differ = row.get("ranks_differing")
                table.add_row(
                    f"{result['tracks'] / 1e6:g} M {kind}: {who}",
                    f"{row['seconds_median']:.3g}",
                    f"{min(row['seconds']):.3g}",
                    f"{max(row['seconds']):.3g}",
                    f"{row['times_floor_median']:.2f}",
                    f"{row['rate']:.3g} {unit}",
                    "" if who == "floor" else f"{row['mb_beyond_table']:,.0f}",
                    "" if differ is None else f"{differ:.2%}",
                    end_section=who == list(result[kind])[-1],
                )
    console.width = max(console.width, 110)  # a pipe counts as 80, too few for the table
    console.print(table)
    console.print("load {} to {}; ".format(*facts["load_average"]) + described(facts))


if __name__ == "__main__":
    restart_with_huge_pages()  # for all contenders alike
    main()
