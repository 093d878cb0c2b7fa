"""What a compiled program sends between devices, counted from its text (HLO).

Of n bytes that each of g devices puts into a collective, each sends, as rings do it

    all-reduce           2 (g - 1) / g · n     reduces parts, then gathers them
    reduce-scatter         (g - 1) / g · n     n is the whole, of which 1 / g comes out
    all-gather             (g - 1) · n         n is a device's own part
    all-to-all             (g - 1) / g · n     what stays is not sent
    collective-permute                 n       if any device sends to another
    collective-broadcast               n

which for all but the last two is the least that is possible, if sums are not made on the way.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Known to move data, but how much depends on more than shapes.
_REFUSED = ("ragged-all-to-all", "send", "recv")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange.

    Attributes:
      kind: of KINDS.
      group: how many devices take part in it together.
      num_bytes: what each of them puts in.
      times: how often it runs when the program runs once.
      what: where it comes from, in words or as the compiler names it.
    """

    kind: str
    group: int
    num_bytes: int
    times: int = 1
    what: str = ""

    @property
    def sent(self) -> float:
        """Bytes that each device sends, all times together."""
        return self.times * self.num_bytes * self._share()

    def _share(self) -> float:
        others = self.group - 1
        if not others:
            return 0.0
        if self.kind == "all-reduce":
            return 2 * others / self.group
        if self.kind in ("reduce-scatter", "all-to-all"):
            return others / self.group
        return float(others) if self.kind == "all-gather" else 1.0


def sent_by_kind(collectives: list[Collective]) -> dict[str, float]:
    """{"all-gather over 8": bytes that each device sends, ...}, of more than one device each."""
    found: dict[str, float] = {}
    for one in collectives:
        if one.group > 1 and one.num_bytes:
            name = f"{one.kind} over {one.group}"
            found[name] = found.get(name, 0.0) + one.sent
    return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Program:
    """A compiled program's text, as `compiled.as_text()` has it."""

    def __init__(self, text: str):
        """
        Raises:
          ValueError: it has no entry.
        """
        text = re.sub(r"/\*.*?\*/", "", text)
        header = text.partition("\n")[0]
        partitions, replicas = (
            int((re.search(rf"{name}=(\d+)", header) or (0, 1))[1])
            for name in ("num_partitions", "replica_count")
        )
        self.num_devices = partitions * replicas
        self._computations: dict[str, list[Instruction]] = {}
        self._entry, inside = "", []
        for line in text.splitlines():
            if opened := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
                inside = self._computations[opened[2]] = []
                self._entry = opened[2] if opened[1] else self._entry
            elif " = " in line and line[:1].isspace():
                inside.append(_instruction(line))
        if not self._entry:
            raise ValueError("this is no program: it has no ENTRY.")

    def collectives(self) -> list[Collective]:
        """All that run, in order; of a choice between branches, those that send most.

        Raises:
          ValueError: one stands in a loop of unknown length, or cannot be counted.
        """
        return self._collectives(self._entry)

    def arrays(self) -> dict[str, int]:
        """{"f32[64,128]": bytes} of all arrays that are made, other than within a fusion."""
        found = {}
        for name in self._run(self._entry):
            for instruction in self._computations[name]:
                for kind, dimensions in _shapes(instruction.shape):
                    found[f"{kind}[{dimensions}]"] = _num_bytes(f"{kind}[{dimensions}]")
        return found

    def _collectives(self, computation: str) -> list[Collective]:
        found = []
        instructions = {one.name: one for one in self._computations[computation]}
        for one in instructions.values():
            kind = one.opcode.removesuffix("-start")
            if kind in KINDS:
                found.append(self._counted(one, kind, instructions))
            elif kind in _REFUSED:
                raise ValueError(f"%{one.name}: {kind} cannot be counted.")
            elif one.opcode == "while":
                some = [
                    each for called in _called(one) for each in self._collectives(called["name"])
                ]
                if some and (times := _trip_count(one)) is None:
                    raise ValueError(f"%{one.name}: {some[0].kind} in a loop of unknown length.")
                found += [dataclasses.replace(each, times=each.times * times) for each in some]
            elif one.opcode == "conditional":
                branches = [self._collectives(called["name"]) for called in _called(one)]
                found += max(branches, key=lambda some: sum(each.sent for each in some))
            elif one.opcode != "fusion":
                for called in _called(one):
                    found += self._collectives(called["name"])
        return found

    def _counted(
        self, one: Instruction, kind: str, instructions: Mapping[str, Instruction]
    ) -> Collective:
        num_bytes = 0
        for operand in one.operands:
            *shape, name = operand.split()
            num_bytes += _num_bytes(shape[0] if shape else instructions[name.lstrip("%")].shape)
        group = _group(one.attributes, self.num_devices)
        source = re.search(r'op_name="([^"]*)"', one.attributes)
        return Collective(kind, group, num_bytes, what=source[1] if source else one.name)

    def _run(self, computation: str) -> Iterator[str]:
        """Computations that are not part of a fusion."""
        yield computation
        for one in self._computations[computation]:
            if one.opcode in ("while", "conditional", "call", "async-start"):
                for called in _called(one):
                    yield from self._run(called["name"])


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    end = _closing(rest)
    operands = tuple(part for part in _split(rest[1:end]) if part)
    return Instruction(name.lstrip("%"), shape, opcode, operands, rest[end + 1 :])


def _closing(text: str) -> int:
    """Where the parenthesis closes that `text` begins with."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return at
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _split(text: str) -> Iterator[str]:
    """By the commas that are in no bracket."""
    depth = start = 0
    for at, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield text[start:at].strip()
            start = at + 1
    yield text[start:].strip()


def _called(one: Instruction) -> Iterator[re.Match]:
    """The computations that an instruction names, each once; of a loop, what is done each time."""
    names = "body|calls|to_apply|true_computation|false_computation|branch_computations"
    for found in re.finditer(rf"\b(?:{names})=\{{?([^=}}]+?)(?:}}|, \w+=|$)", one.attributes):
        yield from re.finditer(r"%?(?P<name>[\w.\-]+)", found[1])


def _trip_count(one: Instruction) -> int | None:
    found = re.search(r'"?known_trip_count"?:?=?\{"?n"?:"?(\d+)', one.attributes)
    return int(found[1]) if found else None


def _group(attributes: str, num_devices: int) -> int:
    """How many devices are in a group; of groups that differ, in the largest.

    Raises:
      ValueError: it is said in a way that is not known.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        sends = any(a != b for a, b in re.findall(r"(\d+),(\d+)", pairs[1]))
        return 2 if sends else 1
    groups = (re.search(r"replica_groups=(.*)", attributes) or ("", ""))[1]
    if iota := re.match(r"\[\d+,(\d+)\]<=", groups):
        return int(iota[1])
    if named := re.match(r"mesh\[([^\]]*)\].*?\{([^}]*)\}", groups):  # 'data'=2,'tracks'=4
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        some = re.fullmatch(r"'[^']+'(,\s*'[^']+')*", named[2])
        names = re.findall(r"'([^']+)'", named[2])
        if some and set(names) <= set(axes):
            return math.prod(axes[name] for name in names)
    elif re.match(r"\{\s*\}", groups):  # all
        return num_devices
    elif listed := re.match(r"\{(\{[\d,\s]*\}(?:,\s*\{[\d,\s]*\})*)\}", groups):
        return max(1 + group.count(",") for group in re.findall(r"\{([^}]*)\}", listed[1]))
    raise ValueError(f"these groups of devices are not understood: {groups[:80]!r}")


def _shapes(shape: str) -> list[tuple[str, str]]:
    return re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", shape)


def _num_bytes(shape: str) -> int:
    """Of an array, or all in a tuple."""
    bits = 0
    for kind, dimensions in _shapes(shape):
        width = 8 if kind == "pred" else int((re.match(r"[a-z]+(\d+)", kind) or (0, 0))[1])
        for size in dimensions.replace("<=", "").split(","):
            width *= int(size) if size else 1
        bits += width
    return bits // 8
