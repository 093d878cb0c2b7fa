"""A paper model of a training step's time on many GPUs. It is a model, not a measurement.

For S = C · T GPUs (C copies of the table, each shared by T GPUs), b sessions on each, V tracks of
width D, and n, m and P as in benchmarks/scaling_counts.py:

    seconds = compute + update + communication, none of which hides another

    compute       = F(b) / (flops · flops_share)
    update        = bytes moved in a GPU's own memory / (memory_rate · memory_share), bytes being
                    rows read     4 D (2 n + 3 m)       table and direction
                                  4 D · 2 T n if T > 1  what all sharers ask for, written and sent
                    gradients     4 D · 3 S n if S > 1  received, and put behind one another
                    ids           64 S n                two sectors of 32 bytes for each
                    rows updated  4 D · 7 U             table, direction and root, read and
                                                        written, and a gradient
    communication = Σ over collectives: bytes sent / link + latency · ⌈log2 of the group⌉
                    over link = nvlink inside a node, network otherwise

with U = V / T · (1 - (1 - 1 / V)^(S n)) + m / T different rows on a GPU, tracks drawn uniformly,
and F(b) the FLOPs of the compiled step at b sessions by XLA's count. Collectives are those of
`designed_step`. The `tracks` axis lies inside a node wherever it fits.

    memory = V / T · (3 · 4 D + 8) + 3 · 4 P + temporary(b) + 2 · S n · 4 D if S > 1

that is table, direction, root, last and place of a GPU's rows, the encoder and its moments, what
the compiled step keeps for b sessions by XLA's count on one device, and the gradients of rows of
all sessions, twice. It must stay below memory_bytes · memory_share_used.
"""

import dataclasses
import math
from typing import Any

from benchmarks.scaling_counts import (
    FLOAT,
    ID,
    Sizes,
    designed_step,
    different,
    expected_least_step,
)


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What is assumed of it; rates in units a second."""

    memory_bytes: float = 80e9
    memory_share_used: float = 0.9
    flops: float = 67e12
    flops_share: float = 0.25
    memory_rate: float = 3.35e12
    memory_share: float = 0.5
    gpus_per_node: int = 8
    nvlink: float = 450e9
    network: float = 50e9
    link_share: float = 0.7
    latency: float = 10e-6


# Where each number comes from.
SOURCES = {
    "memory_bytes": "H100 SXM, NVIDIA data sheet",
    "memory_share_used": "assumed (XLA_PYTHON_CLIENT_MEM_FRACTION=.9)",
    "flops": "H100 SXM, float32 without tensor cores, NVIDIA data sheet",
    "flops_share": "assumed; products of width 128 are small",
    "memory_rate": "H100 SXM, NVIDIA data sheet",
    "memory_share": "assumed; rows of 512 bytes at random places",
    "gpus_per_node": "DGX H100, NVIDIA data sheet",
    "nvlink": "H100 SXM, 900 GB/s in both directions together, NVIDIA data sheet",
    "network": "DGX H100, a 400 Gb/s adapter for each GPU, NVIDIA data sheet",
    "link_share": "assumed, of nvlink and network",
    "latency": "assumed, of a collective, for each doubling of its group",
}


def step_time(
    sizes: Sizes,
    flops: float,
    temporary_bytes: float,
    num_tracks: int,
    gpus: int,
    tracks: int,
    hardware: Hardware,
) -> dict[str, Any]:
    """Seconds of a step, and bytes, by the formulas above; `tracks` is T and divides `gpus`."""
    row, own, shared = FLOAT * sizes.width, sizes.own, sizes.shared
    collectives = [
        one for one in designed_step(sizes, gpus // tracks, tracks) if one.group > 1 and one.sent
    ]

    def link(group):
        inside = group <= hardware.gpus_per_node
        return hardware.link_share * (hardware.nvlink if inside else hardware.network)

    sent = sum(one.sent for one in collectives)
    least = expected_least_step(sizes, gpus // tracks, tracks, num_tracks)
    communication = sum(
        one.sent / link(one.group) + hardware.latency * math.ceil(math.log2(one.group))
        for one in collectives
    )
    together = gpus * own
    touched = (different(together, num_tracks) + shared) / tracks
    moved = row * (2 * own + 2 * tracks * own * (tracks > 1) + 3 * shared + 7 * touched)
    moved += 64 * together + (3 * row * together if gpus > 1 else 0)
    compute = flops / (hardware.flops * hardware.flops_share)
    update = moved / (hardware.memory_rate * hardware.memory_share)
    memory = -(-num_tracks // tracks) * (3 * row + 2 * ID) + 3 * FLOAT * sizes.num_params
    memory += temporary_bytes + (2 * together * row if gpus > 1 else 0)
    seconds = compute + update + communication
    return {
        "gpus": gpus,
        "tracks": tracks,
        "fits": memory <= hardware.memory_bytes * hardware.memory_share_used,
        "memory_bytes": memory,
        "compute_seconds": compute,
        "update_seconds": update,
        "communication_seconds": communication,
        "seconds": seconds,
        "sessions_per_second": gpus * sizes.sessions / seconds,
        "sent_bytes": sent,
        "least_bytes": least,
    }


def grid(
    sizes: Sizes,
    flops: float,
    temporary_bytes: float,
    num_tracks: int,
    most_gpus: int,
    hardware: Hardware,
) -> list[dict[str, Any]]:
    """All numbers of GPUs and T that are powers of two."""
    powers = [1 << i for i in range(most_gpus.bit_length())]
    return [
        step_time(sizes, flops, temporary_bytes, num_tracks, gpus, tracks, hardware)
        for gpus in powers
        for tracks in powers
        if tracks <= gpus
    ]


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each number of GPUs the quickest that fits; of those where none does, none."""
    there = sorted({one["gpus"] for one in rows if one["fits"]})
    return [
        min(
            (one for one in rows if one["fits"] and one["gpus"] == gpus),
            key=lambda one: one["seconds"],
        )
        for gpus in there
    ]
