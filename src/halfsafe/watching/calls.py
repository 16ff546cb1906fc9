"""What one call of a model computes: modules within modules, and the operators between them."""

# Dispatch modes and operator schemas are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from halfsafe.frontends.torch.lines import caller
from halfsafe.frontends.torch.private import TorchDispatchMode, version_of, writes
from halfsafe.frontends.torch.schema import is_number, items, moves, schema_arguments
from halfsafe.graph import Kind, Node, Value
from halfsafe.ranges import Range
from halfsafe.watching.sketch import Sketches, is_measurable

RECENT = 256
"""How many of a module's latest results are taken to be what functional code is computed from."""


@dataclass
class Frame:
    """A module call that is under way: what it was given, and what its parts have computed."""

    node: str
    module: str
    op: str
    line: str
    given: dict[str, str]
    made: dict[str, None] = field(default_factory=dict[str, None])

    @property
    def sources(self) -> dict[str, str]:
        """What functional code in this module's forward() can have computed something from."""
        recent = list(self.made)[-RECENT:]
        return {**self.given, **{f"part.{i}": name for i, name in enumerate(recent)}}


def _nobody() -> None:
    """Stands for a reference to a tensor that is gone."""


_NOBODY = (_nobody, 0, "")

_WRITTEN = -2
"""For a tensor that is being written to: its version counts up after the operator is seen."""

_SAME = ("aten.detach", "aten.alias", "aten.lift_fresh")
"""Operators whose output is their input; autograd calls them on its own account."""


class Run:
    """One call of the outermost module in one thread, as nodes and values.

    A tensor is known by identity, so that what a container returns unchanged is still the value
    that one of its parts has made.
    """

    def __init__(
        self,
        sample: int,
        entries: int | None,
        constants: Mapping[int, str],
        seen: tuple[Mapping[str, Node], Mapping[str, Value]],
    ) -> None:
        self.sample = sample
        self._seen_nodes, self._seen_values = seen
        self.told = 0
        self.frames: list[Frame] = []
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, Value] = {}
        self.dtypes: dict[str, Any] = {}
        self.ranges: dict[str, Range] = {}
        self.moved: dict[str, str] = {}
        self.outputs: dict[str, None] = {}
        self._sketches = Sketches(entries)
        self._constants = constants
        self._constant_names = set(constants.values())
        self._counts: Counter[str] = Counter()
        self._names: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self._unread: set[str] = set()

    def enter(self, path: str, op: str, arguments: Mapping[str, Any]) -> None:
        """A module is called."""
        node = self._numbered(path)
        parent = self.frames[-1] if self.frames else None
        seen = self._seen_nodes.get(node)
        line = seen.line if seen else caller()
        given = {
            operand: self._known(x) or self._given(f"{node}.{operand}", x, parent)
            for operand, x in tensors_in(arguments)
        }
        self.frames.append(Frame(node, path, op, line, given))

    def leave(self, result: Any) -> None:
        """The module called last returns; what is new among its results, it has made."""
        frame = self.frames.pop()
        found = list(tensors_in(result))
        new: list[str] = []
        for path, x in found:
            name = self._known(x)
            if name is None:
                name = f"{frame.node}.{path}" if len(found) > 1 else frame.node
                self._add(name, Kind.ACTIVATION, x)
                new.append(name)
            if self.frames:
                self.frames[-1].made[name] = None
            else:
                self.outputs[name] = None
        if new:
            seen = self._seen_nodes.get(frame.node)
            self.nodes[frame.node] = (
                seen
                if seen and not frame.made and frame.given == seen.inputs
                else Node(
                    frame.node, frame.op, frame.sources, tuple(new), {}, frame.module, frame.line
                )
            )

    def operator(
        self,
        func: Any,
        operands: Mapping[str, str | float],
        attributes: Mapping[str, Any],
        result: Any,
        moved: bool,
    ) -> None:
        """An operator has been computed from operands, which are names of values or numbers.

        `moved` says that its output holds nothing but entries of its first operand.
        """
        read = [v for v in operands.values() if isinstance(v, str)]
        made = result if isinstance(result, (tuple, list)) else [result]
        frame, op = self.frames[-1], str(func.overloadpacket)
        if moved and (read[0] in self._constant_names or op in _SAME):
            self._remember(made[0], read[0])
            return
        mutable = writes(func)
        op = op.rstrip("_") if mutable else op
        node = self._numbered(f"{frame.module}:{op}")
        outputs: list[str] = []
        for i, x in enumerate(made):
            if isinstance(x, Tensor):
                outputs.append(f"{node}.{i}" if len(made) > 1 else node)
                whole = moved and self._value(read[0]).size == x.numel()
                source = read[0] if whole else None
                self._add(outputs[-1], Kind.ACTIVATION, x, source, later=i > 0)
                if mutable:
                    self._remember(x, outputs[-1], _WRITTEN)
        if not outputs:
            return
        inputs = {k: self._operand(node, k, v) for k, v in operands.items()}
        self.nodes[node] = Node(
            node, op, inputs, tuple(outputs), attributes, frame.module, caller(), moved
        )

    def settle(self) -> None:
        """Reads what was measured so far; a GPU is waited for."""
        self.ranges.update(self._sketches.read(self.sample))
        for name, source in self.moved.items():
            if source in self.ranges:
                self.ranges[name] = self.ranges[source]

    def operand(self, x: Tensor) -> str:
        """The value that an operator reads; a tensor never seen before is a constant."""
        name = self._known(x)
        if name is None:
            name = self._numbered("constant")
            self._add(name, Kind.CONSTANT, x)
        return name

    def _given(self, name: str, x: Tensor, parent: Frame | None) -> str:
        """A tensor of unknown origin: the model's input, or functional code of the parent's."""
        if parent is None:
            self._add(name, Kind.INPUT, x)
            return name
        self._add(name, Kind.ACTIVATION, x)
        self.nodes[name] = Node(
            name, f"{parent.op}.forward", parent.sources, (name,), {}, parent.module, parent.line
        )
        parent.made[name] = None
        return name

    def _operand(self, node: str, key: str, found: str | float) -> str:
        if isinstance(found, str):
            return found
        name = f"{node}.{key}"
        self.values[name] = Value(name, Kind.LITERAL, True, number=found)
        return name

    def _add(
        self, name: str, kind: Kind, x: Tensor, source: str | None = None, *, later: bool = False
    ) -> None:
        """A new value, which is measured unless it has only moved from a source.

        `later` waits until somebody reads it: what a norm keeps for autograd, nobody does.
        """
        floating = is_measurable(x)
        if name not in self._seen_values:
            self.values[name] = Value(name, kind, floating, floating, tuple(x.shape))
        self.dtypes[name] = x.dtype
        self._remember(x, name)
        if source is not None:
            self.moved[name] = source
        elif floating and later:
            self._unread.add(name)
        elif floating:
            self._sketches.add(name, x)

    def _value(self, name: str) -> Value:
        return self.values.get(name) or self._seen_values[name]

    def _numbered(self, name: str) -> str:
        """A name for this call: the second call of a module is ``name#2``."""
        self._counts[name] += 1
        return name if self._counts[name] == 1 else f"{name}#{self._counts[name]}"

    def _known(self, x: Tensor) -> str | None:
        """The value that a tensor holds, unless it was written to since."""
        if id(x) in self._constants:
            return self._constants[id(x)]
        holder, version, name = self._names.get(id(x), _NOBODY)
        if holder() is not x:
            return None
        if version == _WRITTEN:
            self._remember(x, name)
        elif version != _version(x):
            return None
        if name in self._unread:
            self._unread.remove(name)
            self._sketches.add(name, x)
        return name

    def _remember(self, x: Tensor, name: str, version: int | None = None) -> None:
        self._names[id(x)] = weakref.ref(x), _version(x) if version is None else version, name


class OperatorMode(TorchDispatchMode):
    """Tells a run of every ATen operator."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _quiet.on:
            return func(*args, **kwargs)
        operands: dict[str, str | float] = {}
        attributes: dict[str, Any] = {}
        first: Tensor | None = None
        with measuring():
            for name, kind, found in schema_arguments(func, args, kwargs):
                for key, item in items(name, found, Tensor):
                    if isinstance(item, Tensor):
                        operands[key] = self._run.operand(item)
                        first = item if first is None else first
                    elif is_number(kind) and isinstance(item, (int, float)):
                        operands[key] = float(item)
                    else:
                        attributes[key] = item
        result = func(*args, **kwargs)
        with measuring():
            moved = moves(func, result, first)
            self._run.operator(func, operands, attributes, result, moved)
        return result


class _Quiet(threading.local):
    on = False


_quiet = _Quiet()


class measuring:
    """While this thread measures, what it computes is no part of any model."""

    def __enter__(self) -> None:
        self._before, _quiet.on = _quiet.on, True

    def __exit__(self, *_: object) -> None:
        _quiet.on = self._before


def tensors_in(found: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """The floating tensors in dicts, lists, tuples and dataclasses, with their places.

    >>> import torch
    >>> [path for path, _ in tensors_in({"a": [torch.zeros(1), 2], "b": (torch.ones(1),)})]
    ['a.0', 'b.0']
    """
    if isinstance(found, Tensor):
        return [(path or "0", found)] if is_measurable(found) else []
    if found is None or isinstance(found, (int, float, str)):
        return []
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(found, Mapping):
        parts = found.items()
    elif isinstance(found, (list, tuple)):
        parts = zip(getattr(found, "_fields", range(len(found))), found, strict=True)
    elif dataclasses.is_dataclass(found) and not isinstance(found, type):
        parts = ((f.name, getattr(found, f.name, None)) for f in dataclasses.fields(found))
    return [
        one
        for key, part in parts
        for one in tensors_in(part, f"{path}.{key}" if path else str(key))
    ]


def _version(x: Tensor) -> int:
    """How often a tensor was written to; tensors of inference mode do not say."""
    return -1 if x.is_inference() else version_of(x)
