"""What a compiled program does, read from its text: multiplications, memory traffic, communication between devices.

The life of a program: `Program` takes the text of XLA's optimized module apart into computations and instructions;
`cost` walks it from its entry as it will run, through fusions once and through loops as often as they turn, which
XLA's own cost analysis leaves out: there every loop turns once. A loop that ends when its data say so (speaking until
all have ended) turns `steps` times; of branches the one that does most is taken.

All of it is of one device: after partitioning, every device of a mesh runs the same program on its part.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "optimization-barrier"),
)
_LOOKUPS = ("dynamic-slice", "slice", "gather")  # they read what they give, not all that they are given
_SHAPES = ("bitcast", "reshape")  # inside a fusion they move nothing
_COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")


class Array(NamedTuple):
    """An array of an instruction's type; `far` if it lies in the device's main memory and not close to its units."""

    shape: tuple[int, ...]
    bytes: int
    far: bool


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # its result; of a tuple its elements
    operands: tuple[str, ...]
    attributes: str
    root: bool


class Collective(NamedTuple):
    """Communication among groups of devices: what one device gives into it, how many devices a group has."""

    kind: str
    bytes: int
    group: int


@dataclasses.dataclass(frozen=True)
class Operation:
    """What runs as one: an instruction or a fusion of several, and how often it runs."""

    flops: int
    bytes: int
    times: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program does in one call, on one device."""

    operations: tuple[Operation, ...]
    collectives: tuple[tuple[Collective, float], ...]  # and how often each runs

    @property
    def flops(self) -> float:
        """Of matrix products; a multiplication and an addition are two."""
        return sum(op.flops * op.times for op in self.operations)

    @property
    def bytes(self) -> float:
        """Read from and written to the device's main memory."""
        return sum(op.bytes * op.times for op in self.operations)

    def seconds(self, flops: float, bandwidth: float) -> float:
        """The least time it takes without communication: every operation at the pace of what limits it.

        Args:
          flops: of the device, a second.
          bandwidth: of its memory, bytes a second.
        """
        return sum(op.times * max(op.flops / flops, op.bytes / bandwidth) for op in self.operations)

    def communication(self, link: float) -> float:
        """Seconds of communication along rings or lines of devices whose links carry so many bytes a second."""
        return sum(times * _transferred(collective) / link for collective, times in self.collectives)


def _transferred(collective: Collective) -> float:
    """Bytes that pass the busiest link in one direction: of a line, or of a ring that sends one way."""
    if collective.kind in ("collective-permute", "collective-broadcast"):
        return collective.bytes
    around = collective.bytes * (collective.group - 1)
    if collective.kind == "all-gather":  # every part passes every link
        return around
    if collective.kind == "all-to-all":  # what either half of a line has for the other half passes the middle
        half = collective.group // 2
        return collective.bytes * half * (collective.group - half) / collective.group
    # A group's sum is made once (reduce-scatter) and handed around once more (all-reduce).
    return around / collective.group * (2 if collective.kind == "all-reduce" else 1)


class Program:
    """A compiled module, parsed.

    Args:
      text: of XLA's optimized module, `Compiled.as_text()`.
    """

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        counted = re.findall(r"(?:replica_count|num_partitions)=(\d+)", text.partition("\n")[0])
        self._devices = math.prod(map(int, counted))
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.startswith((" ", "\t")):
                if instruction := _instruction(line):
                    current[instruction.name] = instruction
            elif header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                current = self._computations[header[2]] = {}
                if header[1]:
                    self._entry = header[2]

    def cost(self, steps: float = 1) -> Cost:
        """What one call does, loops whose number of turns is not known when it is compiled turning `steps` times."""
        operations: list[Operation] = []
        collectives: list[tuple[Collective, float]] = []
        for instruction, scope, times in self._run(self._entry, 1.0, steps):
            found = self._collective(instruction, scope)
            if found and not self._goes_on(instruction):
                collectives.append((found, times))
            flops = self._flops(instruction, scope)
            size = 0 if found and not flops else self._bytes(instruction, scope)
            if flops or size:
                operations.append(Operation(flops, size, times))
        return Cost(tuple(operations), tuple(collectives))

    def largest_matrix(self) -> int:
        """Bytes of the largest array that a matrix product reads."""
        products = [
            scope[name].arrays[0].bytes
            for scope in self._computations.values()
            for instruction in scope.values()
            if instruction.opcode in ("dot", "convolution")
            for name in instruction.operands[:2]
        ]
        return max(products, default=0)

    def _run(self, computation: str, times: float, steps: float) -> Iterator[tuple[Instruction, dict, float]]:
        """The instructions that run, with their computation, and how often they do."""
        scope = self._computations[computation]
        for instruction in scope.values():
            called = self._called(instruction)
            if instruction.opcode == "while":
                body, condition = called["body"][0], called["condition"][0]
                turns = self._turns(instruction, scope, condition, body)
                yield from self._run(body, times * (steps if turns is None else turns), steps)
            elif instruction.opcode == "conditional":
                ways = [list(self._run(name, times, steps)) for names in called.values() for name in names]
                yield from max(ways, key=self._work)
            elif instruction.opcode in ("call", "async-start"):
                for name in (*called.get("calls", ()), *called.get("to_apply", ())):
                    yield from self._run(name, times, steps)
            elif instruction.opcode not in _FREE and not instruction.opcode.endswith(("-done", "-update")):
                yield instruction, scope, times

    def _called(self, instruction: Instruction) -> dict[str, tuple[str, ...]]:
        """The computations an instruction names, by what for."""
        found = re.findall(
            r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
            r"(\{[^}]*\}|%?[\w.\-]+)",
            instruction.attributes,
        )
        return {kind: tuple(re.findall(r"[\w.\-]+", names)) for kind, names in found}

    def _fused(self, fusion: Instruction) -> dict[str, Instruction]:
        return self._computations[self._called(fusion)["calls"][0]]

    def _work(self, way: list[tuple[Instruction, dict, float]]) -> tuple[float, float]:
        """FLOPs and bytes of instructions and how often they run: the branch with the most is taken to be taken."""
        flops = sum(times * self._flops(instruction, scope) for instruction, scope, times in way)
        return flops, sum(times * self._bytes(instruction, scope) for instruction, scope, times in way)

    def _turns(self, loop: Instruction, scope: dict[str, Instruction], condition: str, body: str) -> int | None:
        """How often a loop turns; None if that depends on data."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        # A counter against a bound, as `scan` and `map` make it. What enters a loop may be a constant outside of it.
        asked, inside = self._computations[condition], self._computations[body]
        before, after = (x.operands if x.opcode == "tuple" else () for x in (scope[loop.operands[0]], _root(inside)))

        def source(name, where):
            while where[name].opcode in ("copy", "bitcast"):
                name = where[name].operands[0]
            return where[name]

        def carried(value):
            """Which of the values that a loop carries it is."""
            found = re.search(r"index=(\d+)", value.attributes)
            return int(found[1]) if value.opcode == "get-tuple-element" and found else None

        def number(name, where):
            value = source(name, where)
            at = carried(value)
            if where is not scope and at is not None and before and after and carried(inside[after[at]]) == at:
                return number(before[at], scope)
            found = re.match(r"\((\d+)\)", value.attributes) if value.opcode == "constant" else None
            return int(found[1]) if found else None

        root = _root(asked)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        counter, bound = carried(source(root.operands[0], asked)), number(root.operands[1], asked)
        if counter is None or bound is None:
            return None
        start = number(before[counter], scope) if before else 0
        added = source(after[counter], inside) if after else root
        terms = added.operands if added.opcode == "add" else ()
        step = next((n for n in (number(name, inside) for name in terms) if n), 1)
        return math.ceil((bound - (start or 0)) / step)

    # ---------------------------------------------------------------- matrix products

    def _flops(self, instruction: Instruction, scope: dict[str, Instruction]) -> int:
        if instruction.opcode == "fusion":
            fused = self._fused(instruction)
            return sum(self._flops(inner, fused) for inner in fused.values())
        of_library = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)  # on GPUs
        if instruction.opcode not in ("dot", "convolution") and not of_library:
            return 0
        left, right = (scope[name].arrays[0].shape for name in instruction.operands[:2])
        if instruction.opcode != "convolution":
            contracted = of_library or re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
            summed = math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted[1])) if contracted else 1
        else:
            # What TPUs make of a matrix product: a convolution, over windows where there are batch axes, of which
            # one position each counts. So what is summed over is the kernel's input axis alone.
            kernel = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)[1]
            summed = right[kernel.index("i")]
        return 2 * math.prod(instruction.arrays[0].shape) * summed

    # ---------------------------------------------------------------- memory

    def _bytes(self, instruction: Instruction, scope: dict[str, Instruction]) -> int:
        """Main memory's traffic of an instruction or fusion: what it reads and what it writes."""
        if instruction.opcode == "fusion":
            return self._fusion_bytes(instruction, scope, self._fused(instruction))
        operands = [scope[name].arrays for name in instruction.operands if name in scope]
        results = instruction.arrays
        if instruction.opcode == "copy-start":  # gives (copy, original, context)
            results = results[:1]
        if instruction.opcode.removesuffix("-start") in _LOOKUPS:
            found = results[instruction.opcode.endswith("-start")]  # some give (original, result, context)
            return found.bytes * (found.far + operands[0][0].far)
        if instruction.opcode == "dynamic-update-slice":
            return operands[1][0].bytes * (results[0].far + operands[1][0].far)
        return _far(results) + sum(map(_far, operands))

    def _fusion_bytes(self, fusion: Instruction, scope: dict[str, Instruction], fused: dict[str, Instruction]) -> int:
        """Of what is only looked up in, the rows that are found; of what is updated in place, the update."""

        def origin(name):
            """Where a value comes from that was only seen in another shape."""
            while fused[name].opcode in _SHAPES:
                name = fused[name].operands[0]
            return fused[name]

        root = _root(fused)
        results = [origin(name) for name in (root.operands if root.opcode == "tuple" else [root.name])]
        total = 0
        for result, array in zip(results, fusion.arrays, strict=False):
            if result.opcode == "dynamic-update-slice":
                total += fused[result.operands[1]].arrays[0].bytes if array.far else 0
            elif result.opcode not in ("parameter", *_COLLECTIVES):  # those are handed on
                total += _far([array])

        def read(user, given):
            """Bytes that an instruction reads of a parameter."""
            if user.opcode in _LOOKUPS and origin(user.operands[0]) is given:
                return user.arrays[0].bytes
            in_place = user.opcode == "dynamic-update-slice" and user in results
            if user.opcode in ("tuple", *_COLLECTIVES) or (in_place and origin(user.operands[0]) is given):
                return 0
            return given.arrays[0].bytes

        for given in fused.values():
            if given.opcode != "parameter":
                continue
            number = int(re.match(r"\((\d+)\)", given.attributes)[1])
            users = [
                user
                for user in fused.values()
                if user.opcode not in _SHAPES and given in [origin(name) for name in user.operands if name in fused]
            ]
            whole = _far(scope[fusion.operands[number]].arrays)
            total += min(whole, sum(read(user, given) for user in users))
        return total

    # ---------------------------------------------------------------- communication

    def _collective(self, instruction: Instruction, scope: dict[str, Instruction]) -> Collective | None:
        """The communication that an instruction or fusion is, if it is any."""
        if instruction.opcode == "fusion":
            name = self._called(instruction)["calls"][0]
            fused = self._computations[name]
            found = next(filter(None, (self._collective(inner, fused) for inner in fused.values())), None)
            # A sum of which every device keeps a part is one fusion on TPUs.
            if found and found.kind == "all-reduce" and "all-reduce-scatter" in name:
                return found._replace(kind="reduce-scatter")
            return found
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            return None
        size = sum(array.bytes for name in instruction.operands if name in scope for array in scope[name].arrays)
        return Collective(kind, size, _group(instruction.attributes) or self._devices)

    def _goes_on(self, instruction: Instruction) -> bool:
        """Whether it is communication that began before: TPUs cut it up and compute in between.

        Such a chain is a fusion with a call that starts it, fusions of its next part with computation, and one that
        waits for its end; each of them names the same communication.
        """
        if instruction.opcode != "fusion":
            return False
        name = self._called(instruction)["calls"][0]
        ends = any('"AsyncCollectiveDone"' in inner.attributes for inner in self._computations[name].values())
        return ends or name.startswith("async_collective_fusion")


def _root(computation: dict[str, Instruction]) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.root)


def _far(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.far)


def _group(attributes: str) -> int | None:
    """How many devices communicate with one another; None for all."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return listed[1].count(",") + 1
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(tiled[1])
    if named := re.search(r"replica_groups=\S*mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        # An axis, or a part of one: 'x':(1)2 are 2 neighbours along it.
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return 2 if "source_target_pairs" in attributes else None


def _instruction(line: str) -> Instruction | None:
    """One line of a computation, None if it is none."""
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    end = _closing(rest) + 1
    inside, attributes = rest[:end], rest[end:]
    if opcode in ("parameter", "constant"):
        return Instruction(found[2], opcode, _arrays(kind), (), inside, bool(found[1]))
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(re.findall(r"[\w.\-]+", inside))
    return Instruction(found[2], opcode, _arrays(kind), operands, attributes, bool(found[1]))


def _closing(text: str) -> int:
    """Where the parenthesis that the text opens with is closed."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text) - 1


def _arrays(kind: str) -> tuple[Array, ...]:
    arrays = []
    for name, axes, layout in _ARRAY.findall(kind):
        shape = tuple(int(size) for size in axes.split(",") if size)
        bits = _BITS[name] if name in _BITS else int(re.search(r"\d+", name)[0])
        close = re.search(r"S\(([1-9]\d*)\)", layout)
        arrays.append(Array(shape, math.prod(shape) * bits // 8, not close))
    return tuple(arrays)
