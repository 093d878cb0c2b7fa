"""What tests ask of eight virtual devices: python tests/on_devices.py NAME JSON prints JSON.

In a process of its own, since how many devices there are is fixed when JAX starts.
"""

import dataclasses
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

LAYOUTS = ((1, 1), (8, 1), (2, 4), (1, 8))
_ROOT = Path(__file__).parent.parent


def ask(name, *, optimized=False, **arguments):
    """What `name` below returns there."""
    env = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DEBUG_KEY_REUSE": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0" if optimized else "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, name, json.dumps(arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def _config(changes):
    config = importlib.import_module("configs.tiny").get_config()
    config.train.batch_size = 16
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        config[section][name] = value
    return config


def _made(config, layout_of):
    import jax

    from skipjax import encoders, mesh, step
    from skipjax.data import batches, sources
    from skipjax.data.split import split_as

    split = split_as(config.data, sources.load(config.data))
    encoder = encoders.make_encoder(config.model, config.data.max_length)
    data, tracks = layout_of
    layout = mesh.make_layout(types.SimpleNamespace(data=data, tracks=tracks), split.num_ids)
    return types.SimpleNamespace(
        jax=jax,
        split=split,
        encoder=encoder,
        layout=layout,
        state=step.init_state(config, encoder, split.num_ids, layout),
        step=step.make_train_step(config, encoder, 50, layout),
        flush=step.make_flush(config, layout),
        hyper=step.hyperparameters(config, 50),
        key=step.train_key(config),
        batches=batches.SessionBatches(
            split,
            batch_size=config.train.batch_size,
            max_length=config.data.max_length,
            seed=0,
            num_devices=layout.size,
            mine=layout.mine,
        ),
    )


def losses(changes, steps, layouts=LAYOUTS):
    """Of each layout, [steps, 3] of loss, nll and infonce; and whether rows are updated one by one,
    whether padding stayed zero, and the table's largest distance from that of the first."""
    import numpy as np

    from skipjax.row_adam import RowAdam

    found, first, start = [], None, None
    for layout in layouts:
        made = _made(_config(changes), layout)
        state, values = made.state, []
        begun = [np.array(x) for x in made.jax.tree.leaves(state.params["encoder"])]
        begun.append(np.array(state.params["table"])[: made.split.num_ids])
        start = start or begun
        begun_alike = all(np.array_equal(a, b) for a, b in zip(begun, start, strict=True))
        for number in range(steps):
            batch = made.layout.put(made.batches.batch(number))
            state, metrics = made.step(state, batch, made.hyper, made.key)
            values.append([float(metrics[name]) for name in ("loss", "nll", "infonce")])
        state = made.flush(state, made.hyper)
        table = np.asarray(state.params["table"])
        real = table[: made.split.num_ids]
        first = real if first is None else first
        found.append(
            {
                "begun_alike": begun_alike,
                "losses": values,
                "by_rows": isinstance(state.optimizer["table"], RowAdam),
                "padding": len(table) - len(real),
                "padding_is_zero": not table[len(real) :].any(),
                "apart": float(np.abs(real - first).max()),
            }
        )
    return found


def drift(changes):
    """How far copies of a table, and of what is kept of it, are apart before and after a flush."""
    import jax
    import numpy as np

    made = _made(_config(changes), (2, 4))
    rng = np.random.default_rng(0)

    def drifted(x):
        if x.sharding.is_fully_replicated or x.dtype != np.float32:
            return x
        parts = [rng.random(part.data.shape, np.float32) for part in x.addressable_shards]
        parts = [
            jax.device_put(p, s.device) for p, s in zip(parts, x.addressable_shards, strict=True)
        ]
        return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)

    def apart(state):
        table = (state.params["table"], state.optimizer["table"])
        shards = [np.stack([p.data for p in x.addressable_shards]) for x in jax.tree.leaves(table)]
        return [float(np.abs(x[:4] - x[4:]).max()) for x in shards]

    state = jax.tree.map(drifted, made.state)
    before = apart(state)
    return [before, apart(made.flush(state, made.hyper))]


def ranks(changes, layouts=LAYOUTS):
    """Of each layout, what one set of parameters makes of the test sessions."""
    import jax
    import numpy as np

    from skipjax import evaluate
    from skipjax.mesh import EVERYWHERE, ROWS

    found = []
    for layout in layouts:
        config = _config({"eval.keep_top": 15, **changes})
        made = _made(config, layout)
        on_one = _made(config, (1, 1)).state.params
        table = 20 * np.array(on_one["table"])
        table[5::3] = table[2]  # many ties
        table[7] = np.nan
        table = np.pad(table, ((0, made.layout.padded(len(table)) - len(table)), (0, 0)))
        params = {"encoder": jax.tree.map(lambda x: 20 * x, on_one["encoder"]), "table": table}
        if made.layout.mesh:
            params = {
                "encoder": jax.device_put(params["encoder"], made.layout.sharding(EVERYWHERE)),
                "table": jax.device_put(table, made.layout.sharding(ROWS)),
            }
        evaluator = evaluate.Evaluator(config, made.encoder, made.split, made.layout)
        top = np.zeros((len(made.split.parts["test"].sessions), 15), np.int32)
        ranked = evaluator.ranks(params, "test", full=True, top=top)
        found.append({name: values.tolist() for name, values in ranked.items()})
        found[-1]["top"] = top.tolist()
    return found


def shapes(changes, num_ids, layouts):
    """Of each layout and program, the sizes of all arrays in what a device runs; and, as a program
    that is not right, those of a product and top-k that are left to XLA."""
    import jax
    import jax.numpy as jnp

    from skipjax import evaluate, recommend, step, trained
    from skipjax.mesh import ROWS, SESSIONS

    def sizes(compiled):
        text = compiled.as_text()
        return sorted({tuple(map(int, s.split(","))) for s in re.findall(r"\[([\d,]+)\]", text)})

    found = {}
    for layout_of in layouts:
        config = _config({"eval.keep_top": 15, "eval.chunk_size": 512, **changes})
        made = _made(config, layout_of)
        layout = dataclasses.replace(made.layout, num_ids=num_ids)
        train_step = step.make_train_step(config, made.encoder, 50, layout)
        init = functools.partial(step.init_state, config, made.encoder, num_ids)
        state = jax.eval_shape(init)
        lie = step.shardings(state, layout)
        rows = layout.padded(num_ids)

        def lying(x, where, rows=rows):
            shape = (rows, *x.shape[1:]) if where.spec == ROWS else x.shape
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=where)

        state = jax.tree.map(lying, state, lie)
        programs = {}
        batch = layout.put(made.batches.batch(0))
        programs["step"] = train_step.lower(state, batch, made.hyper, made.key)
        programs["flush"] = step.make_flush(config, layout).lower(state, made.hyper)
        evaluator = evaluate.Evaluator(config, made.encoder, made.split, layout)
        _, batch = next(evaluator._batches("test"))
        hidden = jax.ShapeDtypeStruct(
            (config.eval.batch_size, config.model.width),
            jnp.float32,
            sharding=layout.sharding(SESSIONS),
        )
        batch = layout.put(batch)
        programs["sampled"] = evaluator._sampled.lower(state.params, batch)
        programs["full"] = evaluator._full.lower(state.params, hidden, batch["targets"])
        programs["best"] = evaluator._best.lower(state.params, hidden)
        exclude = jax.ShapeDtypeStruct(
            (config.eval.batch_size, 20), jnp.int32, sharding=layout.sharding(SESSIONS)
        )

        def recommended(params, hidden, exclude, config=config, made=made, layout=layout):
            model = trained.model_of(config, made.encoder, params, range(9), layout=layout)
            return model.best(hidden, exclude, 15)

        programs["recommend"] = jax.jit(recommended).lower(state.params, hidden, exclude)
        near = functools.partial(recommend._near, layout, k=10)
        programs["similar"] = jax.jit(near).lower(state.params["table"], 5)
        programs["left to XLA"] = jax.jit(
            lambda table, hidden: jax.lax.top_k(hidden @ table.T, 15)
        ).lower(state.params["table"], hidden)
        found["x".join(map(str, layout_of))] = {
            name: sizes(program.compile()) for name, program in programs.items()
        }
    return found


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
