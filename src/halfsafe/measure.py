"""Measures, compares and evaluates a graph, whatever computes it.

A *run* computes a graph node by node on several *lanes*, each a copy of the network that stores
its values in a format of its own: FP32, FP16, and FP16's bits at any exponent, the floor. What a
value is on each lane passes through a *store* as soon as it is computed, and what the store gives
back is used from there on. One lane and a store that looks is measuring; one lane and a store that
rounds is strict evaluation; three lanes side by side are a comparison.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from hashlib import sha256
from math import prod
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from halfsafe.deviation import Comparison, Deviation, merge_comparisons
from halfsafe.formats import FLOAT16, FLOAT32, FLOOR, FloatFormat
from halfsafe.graph import Graph, Kind
from halfsafe.progress import Ticks
from halfsafe.ranges import Range, merge
from halfsafe.samples import Call, batches
from halfsafe.source import Arrays, Progress, Shown, ShownOn

Lanes = tuple[Any, ...]
"""One value, an array of some library, on each lane."""

Store = Callable[[str, Lanes], Lanes]
"""Called with each array as it is computed; what it returns is used from there on."""

LANES = (FLOAT32, FLOAT16, FLOOR)
"""How the lanes of a comparison store."""


class Arithmetic(Protocol):
    """What measuring asks of a library of arrays."""

    def floating(self, x: Any) -> bool:
        """Whether the entries are floating numbers."""
        ...

    def range_of(self, x: Any) -> Range:
        """Statistics of the magnitudes, FP64 as FP32 sees it."""
        ...

    def rounded(self, x: Any, fmt: FloatFormat) -> Any:
        """What storing in a format makes of each entry, in the array's own type.

        To nearest, ties to even; beyond the largest number inf, or NaN where the format has none.
        """
        ...

    def deviation(self, candidate: Any, reference: Any) -> Deviation:
        """As `halfsafe.deviation.deviation`, of arrays of one shape."""
        ...

    def differing(self, a: Any, b: Any) -> int:
        """Entries that are not the same, of arrays of one shape; NaN is the same as NaN."""
        ...

    def arrays(self, outputs: Iterable[Any]) -> Arrays:
        """Outputs in NumPy, floating ones in FP32 or FP64."""
        ...


class Run(Protocol):
    """A graph that can be computed node by node."""

    @property
    def graph(self) -> Graph: ...

    @property
    def arithmetic(self) -> Arithmetic: ...

    @property
    def stored(self) -> Set[str]:
        """The values that are rounded when they are stored."""
        ...

    def evaluate_all(
        self, calls: Sequence[Call], stores: Sequence[Store], lanes: int = 1
    ) -> list[list[Lanes]]:
        """The outputs of each sample on each lane, all samples node by node side by side.

        Values of a sample pass through its own store, a constant through that of the first, once
        for all. No value is kept longer than the graph needs it. What draws numbers draws the same
        ones on each lane and sample. Raises BadInput for a misfit sample.
        """
        ...


AT_ONCE = 8
"""Samples that are taken side by side, at most."""

SHARE = 4
"""What constants are to what samples side by side hold, at least."""


def at_once(graph: Graph, lanes: int) -> int:
    """How many samples to take side by side, so that a constant is read and rounded once for all.

    Memory is that of the constants: there are as many samples as add a fourth to it.
    """
    return max(1, min(AT_ONCE, graph.held // (SHARE * lanes * max(graph.alive, 1))))


def side_by_side(graph: Graph, calls: Iterable[Call], lanes: int) -> Iterator[list[Call]]:
    """Samples in lists of those to take side by side; one that is larger than that whose sizes the
    graph has is alone."""
    most = sum(graph.values[name].size for name in graph.inputs)
    return batches(calls, at_once(graph, lanes), most)


R = TypeVar("R", bound=Run)


class Measuring(Generic[R]):
    """What every source does with its program in the same way."""

    program: R

    @property
    def graph(self) -> Graph:
        return self.program.graph

    def measure(
        self,
        calls: Iterable[Call],
        progress: Progress,
        only: Container[str] | None = None,
        formats: Sequence[FloatFormat] = (FLOAT32,),
        shown: ShownOn | None = None,
    ) -> dict[str, Range]:
        """Ranges of inputs and activations, or of some of them, one pass a sample."""
        return measure(self.program, calls, progress, only, formats, shown)

    def compare(
        self, calls: Iterable[Call], progress: Progress, shown: Shown | None = None
    ) -> tuple[dict[str, Range], dict[str, Comparison]]:
        """The same ranges, and what FP16 as it is makes of each value, in one pass a sample."""
        return compare(self.program, calls, progress, shown)

    def evaluate(self, call: Call, fmt: FloatFormat, only: Container[str] | None = None) -> Arrays:
        """Outputs of the graph, in FP32 arithmetic, every value, or some, stored in a format."""
        return evaluate(self.program, call, fmt, only)

    def evaluate_on(
        self, calls: Sequence[Call], formats: Sequence[FloatFormat]
    ) -> list[list[Arrays]]:
        """The same of several samples on several lanes, side by side."""
        return evaluate_on(self.program, calls, formats)


def measure(
    run: Run,
    calls: Iterable[Call],
    progress: Progress = lambda _: None,
    only: Container[str] | None = None,
    formats: Sequence[FloatFormat] = (FLOAT32,),
    shown: ShownOn | None = None,
) -> dict[str, Range]:
    """Ranges of inputs and activations over all samples, or of some of these values, in FP32.

    What is computed on other lanes in the same pass is `shown`, its outputs on each lane. The
    first lane is FP32. Raises BadInput for a misfit sample.
    """
    found: dict[str, Range] = {}
    storing = _storing(run, formats, None)
    for batch in side_by_side(run.graph, calls, len(formats)):
        ticks = Ticks(progress, "measuring", batch, len(run.graph.values))
        observers = [_Observer(run, call.number, only) for call in batch]
        stores = [
            _ticking(ticks, lambda name, x, o=o: storing(name, o.look(name, x))) for o in observers
        ]
        outputs = run.evaluate_all(batch, stores, len(formats))
        for call, made in zip(batch, outputs, strict=True):
            if shown is not None:
                shown(call, _by_lane(run, made))
        found = merge(found, *(observer.found for observer in observers))
    return found


def compare(
    run: Run, calls: Iterable[Call], progress: Progress = lambda _: None, shown: Shown | None = None
) -> tuple[dict[str, Range], dict[str, Comparison]]:
    """Ranges in FP32, and how far FP16 and the floor are from it, value by value.

    One pass a sample, in the memory of three evaluations. Of integers, the error is the root of the
    share that differ. `shown` is given the outputs. Raises BadInput for a misfit sample.
    """
    ranges: dict[str, Range] = {}
    compared: dict[str, Comparison] = {}
    constants: dict[str, Comparison] = {}
    for batch in side_by_side(run.graph, calls, len(LANES)):
        ticks = Ticks(progress, "comparing FP16 with FP32:", batch, len(run.graph.values))
        comparing = [_Comparing(run, call.number, constants) for call in batch]
        stores = [_ticking(ticks, each.store) for each in comparing]
        outputs = run.evaluate_all(batch, stores, len(LANES))
        for call, made in zip(batch, outputs, strict=True):
            if shown is not None:
                shown(call, *_by_lane(run, made))
        ranges = merge(ranges, *(each.observer.found for each in comparing))
        compared = merge_comparisons(compared, *(each.found | constants for each in comparing))
    return ranges, compared


def _by_lane(run: Run, outputs: Sequence[Lanes]) -> list[Arrays]:
    """The outputs of one sample, lane after lane."""
    return [run.arithmetic.arrays(lane) for lane in zip(*outputs, strict=True)]


def _ticking(ticks: Ticks, store: Store) -> Store:
    """A store that tells of each value that comes by."""

    def stored(name: str, lanes: Lanes) -> Lanes:
        ticks.tick()
        return store(name, lanes)

    return stored


def evaluate(run: Run, call: Call, fmt: FloatFormat, only: Container[str] | None = None) -> Arrays:
    """Strict evaluation: the outputs with every deployed value, or some, rounded when stored."""
    return evaluate_on(run, [call], (fmt,), only)[0][0]


def evaluate_on(
    run: Run,
    calls: Sequence[Call],
    formats: Sequence[FloatFormat],
    only: Container[str] | None = None,
) -> list[list[Arrays]]:
    """Strict evaluation of several samples on several lanes side by side: what they share is
    computed once. Of each sample its outputs lane after lane."""
    stores = [_storing(run, formats, only)] * len(calls)
    return [_by_lane(run, made) for made in run.evaluate_all(calls, stores, len(formats))]


def _storing(run: Run, formats: Sequence[FloatFormat], only: Container[str] | None) -> Store:
    """Rounds every deployed value, or some, to the format of its lane."""
    rounded = run.arithmetic.rounded
    stored = run.stored if only is None else {name for name in run.stored if name in only}

    def store(name: str, lanes: Lanes) -> Lanes:
        if name not in stored:
            return lanes
        pairs = zip(lanes, formats, strict=True)
        return tuple(x if fmt == FLOAT32 else rounded(x, fmt) for x, fmt in pairs)

    return store


def fingerprint(graph: Graph, constants: Iterable[tuple[str, Any]]) -> str:
    """A digest of a graph and of its constants, named arrays in NumPy; not of the places in code
    where operators are called, which edits move."""
    told = graph.to_json()
    nodes = [{k: v for k, v in node.items() if k != "line"} for node in told["nodes"]]
    text = json.dumps({**told, "nodes": nodes}, sort_keys=True)
    digest = sha256(text.encode())  # processors have instructions for it
    for name, x in constants:
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        flat = np.ascontiguousarray(x).reshape(-1)
        digest.update(
            repr(flat.tolist()).encode() if flat.dtype.hasobject else flat.view(np.uint8).data
        )
    return digest.hexdigest()[:32]


class _Observer:
    """Measures each activation, in a body once an iteration; what only moves entries inherits."""

    def __init__(self, run: Run, sample: int, only: Container[str] | None = None) -> None:
        self.found: dict[str, Range] = {}
        self._sample, self._arithmetic = sample, run.arithmetic
        self._inherits = run.graph.inherits
        computed = {
            name
            for name, value in run.graph.values.items()
            if value.kind in (Kind.INPUT, Kind.ACTIVATION)
        }
        self._measured = computed if only is None else {n for n in computed if n in only}

    def look(self, name: str, lanes: Lanes) -> Lanes:
        """Measures the first lane."""
        x = lanes[0]
        if name not in self._measured or not self._arithmetic.floating(x):
            return lanes
        source = self._inherits.get(name)
        if source in self.found:
            self.found[name] = self.found[source]
            return lanes
        found = self._arithmetic.range_of(x)
        found = replace(found, amax_sample=self._sample, smallest_sample=self._sample)
        known = self.found.get(name)
        self.found[name] = found if known is None else known | found
        return lanes


class _Comparing:
    """Rounds the lanes as they are stored, and compares them.

    Constants are the same on all samples: they are compared once, into `constants`.
    """

    def __init__(self, run: Run, sample: int, constants: dict[str, Comparison]) -> None:
        self.observer = _Observer(run, sample)
        self.found: dict[str, Comparison] = {}
        self._arithmetic, self._stored = run.arithmetic, run.stored
        self._inherits = run.graph.inherits
        values = run.graph.values.items()
        self._compared = {name for name, value in values if value.kind != Kind.LITERAL}
        self._held = {name for name, value in values if value.kind == Kind.CONSTANT}
        self._constants = constants

    def store(self, name: str, lanes: Lanes) -> Lanes:
        """The lanes as they are stored, once they have been measured and compared."""
        if not self._arithmetic.floating(lanes[0]):
            self._add(name, self._of_integers(*lanes))
            return lanes
        if name in self._stored:
            rounded = map(self._arithmetic.rounded, lanes[1:], LANES[1:])
            lanes = (lanes[0], *rounded)
        if name not in self._compared:  # a number that the graph has as a literal
            return lanes
        self.observer.look(name, lanes)
        source = self._inherits.get(name, "")
        known = self.found.get(source) or self._constants.get(source)
        if known is not None:
            self.found[name] = known
        elif name in self._held:
            if name not in self._constants:
                self._constants[name] = self._of_floats(*lanes)
        else:
            self._add(name, self._of_floats(*lanes))
        return lanes

    def _add(self, name: str, found: Comparison) -> None:
        """In a body there is one comparison an iteration."""
        known = self.found.get(name)
        self.found[name] = found if known is None else known | found

    def _of_floats(self, reference: Any, half: Any, floor: Any) -> Comparison:
        """Where a shape depends on rounding there is nothing to compare: nothing is as it was."""
        size = prod(reference.shape)
        nothing = Deviation(nonfinite=size, count=size)
        half_is, floor_is = (
            self._arithmetic.deviation(x, reference) if x.shape == reference.shape else nothing
            for x in (half, floor)
        )
        return Comparison(half_is, floor_is, self._differing(half, floor))

    def _of_integers(self, reference: Any, half: Any, floor: Any) -> Comparison:
        """Integers are the same or they are not: an error is the root of the share that differ."""
        size = max(prod(reference.shape), 1)
        half_is, floor_is = (
            Deviation(self._differing(x, reference), size, count=size) for x in (half, floor)
        )
        return Comparison(half_is, floor_is, self._differing(half, floor))

    def _differing(self, a: Any, b: Any) -> int:
        if a is b:
            return 0
        if a.shape != b.shape:
            return max(prod(a.shape), prod(b.shape))
        return self._arithmetic.differing(a, b)
