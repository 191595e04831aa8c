# SPDX-License-Identifier: Apache-2.0
"""A program on its way to a launch plan: nodes that become launches, over values that may be parts of others."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lightwam.engine.dtypes import ITEM_SIZE
from lightwam.engine.graph import Attr, Constant, Graph, Op, Program, Stage, TensorType, WithAttrs
from lightwam.errors import ExportError

#: Every address that a launch passes is a multiple of it: kernels load 16 bytes at once.
ADDRESS_ALIGNMENT = 16


@dataclass(frozen=True)
class Part:
    """A value's place: the bytes of `base` from `offset` on. Fused operands may lie there with a row stride."""

    base: str
    offset: int


@dataclass(eq=False)
class Node(WithAttrs):
    """One step, or several steps fused. `kind` is the name of a graph's op; `order` ranks nodes that may swap.

    `weights`: role -> constants that lie side by side in the block of weights and are read as one.
    """

    kind: str
    name: str
    stage: Stage
    inputs: dict[str, str]
    weights: dict[str, tuple[str, ...]]
    outputs: dict[str, str]
    attrs: dict[str, Attr]
    order: int = 0

    def text(self, attr: str, default: str = "") -> str:
        value = self.attrs.get(attr, default)
        assert isinstance(value, str)
        return value


@dataclass
class WeightRows:
    """Which constants lie side by side: every constant is in one row at most. Shared by both programs."""

    constants: Mapping[str, Constant]
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def join(self, *groups: tuple[str, ...]) -> bool:
        """Lay the constants of each group side by side; False, and no change, where a size or row forbids it."""
        before = dict(self.rows)
        for names in groups:
            if not self._can_join(names):  # seen with the groups before it, which may hold some of the same
                self.rows = before
                return False
            if len(names) > 1 and names[0] not in self.rows:
                self.rows.update(dict.fromkeys(names, names))
        return True

    def _can_join(self, names: tuple[str, ...]) -> bool:
        if len(names) == 1:
            return True
        types = [self.constants[name].type for name in names]
        aligned = all(tensor.num_bytes % ADDRESS_ALIGNMENT == 0 for tensor in types)
        if not aligned or len({tensor.dtype for tensor in types}) > 1 or len(set(names)) < len(names):
            return False
        known = {self.rows[name] for name in names if name in self.rows}
        if not known:
            return True
        row = known.pop()
        parts = (row[index : index + len(names)] for index in range(len(row)))
        return not known and names in parts


class Nodes:
    """One program under fusion. Values are written once; `order` and the reads decide who runs when."""

    def __init__(self, graph: Graph, program: Program, rows: WeightRows) -> None:
        self.constants = rows.constants
        self.policy = graph.policy
        self.rows = rows
        self.types: dict[str, TensorType] = {name: value.type for name, value in program.values.items()}
        self.pinned = set(program.outputs.values())
        self.pinned |= {name for name, value in program.values.items() if value.storage != "arena"}
        self.frames: set[str] = set()  # what the runtime binds for `preprocess_images`: frames and their sizes
        self.parts: dict[str, Part] = {}
        self.nodes: list[Node] = [_node(op, index) for index, op in enumerate(program.ops)]
        self._readers: dict[str, list[tuple[Node, str]]] | None = None
        self._writers: dict[str, list[tuple[Node, str]]] | None = None

    # Values

    def num_bytes(self, value: str) -> int:
        """Bytes of a value; 0 for camera frames, whose size only the machine that runs the policy knows."""
        return self.types[value].num_bytes if value in self.types else 0

    def place(self, value: str) -> Part:
        """Where a value lies, seen from the value that holds it and is part of no other."""
        offset = 0
        while value in self.parts:
            part = self.parts[value]
            value, offset = part.base, offset + part.offset
        return Part(value, offset)

    def new_value(self, name: str, tensor: TensorType) -> str:
        if name in self.types:
            raise ExportError(f"value {name} exists already: rename the op")
        self.types[name] = tensor
        return name

    def put(self, value: str, base: str, offset: int) -> None:
        """Make a value a part of another."""
        self.parts[value] = Part(base, offset)
        self.changed()

    def side_by_side(self, values: list[str], name: str) -> bool:
        """Make values of one format consecutive parts of a new one. True at once where they are consecutive already."""
        if self.consecutive(values):
            return True
        roots = [self.place(value) for value in values]
        sizes = [self.num_bytes(value) for value in values]
        whole = all(self.num_bytes(root.base) == size for root, size in zip(roots, sizes, strict=True))
        free = not any(root.base in self.pinned for root in roots) and len({root.base for root in roots}) == len(values)
        aligned = all(size % ADDRESS_ALIGNMENT == 0 for size in sizes)
        dtypes = {self.types[value].dtype for value in values}
        if len(dtypes) > 1 or not (whole and free and aligned):
            return False
        dtype = dtypes.pop()
        base = self.new_value(name, TensorType(dtype, (sum(sizes) // ITEM_SIZE[dtype],)))
        offset = 0
        for root, size in zip(roots, sizes, strict=True):
            self.put(root.base, base, offset)
            offset += size
        return True

    def row_of(self, values: list[str], name: str, tensor: TensorType) -> str | None:
        """A new value that stands for consecutive ones, made so where they are not; None where that cannot be."""
        if not self.side_by_side(values, f"{name}.bytes"):
            return None
        place = self.place(values[0])
        self.put(self.new_value(name, tensor), place.base, place.offset)
        return name

    def consecutive(self, values: list[str]) -> bool:
        """Whether values lie one after the other in one value."""
        places = [self.place(value) for value in values]
        ends = [place.offset + self.num_bytes(value) for place, value in zip(places, values, strict=True)]
        one_base = len({place.base for place in places}) == 1
        return one_base and all(end == after.offset for end, after in zip(ends[:-1], places[1:], strict=True))

    # Who reads, who writes

    def changed(self) -> None:
        """Forget the index of readers and writers: call it after a node was edited by hand."""
        self._readers = self._writers = None

    def _index(self) -> tuple[dict[str, list[tuple[Node, str]]], dict[str, list[tuple[Node, str]]]]:
        """Base -> who reads and who writes a part of it, and which."""
        if self._readers is None or self._writers is None:
            self._readers, self._writers = {}, {}
            for node in self.nodes:
                for value in node.inputs.values():
                    self._readers.setdefault(self.place(value).base, []).append((node, value))
                for value in node.outputs.values():
                    self._writers.setdefault(self.place(value).base, []).append((node, value))
        return self._readers, self._writers

    def _meeting(self, value: str, index: dict[str, list[tuple[Node, str]]]) -> list[Node]:
        """Nodes of an index that touch any byte of a value, each once."""
        place, size = self.place(value), self.num_bytes(value)
        found: dict[int, Node] = {}
        for node, touched in index.get(place.base, ()):
            start = self.place(touched).offset
            if start < place.offset + size and place.offset < start + self.num_bytes(touched):
                found[id(node)] = node
        return list(found.values())

    def readers(self, value: str) -> list[Node]:
        """Nodes that read any byte of a value, each once."""
        return self._meeting(value, self._index()[0])

    def only_reader(self, value: str) -> Node | None:
        """The one node that reads a value which nothing outside the program sees."""
        readers = self.readers(value)
        visible = value in self.pinned or self.place(value).base in self.pinned
        return readers[0] if len(readers) == 1 and not visible else None

    def writer(self, value: str) -> Node | None:
        """The node that writes exactly a value's rows; None for inputs, parts of what a node writes, and other rows."""
        written = self._index()[1].get(self.place(value).base, ())
        return next((node for node, output in written if self.same(output, value)), None)

    def same(self, a: str, b: str) -> bool:
        """Whether two names are the same bytes, and rows of the same width."""
        return self.place(a) == self.place(b) and self.types[a].matrix == self.types[b].matrix

    # Edits

    def replace(self, old: Iterable[Node], *new: Node) -> None:
        """Put nodes in the place of others."""
        gone = {id(node) for node in old}
        self.nodes = [*(node for node in self.nodes if id(node) not in gone), *new]
        self.changed()

    def edited(self, node: Node) -> Node:
        """A copy of a node to change and try, before `replace` puts it in the node's place."""
        return copy.deepcopy(node)

    def of_kind(self, *kinds: str) -> Iterator[Node]:
        """The nodes of some kinds, in order; nodes taken out meanwhile are passed over."""
        for node in sorted(self.nodes, key=lambda node: node.order):
            if node.kind in kinds and any(other is node for other in self.nodes):
                yield node

    def sort(self) -> None:
        """Order the nodes so that each follows the writers of what it reads; among the ready ones by `order`."""
        blockers: dict[int, set[int]] = {}
        waiting: dict[int, list[Node]] = {}
        for node in self.nodes:
            values, writers = node.inputs.values(), self._index()[1]
            blockers[id(node)] = {id(writer) for value in values for writer in self._meeting(value, writers)}
            for writer in blockers[id(node)]:
                waiting.setdefault(writer, []).append(node)
        ready = [(node.order, index, node) for index, node in enumerate(self.nodes) if not blockers[id(node)]]
        heapq.heapify(ready)
        done: list[Node] = []
        while ready:
            _, _, node = heapq.heappop(ready)
            done.append(node)
            for other in waiting.get(id(node), ()):
                blockers[id(other)].discard(id(node))
                if not blockers[id(other)]:
                    heapq.heappush(ready, (other.order, len(self.nodes) + len(done), other))
        if len(done) < len(self.nodes):
            raise ExportError(
                f"{len(self.nodes) - len(done)} nodes wait for each other: lower the graph with fusions=()"
            )
        self.nodes = done
        self.changed()


def _node(op: Op, index: int) -> Node:
    weights: dict[str, tuple[str, ...]] = {role: (name,) for role, name in op.constants.items()}
    return Node(op.op, op.name, op.stage, dict(op.inputs), weights, dict(op.outputs), dict(op.attrs), index)
