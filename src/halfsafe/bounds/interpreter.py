"""Goes through a graph and bounds every value, for every input of a domain.

Values that depend on no input are computed, where they are whole numbers or in FP32: in FP16 a
chain of constants may be anywhere that its roundings take it. Of all others the table says how
their operands bound them. Behind each operator stands what storing its result adds: half a step of
the format, relative and at the least number. An operator that no table knows, and one whose
operands are not bounded where it needs it, gives values of which nothing is known, and is named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from halfsafe.bounds.aten import BOUNDS as ATEN
from halfsafe.bounds.aten import WHOLE as TRUTHS
from halfsafe.bounds.bound import Bound, Length
from halfsafe.bounds.complexes import BOUNDS as COMPLEX
from halfsafe.bounds.complexes import complex_values, of_modulus
from halfsafe.bounds.gains import Array
from halfsafe.bounds.moving import moved as moved_family
from halfsafe.bounds.moving import same
from halfsafe.bounds.norms import on_ball
from halfsafe.bounds.onnx import BOUNDS as ONNX
from halfsafe.bounds.onnx import WHOLE as BYTES
from halfsafe.bounds.operands import Computed, Operands
from halfsafe.bounds.patterns import averaged, counts, normalised, part_of_sum
from halfsafe.bounds.rounding import summed
from halfsafe.bounds.sharpening import Gains
from halfsafe.graph import Graph, Kind, Node
from halfsafe.progress import Progress

TABLE: Mapping[str, Callable[[Operands], Bound | list[Bound]]] = {**ATEN, **ONNX}

WHOLE = TRUTHS | BYTES
"""Operators of which bounds tell whole numbers as well."""

HALF = (2.0**-11 + 16 * 2.0**-24, 2.0**-25)
"""How far off a value may be that is stored in FP16, computed in FP32 to some steps of that:
relative, and at least."""

SINGLE = (16 * 2.0**-24, 2.0**-149)
"""The same of one that stays in FP32."""

HELD = (Kind.CONSTANT, Kind.LITERAL)
"""What is no sample's."""

SIZES = ("onnx.Shape", "onnx.Size")
"""Operators that tell shapes, which are those of the sample."""

WAITING = 4
"""Of how many values matrices are held that may be asked for their length."""

WIDE = 2**14
"""Entries of intervals from which on those of all rows are kept together, once it is long since
they were read."""

LATE = 8
"""How many of them wait, which patterns of several operators look back at."""

DEEP = 50
"""How many operators one behind the other ask each other for lengths; then one is computed."""

SMALL = 2**20
"""Entries up to which what is computed of constants alone is kept."""


class Constants(Protocol):
    """What a network holds, and its operators one by one."""

    @property
    def graph(self) -> Graph: ...

    def array(self, constant: str) -> Array:
        """A constant's entries."""
        ...

    def run_node(self, node: str, values: Mapping[str, Array]) -> Sequence[Array]:
        """What an operator gives of values by name; constants that are not given are its own."""
        ...


class Interpreter:
    """One walk over a graph; of some values intervals may be `known` from elsewhere."""

    def __init__(
        self,
        network: Constants,
        domain: Mapping[str, Bound],
        gains: Gains | None = None,
        known: Mapping[str, Bound] | None = None,
    ) -> None:
        self.network, self.graph = network, network.graph
        self.bounds: dict[str, Bound] = dict(domain)
        self._arrays: dict[str, Array] = {}
        self._heavy: deque[Length] = deque()
        self._wide: deque[str] = deque()
        self._depth: dict[str, int] = {}
        self._fixed = _independent(self.graph)
        self._complex = complex_values(self.graph, network.array)
        self._has_pictures = any("conv" in node.op.lower() for node in self.graph.nodes)
        self._gains = Gains() if gains is None else gains
        self._known = known or {}

    def walk(self, progress: Progress = lambda _: None) -> dict[str, Bound]:
        """Bounds of all inputs and computed floating values, those of constants alone as well."""
        last = {v: i for i, node in enumerate(self.graph.nodes) for v in node.inputs.values()}
        for i, node in enumerate(self.graph.nodes):
            progress("bounding")
            for name, bound in zip(node.outputs, self._outputs(node), strict=True):
                known = self._known.get(name)
                bound = bound if known is None else bound.meeting(known)
                self.bounds[name] = self._shallow(name, node, bound)
            for value in node.inputs.values():
                if last[value] == i and value in self.bounds:
                    self._let_go(value)
        return {n: b for n, b in self.bounds.items() if self.graph.values[n].floating}

    def _shallow(self, name: str, node: Node, bound: Bound) -> Bound:
        """The same, of which a length does not ask those of too many others, as in recurrences."""
        if not bound.lengths:
            return bound
        depth = 1 + max((self._depth.get(v, 0) for v in node.inputs.values()), default=0)
        self._depth[name] = depth % DEEP
        if depth == DEEP:
            bound.longest()
            bound = replace(bound, lengths=(bound.longest,))
        return bound

    def _let_go(self, value: str) -> None:
        """Keeps the intervals of what is not read again. Its matrices wait only as long as those
        of some others do for a length that may be asked for."""
        bound = self.bounds[value]
        self.bounds[value] = bound.plain()
        self._arrays.pop(value, None)
        if bound.is_heavy:
            self._heavy.append(bound.longest)
            if len(self._heavy) > WAITING:
                self._heavy.popleft().settle()
        if bound.low.size + bound.high.size > WIDE:
            self._wide.append(value)
            if len(self._wide) > LATE:
                late = self._wide.popleft()
                self.bounds[late] = self.bounds[late].together()

    def _outputs(self, node: Node) -> list[Bound]:
        try:
            if all(output in self._fixed for output in node.outputs):
                return [self._alone(o, x, node) for o, x in self._computed(node)]
            found = self._found(node)
        except Computed as why:
            found = [Bound.unknown(self.graph.values[o].shape, str(why)) for o in node.outputs]
        found += [self._unknown(output, node) for output in node.outputs[len(found) :]]
        return [self._stored(o, x, node) for o, x in zip(node.outputs, found, strict=True)]

    def _alone(self, output: str, array: Array, node: Node) -> Bound:
        """What is computed of constants, and a little around it: kernels differ."""
        value = self.graph.values[output]
        if array.dtype.kind == "c":
            return of_modulus(array.shape, (1 + 2.0**-20) * np.abs(array))
        bound = Bound.of(array)
        if not value.floating:
            return bound
        relative, least = HALF if value.bounded else SINGLE
        largest = float(bound.size[np.isfinite(bound.size)].max(initial=0.0))
        return bound.stored(relative, least + 2.0**-20 * largest)

    def _found(self, node: Node) -> list[Bound]:
        radius = normalised(self.graph, node)
        output = node.outputs[0]
        if radius is not None:
            return [on_ball(self.graph.values[output].shape, None, None, radius)]
        known = self._weighed_mean(node) or self._part_of_sum(node)
        if known is not None:
            return [known]
        is_complex = self._complex.intersection((*node.inputs.values(), *node.outputs))
        family = (COMPLEX if is_complex else TABLE).get(node.op)
        floating = any(self.graph.values[o].floating for o in node.outputs)
        if family is None or not (floating or is_complex or node.op in WHOLE):
            return [self._unknown(o, node) for o in node.outputs]
        run = self.network.run_node
        operands = Operands(
            self.graph,
            node,
            self.bound,
            self._array,
            self._is_fixed,
            run,
            has_pictures=self._has_pictures,
            gains=self._gains,
        )
        try:
            found = family(operands)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise Computed(f"{node}, whose bound fails: {type(error).__name__}") from error
        return found if isinstance(found, list) else [found]

    def _weighed_mean(self, node: Node) -> Bound | None:
        """Of a mean by weights that are not negative, and not all 0: the hull of what it is of.

        Products are off by 2^-11 of themselves, and by 2^-25 that the least sum of weights divides,
        which is 1 for a mask that comes in.
        """
        mean = averaged(self.graph, node, self._array)
        if mean is None:
            return None
        h, weights, divisor = (self.bound(v) for v in (*mean[:2], node.inputs["other"]))
        least = 1.0 if counts(self.graph, mean[2], self._array) else float(divisor.low.min())
        if weights.low.min() < 0 or least <= 0 or len(h.shape) != 3 or not h.is_finite:
            return None
        off = 3 * HALF[0] * h.amax + h.shape[1] * HALF[1] * (1 + h.amax) / least
        low, high = h.low.min(axis=1, keepdims=True), h.high.max(axis=1, keepdims=True)
        shape = self.graph.values[node.outputs[0]].shape
        if len(shape) == 2:
            low, high = low[:, 0], high[:, 0]
        ends = np.minimum(low, 0.0) - off, np.maximum(high, 0.0) + off
        return Bound.between(shape, *ends, by="hulls")

    def _part_of_sum(self, node: Node) -> Bound | None:
        """Of x / sum(x) for x >= 0: no more than 1, of x / mean(x), n; and what the sum, what is
        added to it and the one term of another copy of x that x_i is are off as they are stored."""
        part = part_of_sum(self.graph, node)
        if part is None:
            return None
        x, divisor = (self.bound(node.inputs[name]) for name in ("self", "other"))
        least = float(divisor.low.min())
        if x.low.min() < 0 or least <= 0:
            return None
        off = 4 * HALF[0] + 2 * summed(part.terms) + 4 * HALF[1] / least
        shape = self.graph.values[node.outputs[0]].shape
        return Bound.between(shape, 0.0, part.most * (1 + off), by="hulls")

    def _unknown(self, output: str, node: Node) -> Bound:
        value = self.graph.values[output]
        if value.floating:
            return Bound.unknown(value.shape, f"{node}, which has no bound")
        known = [self.bounds[v] for v in node.inputs.values() if v in self.bounds]
        if node.moves and known:  # whole numbers, moved
            ends = float(known[0].low.min()), float(known[0].high.max())
            return Bound.between(value.shape, *ends)
        return Bound.unknown(value.shape, str(node))

    def _stored(self, output: str, bound: Bound, node: Node) -> Bound:
        value = self.graph.values[output]
        if not value.floating or node.moves:
            return bound
        return bound.stored(*(HALF if value.bounded else SINGLE))

    def bound(self, value: str) -> Bound:
        """Of anything that an operator reads."""
        if value in self.bounds:
            return self.bounds[value]
        number = self.graph.values[value].number
        if value in self._complex:
            return of_modulus(self.graph.values[value].shape, np.abs(self._array(value)))
        made = Bound.of(self._array(value) if number is None else number)
        if self.graph.values[value].bounded:  # numbers of ONNX are, too
            made = made.stored(*HALF)
        return made

    def _is_fixed(self, value: str) -> bool:
        """Whether a value depends on no input."""
        return value in self._fixed or self.graph.values[value].kind in HELD

    def _array(self, value: str) -> Array:
        """The entries of what depends on no input."""
        number = self.graph.values[value].number
        if number is not None:
            return np.array(number)
        if value in self._arrays:
            return self._arrays[value]
        if self.graph.values[value].kind is Kind.CONSTANT:
            return self.network.array(value)
        made = dict(self._computed(self.graph.producers[value]))
        self._arrays |= {name: array for name, array in made.items() if array.size <= SMALL}
        return made[value]

    def _computed(self, node: Node) -> list[tuple[str, Array]]:
        if node.op in SIZES:
            (read,) = node.inputs.values()
            shape = np.array(self.graph.values[read].shape, np.int64)
            ends = (node.attributes.get("start", 0), node.attributes.get("end"))
            made = shape[slice(*ends)] if node.op == "onnx.Shape" else np.array(shape.prod())
            return [(node.outputs[0], made)]
        given = {
            value: self._array(value)
            for value in node.inputs.values()
            if self.graph.values[value].number is None
        }
        try:
            made = self.network.run_node(node.name, given)
        except Exception as error:  # whatever a kernel raises
            raise Computed(f"{node}, which cannot be computed by itself") from error
        return list(zip(node.outputs, map(np.asarray, made), strict=True))


def _independent(graph: Graph) -> frozenset[str]:
    """Values that depend on no input, are not drawn, and are what the constants make of them: whole
    numbers, FP32, what is made of numbers alone, or entries that have only been moved or cast."""
    found = {n for n, v in graph.values.items() if v.kind in HELD}
    for node in graph.nodes:
        drawn = any(word in node.op for word in ("rand", "Random", "bernoulli", "Bernoulli"))
        moved = node.moves or TABLE.get(node.op) in (moved_family, same)
        read = [graph.values[value] for value in node.inputs.values()]
        made = not any(value.floating and value.number is None for value in read)
        rounded = any(value.bounded and value.number is None for value in read)
        half = [graph.values[o].bounded for o in node.outputs]
        exact = made or (moved and (all(half) or not rounded)) or not (rounded or any(half))
        known = not drawn and exact and found.issuperset(node.inputs.values())
        if node.op in SIZES or known:
            found.update(node.outputs)
    return frozenset(n for n in found if graph.values[n].kind is Kind.ACTIVATION)
