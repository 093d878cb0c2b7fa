"""The parts of benchmarks/scaling.py that need devices, in a process of their own.

The process reads a JSON object from stdin, whose "job" names a function below, and answers with
lines of JSON. How many devices a CPU counts as is said by XLA_FLAGS before JAX starts.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import scaling_counts
from benchmarks.collectives import Program, sent_by_kind
from benchmarks.step_contest import random_split
from benchmarks.step_worker import step_config
from skipjax import encoders, evaluate, mesh, ranking, step, trained
from skipjax.data.batches import SessionBatches
from skipjax.data.parts import Split
from skipjax.ids import FIRST_TRACK_ID
from skipjax.objective import Objective

Answer = dict[str, Any]

_NUM_STEPS = 100_000  # of a run, more than will be made
_SETTLING = 2  # steps that are not timed
_FEWEST = 1000  # tracks
_FITS = 0.01  # the largest table is found to so much of it


def ask(spec: Answer, num_devices: int = 0) -> Iterator[Answer]:
    """The answers of such a process; with `num_devices`, on so many virtual devices of the CPU.

    Raises:
      SystemExit: it failed, having said why.
    """
    environ = dict(os.environ)
    if num_devices:
        flag = f"--xla_force_host_platform_device_count={num_devices}"
        environ["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} {flag}".strip()
        environ["JAX_PLATFORMS"] = "cpu"
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "benchmarks.scaling_worker"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ) as process:
        process.stdin.write(json.dumps(spec))
        process.stdin.close()
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"{spec['job']} ended with {process.returncode}.")


def train(spec: Answer) -> Iterator[Answer]:
    """Of each of `spec["cases"]`, what its step sends, and the losses and times of some steps."""
    for case in spec["cases"]:
        config = _config(spec, case)
        split = _split(spec, case["batch_size"] * spec["num_batches"])
        if not step.by_rows(config, split.num_ids):
            raise SystemExit(f"{split.num_ids:,} rows are too few to be updated one by one.")
        layout = _layout(config, split.num_ids, case)
        encoder = encoders.make_encoder(config.model, config.data.max_length)
        batches = _batches(config, split, layout)
        state = step.init_state(config, encoder, split.num_ids, layout)
        hyper, key = step.hyperparameters(config, _NUM_STEPS), step.train_key(config)
        train_step = step.make_train_step(config, encoder, _NUM_STEPS, layout)
        packed = case.get("packed", True)

        def batch_of(number, batches=batches, layout=layout, packed=packed):
            batch = batches.batch(number)
            return layout.put(
                batch if packed else {k: v for k, v in batch.items() if k != "packing"}
            )

        batch = batch_of(0)
        start = time.perf_counter()
        compiled = train_step.lower(state, batch, hyper, key).compile()
        compile_seconds = time.perf_counter() - start
        sizes = _sizes(config, layout, batch["tracks"].shape[1], state.params["encoder"])
        designed = scaling_counts.designed_step(sizes, layout.data, layout.tracks)
        losses, taken = [], []
        for number in range(case["steps"]):
            batch = batch_of(number)
            start = time.perf_counter()
            state, metrics = compiled(state, batch, hyper, key)
            losses.append(float(metrics["loss"]))
            taken.append(time.perf_counter() - start)
        jax.block_until_ready(state)
        memory = compiled.memory_analysis()
        ids = _ids_read(config, encoder, split, layout)
        rows = layout.padded(split.num_ids) // layout.tracks
        yield {
            **case,
            **_counted(compiled, designed, layout, split.num_ids),
            "least_bytes": scaling_counts.least_step(ids, sizes, layout.tracks, rows),
            "losses": losses,
            "step_ms": 1e3 * statistics.median(taken[_SETTLING:]),
            "step_ms_least": 1e3 * min(taken[_SETTLING:]),
            "compile_seconds": compile_seconds,
            "argument_mb": memory.argument_size_in_bytes / 1e6,
            "temporary_mb": memory.temp_size_in_bytes / 1e6,
        }


def rank(spec: Answer) -> Iterator[Answer]:
    """Of each of `spec["cases"]`, what its evaluation sends, and the ranks and the best tracks."""
    for case in spec["cases"]:
        config = _config(spec, case)
        config.eval.batch_size = case["batch_size"]
        split = _split(spec, case["batch_size"])
        layout = _layout(config, split.num_ids, case)
        encoder = encoders.make_encoder(config.model, config.data.max_length)
        state = step.init_state(config, encoder, split.num_ids)
        # So that scores lie apart, as those of a trained model do; the same on all layouts.
        params = _lying(jax.tree.map(lambda x: 20 * x, state.params), layout)
        programs = {}

        def starting(function, programs=programs):
            def call(*given):
                programs[function.__name__] = function.lower(*given).compile()
                return programs[function.__name__](*given)

            return call

        evaluator = evaluate.Evaluator(config, encoder, split, layout, starting)
        top = np.zeros((case["batch_size"], config.eval.keep_top), np.int32)
        ranks = evaluator.ranks(params, "valid", full=True, top=top)
        number, length = case["batch_size"] // layout.size, config.data.max_length - 1
        sizes = _sizes(config, layout, length, params["encoder"], number)
        counts = (config.eval.num_candidates, config.eval.keep_top, layout.data, layout.tracks)
        found = {}
        for name, compiled in programs.items():
            designed = scaling_counts.designed_ranking(name, sizes, *counts)
            found[name] = {
                **_counted(compiled, designed, layout, split.num_ids),
                "least_bytes": scaling_counts.least_ranking(name, sizes, *counts),
            }
        found["recommend"] = _recommend(config, encoder, params, split.num_ids, layout)
        yield {
            **case,
            "programs": found,
            "ranks": {name: some.tolist() for name, some in ranks.items()},
            "top": top.tolist(),
        }


def _lying(params: Any, layout: mesh.Layout) -> Any:
    """Parameters of one device on those of a layout."""
    if layout.mesh is None:
        return params
    table = params["table"]
    rows = jnp.pad(table, ((0, layout.padded(len(table)) - len(table)), (0, 0)))
    return {
        "encoder": jax.device_put(params["encoder"], layout.sharding(mesh.EVERYWHERE)),
        "table": jax.device_put(rows, layout.sharding(mesh.ROWS)),
    }


def _recommend(config, encoder, params, num_ids: int, layout: mesh.Layout) -> Answer:
    """What recommending for the smallest batch sends, with all tracks of a session left out."""

    def recommend(params, tracks, valid, feedback, exclude):
        names = range(num_ids - FIRST_TRACK_ID)
        model = trained.model_of(config, encoder, params, names, layout=layout)
        hidden = model.hidden(tracks, valid, feedback)
        return model.best(hidden, exclude, config.eval.keep_top)

    length = config.data.max_length
    number = layout.size * ranking.SESSIONS
    tracks = np.zeros((number, length), np.int32)
    valid = np.zeros((number, length), bool)
    batch = layout.put((tracks, valid, tracks, tracks))
    compiled = jax.jit(recommend).lower(params, *batch).compile()
    sizes = _sizes(config, layout, length, params["encoder"], ranking.SESSIONS)
    counts = (length, config.eval.keep_top, layout.data, layout.tracks)
    designed = scaling_counts.designed_ranking("recommend", sizes, *counts)
    return {
        **_counted(compiled, designed, layout, num_ids),
        "least_bytes": scaling_counts.least_ranking("recommend", sizes, *counts),
        "batch_size": number,
    }


def cost(spec: Answer) -> Iterator[Answer]:
    """FLOPs and temporary memory of each of `spec["cases"]`, a step on one device."""
    for case in spec["cases"]:
        config = _config(spec, case)
        split = _split(spec, case["batch_size"])
        layout = _layout(config, split.num_ids, {"data": 1, "tracks": 1})
        encoder = encoders.make_encoder(config.model, config.data.max_length)
        batch = _batches(config, split, layout).batch(0)
        state = jax.eval_shape(lambda: step.init_state(config, encoder, split.num_ids))  # noqa: B023
        compiled = _compiled_step(config, encoder, state, batch, layout)
        sizes = _sizes(config, layout, batch["tracks"].shape[1], state.params["encoder"])
        yield {
            **case,
            "flops": compiled.cost_analysis()["flops"],
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
            "sizes": dataclasses.asdict(sizes),
        }


def device(spec: Answer) -> Iterator[Answer]:
    """What a program finds here when nothing is said about devices."""
    first = jax.local_devices()[0]
    yield {"platform": first.platform, "device": first.device_kind, "number": jax.device_count()}


def largest(spec: Answer) -> Iterator[Answer]:
    """The most tracks whose step fits one device, by what compiling says; then some steps."""
    config = _config(spec, spec)
    layout = _layout(config, 0, {"data": 1, "tracks": 1})
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    limit = spec["limit_bytes"]
    if not limit:
        limit = jax.local_devices()[0].memory_stats()["bytes_limit"]

    def needed(num_tracks):
        split = _split({**spec, "num_tracks": num_tracks}, config.train.batch_size)
        batch = _batches(config, split, layout).batch(0)
        state = jax.eval_shape(lambda: step.init_state(config, encoder, split.num_ids))
        memory = _compiled_step(config, encoder, state, batch, layout).memory_analysis()
        kept = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        return kept + memory.output_size_in_bytes - memory.alias_size_in_bytes

    tried: dict[int, int] = {}

    def has_room(num_tracks):
        if num_tracks not in tried:
            tried[num_tracks] = needed(num_tracks)
        return tried[num_tracks] <= limit

    if not has_room(_FEWEST):
        raise SystemExit(f"{_FEWEST:,} tracks need {tried[_FEWEST]:,} bytes, above {limit:,}.")
    # All but a line's first part is the table: where that line meets the limit, and around it.
    more = 100 * _FEWEST
    has_room(more)
    each = (tried[more] - tried[_FEWEST]) / (more - _FEWEST)
    guess = _FEWEST + max(1, int((limit - tried[_FEWEST]) / each))
    fits, over = (guess, None) if has_room(guess) else (_FEWEST, guess)
    if over is None:
        over = round(guess * (1 + _FITS))
        while has_room(over):
            fits, over = over, 2 * over
    elif has_room(near := max(_FEWEST, round(guess * (1 - _FITS)))):
        fits = near
    while over - fits > 1 + _FITS * fits:
        middle = (fits + over) // 2
        fits, over = (middle, over) if has_room(middle) else (fits, middle)
    refused = []
    while True:  # initialising may need more than the step does
        try:
            losses = _some_steps(config, encoder, layout, {**spec, "num_tracks": fits})
            break
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refused.append(fits)
            fits = round(fits * (1 - 2 * _FITS))
    yield {
        "limit_bytes": limit,
        "limit_is": "artificial" if spec["limit_bytes"] else "the device's",
        "tried": {f"{tracks}": num_bytes for tracks, num_bytes in sorted(tried.items())},
        "out_of_memory": refused,
        "num_tracks": fits,
        "width": config.model.width,
        "losses": losses,
    }


def _some_steps(config, encoder, layout, spec) -> list[float]:
    split = _split(spec, config.train.batch_size * spec["steps"])
    batches = _batches(config, split, layout)
    state = step.init_state(config, encoder, split.num_ids)
    hyper, key = step.hyperparameters(config, _NUM_STEPS), step.train_key(config)
    train_step = step.make_train_step(config, encoder, _NUM_STEPS)
    losses = []
    for number in range(spec["steps"]):
        state, metrics = train_step(state, batches.batch(number), hyper, key)
        losses.append(float(metrics["loss"]))
    return losses


def _config(spec: Answer, case: Answer) -> Any:
    config = step_config({"scope": case["scope"], "fields": spec["fields"]})
    config.train.batch_size = case["batch_size"]
    return config


def _split(spec: Answer, num_sessions: int) -> Split:
    """Sessions of 10 to 20 tracks, drawn uniformly."""
    lengths = np.random.default_rng(spec["seed"]).integers(10, 21, num_sessions)
    return random_split(spec["num_tracks"], lengths)


def _batches(config: Any, split: Split, layout: mesh.Layout) -> SessionBatches:
    return SessionBatches(
        split,
        batch_size=config.train.batch_size,
        max_length=config.data.max_length,
        seed=config.seed,
        num_devices=layout.size,
        mine=layout.mine,
    )


def _layout(config: Any, num_ids: int, case: Answer) -> mesh.Layout:
    """On the first of the devices that are there."""
    config.mesh.data, config.mesh.tracks = case["data"], case["tracks"]
    devices = jax.devices()[: case["data"] * case["tracks"]]
    return mesh.make_layout(config.mesh, num_ids, devices)


def _sizes(
    config: Any, layout: mesh.Layout, length: int, encoder_params: Any, sessions: int | None = None
) -> scaling_counts.Sizes:
    """Of a training step, unless told how many sessions there are on a device."""
    return scaling_counts.Sizes(
        sessions=config.train.batch_size // layout.size if sessions is None else sessions,
        length=length,
        width=config.model.width,
        num_params=sum(x.size for x in jax.tree.leaves(encoder_params)),
        negatives=config.sampling.num_negatives,
        scope=config.sampling.scope,
        causal=config.model.causal,
    )


def _compiled_step(config, encoder, state, batch, layout):
    """The step on one device, of arrays that need not be there."""
    hyper, key = step.hyperparameters(config, _NUM_STEPS), step.train_key(config)
    train_step = step.make_train_step(config, encoder, _NUM_STEPS, layout)
    return train_step.lower(state, batch, hyper, key).compile()


def _counted(compiled, designed, layout: mesh.Layout, num_ids: int) -> Answer:
    """What a program sends by its text, and what else of it depends on the layout."""
    program = Program(compiled.as_text())
    found = program.collectives() if layout.size > 1 else []
    rows = layout.padded(num_ids) // layout.tracks
    # Shapes of what each device has of the table, or is as long: chunks of it are no news.
    beside = {
        shape: size
        for shape, size in program.arrays().items()
        if str(rows) not in shape.strip("]").partition("[")[2].split(",")
    }
    shapes = [shape.strip("]").partition("[")[2].split(",") for shape in program.arrays()]
    sizes = {int(size) for shape in shapes for size in shape if size}
    largest = max(beside, key=beside.get)
    return {
        "bytes": sum(one.sent for one in found),
        "bytes_by_kind": sent_by_kind(found),
        "designed_bytes": sum(one.sent for one in designed),
        "designed_by_kind": sent_by_kind(designed),
        "designed_by_purpose": {one.what: one.sent for one in designed if one.sent},
        "number": sum(one.times for one in found),
        "holds_full_table": layout.tracks > 1 and bool(sizes & {num_ids, layout.padded(num_ids)}),
        "largest_array": largest,
        "largest_array_mb": beside[largest] / 1e6,
    }


def _ids_read(config, encoder, split: Split, layout: mesh.Layout) -> list[np.ndarray]:
    """The ids that each device's sessions of the first batch read, then those that all do.

    Draws depend on no layout, so they are made here for all sessions at once.
    """
    one = SessionBatches(
        split,
        batch_size=config.train.batch_size,
        max_length=config.data.max_length,
        seed=config.seed,
    ).batch(0)
    one.pop("packing", None)
    objective = Objective(config, encoder)
    step_key = jax.random.fold_in(step.train_key(config), jnp.int32(0))
    ids = objective.ids(one, jax.random.split(step_key)[0], split.num_ids)
    own: list[list[np.ndarray]] = [[] for _ in range(layout.size)]
    common = [np.empty(0, np.int64)]
    for name, some in ids.items():
        if name in objective.shared:
            common.append(np.asarray(some).reshape(-1))
            continue
        some = np.concatenate([np.asarray(x) for x in jax.tree.leaves(some)])
        for device in range(layout.size):
            own[device].append(some[device :: layout.size].reshape(-1))
    least = [np.concatenate(some) for some in own]
    return [*(some[some >= FIRST_TRACK_ID] for some in least), np.concatenate(common)]


def main() -> None:
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.stdin.read())
    jobs = {job.__name__: job for job in (train, rank, cost, device, largest)}
    for answer in jobs[spec["job"]](spec):
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
