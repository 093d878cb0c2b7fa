"""What one layout of devices saved, another restores bit for bit, with several processes, too.

Run as a program, this file is one of the processes.
"""

import contextlib
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import flax.struct
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import skipjax
from skipjax import processes
from skipjax.checkpoints import Checkpoints
from skipjax.errors import CheckpointError, DivergedError, OutputError

ROWS, WIDTH, STEP = 1003, 8, 7  # no number of devices divides the rows
LAYOUTS = {"1x1": (1, 1), "8x1": (8, 1), "2x4": (2, 4), "1x8": (1, 8)}
TWO = "two processes"  # two devices each, that share the rows
NAMES = (*LAYOUTS, TWO)


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    optimizer: dict


def values(rows=ROWS):
    """A state as NumPy has it, of `rows` rows, with numbers of all sizes."""
    rng = np.random.default_rng(0)

    def floats(*shape):
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, shape)).astype("f4")

    def table(*shape):
        return floats(ROWS, *shape)[:rows]

    numbers = rng.integers(2**31, size=(2, ROWS), dtype=np.int32)[:, :rows]
    return State(
        step=np.int32(STEP),
        params={"encoder": {"kernel": floats(8, 16), "bias": floats(16)}, "table": table(WIDTH)},
        optimizer={
            "encoder": (np.int32(STEP), {"kernel": floats(8, 16), "bias": floats(16)}),
            "table": {
                "direction": table(WIDTH),
                "root": table(WIDTH),
                "last": numbers[0],
                "place": numbers[1],
            },
        },
    )


def by_rows(path):
    return "table" in jax.tree_util.keystr(path)


def on(mesh, state, padding=0):
    """Shapes, or arrays if `state` has them, on a mesh, padded with that number."""

    def put(path, x):
        sharding = NamedSharding(mesh, P("tracks") if by_rows(path) else P())
        more = -len(x) % mesh.shape["tracks"] if by_rows(path) else 0
        shape = (len(x) + more, *x.shape[1:]) if more else x.shape
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)
        padded = np.full(shape, padding, x.dtype)
        padded[tuple(map(slice, x.shape))] = x
        return jax.make_array_from_callback(shape, sharding, lambda index: padded[index])

    return jax.tree_util.tree_map_with_path(put, state)


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def differences(found, wanted):
    """Names of the leaves whose parts on this process's devices differ in a bit, or in kind."""

    def differ(path, x, y):
        same = x.shape == y.shape and x.dtype == y.dtype and x.sharding == y.sharding
        parts = zip(x.addressable_shards, y.addressable_shards, strict=True)
        if not same or any(
            np.asarray(a.data).tobytes() != np.asarray(b.data).tobytes() for a, b in parts
        ):
            return jax.tree_util.keystr(path)
        return None

    return jax.tree.leaves(jax.tree_util.tree_map_with_path(differ, found, wanted))


def folder_of(place, name):
    return place / name.replace(" ", "-")


def said(kind, call, *args, **more):
    """What an error of that kind says, that the call must raise."""
    try:
        call(*args, **more)
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def restore_all(place, name, mesh):
    """What differs, by where it was saved, once all have saved."""
    like, logical, wanted = on(mesh, shapes(values())), shapes(values()), on(mesh, values())
    found = {}
    for other in NAMES:
        folder = folder_of(place, other)
        wait_for(folder / str(STEP))
        checkpoints = Checkpoints(folder)
        state = checkpoints.restore(STEP, like, logical)
        params = checkpoints.restore_params(STEP, like.params, logical.params)
        found[f"{other} -> {name}"] = differences(state, wanted) + differences(
            params, wanted.params
        )
        checkpoints.close()
    return found


def wait_for(path):
    began = time.monotonic()
    while not path.exists():
        assert time.monotonic() - began < 60, path
        time.sleep(0.05)


def save(place, name, mesh):
    checkpoints = Checkpoints(folder_of(place, name))
    # The padding that is saved is not zero: a row's last update, for one, is where all are made up.
    checkpoints.save(on(mesh, values(), padding=5), {"name": name}, -1, shapes(values()))
    checkpoints.wait()
    checkpoints.close()


def eight_devices(place):
    meshes = {
        name: Mesh(
            np.array(jax.devices()[: data * tracks]).reshape(data, tracks), ("data", "tracks")
        )
        for name, (data, tracks) in LAYOUTS.items()
    }
    for name, mesh in meshes.items():
        save(place, name, mesh)
    found = {}
    for name, mesh in meshes.items():
        found |= restore_all(place, name, mesh)
    report = {"differences": found}

    checkpoints = Checkpoints(folder_of(place, "1x8"))
    params = checkpoints.restore_params(STEP, shapes(values()).params)
    report["on the first device"] = differences(
        params, jax.device_put(values().params, jax.devices()[0])
    )
    # 1008 rows, too, are a multiple of eight, and 1004 padded to as many.
    mesh = meshes["1x8"]
    wrong = values(1002)
    report["wrong rows"] = [
        said(CheckpointError, checkpoints.restore, STEP, on(mesh, shapes(wrong)), shapes(wrong)),
        said(CheckpointError, checkpoints.restore, STEP, on(mesh, shapes(values()))),
    ]
    small = on(meshes["1x1"], shapes(wrong))
    report["no room"] = said(ValueError, checkpoints.restore, STEP, small, shapes(values()))
    checkpoints.close()

    # Whether a difference would be found.
    right, changed = on(mesh, values()), values()
    table = changed.params["table"]
    table[-1, -1] = np.nextafter(table[-1, -1], np.float32(np.inf))
    report["changed"] = {
        "last bit": differences(on(mesh, changed), right),
        "padding": differences(on(mesh, values(), padding=5), right),
        "place": differences(right, on(meshes["1x1"], values())),
    }
    return report


def two_processes(place):
    mesh = Mesh(np.array(jax.devices()).reshape(1, 4), ("data", "tracks"))
    first, lines = processes.first(), []
    save(place, TWO, mesh)
    report = {"differences": restore_all(place, TWO, mesh)}

    checkpoints = Checkpoints(place / "own", lines.append)
    report["none yet"] = [checkpoints.latest_step, checkpoints.best_step]
    logical, good = shapes(values()), on(mesh, values())

    def state(step):
        return good.replace(step=on(mesh, np.int32(step)))

    for step in (1, 2, 3, 4):
        checkpoints.save(state(step), {"step": step / 3}, 2, logical)
    bad = values()
    bad.params["table"][-1] = np.nan  # on the second process's device
    report["not finite"] = said(DivergedError, checkpoints.save, on(mesh, bad), {}, -1, logical)
    report["exists"] = said(OutputError, checkpoints.save, state(4), {}, -1, logical)
    report["kept"] = listed(place / "own")
    report["best"] = checkpoints.best_step

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for which in (0, 1):  # whose disk is full, more or less
        began = time.monotonic()
        if processes.index() == which:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        checkpoints.save(state(5), {}, 2, logical)
        report[f"full {which}"] = said(OutputError, checkpoints.wait)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        report[f"seconds {which}"] = time.monotonic() - began
    fsync = os.fsync
    if first:
        os.fsync = full
    checkpoints.save(state(5), {}, 2, logical)
    report["full manifest"] = said(OutputError, checkpoints.wait)
    os.fsync = fsync
    report["left"] = listed(place / "own")
    checkpoints.save(state(5), {"step": 5 / 3}, 2, logical)  # there is room again
    checkpoints.close()

    if first:
        damaged = max((place / "own" / "5").rglob("?" * 32), key=lambda path: path.stat().st_size)
        content = bytearray(damaged.read_bytes())
        content[9] ^= 4
        damaged.write_bytes(content)
    again = Checkpoints(place / "own", lines.append)
    report["latest"] = again.latest_step
    report["lines"] = lines
    report["aside"] = listed(place / "own")
    report["progress"] = again.progress(4)
    report["restored"] = differences(again.restore(4, on(mesh, logical), logical), state(4))
    report["missing"] = said(CheckpointError, again.progress, 9)
    again.close()
    return report


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Of the process with eight devices, and of both with two."""
    place = tmp_path_factory.mktemp("layouts")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for index, devices in [(-1, 8), (0, 2), (1, 2)]:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": str(Path(skipjax.__file__).parents[1]),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        command = [sys.executable, __file__, str(place), str(index), str(port)]
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    try:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    ended = [process.returncode for process in started]
    assert ended == [0, 0, 0], "\n".join(outputs)
    return [json.loads((place / f"report{i}.json").read_text()) for i in (-1, 0, 1)]


def test_what_any_layout_saved_any_other_restores(reports):
    found = [one["differences"] for one in reports]
    assert {name for one in found for name in one} == {f"{a} -> {b}" for a in NAMES for b in NAMES}
    assert [{name: one[name] for name in one if one[name]} for one in found] == [{}, {}, {}]
    assert reports[0]["on the first device"] == []


def test_a_difference_would_be_found(reports):
    table = [f".optimizer['table']['{name}']" for name in ("direction", "last", "place", "root")]
    assert reports[0]["changed"]["last bit"] == [".params['table']"]
    assert reports[0]["changed"]["padding"] == [".params['table']", *table]
    assert len(reports[0]["changed"]["place"]) == 11


def test_another_number_of_rows_is_refused_in_one_line(reports):
    refused = reports[0]["wrong rows"]
    assert f"holds float32[{ROWS}, {WIDTH}] as .optimizer['table']['direction'], but" in refused[0]
    assert f"this run has float32[{ROWS - 1}, {WIDTH}]; choose another --workdir." in refused[0]
    assert not any("\n" in line for line in refused)


def test_what_counts_must_fit(reports):
    assert f"[{ROWS - 1}, {WIDTH}] cannot be float32[{ROWS}, {WIDTH}]" in reports[0]["no room"]


def test_two_processes_save_together(reports):
    for report in reports[1:]:
        assert report["none yet"] == [None, None]
        assert report["kept"] == ["2", "3", "4"]  # the best, and the newest two
        assert report["best"] == 2
        assert "parameters are not finite after step 7" in report["not finite"]
        assert "own/4 exists already" in report["exists"]
        assert "own/9 is missing" in report["missing"]


def test_a_save_that_one_process_cannot_write_fails_on_both(reports):
    for report in reports[1:]:
        for failed, cause in [
            ("full 0", "File too large; mend that"),
            ("full 1", "File too large; mend that"),
            ("full manifest", "No space left on device; make room"),
        ]:
            assert report[failed].endswith(
                f"own/5: not saved: {cause} and run the same command again: it goes on from step 4."
            )
        assert report["seconds 0"] < 20  # nobody waits for the one that failed
        assert report["seconds 1"] < 20
        assert report["left"] == ["2", "3", "4"]


def test_two_processes_set_a_damaged_step_aside_once(reports):
    first, second = reports[1:]
    assert len(first["lines"]) == 1
    assert first["lines"][0].endswith("differs from its manifest: damaged. Set aside as damaged-5.")
    assert second["lines"] == []  # one of them tells
    for report in (first, second):
        assert report["latest"] == 4
        assert report["aside"] == ["2", "4", "damaged-5"]
        assert report["progress"] == {"step": 4 / 3}
        assert report["restored"] == []


if __name__ == "__main__":
    place, index, port = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with contextlib.ExitStack() as stack:
        if index < 0:
            report = eight_devices(place)
        else:
            stack.enter_context(processes.start(f"localhost:{port}", 2, index))
            report = two_processes(place)
    (place / f"report{index}.json").write_text(json.dumps(report))
