"""Runs a model while a divided value goes through it, operator by operator, and keeps a trace."""

# Dispatch modes and operator schemas are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeGuard, TypeVar

from torch import Tensor, nn

from halfsafe.errors import BadInput
from halfsafe.frontends.torch.lines import caller
from halfsafe.frontends.torch.private import TorchDispatchMode, returns_of, writes
from halfsafe.frontends.torch.schema import is_number, items, schema_arguments
from halfsafe.graph import Graph, Kind, Node, Use, Value
from halfsafe.rules import Unknown
from halfsafe.rules.solve import least, stated


@dataclass
class Trace:
    """The operators that a divided value goes through, and those that their constants do.

    `plain` are values that are not divided, `read_outside` constants that others read too.
    """

    nodes: list[Node] = field(default_factory=list[Node])
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    entries: list[str] = field(default_factory=list[str])
    exits: list[str] = field(default_factory=list[str])
    plain: set[str] = field(default_factory=set[str])
    read_outside: set[str] = field(default_factory=set[str])

    @property
    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), self.values, tuple(self.entries), tuple(self.exits))


@dataclass
class _Derived:
    """A tensor that is computed from constants alone: by which node, from which of them."""

    name: str
    node: Node
    values: dict[str, Value]
    roots: set[str]
    sources: list[_Derived]


class Carrying(TorchDispatchMode):
    """One call: knows which tensors are divided, and divides the constants that they meet."""

    def __init__(self, model: nn.Module, exponent: int) -> None:
        super().__init__()
        self.trace = Trace()
        self._exponent = exponent
        held = [*model.named_parameters(), *model.named_buffers()]
        self._held = {id(x): (name, x) for name, x in held}
        self._divided = _Tensors[str]()
        self._odd = _Tensors[int]()
        self._derived = _Tensors[_Derived]()
        self._scaled: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._own = False
        self._count = 0

    def enter(self, x: Tensor) -> Tensor:
        """A tensor divided; one that is divided already as it is."""
        if self._divided.get(x) is not None:
            return x
        divided = self._times(x, -self._exponent)
        name = f"in.{len(self.trace.entries)}"
        self.trace.entries.append(name)
        self._track(divided, name)
        return divided

    def leave(self, x: Tensor) -> Tensor:
        """A divided tensor multiplied again; another one as it is."""
        name = self._divided.get(x)
        if name is None:
            return x
        self.trace.exits.append(name)
        return self._times(x, self._exponent)

    def is_divided(self, x: Tensor) -> bool:
        return self._divided.get(x) is not None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._own:
            return func(*args, **kwargs)
        call = _Call.of(func, args, kwargs)
        if any(self._odd.get(x) for x in call.tensors.values()):
            raise BadInput(_refusal(call.op, "what it reads is divided by another power of two"))
        if any(self._divided.get(x) is not None for x in call.tensors.values()):
            return self._carry(call)
        result = func(*args, **kwargs)
        self._pass_by(call, result)
        return result

    def _carry(self, call: _Call) -> Any:
        """Runs an operator on a divided value, with its constants and numbers divided as well."""
        node, values, known = self._read(call)
        outputs = [f"{node.name}.{i}" for i in range(len(returns_of(call.func)))]
        node = replace(node, outputs=tuple(outputs))
        values |= {name: Value(name, Kind.ACTIVATION, True) for name in outputs}
        graph = Graph((node,), values, (), ())
        rows = stated(graph)
        found = least(rows, {**known, outputs[0]: self._exponent})
        if found is None:
            found = least(rows, {**known, outputs[0]: 0})
        if found is None:
            raise BadInput(_refusal(call.op, self._reason(known)))
        changes: dict[str, Any] = {}
        for key, x in call.tensors.items():
            k = found.get(Use(node.name, key), 0)
            if k and self._divided.get(x) is None:
                changes[key] = self._constant_times(x, -k)
        for key, number in call.numbers.items():
            if k := found.get(Use(node.name, key), 0):
                changes[key] = number * 2.0**-k
        result = call.run(changes)
        self._add(call, node, values, known, result, found)
        return result

    def _read(self, call: _Call) -> tuple[Node, dict[str, Value], dict[Unknown, int]]:
        """The call as a node, the values that it reads, and the exponents that are known."""
        self._count += 1
        name = f"{call.op.removeprefix('aten.')}.{self._count}"
        inputs: dict[str, str] = {}
        values: dict[str, Value] = {}
        known: dict[Unknown, int] = {}
        for key, x in call.tensors.items():
            inputs[key] = divided = self._divided.get(x) or ""
            floating = is_floating(x)
            if divided:
                values[divided] = Value(divided, Kind.ACTIVATION, True)
                known[Use(name, key)] = self._exponent
            elif floating and id(x) in self._held:
                inputs[key], _ = self._held[id(x)]
                values[inputs[key]] = Value(inputs[key], Kind.CONSTANT, True)
            elif floating and (derived := self._derived.get(x)):
                inputs[key] = derived.name
                values[derived.name] = Value(derived.name, Kind.ACTIVATION, True)
            else:
                inputs[key] = f"{name}.{key}"
                values[inputs[key]] = Value(inputs[key], Kind.ACTIVATION, floating)
                known |= {Use(name, key): 0} if floating else {}
        for key, number in call.numbers.items():
            inputs[key] = f"{name}.{key}"
            values[inputs[key]] = Value(inputs[key], Kind.LITERAL, True, number=number)
        return Node(name, call.op, inputs, (), call.attributes), values, known

    def _add(
        self,
        call: _Call,
        node: Node,
        values: dict[str, Value],
        known: Mapping[Unknown, int],
        result: Any,
        found: Mapping[Unknown, int],
    ) -> None:
        """Adds an operator to the trace, and knows its results from now on."""
        made = list(result) if isinstance(result, (tuple, list)) else [result]
        names = [f"{node.name}.{i}" for i in range(len(made))]
        for name, x in zip(names, made, strict=True):
            values[name] = Value(name, Kind.ACTIVATION, is_floating(x))
            k = found.get(name, found.get(names[0], 0))
            if is_floating(x) and k == self._exponent:
                self._track(x, name)
            elif is_floating(x) and k:
                self._odd.put(x, k)
        for x in call.tensors.values():
            self._add_derived(self._derived.get(x))
        self.trace.plain |= {node.inputs[u.operand] for u, k in known.items() if _is_plain(u, k)}
        self.trace.values |= values
        self.trace.nodes.append(replace(node, outputs=tuple(names)))

    def _add_derived(self, derived: _Derived | None) -> None:
        """What a constant goes through before it is read, in front of its reader."""
        if derived is None or derived.name in {o for n in self.trace.nodes for o in n.outputs}:
            return
        for source in derived.sources:
            self._add_derived(source)
        self.trace.nodes.append(derived.node)
        self.trace.values |= derived.values

    def _pass_by(self, call: _Call, result: Any) -> None:
        """An operator that reads nothing divided: it may compute something from constants."""
        floats = [x for x in call.tensors.values() if is_floating(x)]
        sources = [source for x in floats if (source := self._derived.get(x))]
        roots = {self._held[id(x)][0] for x in floats if id(x) in self._held}
        roots.update(*(source.roots for source in sources))
        fixed = all(id(x) in self._held or self._derived.get(x) for x in floats)
        if floats and fixed and isinstance(result, Tensor):
            node, values, _ = self._read(call)
            output = f"{node.name}.0"
            values[output] = Value(output, Kind.ACTIVATION, is_floating(result))
            node = replace(node, outputs=(output,))
            self._derived.put(result, _Derived(output, node, values, roots, sources))
        else:
            self.trace.read_outside |= roots

    def _reason(self, known: Mapping[Unknown, int]) -> str:
        plain = [u.operand for u, k in known.items() if _is_plain(u, k)]
        if plain and any(known.values()):
            return f"its operand '{plain[0]}' is not divided"
        return "no power of two passes through it"

    def _track(self, x: Tensor, name: str) -> None:
        self.trace.values.setdefault(name, Value(name, Kind.ACTIVATION, True))
        self._divided.put(x, name)

    def _constant_times(self, x: Tensor, bits: int) -> Tensor:
        """A constant divided or multiplied; it is kept, so that no other gets its id."""
        key = id(x), bits
        if key not in self._scaled:
            self._scaled[key] = x, self._times(x, bits)
        return self._scaled[key][1]

    def _times(self, x: Tensor, bits: int) -> Tensor:
        self._own = True
        try:
            return x * 2.0**bits
        finally:
            self._own = False


def _refusal(op: str, why: str) -> str:
    return (
        f"{op} at {caller()} stands in the region, and {why}: end the region before it, or let "
        "halfsafe.fix find the exponents"
    )


def _is_plain(unknown: Unknown, exponent: int) -> TypeGuard[Use]:
    return isinstance(unknown, Use) and exponent == 0


T = TypeVar("T")


class _Tensors(Generic[T]):
    """Something known of tensors, by identity, for as long as they live."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def put(self, x: Tensor, what: T) -> None:
        self._found[id(x)] = weakref.ref(x), what

    def get(self, x: Tensor) -> T | None:
        held = self._found.get(id(x))
        return held[1] if held is not None and held[0]() is x else None


@dataclass(frozen=True)
class _Call:
    """One call of an operator, its arguments by the names that laws know."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call:
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, float] = {}
        attributes: dict[str, Any] = {}
        for name, kind, found in schema_arguments(func, args, kwargs):
            for key, item in items(name, found, Tensor):
                if isinstance(item, Tensor):
                    tensors[key] = item
                elif is_number(kind) and isinstance(item, (int, float)):
                    numbers[key] = float(item)
                else:
                    attributes[key] = item
        return cls(func, args, kwargs, tensors, numbers, attributes)

    @property
    def op(self) -> str:
        name = str(self.func.overloadpacket)
        return name.rstrip("_") if writes(self.func) else name

    def run(self, changes: Mapping[str, Any]) -> Any:
        """The operator's result, with some of its operands changed."""
        args, kwargs = list(self.args), dict(self.kwargs)
        for i, (name, _, found) in enumerate(schema_arguments(self.func, self.args, self.kwargs)):
            new = changes.get(name, found)
            if isinstance(found, (list, tuple)):
                new = [changes.get(f"{name}.{j}", x) for j, x in enumerate(found)]
            if i < len(args):
                args[i] = new
            elif name in kwargs or name in changes:
                kwargs[name] = new
        return self.func(*args, **kwargs)


def is_floating(x: Any) -> TypeGuard[Tensor]:
    """Whether something is a tensor of floating numbers."""
    return isinstance(x, Tensor) and x.is_floating_point()
