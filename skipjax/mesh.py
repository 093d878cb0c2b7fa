"""Where arrays lie, when there is more than one device.

Devices form a mesh of two axes. The sessions of a batch lie over both, so that each device works
on its own; the rows of the track table, and what its optimiser keeps of them, lie over "tracks" and
are copied over "data"; all else is on every device. One device is the mesh of 1 × 1, on which every
exchange between devices is nothing.

A batch has the same sessions whatever the mesh: device d of S has those numbered d, d + S, d + 2S,
..., and all that is drawn for a session is a function of that number.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from skipjax.errors import ConfigError

DATA, TRACKS = "data", "tracks"

EVERYWHERE = P()
SESSIONS = P((DATA, TRACKS))  # the first axis over all devices
ROWS = P(TRACKS)  # the first axis over those that share the table


@dataclasses.dataclass(frozen=True)
class Layout:
    """How batches, and a table of V rows, lie over devices.

    The methods from `number` on are for the inside of what `on_devices` maps, where arrays are a
    device's own part. With one device they work anywhere.

    Attributes:
      mesh: of the axes "data" and "tracks"; None for one device.
      num_ids: V; with one device, the table's rows say so.
    """

    mesh: Mesh | None = None
    num_ids: int = 0

    @property
    def data(self) -> int:
        """How often the table is there."""
        return self.mesh.shape[DATA] if self.mesh else 1

    @property
    def tracks(self) -> int:
        """How many devices share a table."""
        return self.mesh.shape[TRACKS] if self.mesh else 1

    @property
    def size(self) -> int:
        """How many devices there are."""
        return self.data * self.tracks

    @functools.cached_property
    def mine(self) -> tuple[int, ...]:
        """The numbers of this process's devices."""
        if self.mesh is None:
            return (0,)
        process = jax.process_index()
        devices = enumerate(self.mesh.devices.flat)
        return tuple(number for number, device in devices if device.process_index == process)

    def padded(self, num_rows: int) -> int:
        """The rows of an array over "tracks" for `num_rows` of a table."""
        return num_rows + -num_rows % self.tracks

    def sharding(self, spec: P) -> NamedSharding | None:
        """None, which leaves it to JAX, for one device."""
        return NamedSharding(self.mesh, spec) if self.mesh else None

    def on_devices(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`function` of each device's part of arrays that lie as `in_specs` say."""
        if self.mesh is None:
            return function
        # Unchecked: what gathering brings to every device counts as different on each.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def put(self, batch: Any) -> Any:
        """What lies over all devices, from this process's part of it.

        Args:
          batch: a tree of NumPy arrays [b · M, ...]: b rows for each of the M devices of `mine`.
        """
        if self.mesh is None:
            return batch
        sharding = self.sharding(SESSIONS)

        def global_array(local):
            rows = len(local) // len(self.mine)

            def part(index):
                at = self.mine.index((index[0].start or 0) // rows)
                return local[at * rows : (at + 1) * rows]

            shape = (rows * self.size, *local.shape[1:])
            return jax.make_array_from_callback(shape, sharding, part)

        return jax.tree.map(global_array, batch)

    def number(self) -> jax.Array | int:
        """Of this device."""
        if self.mesh is None:
            return 0
        return jax.lax.axis_index(DATA) * self.tracks + jax.lax.axis_index(TRACKS)

    def sessions(self, number: int) -> jax.Array:
        """[b] int32, the numbers of this device's b = `number` sessions in the whole batch."""
        return jnp.arange(number, dtype=jnp.int32) * self.size + self.number()

    def total(self, x: jax.Array) -> jax.Array:
        """The sum of all devices'."""
        return jax.lax.psum(x, (DATA, TRACKS)) if self.size > 1 else x

    def total_of_copies(self, x: jax.Array) -> jax.Array:
        """The sum over the devices that have the same rows of the table."""
        return jax.lax.psum(x, DATA) if self.data > 1 else x

    def of_first_copy(self, x: jax.Array) -> jax.Array:
        """What the first of the devices that have the same rows of the table has."""
        if self.data == 1:
            return x
        return jax.lax.psum(jnp.where(jax.lax.axis_index(DATA) == 0, x, jnp.zeros_like(x)), DATA)

    def total_of_rows(self, x: jax.Array) -> jax.Array:
        """The sum over the devices that share a table."""
        return jax.lax.psum(x, TRACKS) if self.tracks > 1 else x

    def of_all(self, x: jax.Array) -> jax.Array:
        """[b, ...] of every device, one after another, as [b · S, ...]."""
        return jax.lax.all_gather(x, (DATA, TRACKS), tiled=True) if self.size > 1 else x

    def of_all_sessions(self, x: jax.Array) -> jax.Array:
        """[b, ...] of every device's sessions, in the order of their numbers, as [B, ...]."""
        if self.size == 1:
            return x
        x = jax.lax.all_gather(x, (DATA, TRACKS), axis=1)
        return x.reshape(-1, *x.shape[2:])

    def of_sharers(self, x: jax.Array) -> jax.Array:
        """[b, ...] of each device that shares this one's table, one after another: [b · T, ...]."""
        return jax.lax.all_gather(x, TRACKS, tiled=True) if self.tracks > 1 else x

    def own_total(self, x: jax.Array) -> jax.Array:
        """Of the sum of [b · T, ...] over the devices that share a table, this one's [b, ...].

        Undoes `of_sharers` where each of them has worked out its rows' share of the result.
        """
        return jax.lax.psum_scatter(x, TRACKS, tiled=True) if self.tracks > 1 else x

    def own_parts(self, x: jax.Array, axis: int) -> jax.Array:
        """What each device that shares a table has of this one's sessions, side by side.

        Args:
          x: [b · T, ...].
          axis: after the first.

        Returns:
          [b, ...], T times as long along `axis`, in the order of the table's rows.
        """
        if self.tracks == 1:
            return x
        return jax.lax.all_to_all(x, TRACKS, split_axis=0, concat_axis=axis, tiled=True)

    def count(self, table: jax.Array) -> int:
        """V, of this device's rows of a table."""
        return self.num_ids if self.mesh else len(table)

    def first_row(self, table: jax.Array) -> jax.Array | int:
        """The id of the first of this device's rows."""
        return jax.lax.axis_index(TRACKS) * len(table) if self.tracks > 1 else 0

    def local(self, ids: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array | bool]:
        """Where `ids` stand among this device's rows, and which of them do stand there."""
        if self.tracks == 1:
            return ids, True
        local = ids - self.first_row(table)
        here = (local >= 0) & (local < len(table))
        return jnp.where(here, local, 0), here

    def rows(
        self,
        table: jax.Array,
        ids: jax.Array,
        *,
        shared: bool = False,
        read: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """The table's rows at `ids`, from wherever they are.

        Args:
          table: this device's rows of it.
          ids: [b, ...] int32, this device's own, or the same on all that share a table.
          shared: which of the two.
          read: what reads rows of `table`, by places in it.

        Returns:
          [b, ..., D].
        """
        read = read or (lambda places: table[places])
        if self.tracks == 1:
            return read(ids)
        places, here = self.local(ids if shared else self.of_sharers(ids), table)
        rows = jnp.where(here[..., None], read(places), 0)
        return self.total_of_rows(rows) if shared else self.own_total(rows)


ONE = Layout()


def make_layout(mesh: Any, num_ids: int = 0, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The layout that `config.mesh` describes.

    Args:
      mesh: `config.mesh`.
      num_ids: V.
      devices: those to use, by default all of all processes.

    Raises:
      ConfigError: there are not so many devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    data, tracks, there = mesh.data, mesh.tracks, len(devices)
    if data == -1:
        data = max(1, there // tracks)
    # Of one process's devices, some may be left alone.
    if data * tracks > there or (data * tracks < there and jax.process_count() > 1):
        needed = "as many as" if jax.process_count() > 1 else "no more than"
        raise ConfigError(
            f"config.mesh.data (or the first of --devices) is {mesh.data} and config.mesh.tracks "
            f"(or the second) {tracks}; their product must be {needed} there are devices, {there}."
        )
    if data * tracks == 1:
        return Layout(num_ids=num_ids)
    devices = np.array(devices[: data * tracks]).reshape(data, tracks)
    return Layout(Mesh(devices, (DATA, TRACKS)), num_ids)
