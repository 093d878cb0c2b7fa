"""Single faults in what lies on a disk: a bit flips, a file is cut off, lengthened or lost."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Damage:
    """One fault in one file.

    Attributes:
      file: below the folder.
      kind: "flip", "cut", "append", "zero" (512 bytes) or "delete".
      at: the bit that flips, the byte where it is cut or zeroed.
    """

    file: str
    kind: str
    at: int = 0

    def applied(self, data: bytes) -> bytes | None:
        """What becomes of `data`; None if the file is gone."""
        if self.kind == "flip":
            byte, bit = divmod(self.at, 8)
            return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]
        if self.kind == "zero":
            hole = data[self.at : self.at + 512]
            return data[: self.at] + bytes(len(hole)) + data[self.at + len(hole) :]
        return {"cut": data[: self.at], "append": data + b"\0", "delete": None}[self.kind]


def single_faults(folder: Path, number: int, seed: int) -> list[Damage]:
    """At least `number` different faults over all files of `folder`, in random order.

    Each file is deleted, emptied, cut short by a byte and lengthened; then as many bits flip,
    blocks are zeroed and files cut somewhere, as often in a small file as in a large one.
    """
    rng = np.random.default_rng(seed)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    faults = {}  # a set that keeps its order
    for file, size in sizes.items():
        for fault in (Damage(file, "delete"), Damage(file, "append")):
            faults[fault] = None
        for at in {0, size - 1} if size else ():
            faults[Damage(file, "cut", at)] = None
    filled = [file for file, size in sizes.items() if size]
    for i in range(100 * number):
        if len(faults) >= number and i % len(filled) == 0:
            break
        file = filled[i % len(filled)]
        size, kind = sizes[file], rng.choice(["flip", "flip", "flip", "flip", "cut", "zero"])
        fault = Damage(file, str(kind), int(rng.integers(8 * size if kind == "flip" else size)))
        data = (folder / file).read_bytes()
        if fault.applied(data) != data:  # not if zeros were zeroed
            faults[fault] = None
    return [list(faults)[i] for i in rng.permutation(len(faults))]


@contextlib.contextmanager
def done_to(folder: Path, fault: Damage) -> Iterator[None]:
    """`fault` is in `folder` during the block, if the block leaves the folder where it is."""
    path = folder / fault.file
    data = path.read_bytes()
    damaged = fault.applied(data)
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(data)
