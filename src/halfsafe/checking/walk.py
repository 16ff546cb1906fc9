"""Goes over a graph, and sees what several operators say together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf, prod, sqrt

import numpy as np

from halfsafe.checking.calls import Call, sums
from halfsafe.checking.complexes import BEGINS, known_by
from halfsafe.checking.complexes import RULES as COMPLEX
from halfsafe.checking.known import TINY, Array, Known, U, V, between, nothing, rounded
from halfsafe.checking.linear import behind_norm
from halfsafe.checking.operators import moved, rule_of, same
from halfsafe.graph import Kind, Node
from halfsafe.progress import Progress
from halfsafe.source import Source

DEEP = 50
"""Lengths that ask each other at most."""

BOXES = 1_000
"""Of a grid over an input that a certificate may ask for."""


def _half(ends: Array) -> Array:
    """In FP16, where that holds them."""
    with np.errstate(over="ignore"):
        half = ends.astype(np.float16).astype(np.float64)
    return np.where(np.isfinite(half), half, ends)


class Walk:
    """Bounds of all values, from a domain and the weights."""

    def __init__(
        self,
        source: Source,
        domain: Mapping[str, tuple[float, float] | None],
        refined: Iterable[str] = (),
        cuts: Mapping[str, int] | None = None,
    ) -> None:
        self.source, self.graph, self.refined = source, source.graph, frozenset(refined)
        self.cuts, self.hulls = cuts or {}, dict[str, tuple[Array, Array]]()
        self.bounds: dict[str, Known] = {}
        self.arrays: dict[str, Array] = {}
        self.depth: dict[str, int] = {}
        self.fixed, self.complex = self._constant(), self._complex()
        for name in self.graph.inputs:
            ends = domain[name] or (-inf, inf)
            self._begin(name, *(np.full(self.graph.values[name].shape, end) for end in ends))

    def _begin(self, name: str, low: Array, high: Array) -> None:
        """With an input between some ends."""
        value = self.graph.values[name]
        if value.floating and value.bounded:  # to the nearest, which keeps the order
            half = [_half(end) for end in (low, high)]
            low, high = np.minimum(low, half[0]), np.maximum(high, half[1])
        self.bounds[name] = between(value.shape, low, high)

    def known(self, progress: Progress) -> dict[str, Known]:
        """Of every floating value, constants included."""
        for name, count in self.cuts.items():
            self._by_pieces(name, count)
        for node in self.graph.nodes:
            progress("checking")
            self._go(node)
        held = self.source.constants()
        for name, value in self.graph.values.items():
            if value.kind is Kind.CONSTANT and name in held:
                amax = held[name].amax
                if value.bounded and amax <= 65504:
                    amax = max(amax, float(np.float16(amax)))
                self.bounds[name] = between(value.shape, -amax, amax)
        return {n: b for n, b in self.bounds.items() if self.graph.values[n].floating}

    def _go(self, node: Node) -> None:
        for name, bound in zip(node.outputs, self._outputs(node), strict=True):
            if name in self.hulls:
                low, high = self.hulls[name]
                low, high = np.maximum(bound.low, low), np.minimum(bound.high, high)
                bound = replace(bound, low=low, high=high, kept=[])
            self.bounds[name] = self._shallow(name, node, bound)

    def _by_pieces(self, name: str, count: int) -> None:
        """What comes of one input alone, of each box of a grid over it."""
        if name not in self.graph.inputs or not np.isfinite(self.bounds[name].amax):
            return
        whole = self.bounds[name]
        if not 1 <= count ** prod(whole.shape) <= BOXES:
            return
        own, others = {name}, {*self.graph.inputs} - {name}
        nodes: list[Node] = []
        for node in self.graph.nodes:
            read = {*node.inputs.values()}
            if read & others:
                others.update(node.outputs)
            elif read & own:
                own.update(node.outputs)
                nodes.append(node)
            else:
                self._go(node)
        found = dict[str, tuple[Array, Array]]()
        low, high = (np.broadcast_to(x, whole.shape) for x in (whole.low, whole.high))
        edge = 1e-12 * (np.abs(low) + np.abs(high))
        for at in np.ndindex(*(count,) * low.size):
            step = np.reshape(at, whole.shape)
            ends = [low + (high - low) * (step + more) / count for more in (0, 1)]
            self._begin(name, ends[0] - edge, ends[1] + edge)
            for node in nodes:
                self._go(node)
            for value in own - {name}:
                piece = self.bounds[value]
                least, most = found.get(value, (piece.low, piece.high))
                found[value] = np.minimum(least, piece.low), np.maximum(most, piece.high)
        self.bounds[name] = whole
        self.depth.clear()
        known = {v: e for v, e in found.items() if all(np.isfinite(end).all() for end in e)}
        self.hulls |= known

    def _shallow(self, name: str, node: Node, bound: Known) -> Known:
        """With a length that is told, where too many would ask each other for theirs."""
        if not bound.lengths:
            return bound
        depth = 1 + max((self.depth.get(v, 0) for v in node.inputs.values()), default=0)
        self.depth[name] = depth % DEEP
        if depth < DEEP:
            return bound
        length = bound.length
        return replace(bound, lengths=(lambda: length,))

    def _outputs(self, node: Node) -> list[Known]:
        values = [self.graph.values[o] for o in node.outputs]
        if all(o in self.fixed for o in node.outputs):
            made: list[Known] = []
            for value, array in zip(values, self._run(node), strict=True):
                if array.dtype.kind == "c":
                    made.append(known_by(value.shape, (1 + 2.0**-20) * np.abs(array)))
                    continue
                ends = np.asarray(array, np.float64)
                exact = replace(between(value.shape, ends, ends), constant=True)
                relative, least = (U + 16 * V, TINY) if value.bounded else (16 * V, 2.0**-149)
                if value.floating:  # kernels differ a little
                    largest = float(np.abs(ends[np.isfinite(ends)]).max(initial=0.0))
                    exact = rounded(exact, relative, least + 2.0**-20 * largest)
                made.append(exact)
            return made
        floating = any(value.floating for value in values)
        first = values[0].floating
        rule = rule_of(node.op, floating=first) or rule_of(node.op, floating=floating)
        if self.complex.intersection((*node.inputs.values(), *node.outputs)):
            rule, floating = COMPLEX.get(node.op), True
        if not floating and rule is None:
            first = next((self.bounds[v] for v in node.inputs.values() if v in self.bounds), None)
            ends = (
                (float(first.low.min()), float(first.high.max()))
                if first and node.moves
                else (-inf, inf)
            )
            return [between(v.shape, *ends) for v in values]
        found = self._special(node)
        if found is None:
            found = Call(self, node).unknown() if rule is None else rule(Call(self, node))
        listed = found if isinstance(found, list) else [found]
        listed += [nothing(v.shape, str(node)) for v in values[len(listed) :]]
        return [self._stored(b, v.bounded) if v.floating and not node.moves else b
                for b, v in zip(listed, values, strict=True)]  # fmt: skip

    def _stored(self, bound: Known, half: bool) -> Known:
        return rounded(bound, *((U + 16 * V, TINY) if half else (16 * V, 2.0**-149)))

    def __getitem__(self, value: str) -> Known:
        if value not in self.bounds:
            one = self.graph.values[value]
            if value in self.complex:
                return known_by(one.shape, np.abs(self.array(value)))
            array = np.asarray(self.array(value), np.float64)
            made = replace(between(array.shape, array, array), constant=True)
            self.bounds[value] = rounded(made, U + 16 * V, TINY) if one.bounded else made
        return self.bounds[value]

    def is_fixed(self, value: str) -> bool:
        return value in self.fixed or self.graph.values[value].kind in (Kind.CONSTANT, Kind.LITERAL)

    def array(self, value: str) -> Array:
        number = self.graph.values[value].number
        if number is not None:
            return np.array(number)
        if self.graph.values[value].kind is Kind.CONSTANT:
            return self.source.array(value)
        if value not in self.arrays:
            node = self.graph.producers[value]
            self.arrays.update(zip(node.outputs, self._run(node), strict=True))
        return self.arrays[value]

    def _run(self, node: Node) -> list[Array]:
        if node.op in ("onnx.Shape", "onnx.Size"):
            shape = np.array(self.graph.values[next(iter(node.inputs.values()))].shape, np.int64)
            ends = slice(node.attributes.get("start", 0), node.attributes.get("end"))
            return [shape[ends] if node.op == "onnx.Shape" else np.array(shape.prod())]
        values = [v for v in node.inputs.values() if self.graph.values[v].number is None]
        return list(self.source.run_node(node.name, {v: np.asarray(self.array(v)) for v in values}))

    def _constant(self) -> frozenset[str]:
        """What no input changes, and FP16 computes as FP32 does: whole numbers, FP32, and moves."""
        graph = self.graph
        found = {n for n, v in graph.values.items() if v.kind in (Kind.CONSTANT, Kind.LITERAL)}
        for node in graph.nodes:
            drawn = any(word in node.op.lower() for word in ("rand", "bernoulli"))
            moves = node.moves or rule_of(node.op, floating=True) in (moved, same)
            alone = not any(
                graph.values[v].floating and graph.values[v].number is None
                for v in node.inputs.values()
            )
            read = [graph.values[v] for v in node.inputs.values()]
            rounded = any(v.bounded and v.number is None for v in read)
            half = [graph.values[o].bounded for o in node.outputs]
            exact = alone or (moves and (all(half) or not rounded)) or not (rounded or any(half))
            known = exact and not drawn and found.issuperset(node.inputs.values())
            if known or node.op in ("onnx.Shape", "onnx.Size"):
                found.update(node.outputs)
        return frozenset(n for n in found if graph.values[n].kind is Kind.ACTIVATION)

    def _complex(self) -> frozenset[str]:
        """Constants that are complex, and what comes of them, or begins, and is not floating."""
        values = self.graph.values
        whole = [n for n, v in values.items() if v.kind is Kind.CONSTANT and not v.floating]
        found = {n for n in whole if self.source.array(n).dtype.kind == "c"}
        for node in self.graph.nodes:
            begins = node.op in BEGINS or "complex" in str(node.attributes.get("dtype"))
            begins |= any(isinstance(a, complex) for a in node.attributes.values())
            if begins or found.intersection(node.inputs.values()):
                found.update(o for o in node.outputs if not values[o].floating)
        return frozenset(found)

    # What several operators say together

    def _special(self, node: Node) -> Known | None:
        kind = node.op.rpartition(".")[2].lower()
        if kind not in ("mul", "div") or not {"self", "other"} <= set(node.inputs):
            return None
        x, y = (self._origin(node.inputs[n]) for n in ("self", "other"))
        for a, b in ((x, y), (y, x))[: 2 if kind == "mul" else 1]:
            radius = self._norm(a, b, kind == "mul")
            if radius is not None:
                return behind_norm(self.graph.values[node.outputs[0]].shape, None, None, radius)
        return self._mean_by_mask(node, x, y) or self._part(node, x, y) if kind == "div" else None

    def _part(self, node: Node, x: str, y: str) -> Known | None:
        """x / sum(x), x >= 0 and the sum over axes that stay: 1 at most; of a mean of n, n."""
        total = self._made(self._below(y), "sum", "reducesum", "mean", "reducemean")
        if total is None or not self._equal(total[1][0], x):
            return None
        values, rounding = self.graph.values, node.attributes.get("rounding_mode")
        one, whole = values[total[0].outputs[0]].shape, values[total[1][0]].shape
        least, low = float(self[node.inputs["other"]].low.min()), self[node.inputs["self"]].low
        if len(one) != len(whole) or least <= 0 or low.min() < 0 or rounding is not None:
            return None
        n = prod(whole) // prod(one)
        off = 4 * (U + 16 * V) + 2 * sums(n) + 4 * TINY / least
        most = (n if "mean" in total[0].op.lower() else 1) * (1 + off)
        return between(values[node.outputs[0]].shape, 0.0, most)

    def _below(self, y: str) -> str:
        """What y is no less than: x of max(x, e), and of x + e for a number e >= 0; else itself."""
        clipped = self._made(y, "clamp", "clamp_min", "clip", "maximum", "max")
        if clipped is not None:
            above = "max" in clipped[0].inputs or clipped[0].attributes.get("max") is not None
            return y if above else clipped[1][0]
        added = self._made(y, "add")
        if added is None or Call(self, added[0]).number("alpha") not in (None, 1.0):
            return y
        ends = [self._origin(added[0].inputs[name]) for name in ("self", "other")]
        numbers = {v: n for v in ends if (n := self.graph.values[v].number) is not None}
        kept = [v for v in ends if v not in numbers]
        return kept[0] if len(kept) == 1 and min(numbers.values()) >= 0 else y

    def _origin(self, value: str, through: tuple[str, ...] = ()) -> str:
        """What a value is a copy of."""
        casts = ("_to_copy", "to", "type_as", "clone", "alias", "Cast", *through)
        node = self.graph.producers.get(value)
        while node is not None and node.op.rpartition(".")[2] in casts:
            read = next(iter(node.inputs.values()))
            if self.graph.values[read].floating and not self.graph.values[value].floating:
                break  # what whole numbers are made of is no copy
            value = read
            node = self.graph.producers.get(value)
        return value

    def _made(self, value: str, *kinds: str) -> tuple[Node, list[str]] | None:
        """The operator that makes a value, if it is of a kind, with what it reads."""
        node = self.graph.producers.get(self._origin(value))
        if node is None or node.op.rpartition(".")[2].lower() not in kinds:
            return None
        return node, [self._origin(v) for v in node.inputs.values()]

    def _norm(self, x: str, scale: str, inverse: bool) -> float | None:
        """sqrt(d) of x / sqrt(mean(x^2) + eps); eps has to outweigh squares that FP16 flushes."""
        root = self._made(scale, "rsqrt" if inverse else "sqrt")
        if root is None and inverse:
            over = self._made(scale, "reciprocal")
            root = None if over is None else self._made(over[1][0], "sqrt")
        total = None if root is None else self._made(root[1][0], "add")
        if root is None or total is None:
            return None
        if Call(self, total[0]).number("alpha") not in (None, 1.0):
            return None
        ends = [self._origin(total[0].inputs[operand]) for operand in ("self", "other")]
        numbers = [n for v in ends if (n := self.graph.values[v].number) is not None]
        mean = next((m for v in ends if (m := self._made(v, "mean", "reducemean"))), None)
        square = None if mean is None else self._made(mean[1][0], "pow", "mul", "square")
        if not numbers or numbers[0] <= 0 or mean is None or square is None:
            return None
        kind, read = square[0].op.rpartition(".")[2].lower(), square[1]
        if kind == "pow" and self.graph.values[read[1]].number != 2:
            return None
        if not all(self._equal(v, x) for v in (read if kind == "mul" else read[:1])):
            return None
        shape = self.graph.values[read[0]].shape
        if self.graph.values[mean[0].outputs[0]].shape != (*shape[:-1], 1) or shape[-1] < 2:
            return None
        stored = [root[0], total[0], mean[0], square[0]]
        if any(self.graph.values[n.outputs[0]].bounded for n in stored) and numbers[0] < 2.0**-24:
            return None
        return sqrt(shape[-1]) * (1 + U) ** 5

    def _equal(self, a: str, b: str, depth: int = 3) -> bool:
        """The same value, or made by the same operators of the same values."""
        a, b = self._origin(a), self._origin(b)
        p, q = self.graph.producers.get(a), self.graph.producers.get(b)
        if a == b or p is None or q is None or not depth:
            number = self.graph.values[a].number
            return a == b or (number is not None and number == self.graph.values[b].number)
        drawn = any(word in p.op.lower() for word in ("rand", "bernoulli", "dropout"))
        like = p.op == q.op and p.attributes == q.attributes and p.inputs.keys() == q.inputs.keys()
        pairs = list(zip(p.inputs.values(), q.inputs.values(), strict=False))
        return like and not drawn and all(self._equal(v, w, depth - 1) for v, w in pairs)

    def _mean_by_mask(self, node: Node, above: str, below: str) -> Known | None:
        """sum(m h) / y with y >= sum(m), m >= 0: in the hull of h."""
        top = self._made(above, "sum", "reducesum")
        bottom = self._made(self._below(below), "sum", "reducesum")
        weighed = None if top is None else self._made(top[1][0], "mul")
        if top is None or bottom is None or weighed is None:
            return None
        if Call(self, top[0]).axes() != (1,) or Call(self, bottom[0]).axes() != (1,):
            return None
        mask = bottom[1][0]
        other = [
            v for v, o in zip(weighed[0].inputs.values(), weighed[1], strict=True) if o != mask
        ]
        counted = self._counts(Call(self, bottom[0]))
        divisor = 1.0 if counted else float(self[node.inputs["other"]].low.min())
        if (
            len(other) != 1
            or self[mask].low.min() < 0
            or divisor <= 0
            or len(self[other[0]].shape) != 3
        ):
            return None
        h, shape = self[other[0]], self.graph.values[node.outputs[0]].shape
        off = 3 * (U + 16 * V) * h.amax + h.shape[1] * TINY * (1 + h.amax) / divisor
        low, high = h.low.min(1, keepdims=True), h.high.max(1, keepdims=True)
        low, high = (e[:, 0] if len(shape) == 2 else e for e in (low, high))
        return between(shape, np.minimum(low, 0.0) - off, np.maximum(high, 0.0) + off, h.lost)

    def _counts(self, c: Call) -> bool:
        """Whether a sum is over the tokens of a mask that comes in, each row of which has a 1."""
        spread = ("unsqueeze", "expand", "Unsqueeze", "Expand")
        mask = self.graph.values[self._origin(c.tensors[0], spread)]
        whole = mask.kind is Kind.INPUT and not mask.floating
        return whole and mask.shape == c.first.shape[:2] and c.axes() == (1,)
