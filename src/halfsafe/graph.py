"""The network as frozen data: values, nodes and a graph. Knows neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from math import isfinite, prod
from typing import Any, NamedTuple, cast


class Kind(StrEnum):
    """Where a value comes from."""

    INPUT = "input"
    CONSTANT = "constant"
    LITERAL = "literal"
    ACTIVATION = "activation"


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor, or one scalar written into the code (a literal).

    `bounded` says that the deployed graph stores it in the deployed format; values that the model
    itself computes in FP32 are floating but not bounded. Only floating values have exponents.
    """

    name: str
    kind: Kind
    floating: bool
    bounded: bool = False
    shape: tuple[int, ...] = ()
    number: float | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call. `inputs` maps operand names ("input", "weight", "tensors.0") to values."""

    name: str
    op: str
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    module: str = ""
    line: str = ""
    moves: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.op}{' in ' + self.module if self.module else ''})"


class Use(NamedTuple):
    """One operand of one node: where a value is read."""

    node: str
    operand: str

    def __str__(self) -> str:
        return f"{self.node}.{self.operand}"


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order, values by name, and the names of graph inputs and outputs."""

    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that computes each activation."""
        return {output: node for node in self.nodes for output in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Use, ...]]:
        """Every place where a value is read; graph outputs are not included."""
        found: dict[str, list[Use]] = {name: [] for name in self.values}
        for node in self.nodes:
            for operand, value in node.inputs.items():
                found[value].append(Use(node.name, operand))
        return {name: tuple(uses) for name, uses in found.items()}

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def held(self) -> int:
        """How many entries its constants have."""
        return sum(v.size for v in self.values.values() if v.kind is Kind.CONSTANT)

    @cached_property
    def alive(self) -> int:
        """How many entries that depend on a sample are needed at the same time, at most."""
        last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs.values()}
        kept, size = set(self.outputs), {name: v.size for name, v in self.values.items()}
        varying = set(self.inputs)
        now = most = sum(size[name] for name in self.inputs)
        for i, node in enumerate(self.nodes):
            read = varying.intersection(node.inputs.values())
            if node.inputs and not read:
                continue
            varying.update(node.outputs)
            now += sum(size[name] for name in node.outputs)
            most = max(most, now)
            now -= sum(size[name] for name in read - kept if last[name] == i)
        return most

    @property
    def plain(self) -> Graph:
        """The same graph without a framework's objects among the attributes."""
        return Graph.from_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain data; attributes that JSON does not have are written as text."""
        values = [{**asdict(v), "number": _plain(v.number)} for v in self.values.values()]
        nodes = [
            {**asdict(n), "attributes": {k: _plain(a) for k, a in n.attributes.items()}}
            for n in self.nodes
        ]
        rim = {"inputs": list(self.inputs), "outputs": list(self.outputs)}
        return {**rim, "nodes": nodes, "values": values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Graph:
        """The inverse of `to_json`, but for the attributes that became text."""
        values = [_value(v) for v in data["values"]]
        nodes = tuple(_node(n) for n in data["nodes"])
        known = {v.name: v for v in values}
        return cls(nodes, known, tuple(data["inputs"]), tuple(data["outputs"]))

    @cached_property
    def inherits(self) -> Mapping[str, str]:
        """Values that only move all entries of another one, and have its range."""
        found: dict[str, str] = {}
        for node in self.nodes:
            tensors = [v for v in node.inputs.values() if self.values[v].number is None]
            if node.moves and len(node.outputs) == 1 and tensors:
                (output,), source = node.outputs, tensors[0]
                if self.values[output].size >= self.values[source].size:
                    found[output] = source
        return found

    @cached_property
    def rounded(self) -> frozenset[str]:
        """Values that are rounded when they are stored; moved entries have been rounded before."""
        stored = {name for name, value in self.values.items() if value.bounded}
        return frozenset(stored - {o for node in self.nodes if node.moves for o in node.outputs})

    def describe(self, value: str) -> str:
        """A value with the operator and module that make it: ``add_4 (aten.add in layer1.0)``."""
        node = self.producers.get(value)
        if node is None:
            return f"{value} ({self.values[value].kind})"
        return str(node) if len(node.outputs) == 1 else f"{value} of {node}"


def innermost(trace: str) -> str:
    """File and line of the innermost frame of a traceback in text; of PyTorch's own if all are.

    >>> innermost('File "a.py", line 3, in f\\n  x\\nFile "/torch/nn.py", line 9, in g')
    'a.py:3'
    """
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    frames = [frame for frame in frames if "/torch/" not in frame] or frames
    if not frames:
        return ""
    path, _, rest = frames[-1].removeprefix('File "').partition('"')
    return f"{path}:{rest.removeprefix(', line ').partition(',')[0]}"


def _node(data: Mapping[str, Any]) -> Node:
    rest: dict[str, Any] = {**data, "outputs": tuple(data["outputs"])}
    return Node(**rest)


def _value(data: Mapping[str, Any]) -> Value:
    rest: dict[str, Any] = dict(data)
    rest["kind"], rest["shape"] = Kind(data["kind"]), tuple(data["shape"])
    rest["number"] = None if data["number"] is None else float(data["number"])
    return Value(**rest)


def _plain(found: Any) -> Any:
    if isinstance(found, (list, tuple)):
        return [_plain(x) for x in cast("Sequence[Any]", found)]
    finite = not isinstance(found, float) or isfinite(found)
    plain = found is None or isinstance(found, (bool, int, float, str))
    return found if plain and finite else str(found)
