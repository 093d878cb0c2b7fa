"""What this machine can do at best: rates to hold the work of a benchmark against.

Each is measured with JAX, in the process and on the device of the caller, as the median of several
calls after one that is not counted. Divide counted work (FLOPs, bytes) by a rate for its floor.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def matmul_gflops(size: int = 2048, seconds: float = 0.5) -> float:
    """10⁹ floating-point operations a second in a product of [size, size] float32 matrices.

    An addition and a multiplication are two operations: 2 · size³ in all.
    """

    @jax.jit
    def product(a, b):
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    a = jax.random.normal(jax.random.key(0), (size, size))
    b = jax.random.normal(jax.random.key(1), (size, size))
    taken = _median_seconds(lambda: product(a, b).block_until_ready(), seconds)
    return 2 * size**3 / taken / 1e9


def copy_gbps(num_bytes: int = 1 << 28, seconds: float = 0.5) -> float:
    """10⁹ bytes a second of an in-place pass over a float32 array far larger than the caches.

    Bytes read and bytes written are both counted: 2 · num_bytes in all.
    """
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.zeros(num_bytes // 4)

    def run():
        nonlocal array
        array = add(array).block_until_ready()

    return 2 * array.nbytes / _median_seconds(run, seconds) / 1e9


def gather_gbps(num_ids: int, width: int, seconds: float = 0.5) -> float:
    """10⁹ bytes a second read as rows, at random ids, of a [num_ids, width] float32 table.

    Only the rows read are counted. They are added up, a few at a time, into one that stays in the
    cache, so that next to nothing is written.
    """
    # Blocks of 1 MB, and the sum of a block rather than the block, to stay clear of page faults.
    block = max(1, (1 << 20) // (4 * width))
    blocks = max(1, min((1 << 28) // (4 * width), 1 << 20) // block)
    table = jnp.ones((num_ids, width))
    ids = np.random.default_rng(0).integers(num_ids, size=(blocks, block), dtype=np.int32)

    @jax.jit
    def gather(table, ids):
        def add(total, some):
            return total + table.at[some].get(mode="promise_in_bounds").sum(axis=0), None

        return jax.lax.scan(add, jnp.zeros(width), ids)[0]

    ids = jnp.asarray(ids)
    taken = _median_seconds(lambda: gather(table, ids).block_until_ready(), seconds)
    return 4 * ids.size * width / taken / 1e9


def _median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Of one call, over `seconds` of calls and no fewer than three."""
    run()  # compiles
    taken = []
    while len(taken) < 3 or sum(taken) < seconds:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
