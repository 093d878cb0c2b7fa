"""The workloads of benchmarks/train_step.py: who is measured, on what, beside whom."""

import dataclasses
import importlib.util
import pickle
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.step_cost import floor_seconds, mean_step_cost
from benchmarks.step_worker import (
    CONTENDERS,
    Worker,
    available_gb,
    side_by_side,
    step_config,
)
from skipjax.data import listening
from skipjax.data.batches import SessionBatches
from skipjax.data.parts import Split, everywhere
from skipjax.ids import FIRST_TRACK_ID, HELD_OUT

WORKLOADS = {"W0": 10_000, "W1": 100_000, "W2": 1_000_000, "W3": 10_000_000}
REFERENCE = "skipjax, W0"  # in the rounds of every larger workload: how much a step has grown
SEED = 0
_FLOOR = "floor"
_FLOOR_IDS = 1_000_000  # of the table that gathers are timed on: far beyond caches, yet not 5 GB
# The most a contender takes: tables of V · D floats, and GB beyond. Only to leave out what cannot
# fit, and to tell who fits beside whom.
_NEEDS = {
    "skipjax": (3, 1.0),
    "skipjax, 4 KB pages": (3, 1.0),
    "skipjax lazy": (3, 1.0),
    "skipjax dense": (5, 1.0),
    "torch Adam": (6, 0.8),
    "torch Adam fused": (4, 0.8),
    "torch SparseAdam": (3, 1.5),
}
_OTHERS_GB = 1.5  # the floor's process and the reference
# Beyond half of memory, processes that wait leave too few huge pages for the one at work.
_SHARE = 0.5
_SKIP_SHARE = 0.5
_MIXED_SPANS, _EQUAL_SPAN = np.arange(8, 21), 14  # of as many tracks; padded to 20: 30 % padding


@dataclasses.dataclass
class Sizes:
    """Of a measurement."""

    fields: dict[str, Any]  # of the config
    num_batches: int = 32
    rounds: int = 9
    round_seconds: float = 0.5
    tracks_divisor: int = 1
    quick: bool = False


FULL = Sizes(fields={"train.batch_size": 256, "model.width": 128})
QUICK = Sizes(  # a smoke run, whose numbers mean nothing
    fields={
        "train.batch_size": 32,
        "sampling.num_negatives": 50,
        "model.width": 16,
        "model.num_heads": 2,
        "model.num_layers": 1,
    },
    num_batches=4,
    rounds=2,
    round_seconds=0.05,
    tracks_divisor=10,
    quick=True,
)


class Contest:
    """Workloads, to be measured one after the other.

    Attributes:
      device: what steps run on, and a GPU's memory.
      has_torch: PyTorch is installed; otherwise its contenders are left out.
      host_batch_ms: median time of making a batch, by how many tracks there are.
    """

    def __init__(self, sizes: Sizes, scratch: Path, advance: Callable[[float], None]):
        """`advance` is told of progress: 1 for each workload and each `padding`."""
        self.has_torch = importlib.util.find_spec("torch") is not None
        self.host_batch_ms: dict[str, float] = {}
        self._sizes, self._scratch, self._advance = sizes, scratch, advance
        self._batch_size = sizes.fields["train.batch_size"]
        self._num_sessions = self._batch_size * sizes.num_batches
        worker = Worker(self._spec(_FLOOR, "batch", 0, scratch / "none"))
        self.device = worker.ready()
        worker.close()
        if worker.ended:
            raise SystemExit(1)  # it has said why

    def workload(self, scope: str, name: str) -> dict[str, Any]:
        """All contenders and the floor at one size of the catalogue."""
        num_tracks = WORKLOADS[name] // self._sizes.tracks_divisor
        path = self._mssd_like(num_tracks)
        names = [
            contender
            for contender, (library, _) in CONTENDERS.items()
            if library == "skipjax" or self.has_torch
        ]
        groups, left_out = self._grouped(names, num_tracks)
        contenders, together, floor = {}, [], None
        for group in groups:
            specs = {one: self._spec(one, scope, num_tracks, path) for one in group}
            specs[_FLOOR] = self._spec(_FLOOR, scope, num_tracks, path)
            smallest = WORKLOADS["W0"] // self._sizes.tracks_divisor
            if "skipjax" in group and name != "W0" and not together:
                reference = self._mssd_like(smallest)
                specs[REFERENCE] = self._spec("skipjax", scope, smallest, reference)
            found, ended = self._measured(specs, 1 / len(groups))
            left_out |= ended
            rates = found.pop(_FLOOR)["rounds"] if _FLOOR in found else None
            floors = rates and self._floor(specs[_FLOOR], num_tracks, path, rates)
            floor = floor or floors
            together.append([one for one in found if one != REFERENCE])
            summaries = {
                one: self._summarised(each, floors, num_tracks if one != REFERENCE else smallest)
                for one, each in found.items()
            }
            _add_ratios(summaries)
            contenders = summaries | contenders  # skipjax's, of the first group
        _add_medians(contenders)
        return {
            "num_tracks": num_tracks,
            "tables_gb": 3 * self._table_gb(num_tracks),
            "together": together,
            "left_out": left_out,
            "contenders": contenders,
            "floor": floor,
        }

    def padding(self, scope: str, num_tracks: int) -> dict[str, Any]:
        """A step on sessions of many lengths, over one on as many of one length, without padding.

        Both have as many sessions and as many tracks; the first has 30 % padding.
        """
        equal = np.full(self._num_sessions, _EQUAL_SPAN)
        mixed = equal.copy()
        whole = len(mixed) - len(mixed) % len(_MIXED_SPANS)
        mixed[:whole] = np.resize(_MIXED_SPANS, whole)
        specs, shapes = {}, {}
        for kind, lengths in (("padded", mixed), ("packed", equal)):
            held_out = HELD_OUT["leave_one_out"]
            longest = int(lengths.max()) + held_out
            path = self._scratch / f"{kind}-{num_tracks}.pickle"
            self._write_batches(path, num_tracks, lengths + held_out, longest)
            specs[kind] = self._spec("skipjax", scope, num_tracks, path)
            specs[kind]["fields"] = {**self._sizes.fields, "data.max_length": longest}
            valid = np.stack([batch["valid"] for batch in pickle.loads(path.read_bytes())])
            shapes[kind] = {"length": valid.shape[-1], "valid_share": float(valid.mean())}
        found, ended = self._measured(specs, 1)
        if ended:
            return {"num_tracks": num_tracks, "left_out": ended}
        seconds = {kind: [one["seconds"] for one in found[kind]["rounds"]] for kind in specs}
        return {
            "num_tracks": num_tracks,
            "ratio_median": _median_ratio(seconds["padded"], seconds["packed"]),
            **{
                kind: {
                    **shapes[kind],
                    "seconds": seconds[kind],
                    "seconds_median": statistics.median(seconds[kind]),
                }
                for kind in specs
            },
        }

    def _measured(self, specs, parts):
        sizes = self._sizes
        return side_by_side(
            specs,
            rounds=sizes.rounds,
            round_seconds=sizes.round_seconds,
            start_one_by_one=not sizes.quick,
            advance=lambda: self._advance(parts / sizes.rounds),
        )

    def _spec(self, contender: str, scope: str, num_tracks: int, batches: Path) -> dict[str, Any]:
        """What a process is told."""
        num_ids = num_tracks + FIRST_TRACK_ID
        return {
            "contender": contender,
            "scope": scope,
            "num_ids": min(num_ids, _FLOOR_IDS) if contender == _FLOOR else num_ids,
            "fields": self._sizes.fields,
            "batches": str(batches),
            "quick": self._sizes.quick,
        }

    def _mssd_like(self, num_tracks: int) -> Path:
        """Batches of sessions as long as MSSD's, made once."""
        path = self._scratch / f"{num_tracks}.pickle"
        if not path.exists():
            rng, size = np.random.default_rng(SEED), self._num_sessions
            full = rng.random(size) < listening.FULL_LENGTH_SHARE
            shorter = rng.integers(listening.MIN_LENGTH, listening.MAX_LENGTH, size)
            lengths = np.where(full, listening.MAX_LENGTH, shorter)
            self._write_batches(path, num_tracks, lengths, listening.MAX_LENGTH)
        return path

    def _write_batches(self, path: Path, num_tracks: int, lengths, max_length: int) -> None:
        split = random_split(num_tracks, lengths)
        source = SessionBatches(
            split, batch_size=self._batch_size, max_length=max_length, seed=SEED
        )
        batches, taken = [], []
        for step in range(self._sizes.num_batches):
            start = time.perf_counter()
            batches.append(source.batch(step))
            taken.append(time.perf_counter() - start)
        self.host_batch_ms[path.stem] = 1e3 * statistics.median(taken)
        path.write_bytes(pickle.dumps(batches))

    def _table_gb(self, num_tracks: int) -> float:
        return (num_tracks + FIRST_TRACK_ID) * self._sizes.fields["model.width"] * 4 / 1e9

    def _grouped(self, names, num_tracks) -> tuple[list[list[str]], dict[str, str]]:
        """Contenders that fit in memory side by side, and why others fit not even alone.

        skipjax is in every group where there is room, to be compared in the same rounds.
        """
        available = (self.device["device_gb"] or available_gb()) - _OTHERS_GB
        needs = {
            name: tables * self._table_gb(num_tracks) + beyond
            for name, (tables, beyond) in _NEEDS.items()
            if name in names
        }
        left_out = {
            name: f"needs {needed:.1f} GB, {available:.1f} GB are free"
            for name, needed in needs.items()
            if needed > available
        }
        groups = []
        for name in names:
            if name in left_out:
                continue
            group = [*(groups[-1] if groups else []), name]
            if not groups or sum(needs[one] for one in group) > _SHARE * available:
                with_ours = ["skipjax", name]
                paired = name != "skipjax" and sum(needs[one] for one in with_ours) <= available
                groups.append(with_ours if paired else [name])
            else:
                groups[-1] = group
        return groups, left_out

    def _floor(self, spec, num_tracks, path, rates) -> dict[str, Any]:
        """What a step must cost, round by round."""
        num_ids = num_tracks + FIRST_TRACK_ID
        batches = pickle.loads(path.read_bytes())[:8]
        cost = mean_step_cost(step_config(spec), batches, num_ids)
        terms = [floor_seconds(cost, rate) for rate in rates]
        median_terms = {
            name: statistics.median([term[name] for term in terms]) for name in terms[0]
        }
        seconds = [sum(term.values()) for term in terms]
        return {
            "seconds": seconds,
            "seconds_median": statistics.median(seconds),
            "terms_seconds_median": median_terms,
            "binds": max(median_terms, key=median_terms.get),
            "cost": cost,
            "rates_median": {
                name: statistics.median([rate[name] for rate in rates]) for name in rates[0]
            },
        }

    def _summarised(self, found, floor, num_tracks) -> dict[str, Any]:
        ready, rounds = found["ready"], found["rounds"]
        seconds = [one["seconds"] for one in rounds]
        steps_peak = max(one["peak_gb"] for one in (ready, *rounds))
        peak = max(steps_peak, ready["init_peak_gb"])
        tables = 3 * self._table_gb(num_tracks)
        return {
            "seconds": seconds,
            "seconds_median": statistics.median(seconds),
            "steps_a_round": found["steps_a_round"],
            "times_floor_median": floor and _median_ratio(seconds, floor["seconds"]),
            "page_faults_a_step": statistics.median([one["page_faults"] for one in rounds]),
            "preemptions_a_step": statistics.median([one["preemptions"] for one in rounds]),
            "peak_gb": peak,
            "beyond_tables_gb": peak - tables,
            "init_peak_gb": ready["init_peak_gb"],
            "steps_peak_gb": steps_peak,
            "init_seconds": ready["init_seconds"],
            "first_step_seconds": ready["first_step_seconds"],
        }


def random_split(num_tracks: int, lengths: np.ndarray) -> Split:
    """Sessions of those lengths, of tracks drawn uniformly."""
    rng = np.random.default_rng(SEED + 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tracks = rng.integers(FIRST_TRACK_ID, num_tracks + FIRST_TRACK_ID, starts[-1], np.int32)
    return Split(
        tracks=tracks,
        skipped=rng.random(starts[-1]) < _SKIP_SHARE,
        starts=starts[:-1],
        lengths=lengths.astype(np.int32),
        session_ids=pa.array(map(str, range(len(lengths))), pa.large_string()),
        track_ids=pa.nulls(num_tracks, pa.large_string()),  # batches do not ask for them
        train_counts=np.bincount(tracks, minlength=num_tracks + FIRST_TRACK_ID),
        left_out={},
        digest="",
        parts=everywhere(len(lengths)),
    )


def _add_ratios(group: dict[str, dict[str, Any]]) -> None:
    """× skipjax, of the same rounds."""
    ours = group.get("skipjax")
    if ours is None:
        return
    for each in group.values():
        each["times_skipjax_median"] = _median_ratio(each["seconds"], ours["seconds"])
        each["same_rounds"] = True
    if REFERENCE in group:
        ours["times_w0_median"] = _median_ratio(ours["seconds"], group[REFERENCE]["seconds"])


def _add_medians(contenders: dict[str, dict[str, Any]]) -> None:
    """× skipjax of those that were never measured beside it."""
    ours = contenders.get("skipjax")
    for each in contenders.values() if ours else ():
        if "same_rounds" not in each:
            each["times_skipjax_median"] = each["seconds_median"] / ours["seconds_median"]
            each["same_rounds"] = False


def _median_ratio(a: list[float], b: list[float]) -> float:
    return statistics.median([x / y for x, y in zip(a, b, strict=True)])
