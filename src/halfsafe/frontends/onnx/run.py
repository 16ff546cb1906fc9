"""Runs an ONNX model node by node, so that every value can be seen and changed as it is stored."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.errors import BadInput, HalfsafeError, first_line
from halfsafe.frontends.onnx.feeds import feeds_of
from halfsafe.frontends.onnx.mapped import aligned
from halfsafe.frontends.onnx.one_node import OneNode, Opsets, captured
from halfsafe.frontends.onnx.parts import branches, is_open, states
from halfsafe.frontends.onnx.values import Elements, bodies_of, graph_values
from halfsafe.measure import Lanes, Store
from halfsafe.samples import Call

Array = NDArray[Any]


def by_element(store: Store) -> Store:
    """A store that is called with each element of a sequence; one that a lane lacks is empty."""

    def stored(name: str, lanes: Lanes) -> Lanes:
        if not isinstance(lanes[0], Elements):
            return store(name, lanes)
        nothing = np.empty(0, lanes[0].dtype)
        found = [store(name, each) for each in zip_longest(*lanes, fillvalue=nothing)]
        rows = [[each[i] for each in found[: len(lane)]] for i, lane in enumerate(lanes)]
        return tuple(Elements(r, lane.dtype) for r, lane in zip(rows, lanes, strict=True))

    return stored


def as_it_is(name: str, lanes: Lanes) -> Lanes:
    """Stores every value as it is computed."""
    del name
    return lanes


def _look_away(name: str, found: Any) -> None:
    del name, found


class Evaluator:
    """Runs a model node by node. What does not depend on the sample is prepared once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._opsets: Opsets = tuple(sorted(model.opset_imports.items()))
        self._steps: dict[ir.Graph, list[_Step]] = {}

    def run(
        self, call: Call, store: Store, lanes: int = 1, see: Callable[[str, Any], None] = _look_away
    ) -> list[Lanes]:
        """Outputs on several lanes, values passing through `store`.

        No value is kept longer than the graph needs it. Bodies are run iteration by iteration; how
        often, and which branch, the first lane decides. `see` is called with all values of that
        lane. Raises BadInput for a misfit sample.
        """
        return self.run_all([call], [store], lanes, see)[0]

    def run_all(
        self,
        calls: Sequence[Call],
        stores: Sequence[Store],
        lanes: int = 1,
        see: Callable[[str, Any], None] = _look_away,
    ) -> list[list[Lanes]]:
        """The same of several samples, each with a store of its own, one node after the other.

        A constant is read, and stored by the first of the stores, once for all of them; what is
        computed from constants alone is computed once.
        """
        held: dict[str, Lanes] = {}
        runs = [
            _Run(self, call.number, store, lanes, held, see)
            for call, store in zip(calls, stores, strict=True)
        ]
        for run, call in zip(runs, calls, strict=True):
            for name, x in feeds_of(self.model, call).items():
                run.put(name, (x,) * lanes)
        for step in self.steps(self.model.graph):
            made = runs[0].outputs(step) if step.fixed else None
            for run in runs:
                run.step(step, made)
            for name in step.forgets:
                held.pop(name, None)
        names = [str(output.name) for output in self.model.graph.outputs]
        return [[run.fetch(name) for name in names] for run in runs]

    def steps(self, graph: ir.Graph) -> list[_Step]:
        """The nodes of a graph, each with what can be forgotten after it."""
        if graph not in self._steps:
            self._steps[graph] = _steps(graph, self._opsets)
        return self._steps[graph]


@dataclass(frozen=True)
class _Step:
    """A node, the values that it reads, those last read by it, and the outputs to be kept.

    A `fixed` one depends on constants alone.
    """

    node: ir.Node
    reads: tuple[str, ...]
    forgets: tuple[str, ...]
    keeps: tuple[str, ...]
    compute: OneNode | None
    fixed: bool


def _steps(graph: ir.Graph, opsets: Opsets) -> list[_Step]:
    """Values of the graphs around it are not a graph's own to forget."""
    nodes = [(node, None if is_open(node) else OneNode(node, opsets)) for node in graph]
    reads = [_reads(node) if one is None else one.reads for node, one in nodes]
    last = {name: i for i, names in enumerate(reads) for name in names}
    own = {str(value.name) for value in graph_values(graph)}
    shown = {str(output.name) for output in graph.outputs}
    fixed, steps = set(graph.initializers), list[_Step]()
    for i, ((node, one), names) in enumerate(zip(nodes, reads, strict=True)):
        is_fixed = one is not None and not one.draws and fixed.issuperset(names)
        if is_fixed:
            fixed.update(str(output.name) for output in node.outputs)
        forgets = tuple(n for n in names if last[n] == i and n in own and n not in shown)
        kept = (str(o.name) if o.name in last or o.name in shown else "" for o in node.outputs)
        steps.append(_Step(node, names, forgets, tuple(kept), one, is_fixed))
    return steps


class _Run:
    """One sample's pass over a model: the values that are still needed, by name.

    `held` are the constants among them, which it has in common with the passes beside it.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        sample: int,
        store: Store,
        lanes: int,
        held: dict[str, Lanes],
        see: Callable[[str, Any], None],
    ) -> None:
        self.evaluator, self.sample, self.store, self.lanes = evaluator, sample, store, lanes
        self.held, self.see = held, see
        self.values: dict[str, Lanes] = {}
        self.own: list[dict[OneNode, Any]] = [{} for _ in range(lanes)]

    def put(self, name: str, found: Lanes) -> None:
        self.see(name, found[0])
        dtype = getattr(found[0], "dtype", None)
        counts = dtype is not None and dtype.kind in "fiub"
        self.values[name] = self.store(name, found) if counts else found

    def fetch(self, name: str) -> Lanes:
        if name not in self.values:
            if name not in self.held:
                self.put(name, (constant(self.evaluator.model, name),) * self.lanes)
                self.held[name] = self.values[name]
            self.values[name] = self.held[name]
        return self.values[name]

    def nodes(self, graph: ir.Graph) -> None:
        """Runs a graph's nodes; afterwards its outputs are there, and of the others none."""
        for step in self.evaluator.steps(graph):
            self.step(step)

    def step(self, step: _Step, made: Sequence[Lanes] | None = None) -> None:
        """Runs one node, unless its outputs are given, and forgets what nobody reads after it."""
        found = self.outputs(step) if made is None else made
        for name, lanes in zip(step.keeps, found, strict=True):
            if name:
                self.put(name, lanes)
        for name in step.forgets:
            self.values.pop(name, None)

    def outputs(self, step: _Step) -> Sequence[Lanes]:
        """What a node gives on each lane."""
        node, given = step.node, {name: self.fetch(name) for name in step.reads}
        try:
            if step.compute is None:
                return _BODIES[node.op_type](self, node)
            return self._on_lanes(step.compute, given)
        except HalfsafeError:
            raise
        except Exception as error:
            raise BadInput(
                f"{node.op_type} '{node.name}' fails on sample {self.sample}: {first_line(error)}"
            ) from error

    def _on_lanes(self, compute: OneNode, given: Mapping[str, Lanes]) -> list[Lanes]:
        """A node's outputs on each lane; where all lanes read the same, it is computed once.

        What draws numbers draws the same ones on each lane.
        """
        same = not compute.draws and all(x is f[0] for f in given.values() for x in f)
        runs = [
            compute({name: found[lane] for name, found in given.items()}, self.own[lane])
            for lane in range(1 if same else self.lanes)
        ]
        each = runs * self.lanes if same else runs
        return list(zip(*each, strict=True))

    # Bodies

    def branch(self, node: ir.Node) -> list[Lanes]:
        taken, other = branches(node)
        body = taken if self._is_true(node.inputs[0]) else other
        return self._body(body, [])

    def loop(self, node: ir.Node) -> list[Lanes]:
        (body,), count = bodies_of(node), states(node)
        trips, condition, *initial = node.inputs
        carried = [self._at(value) for value in initial]
        scanned: list[list[Lanes]] = [[] for _ in body.outputs[1 + count :]]
        limit = None if trips is None else int(self._at(trips)[0].reshape(()))
        again, i = condition is None or self._is_true(condition), 0
        while again and (limit is None or i < limit):
            counter, go = np.array(i, np.int64), np.array(True)
            rim = [(counter,) * self.lanes, (go,) * self.lanes, *carried]
            (more, *found), i = self._body(body, rim), i + 1
            again, carried = bool(more[0].reshape(())), found[:count]
            for elements, element in zip(scanned, found[count:], strict=True):
                elements.append(element)
        stacks = zip(scanned, body.outputs[1 + count :], strict=True)
        return [*carried, *(self._stacked(e, like, 0) for e, like in stacks)]

    def scan(self, node: ir.Node) -> list[Lanes]:
        (body,), count = bodies_of(node), states(node)
        carried = [self._at(value) for value in node.inputs[:count]]
        sequences = [self._at(value) for value in node.inputs[count:]]
        results = body.outputs[count:]
        axes = _integers(node, "scan_input_axes", len(sequences))
        backwards = _integers(node, "scan_input_directions", len(sequences))
        elements = [
            self._elements(x, axis, reverse)
            for x, axis, reverse in zip(sequences, axes, backwards, strict=True)
        ]
        scanned: list[list[Lanes]] = [[] for _ in results]
        for given in zip(*elements, strict=True):
            found = self._body(body, [*carried, *given])
            carried = found[:count]
            for stack, element in zip(scanned, found[count:], strict=True):
                stack.append(element)
        axes = _integers(node, "scan_output_axes", len(results))
        backwards = _integers(node, "scan_output_directions", len(results))
        stacks = zip(scanned, results, axes, backwards, strict=True)
        made = [self._stacked(e[::-1] if back else e, like, a) for e, like, a, back in stacks]
        return [*carried, *made]

    def _body(self, body: ir.Graph, given: Sequence[Lanes]) -> list[Lanes]:
        for value, found in zip(body.inputs, given, strict=True):
            self.put(str(value.name), found)
        self.nodes(body)
        names = [str(value.name) for value in body.outputs]
        found = [self.fetch(name) for name in names]
        for name in {*names, *(str(value.name) for value in body.inputs)}:
            self.values.pop(name, None)
        return found

    def _at(self, value: ir.Value | None) -> Lanes:
        assert value is not None
        return self.values[str(value.name)]

    def _is_true(self, value: ir.Value | None) -> bool:
        return bool(np.asarray(self._at(value)[0]).reshape(()))

    def _elements(self, sequence: Lanes, axis: int, reverse: int) -> list[Lanes]:
        """The slices of a sequence, in the order in which they are read."""
        lanes = [[np.asarray(e, order="C") for e in np.moveaxis(x, axis, 0)] for x in sequence]
        found = list(zip(*lanes, strict=True))
        return found[::-1] if reverse else found

    def _stacked(self, elements: Sequence[Lanes], like: ir.Value, axis: int) -> Lanes:
        """Elements as one tensor on each lane; none of them make an empty one."""
        if elements:
            return tuple(np.stack(lane, axis) for lane in zip(*elements, strict=True))
        shape = () if like.shape is None else like.shape
        sizes = [n if isinstance(n, int) else 0 for n in shape]
        assert like.dtype is not None
        return (np.empty((0, *sizes), like.dtype.numpy()),) * self.lanes


_BODIES: dict[str, Callable[[_Run, ir.Node], list[Lanes]]] = {
    "If": _Run.branch,
    "Loop": _Run.loop,
    "Scan": _Run.scan,
}


def _integers(node: ir.Node, name: str, count: int) -> list[int]:
    """An attribute of Scan, 0 for each where it is left out."""
    attribute = node.attributes.get(name)
    return [0] * count if attribute is None else list(attribute.as_ints())


def _reads(node: ir.Node) -> tuple[str, ...]:
    """The values that a node reads, those that its bodies capture included."""
    direct = [str(value.name) for value in node.inputs if value is not None]
    return tuple(dict.fromkeys([*direct, *captured(node)]))


def constant(model: ir.Model, name: str) -> Array:
    """The array of an initialiser."""
    held = model.graph.initializers.get(name)
    if held is None or held.const_value is None:
        raise BadInput(f"nothing computes '{name}', and the file holds no tensor of that name")
    return aligned(held.const_value.numpy())
